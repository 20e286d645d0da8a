// Power, element by element. Powers 1 and 2 have loops of their own: a call of pow costs more than the memory does.
#include "portable.h"

#if ON_GPU
DEVICE float pow_of(float x, float p) { return powf(x, p); }
DEVICE double pow_of(double x, double p) { return pow(x, p); }
#else
DEVICE float pow_of(float x, float p) { return __builtin_powf(x, p); }
DEVICE double pow_of(double x, double p) { return __builtin_pow(x, p); }
#endif

// y = (shift + scale x)^power
KERNEL power_forward(long n, const store* x, store* y, real power, real scale, real shift) {
  if (power == 1) {
    FOR_EACH(i, n) y[i] = shift + scale * real(x[i]);
  } else if (power == 2) {
    FOR_EACH(i, n) {
      const real u = shift + scale * real(x[i]);
      y[i] = u * u;
    }
  } else {
    FOR_EACH(i, n) y[i] = pow_of(shift + scale * real(x[i]), power);
  }
}

// dx = dy power scale (shift + scale x)^(power - 1), for powers other than 1
KERNEL power_backward(long n, const store* x, const store* dy, store* dx, real power, real scale, real shift) {
  const real slope = power * scale;
  if (power == 2) {
    FOR_EACH(i, n) dx[i] = real(dy[i]) * slope * (shift + scale * real(x[i]));
  } else {
    FOR_EACH(i, n) dx[i] = real(dy[i]) * slope * pow_of(shift + scale * real(x[i]), power - 1);
  }
}
