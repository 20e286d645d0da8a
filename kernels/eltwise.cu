// Several blobs of one shape, element by element; and rows copied between blobs of different row lengths.
#include "portable.h"

// y = a x0 + b x1
KERNEL eltwise_sum(long n, const store* x0, const store* x1, real a, real b, store* y) {
  each(n, out(y), [=](real u, real v) { return a * u + b * v; }, x0, x1);
}

// y = x0 x1
KERNEL eltwise_prod(long n, const store* x0, const store* x1, store* y) {
  each(n, out(y), [](real u, real v) { return u * v; }, x0, x1);
}

// dx = dy y / x
KERNEL eltwise_prod_quotient(long n, const store* x, const store* y, const store* dy, store* dx) {
  FOR_EACH(i, n) dx[i] = real(y[i]) / real(x[i]) * real(dy[i]);
}

// The larger of two and its number; of equal values the second wins
KERNEL eltwise_max(long n, const store* x0, const store* x1, store* y, int* winner) {
  FOR_EACH(i, n) {
    const bool first = real(x0[i]) > real(x1[i]);
    y[i] = first ? x0[i] : x1[i];
    winner[i] = first ? 0 : 1;
  }
}

// One more blob against the largest so far; of equal values the earlier wins
KERNEL eltwise_max_more(long n, const store* x, int number, store* y, int* winner) {
  FOR_EACH(i, n) {
    const bool larger = real(x[i]) > real(y[i]);
    winner[i] = larger ? number : winner[i];
    y[i] = larger ? x[i] : y[i];
  }
}

// dx = dy where this blob was the largest, else 0
KERNEL eltwise_max_backward(long n, const store* dy, const int* winner, int number, store* dx) {
  FOR_EACH(i, n) dx[i] = winner[i] == number ? real(dy[i]) : real(0);
}

// y[r, 0 ... cols] = x[r, 0 ... cols], rows lying from and to elements apart
KERNEL copy_rows(long rows, long cols, const store* x, long from, store* y, long to) {
  FOR_EACH_2D(r, rows, c, cols) y[r * to + c] = x[r * from + c];
}
