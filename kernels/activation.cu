// ReLU, Sigmoid, TanH, Dropout: element by element; each works in place.
#include "portable.h"

KERNEL relu_forward(long n, const store* x, store* y, real slope) {
  FOR_EACH(i, n) {
    const real v = x[i];
    y[i] = v > 0 ? v : slope * v;
  }
}

// x may be the output: for slope >= 0 it has the input's sign.
KERNEL relu_backward(long n, const store* x, const store* dy, store* dx, real slope) {
  FOR_EACH(i, n) {
    const real g = dy[i];
    dx[i] = real(x[i]) > 0 ? g : slope * g;
  }
}

KERNEL sigmoid_forward(long n, const store* x, store* y) { FOR_EACH(i, n) y[i] = sigmoid_of(real(x[i])); }

KERNEL sigmoid_backward(long n, const store* y, const store* dy, store* dx) {
  FOR_EACH(i, n) {
    const real v = y[i];
    dx[i] = real(dy[i]) * v * (real(1) - v);
  }
}

KERNEL tanh_forward(long n, const store* x, store* y) { FOR_EACH(i, n) y[i] = tanh_of(real(x[i])); }

KERNEL tanh_backward(long n, const store* y, const store* dy, store* dx) {
  FOR_EACH(i, n) {
    const real v = y[i];
    dx[i] = real(dy[i]) * (real(1) - v * v);
  }
}

// keep[i] = 1 with probability 1 - ratio; four elements share a Philox block addressed by (seed, layer | forward pass, i / 4).
KERNEL dropout_mask(long n, u64 key, const u64* forward_count, real ratio, u8* keep) {
  FOR_EACH(i, n) {
    const philox4 block = philox(key, forward_count[0], u64(i) >> 2);
    keep[i] = real(uniform_of(block.v[i & 3])) >= ratio;
  }
}

// y = keep ? scale x : 0, forward and backward alike
KERNEL dropout_apply(long n, const store* x, const u8* keep, real scale, store* y) {
  FOR_EACH(i, n) y[i] = keep[i] ? scale * real(x[i]) : real(0);
}
