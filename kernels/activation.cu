// ReLU, Sigmoid, TanH, Dropout: element by element; each works in place.
#include "portable.h"

KERNEL relu_forward(long n, const store* x, store* y, real slope) {
  each(n, out(y), [=](real v) { return v > 0 ? v : slope * v; }, x);
}

// x may be the output: for slope >= 0 it has the input's sign.
KERNEL relu_backward(long n, const store* x, const store* dy, store* dx, real slope) {
  each(n, out(dx), [=](real v, real g) { return v > 0 ? g : slope * g; }, x, dy);
}

KERNEL sigmoid_forward(long n, const store* x, store* y) { each(n, out(y), [](real v) { return sigmoid_of(v); }, x); }

KERNEL sigmoid_backward(long n, const store* y, const store* dy, store* dx) {
  each(n, out(dx), [](real v, real g) { return g * v * (real(1) - v); }, y, dy);
}

KERNEL tanh_forward(long n, const store* x, store* y) { each(n, out(y), [](real v) { return tanh_of(v); }, x); }

KERNEL tanh_backward(long n, const store* y, const store* dy, store* dx) {
  each(n, out(dx), [](real v, real g) { return g * (real(1) - v * v); }, y, dy);
}

// keep[i] = 1 with probability 1 - ratio; four elements share a Philox block addressed by (seed, layer | forward pass, i / 4).
KERNEL dropout_mask(long n, u64 key, const u64* forward_count, real ratio, u8* keep) {
#if ON_GPU  // a thread draws a block's four numbers once
  const index_t count = n;
  FOR_EACH(b, (count + 3) / 4) {
    const philox4 block = philox(key, forward_count[0], u64(b));
    for (index_t i = 4 * b; i < 4 * b + 4 && i < count; ++i) keep[i] = real(uniform_of(block.v[i & 3])) >= ratio;
  }
#else
  FOR_EACH(i, n) {
    const philox4 block = philox(key, forward_count[0], u64(i) >> 2);
    keep[i] = real(uniform_of(block.v[i & 3])) >= ratio;
  }
#endif
}

// y = keep ? scale x : 0, forward and backward alike
KERNEL dropout_apply(long n, const store* x, const u8* keep, real scale, store* y) {
  each(n, out(y), [=](real v, real kept) { return kept != 0 ? scale * v : real(0); }, x, keep);
}
