// What two or more layers do, in one pass over memory (protocaffe/fusion.py).
#include "portable.h"

// y[r, c] = max(y[r, c] + b[c], 0)
KERNEL fused_bias_relu(long rows, long cols, const store* b, store* y) {
  FOR_EACH_2D(r, rows, c, cols) {
    y[r * cols + c] = max_of(real(y[r * cols + c]) + real(b[c]), real(0));
  }
}

DEVICE real leaky(real v, real slope) { return v > 0 ? v : slope * v; }

// y = relu(a x0 + b x1)
KERNEL fused_sum_relu(long n, const store* x0, const store* x1, real a, real b, real slope, store* y) {
  each(n, out(y), [=](real u, real v) { return leaky(a * u + b * v, slope); }, x0, x1);
}

// dy is masked in place, as the ReLU leaves it; dx0 = a dy and dx1 = b dy, each if it is there
KERNEL fused_sum_relu_backward(long n, const store* y, real a, real b, real slope, store* dy, store* dx0, store* dx1) {
  const auto mask = [=](real v, real g) { return v > 0 ? g : slope * g; };
  const auto one = [=](real by) {
    return [=](real v, real g) {
      const real u = mask(v, g);
      return reals<2>{{u, by * u}};
    };
  };
  const auto both = [=](real v, real g) {
    const real u = mask(v, g);
    return reals<3>{{u, a * u, b * u}};
  };
  if (dx0 && dx1) each(n, out(dy, dx0, dx1), both, y, dy);
  else if (dx0 || dx1) each(n, out(dy, dx0 ? dx0 : dx1), one(dx0 ? a : b), y, dy);
  else each(n, out(dy), mask, y, dy);
}

// The same where y has two readers, whose gradients dy0 and dy1 are added first
KERNEL fused_sum_relu_split_backward(long n, const store* y, const store* dy0, const store* dy1, real a, real b, real slope,
                                     store* dy, store* dx0, store* dx1) {
  const auto f = [=](real v, real g0, real g1) {
    const real u = v > 0 ? g0 + g1 : slope * (g0 + g1);
    return reals<3>{{u, a * u, b * u}};
  };
  each(n, out(dy, dx0, dx1), f, y, dy0, dy1);
}

// BatchNorm, Scale (gain g, shift b; absent: 1 and 0) and ReLU (slope 1: none), layout and sums as in channels.cu.
// z = (x - mean) / deviation is written to `z` if that is there.
KERNEL fused_norm_forward(long rows, long inner, long channels, const store* x, const real* factors, const store* g,
                          const store* b, real slope, store* z, store* y) {
  const index_t count = channels;
  const auto with_z = [=](index_t r) {
    const index_t c = r % count;
    const real mean = factors[2 * c], by = factors[2 * c + 1];
    const real gain = g ? real(g[c]) : real(1), plus = b ? real(b[c]) : real(0);
    return [=](real v) {
      const real u = (v - mean) * by;
      return reals<2>{{leaky(u * gain + plus, slope), u}};
    };
  };
  if (z) {
    rows_each(rows, inner, out(y, z), with_z, x);
    return;
  }
  const auto without = [=](index_t r) {
    const auto f = with_z(r);
    return [=](real v) { return f(v).v[0]; };
  };
  rows_each(rows, inner, out(y), without, x);
}

// z of what is stored of a channel, and the gradient behind the ReLU
struct fused_channel {
  real mean, by, gain, plus, slope;
};
DEVICE fused_channel fused_channel_of(index_t c, const real* factors, int made, const store* g, const store* b, real slope) {
  const real mean = made ? factors[2 * c] : real(0), by = made ? factors[2 * c + 1] : real(1);
  return {mean, by, g ? real(g[c]) : real(1), b ? real(b[c]) : real(0), slope};
}
DEVICE real fused_z(const fused_channel& s, real v) { return (v - s.mean) * s.by; }
DEVICE real fused_u(const fused_channel& s, real z, real dy) { return dy * (z * s.gain + s.plus > 0 ? real(1) : s.slope); }

// For each (channel, chunk): partial = (sum u, sum u z), u = dy where z g + b > 0, else slope dy; x is z, or z is made.
KERNEL fused_norm_gradient_sums(long rows, long chunks, long images, long channels, long inner, const store* x,
                                const real* factors, int made, const store* g, const store* b, real slope,
                                const store* dy, real* partial) {
  FOR_EACH_ROW(r, rows, images * inner / chunks) {
    const index_t c = r / chunks, k = r - c * chunks;
    const fused_channel s = fused_channel_of(c, factors, made, g, b, slope);
    const auto f = [=](real v, real d) {
      const real z = fused_z(s, v), u = fused_u(s, z, d);
      return reals<2>{{u, u * z}};
    };
    const reals<2> sums = channel_sums<2>(k * images / chunks, (k + 1) * images / chunks, channels, c, inner, f, x, dy);
    ROW_LEADER partial[2 * r] = sums.v[0];
    ROW_LEADER partial[2 * r + 1] = sums.v[1];
  }
}

// dx = (u - mean(u) - z mean(u z)) g / deviation; `between`, if there, gets u g, the gradient between BatchNorm and Scale
KERNEL fused_norm_backward(long rows, long inner, long channels, const store* x, const real* factors, int made,
                           const store* g, const store* b, real slope, const real* sums, const store* dy,
                           store* between, store* dx) {
  const index_t count = channels;
  const auto with_between = [=](index_t r) {
    const index_t c = r % count;
    const fused_channel s = fused_channel_of(c, factors, made, g, b, slope);
    const real by = s.gain * factors[2 * c + 1], mean_u = sums[2 * c], mean_uz = sums[2 * c + 1];
    return [=](real v, real d) {
      const real z = fused_z(s, v), u = fused_u(s, z, d);
      return reals<2>{{(u - mean_u - z * mean_uz) * by, u * s.gain}};
    };
  };
  if (between) {
    rows_each(rows, inner, out(dx, between), with_between, x, dy);
    return;
  }
  const auto without = [=](index_t r) {
    const auto f = with_between(r);
    return [=](real v, real d) { return f(v, d).v[0]; };
  };
  rows_each(rows, inner, out(dx), without, x, dy);
}

// The same with stored statistics: dx = u g / deviation, the mask from y
KERNEL fused_norm_backward_stored(long rows, long inner, long channels, const store* y, const real* factors,
                                  const store* g, real slope, const store* dy, store* between, store* dx) {
  const index_t count = channels;
  const auto with_between = [=](index_t r) {
    const real gain = g ? real(g[r % count]) : real(1), by = factors[2 * (r % count) + 1];
    return [=](real v, real d) {
      const real u = d * (v > 0 ? real(1) : slope) * gain;
      return reals<2>{{u * by, u}};
    };
  };
  if (between) {
    rows_each(rows, inner, out(dx, between), with_between, y, dy);
    return;
  }
  const auto without = [=](index_t r) {
    const auto f = with_between(r);
    return [=](real v, real d) { return f(v, d).v[0]; };
  };
  rows_each(rows, inner, out(dx), without, y, dy);
}

// Row r of `folded` and r of `shifts`: the filter and bias whose convolution is that of row r, normalised by stored
// statistics, scaled and shifted
KERNEL fused_fold_norm(long rows, long depth, const store* w, const store* bias, const real* factors, const store* g,
                       const store* b, store* folded, store* shifts) {
  FOR_EACH_ROW(r, rows, depth) {
    const real by = factors[2 * r + 1] * (g ? real(g[r]) : real(1));
    FOR_EACH_LANE(i, depth) folded[r * depth + i] = real(w[r * depth + i]) * by;
    ROW_LEADER shifts[r] = ((bias ? real(bias[r]) : real(0)) - factors[2 * r]) * by + (b ? real(b[r]) : real(0));
  }
}
