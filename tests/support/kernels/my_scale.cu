// A user's own kernels, for test_extension.py.
#include "portable.h"

// y = factor[0] x^2 + shift
KERNEL my_scale_forward(long n, const store* x, const store* factor, real shift, store* y) {
  FOR_EACH(i, n) y[i] = real(factor[0]) * real(x[i]) * real(x[i]) + shift;
}

KERNEL my_scale_backward(long n, const store* x, const store* factor, const store* dy, store* dx) {
  FOR_EACH(i, n) dx[i] = real(2) * real(factor[0]) * real(x[i]) * real(dy[i]);
}

// one row: dfactor[0] += sum of x^2 dy
KERNEL my_scale_gradient(long rows, long n, const store* x, const store* dy, store* dfactor) {
  FOR_EACH_ROW(r, rows, n) {
    const real s = row_sum(n, [=](index_t j) { return real(x[j]) * real(x[j]) * real(dy[j]); });
    ROW_LEADER dfactor[r] = real(dfactor[r]) + s;
  }
}
