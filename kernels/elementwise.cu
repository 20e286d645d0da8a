// Copies, sums and constants: the small change of every net.
#include "portable.h"

KERNEL fill(long n, store* y, real value) { FOR_EACH(i, n) y[i] = value; }

KERNEL copy(long n, const store* x, store* y) { FOR_EACH(i, n) y[i] = x[i]; }

KERNEL add(long n, const store* a, const store* b, store* y) { FOR_EACH(i, n) y[i] = real(a[i]) + real(b[i]); }

KERNEL axpy(long n, real alpha, const store* x, store* y) { FOR_EACH(i, n) y[i] = real(y[i]) + alpha * real(x[i]); }

// y = alpha x
KERNEL scale_into(long n, real alpha, const store* x, store* y) { FOR_EACH(i, n) y[i] = alpha * real(x[i]); }

// y[r, c] += b[r % channels]: rows are (image, channel) pairs, columns pixels.
KERNEL bias_add(long rows, long cols, long channels, const store* b, store* y) {
  FOR_EACH_ROW(r, rows, cols) {
    const real v = b[r % channels];
    FOR_EACH_LANE(j, cols) y[r * cols + j] = real(y[r * cols + j]) + v;
  }
}

// y[r, c] = max(y[r, c] + b[r % channels], 0)
KERNEL bias_relu(long rows, long cols, long channels, const store* b, store* y) {
  FOR_EACH_ROW(r, rows, cols) {
    const real v = b[r % channels];
    FOR_EACH_LANE(j, cols) y[r * cols + j] = max_of(real(y[r * cols + j]) + v, real(0));
  }
}

// y[r, c] += b[c]
KERNEL bias_add_columns(long rows, long cols, const store* b, store* y) {
  FOR_EACH_2D(r, rows, c, cols) y[r * cols + c] = real(y[r * cols + c]) + real(b[c]);
}

// db[f] += sum over images n and pixels p of dy[n, f, p]
KERNEL bias_gradient(long channels, long images, long pixels, const store* dy, store* db) {
  FOR_EACH_ROW(f, channels, images * pixels) {
    const real s = rows_sum(0, images, pixels, [=](index_t n, index_t p) { return real(dy[(n * channels + f) * pixels + p]); });
    ROW_LEADER db[f] = real(db[f]) + s;
  }
}

// db[c] += sum over rows r of dy[r, c]
KERNEL bias_gradient_columns(long cols, long rows, const store* dy, store* db) {
  FOR_EACH(c, cols) {
    real s = 0;
    for (index_t r = 0; r < rows; ++r) s += real(dy[r * cols + c]);
    db[c] = real(db[c]) + s;
  }
}

// counter[0] += 1: the forward counter that addresses random numbers.
KERNEL count_up(long n, u64* counter) { FOR_EACH(i, n) counter[i] += 1; }
