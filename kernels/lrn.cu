// Local response normalisation: y = x s^-beta, s = k + a (sum of x^2 over a window), across channels or inside a plane.
#include "portable.h"

// s^-beta; 3/4, which nearly every net has, from two square roots
DEVICE real power_of(real s, real beta, int three_quarters) {
  if (three_quarters) {
    const real root = sqrt_of(s);
    return real(1) / (root * sqrt_of(root));
  }
  return exp_of(-beta * log_of(s));
}

// A row is a tile of up to `width` pixels of one image; a lane is a pixel, and goes through the channels in order.
#define LRN_TILE(r)                                                                              \
  const index_t tiles = (inner + width - 1) / width, image = r / tiles, tile = r - image * tiles; \
  const index_t left = tile * width, count = inner - left < width ? inner - left : width;         \
  const index_t at = image * channels * inner + left;

KERNEL lrn_across_forward(long rows, long channels, long inner, long width, int half, real k, real a, real beta,
                          int three_quarters, const store* x, store* scale, store* y) {
  FOR_EACH_ROW(r, rows, channels * width) {
    LRN_TILE(r)
    for (index_t c = 0; c < channels; ++c) {
      const index_t first = c < half ? 0 : c - half, last = c + half < channels ? c + half : channels - 1;
      FOR_EACH_LANE(j, count) scale[at + c * inner + j] = real(x[at + first * inner + j]) * real(x[at + first * inner + j]);
      for (index_t d = first + 1; d <= last; ++d) {
        FOR_EACH_LANE(j, count) {
          const real v = x[at + d * inner + j];
          scale[at + c * inner + j] = real(scale[at + c * inner + j]) + v * v;
        }
      }
      FOR_EACH_LANE(j, count) {
        const index_t i = at + c * inner + j;
        const real s = k + a * real(scale[i]);
        scale[i] = s;
        y[i] = real(x[i]) * power_of(s, beta, three_quarters);
      }
    }
  }
}

// dx_i = dy_i s_i^-beta - 2 a beta x_i (sum over the window of dy y / s); ratio: room for dy y / s
KERNEL lrn_across_backward(long rows, long channels, long inner, long width, int half, real a, real beta,
                           int three_quarters, const store* x, const store* scale, const store* y, const store* dy,
                           store* ratio, store* dx) {
  FOR_EACH_ROW(r, rows, channels * width) {
    LRN_TILE(r)
    for (index_t c = 0; c < channels; ++c) {
      FOR_EACH_LANE(j, count) {
        const index_t i = at + c * inner + j;
        ratio[i] = real(dy[i]) * real(y[i]) / real(scale[i]);
      }
    }
    for (index_t c = 0; c < channels; ++c) {
      const index_t first = c < half ? 0 : c - half, last = c + half < channels ? c + half : channels - 1;
      FOR_EACH_LANE(j, count) dx[at + c * inner + j] = ratio[at + first * inner + j];
      for (index_t d = first + 1; d <= last; ++d) {
        FOR_EACH_LANE(j, count) dx[at + c * inner + j] = real(dx[at + c * inner + j]) + real(ratio[at + d * inner + j]);
      }
      FOR_EACH_LANE(j, count) {
        const index_t i = at + c * inner + j;
        const real down = real(dy[i]) * power_of(real(scale[i]), beta, three_quarters);
        dx[i] = down - real(2) * a * beta * real(x[i]) * real(dx[i]);
      }
    }
  }
}

// Sums over a window of (2 half + 1)^2 in a plane: first down the columns into `column`, then along the lines
DEVICE void column_sums(index_t h, index_t w, int half, const store* x, int square, store* column) {
  for (index_t i = 0; i < h; ++i) {
    const index_t first = i < half ? 0 : i - half, last = i + half < h ? i + half : h - 1;
    FOR_EACH_LANE(j, w) {
      const real v = x[first * w + j];
      column[i * w + j] = square ? v * v : v;
    }
    for (index_t d = first + 1; d <= last; ++d) {
      FOR_EACH_LANE(j, w) {
        const real v = x[d * w + j];
        column[i * w + j] = real(column[i * w + j]) + (square ? v * v : v);
      }
    }
  }
}

DEVICE real line_sum(const store* line, index_t j, index_t w, int half) {
  const index_t first = j < half ? 0 : j - half, last = j + half < w ? j + half : w - 1;
  real s = 0;
  for (index_t d = first; d <= last; ++d) s += real(line[d]);
  return s;
}

KERNEL lrn_within_forward(long planes, long h, long w, int half, real k, real a, real beta, int three_quarters,
                          const store* x, store* column, store* scale, store* y) {
  FOR_EACH_ROW(p, planes, h * w) {
    const index_t at = p * h * w;
    column_sums(h, w, half, x + at, 1, column + at);
    ROW_SYNC;
    for (index_t i = 0; i < h; ++i) {
      const index_t line = at + i * w;
      FOR_EACH_LANE(j, w) {
        const real s = k + a * line_sum(column + line, j, w, half);
        scale[line + j] = s;
        y[line + j] = real(x[line + j]) * power_of(s, beta, three_quarters);
      }
    }
  }
}

KERNEL lrn_within_backward(long planes, long h, long w, int half, real a, real beta, int three_quarters, const store* x,
                           const store* scale, const store* y, const store* dy, store* ratio, store* column,
                           store* dx) {
  FOR_EACH_ROW(p, planes, h * w) {
    const index_t at = p * h * w;
    FOR_EACH_LANE(j, h * w) ratio[at + j] = real(dy[at + j]) * real(y[at + j]) / real(scale[at + j]);
    ROW_SYNC;
    column_sums(h, w, half, ratio + at, 0, column + at);
    ROW_SYNC;
    for (index_t i = 0; i < h; ++i) {
      const index_t line = at + i * w;
      FOR_EACH_LANE(j, w) {
        const real down = real(dy[line + j]) * power_of(real(scale[line + j]), beta, three_quarters);
        dx[line + j] = down - real(2) * a * beta * real(x[line + j]) * line_sum(column + line, j, w, half);
      }
    }
  }
}
