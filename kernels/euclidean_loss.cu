// EuclideanLoss: partial sums over a fixed number of chunks, which loss_mean adds up.
#include "portable.h"

// loss[k] = sum over chunk k of (a - b)^2 / 2
KERNEL euclidean_loss_chunks(long chunks, long n, const store* a, const store* b, real* loss) {
  FOR_EACH_ROW(k, chunks, n / chunks + 1) {
    const long from = (long)k * n / chunks, to = ((long)k + 1) * n / chunks;
    const real s = row_sum(to - from, [=](index_t j) {
      const real d = real(a[from + j]) - real(b[from + j]);
      return d * d;
    });
    ROW_LEADER loss[k] = real(0.5) * s;
  }
}

// dx = (a - b) scale dloss
KERNEL euclidean_loss_backward(long n, const store* a, const store* b, real scale, const store* dloss, store* dx) {
  const real by = scale * real(dloss[0]);
  FOR_EACH(i, n) dx[i] = by * (real(a[i]) - real(b[i]));
}
