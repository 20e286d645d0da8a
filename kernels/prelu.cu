// PReLU. Rows are (image, channel) pairs and columns pixels, or, where a channel is one value, rows are images and
// columns channels. Backward reads memory once: each row, or each of a fixed number of chunks of rows, leaves a partial
// sum of the slope's gradient, and these are added up in order.
#include "portable.h"

DEVICE real prelu_of(real v, real slope) { return v > 0 ? v : slope * v; }

// y[r, j] by slope[r % channels]; with `keep` the input is kept, since y goes over it
KERNEL prelu_forward(long rows, long cols, long channels, const store* slope, const store* x, store* y, int keep, store* kept) {
  const index_t slopes = channels;
  FOR_EACH_2D(r, rows, j, cols) {
    const real v = x[r * cols + j];
    if (keep) kept[r * cols + j] = v;
    y[r * cols + j] = prelu_of(v, real(slope[r % slopes]));
  }
}

// y[r, c] by slope[c]
KERNEL prelu_forward_columns(long rows, long cols, const store* slope, const store* x, store* y, int keep, store* kept) {
  FOR_EACH_2D(r, rows, c, cols) {
    const real v = x[r * cols + c];
    if (keep) kept[r * cols + c] = v;
    y[r * cols + c] = prelu_of(v, real(slope[c]));
  }
}

// with `down` dx = dy (x > 0 ? 1 : slope); partial[r] = sum over the row of dy min(x, 0)
KERNEL prelu_backward(long rows, long cols, long channels, const store* slope, const store* x, const store* dy, int down,
                      store* dx, real* partial) {
  FOR_EACH_ROW(r, rows, cols) {
    const real a = slope[r % channels];
    const long at = (long)r * cols;
    const real s = row_sum(cols, [=](index_t j) {
      const real v = x[at + j], g = dy[at + j];
      if (down) dx[at + j] = v > 0 ? g : a * g;
      return g * min_of(v, real(0));
    });
    ROW_LEADER partial[r] = s;
  }
}

// the same by columns; partial[k, c] = sum over chunk k of the rows
KERNEL prelu_backward_columns(long chunks, long cols, long rows, const store* slope, const store* x, const store* dy, int down,
                              store* dx, real* partial) {
  FOR_EACH_ROW(k, chunks, rows / chunks * cols) {
    real* sums = partial + k * cols;
    FOR_EACH_LANE(c, cols) sums[c] = 0;  // a lane meets its own columns only
    for (long r = k * rows / chunks; r < (k + 1) * rows / chunks; ++r) {
      FOR_EACH_LANE(c, cols) {
        const real v = x[r * cols + c], g = dy[r * cols + c];
        if (down) dx[r * cols + c] = v > 0 ? g : real(slope[c]) * g;
        sums[c] += g * min_of(v, real(0));
      }
    }
  }
}

// da[c] += sum over k of partial[k, c]
KERNEL prelu_slope_gradient(long channels, long chunks, const real* partial, store* da) {
  FOR_EACH(c, channels) {
    real s = 0;
    for (long k = 0; k < chunks; ++k) s += partial[k * channels + c];
    da[c] = real(da[c]) + s;
  }
}
