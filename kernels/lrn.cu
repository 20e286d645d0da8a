// Local response normalisation: y = x s^-beta, s = k + a (sum of x^2 over a window), across channels or inside a plane.
#include "portable.h"

// Calls loop(power), power(s) = s^-beta; 3/4, which nearly every net has, from two square roots. The choice is made out
// here since a branch inside of a loop would keep it from being vectorised.
template <class Loop>
DEVICE void with_power(real beta, int three_quarters, Loop loop) {
  if (three_quarters)
    loop([](real s) {
      const real root = sqrt_of(s);
      return real(1) / (root * sqrt_of(root));
    });
  else
    loop([=](real s) { return exp_of(-beta * log_of(s)); });
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
      with_power(beta, three_quarters, [=](auto power) {
        FOR_EACH_LANE(j, count) {
          const index_t i = at + c * inner + j;
          const real s = k + a * real(scale[i]);
          scale[i] = s;
          y[i] = real(x[i]) * power(s);
        }
      });
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
      with_power(beta, three_quarters, [=](auto power) {
        FOR_EACH_LANE(j, count) {
          const index_t i = at + c * inner + j;
          dx[i] = real(dy[i]) * power(real(scale[i])) - real(2) * a * beta * real(x[i]) * real(dx[i]);
        }
      });
    }
  }
}

// Sums over a window of (2 half + 1)^2 in a plane: down the columns into `column`, whose lines have `half` zeros at either
// end, then along the lines into `out`
DEVICE void window_sums(index_t h, index_t w, int half, const store* x, int square, store* column, store* out) {
  const index_t wide = w + 2 * half;
  for (index_t i = 0; i < h; ++i) {
    const index_t first = i < half ? 0 : i - half, last = i + half < h ? i + half : h - 1;
    store* line = column + i * wide;
    FOR_EACH_LANE(j, half) {
      line[j] = real(0);
      line[half + w + j] = real(0);
    }
    FOR_EACH_LANE(j, w) {
      const real v = x[first * w + j];
      line[half + j] = square ? v * v : v;
    }
    for (index_t d = first + 1; d <= last; ++d) {
      FOR_EACH_LANE(j, w) {
        const real v = x[d * w + j];
        line[half + j] = real(line[half + j]) + (square ? v * v : v);
      }
    }
  }
  ROW_SYNC;
  for (index_t i = 0; i < h; ++i) {
    const store* line = column + i * wide;
    FOR_EACH_LANE(j, w) out[i * w + j] = line[j];
    for (index_t d = 1; d <= 2 * half; ++d) {
      FOR_EACH_LANE(j, w) out[i * w + j] = real(out[i * w + j]) + real(line[j + d]);
    }
  }
  ROW_SYNC;
}

KERNEL lrn_within_forward(long planes, long h, long w, int half, real k, real a, real beta, int three_quarters,
                          const store* x, store* column, store* scale, store* y) {
  FOR_EACH_ROW(p, planes, h * w) {
    const index_t at = p * h * w;
    window_sums(h, w, half, x + at, 1, column + p * h * (w + 2 * half), scale + at);
    with_power(beta, three_quarters, [=](auto power) {
      FOR_EACH_LANE(j, h * w) {
        const real s = k + a * real(scale[at + j]);
        scale[at + j] = s;
        y[at + j] = real(x[at + j]) * power(s);
      }
    });
  }
}

KERNEL lrn_within_backward(long planes, long h, long w, int half, real a, real beta, int three_quarters, const store* x,
                           const store* scale, const store* y, const store* dy, store* ratio, store* column,
                           store* dx) {
  FOR_EACH_ROW(p, planes, h * w) {
    const index_t at = p * h * w;
    FOR_EACH_LANE(j, h * w) ratio[at + j] = real(dy[at + j]) * real(y[at + j]) / real(scale[at + j]);
    ROW_SYNC;
    window_sums(h, w, half, ratio + at, 0, column + p * h * (w + 2 * half), dx + at);
    with_power(beta, three_quarters, [=](auto power) {
      FOR_EACH_LANE(j, h * w) {
        const index_t i = at + j;
        dx[i] = real(dy[i]) * power(real(scale[i])) - real(2) * a * beta * real(x[i]) * real(dx[i]);
      }
    });
  }
}
