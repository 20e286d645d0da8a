// SigmoidCrossEntropyLoss: partial sums over a fixed number of chunks, which loss_mean adds up.
#include "portable.h"

// log(1 + e) for e from 0 to 1. In float a series of s = e / (2 + e), which vectorises and keeps the digits of a small e;
// its first term left out is below 2e-9 of the whole.
DEVICE double log1p_of(double e) { return log_of(1. + e); }
DEVICE float log1p_of(float e) {
  const float s = e / (2.f + e), q = s * s;
  float p = 1.f / 15;
  p = p * q + 1.f / 13;
  p = p * q + 1.f / 11;
  p = p * q + 1.f / 9;
  p = p * q + 1.f / 7;
  p = p * q + 1.f / 5;
  p = p * q + 1.f / 3;
  return 2.f * (s + s * q * p);
}

// max(x, 0) - x t + log(1 + exp(-|x|)): nothing overflows, however large x is
DEVICE real cross_entropy_of(real x, real t) {
  return max_of(x, real(0)) - x * t + log1p_of(exp_of(x < 0 ? x : -x));
}

// loss[k], valid[k]: sum and number of the elements of chunk k whose target is not the one to be ignored
KERNEL sigmoid_cross_entropy_loss_chunks(long chunks, long n, const store* x, const store* target, int has_ignore, int ignore,
                                         real* loss, real* valid) {
  FOR_EACH_ROW(k, chunks, n / chunks + 1) {
    const long from = (long)k * n / chunks, to = ((long)k + 1) * n / chunks;
    const real s = row_sum(to - from, [=](index_t j) {
      const real t = target[from + j], e = cross_entropy_of(real(x[from + j]), t);
      return has_ignore && (int)t == ignore ? real(0) : e;
    });
    const real count = has_ignore ? row_sum(to - from, [=](index_t j) {
      return (int)real(target[from + j]) == ignore ? real(0) : real(1);
    }) : real(to - from);
    ROW_LEADER loss[k] = s;
    ROW_LEADER valid[k] = count;
  }
}

// dx = (sigmoid(x) - t) dloss / normalizer, 0 where ignored
KERNEL sigmoid_cross_entropy_loss_backward(long n, const store* x, const store* target, int has_ignore, int ignore,
                                           const store* dloss, const real* normalizer, store* dx) {
  const real by = real(dloss[0]) / normalizer[0];
  FOR_EACH(i, n) {
    const real t = target[i], g = by * (sigmoid_of(real(x[i])) - t);
    dx[i] = has_ignore && (int)t == ignore ? real(0) : g;
  }
}
