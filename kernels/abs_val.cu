// AbsVal, element by element.
#include "portable.h"

KERNEL abs_val_forward(long n, const store* x, store* y) {
  FOR_EACH(i, n) {
    const real v = x[i];
    y[i] = v < 0 ? -v : v;
  }
}

// dx = dy sign(x), 0 at 0
KERNEL abs_val_backward(long n, const store* x, const store* dy, store* dx) {
  FOR_EACH(i, n) {
    const real v = x[i], g = dy[i];
    dx[i] = v > 0 ? g : (v < 0 ? -g : real(0));
  }
}
