// Local response normalisation: y = x s^-beta, s = k + a (sum of x^2 over a window), across channels or inside a plane.
#include "portable.h"

#if ON_GPU
DEVICE float inverse_root(float s) { return rsqrtf(s); }
DEVICE double inverse_root(double s) { return rsqrt(s); }
DEVICE float inverse(float s) { return __fdividef(1.f, s); }
DEVICE double inverse(double s) { return 1 / s; }
#endif

// Calls loop(power), power(s) = s^-beta; 3/4, which nearly every net has, from two square roots. The choice is made out
// here since a branch inside of a loop would keep it from being vectorised.
template <class Loop>
DEVICE void with_power(real beta, int three_quarters, Loop loop) {
  if (three_quarters)
    loop([](real s) {
#if ON_GPU
      const real r = inverse_root(s);
      return r * r * inverse_root(r);
#else
      const real root = sqrt_of(s);
      return real(1) / (root * sqrt_of(root));
#endif
    });
  else
    loop([=](real s) { return exp_of(-beta * log_of(s)); });
}

// A row is a tile of up to `width` pixels of one image; a lane is a pixel, and goes through the channels in order.
#define LRN_TILE(r)                                                                              \
  const index_t tiles = (inner + width - 1) / width, image = r / tiles, tile = r - image * tiles; \
  const index_t left = tile * width, count = inner - left < width ? inner - left : width;         \
  const index_t at = image * channels * inner + left;

#if ON_GPU
#define AHEAD 4  // channels whose values are on their way while others are worked on

// A pixel's channels, `step` apart, on the GPU: the window moves through registers, and backward makes s and y again from
// x, so that forward is two passes over memory and backward three.
template <int H, class Power>
DEVICE void across_forward(index_t channels, index_t step, real k, real a, Power power, const store* x, store* y) {
  real v[2 * H + 1] = {}, next[AHEAD], later[AHEAD];
  const auto load = [&](real* values, index_t from) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) values[i] = from + i < channels ? real(x[(from + i) * step]) : real(0);
  };
#pragma unroll
  for (int i = 0; i < H; ++i) v[H + 1 + i] = i < channels ? real(x[i * step]) : real(0);
  load(next, H);
  for (index_t from = 0; from < channels; from += AHEAD) {
    load(later, from + AHEAD + H);
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      real sum = next[i] * next[i];
#pragma unroll
      for (int d = 0; d < 2 * H; ++d) {
        v[d] = v[d + 1];
        sum += v[d] * v[d];
      }
      v[2 * H] = next[i];
      if (from + i < channels) y[(from + i) * step] = v[H] * power(k + a * sum);
    }
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) next[i] = later[i];
  }
}

// At each turn channel c + 2 H arrives, s is complete for c + H and dx for c.
template <int H, class Power>
DEVICE void across_backward(index_t channels, index_t step, real k, real a, real by, int relu, Power power,
                            const store* x, const store* dy, store* dx) {
  real v[4 * H + 1] = {}, ratio[2 * H + 1] = {}, direct[H + 1] = {}, next[AHEAD], grad[AHEAD];
#pragma unroll
  for (int i = 0; i < H; ++i) v[3 * H + 1 + i] = i < channels ? real(x[i * step]) : real(0);
  for (index_t from = -H; from < channels; from += AHEAD) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      const index_t c = from + i + H;
      next[i] = c + H < channels ? real(x[(c + H) * step]) : real(0);
      grad[i] = c < channels ? real(dy[c * step]) : real(0);
    }
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
      for (int d = 0; d < 4 * H; ++d) v[d] = v[d + 1];
      v[4 * H] = next[i];
      real s = 0, sum = 0;
#pragma unroll
      for (int d = 2 * H; d <= 4 * H; ++d) s += v[d] * v[d];
      s = k + a * s;
      const real p = power(s);
#pragma unroll
      for (int d = 0; d < H; ++d) direct[d] = direct[d + 1];
      direct[H] = from + i + H < channels ? grad[i] * p : real(0);
#pragma unroll
      for (int d = 0; d < 2 * H; ++d) sum += ratio[d] = ratio[d + 1];
      ratio[2 * H] = from + i + H < channels ? direct[H] * v[3 * H] * inverse(s) : real(0);
      sum += ratio[2 * H];
      const index_t c = from + i;
      const real d = relu && !(v[2 * H] > 0) ? real(0) : direct[0] - by * v[2 * H] * sum;
      if (c >= 0 && c < channels) dx[c * step] = d;
    }
  }
}
#endif

KERNEL lrn_across_forward(long rows, long channels, long inner, long width, int half, real k, real a, real beta,
                          int three_quarters, const store* x, store* scale, store* y) {
  FOR_EACH_ROW(r, rows, channels * width) {
    LRN_TILE(r)
#if ON_GPU
    if (half == 1 || half == 2) {
      with_power(beta, three_quarters, [=](auto power) {
        FOR_EACH_LANE(j, count) {
          if (half == 1) across_forward<1>(channels, inner, k, a, power, x + at + j, y + at + j);
          else across_forward<2>(channels, inner, k, a, power, x + at + j, y + at + j);
        }
      });
      continue;
    }
#endif
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

// dx_i = dy_i s_i^-beta - 2 a beta x_i (sum over the window of dy y / s), with `relu` 0 where x_i is not above 0; ratio:
// room for dy y / s
KERNEL lrn_across_backward(long rows, long channels, long inner, long width, int half, real k, real a, real beta,
                           int three_quarters, int relu, const store* x, const store* scale, const store* y,
                           const store* dy, store* ratio, store* dx) {
  FOR_EACH_ROW(r, rows, channels * width) {
    LRN_TILE(r)
#if ON_GPU
    if (half == 1 || half == 2) {
      with_power(beta, three_quarters, [=](auto power) {
        FOR_EACH_LANE(j, count) {
          const index_t i = at + j;
          const real by = real(2) * a * beta;
          if (half == 1) across_backward<1>(channels, inner, k, a, by, relu, power, x + i, dy + i, dx + i);
          else across_backward<2>(channels, inner, k, a, by, relu, power, x + i, dy + i, dx + i);
        }
      });
      continue;
    }
#endif
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
          const real d = real(dy[i]) * power(real(scale[i])) - real(2) * a * beta * real(x[i]) * real(dx[i]);
          dx[i] = relu && !(real(x[i]) > 0) ? real(0) : d;
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
