// Reduction of rows. A long row is cut into a fixed number of chunks, so that few rows still occupy all threads.
#include "portable.h"

#define REDUCTION_ASUM 2
#define REDUCTION_SUMSQ 3

// y[r] = coeff sum over the row, if a row is one chunk; else partial[r, k] = sum over chunk k
KERNEL reduction_forward(long pieces, long chunks, long cols, int op, real coeff, const store* x, real* partial, store* y) {
  FOR_EACH_ROW(p, pieces, cols / chunks + 1) {
    const long row = p / chunks, k = p % chunks;
    const long from = k * cols / chunks, to = (k + 1) * cols / chunks;
    const store* in = x + row * cols + from;
    const real s = row_sum(to - from, [=](index_t j) {
      const real v = in[j];
      return op == REDUCTION_ASUM ? (v < 0 ? -v : v) : op == REDUCTION_SUMSQ ? v * v : v;
    });
    ROW_LEADER {
      if (chunks == 1) y[p] = coeff * s;
      else partial[p] = s;
    }
  }
}

// y[r] = coeff sum over k of partial[r, k]
KERNEL reduction_finish(long rows, long chunks, real coeff, const real* partial, store* y) {
  FOR_EACH(r, rows) {
    real s = 0;
    for (long k = 0; k < chunks; ++k) s += partial[r * chunks + k];
    y[r] = coeff * s;
  }
}

// dx = coeff dy[r] times 1, sign(x) or 2 x
KERNEL reduction_backward(long pieces, long chunks, long cols, int op, real coeff, const store* x, const store* dy, store* dx) {
  FOR_EACH_ROW(p, pieces, cols / chunks + 1) {
    const long row = p / chunks, k = p % chunks;
    const long from = k * cols / chunks, to = (k + 1) * cols / chunks, at = row * cols + from;
    const real g = coeff * real(dy[row]);
    if (op == REDUCTION_ASUM) {
      FOR_EACH_LANE(j, to - from) {
        const real v = x[at + j];
        dx[at + j] = v > 0 ? g : (v < 0 ? -g : real(0));
      }
    } else if (op == REDUCTION_SUMSQ) {
      FOR_EACH_LANE(j, to - from) dx[at + j] = real(2) * g * real(x[at + j]);
    } else {
      FOR_EACH_LANE(j, to - from) dx[at + j] = g;
    }
  }
}
