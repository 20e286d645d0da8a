// ELU, element by element; works in place.
#include "portable.h"

KERNEL elu_forward(long n, const store* x, store* y, real alpha) {
  FOR_EACH(i, n) {
    const real v = x[i];
    y[i] = v > 0 ? v : alpha * (exp_of(min_of(v, real(0))) - real(1));
  }
}

// `sign` is anything with the input's sign: the output itself for alpha >= 0.
KERNEL elu_backward(long n, const store* sign, const store* y, const store* dy, store* dx, real alpha) {
  FOR_EACH(i, n) {
    const real g = dy[i];
    dx[i] = real(sign[i]) > 0 ? g : g * (real(y[i]) + alpha);
  }
}
