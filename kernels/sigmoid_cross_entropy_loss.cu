// SigmoidCrossEntropyLoss: partial sums over a fixed number of chunks, which loss_mean adds up.
#include "portable.h"

// max(x, 0) - x t + log(1 + exp(-|x|)): nothing overflows, however large x is
DEVICE real cross_entropy_of(real x, real t) {
  return max_of(x, real(0)) - x * t + log_of(real(1) + exp_of(x < 0 ? x : -x));
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
