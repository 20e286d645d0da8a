// The arithmetic of portable.h, one function each, for tests to look at.
#include "portable.h"

KERNEL probe_exp(long n, const real* x, real* y) { FOR_EACH(i, n) y[i] = exp_of(x[i]); }
KERNEL probe_log(long n, const real* x, real* y) { FOR_EACH(i, n) y[i] = log_of(x[i]); }
KERNEL probe_tanh(long n, const real* x, real* y) { FOR_EACH(i, n) y[i] = tanh_of(x[i]); }
KERNEL probe_sqrt(long n, const real* x, real* y) { FOR_EACH(i, n) y[i] = sqrt_of(x[i]); }
KERNEL probe_is_nan(long n, const real* x, u8* y) { FOR_EACH(i, n) y[i] = is_nan(x[i]); }

KERNEL probe_store(long n, const real* x, store* y) { FOR_EACH(i, n) y[i] = x[i]; }
KERNEL probe_load(long n, const store* x, real* y) { FOR_EACH(i, n) y[i] = x[i]; }

KERNEL probe_row_sum(long rows, long n, const store* x, real* y) {
  FOR_EACH_ROW(r, rows, n) {
    const real s = row_sum(n, [=](index_t j) { return real(x[r * n + j]); });
    ROW_LEADER y[r] = s;
  }
}

KERNEL probe_row_max(long rows, long n, const store* x, real* y) {
  FOR_EACH_ROW(r, rows, n) {
    const real m = row_max(n, [=](index_t j) { return real(x[r * n + j]); });
    ROW_LEADER y[r] = m;
  }
}

// words: four of each Philox block
KERNEL probe_philox(long n, const u64* key, const u64* high, const u64* low, u64* words) {
  FOR_EACH(i, n) {
    const philox4 block = philox(key[i], high[i], low[i]);
    for (int j = 0; j < 4; ++j) words[4 * i + j] = block.v[j];
  }
}

KERNEL probe_uniform(long n, const int* bits, real* y) { FOR_EACH(i, n) y[i] = uniform_of((u32)bits[i]); }
