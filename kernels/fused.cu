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
  FOR_EACH(i, n) y[i] = leaky(a * real(x0[i]) + b * real(x1[i]), slope);
}

// dy is masked in place, as the ReLU leaves it; dx0 = a dy and dx1 = b dy, each if it is there
KERNEL fused_sum_relu_backward(long n, const store* y, real a, real b, real slope, store* dy, store* dx0, store* dx1) {
  FOR_EACH(i, n) {
    const real g = real(y[i]) > 0 ? real(dy[i]) : slope * real(dy[i]);
    dy[i] = g;
    if (dx0) dx0[i] = a * g;
    if (dx1) dx1[i] = b * g;
  }
}

// BatchNorm, Scale (gain g, shift b; absent: 1 and 0) and ReLU (slope 1: none), layout and sums as in channels.cu.
// z = (x - mean) / deviation is written to `z` if that is there.
KERNEL fused_norm_forward(long rows, long inner, long channels, const store* x, const real* factors, const store* g,
                          const store* b, real slope, store* z, store* y) {
  FOR_EACH_ROW(r, rows, inner) {
    const index_t c = r % channels, at = r * inner;
    const real mean = factors[2 * c], by = factors[2 * c + 1];
    const real gain = g ? real(g[c]) : real(1), plus = b ? real(b[c]) : real(0);
    if (z) {
      FOR_EACH_LANE(i, inner) {
        const real v = (real(x[at + i]) - mean) * by;
        z[at + i] = v;
        y[at + i] = leaky(v * gain + plus, slope);
      }
    } else {
      FOR_EACH_LANE(i, inner) y[at + i] = leaky((real(x[at + i]) - mean) * by * gain + plus, slope);
    }
  }
}

// For each (channel, chunk): partial = (sum u, sum u z), u = dy where z g + b > 0, else slope dy; x is z, or z is made.
KERNEL fused_norm_gradient_sums(long rows, long chunks, long images, long channels, long inner, const store* x,
                                const real* factors, int made, const store* g, const store* b, real slope,
                                const store* dy, real* partial) {
  FOR_EACH_ROW(r, rows, images * inner / chunks) {
    const index_t c = r / chunks, k = r - c * chunks;
    const real mean = made ? factors[2 * c] : real(0), by = made ? factors[2 * c + 1] : real(1);
    const real gain = g ? real(g[c]) : real(1), plus = b ? real(b[c]) : real(0);
    real sum, product;
    rows_sums(
      k * images / chunks, (k + 1) * images / chunks, inner,
      [=](index_t n, index_t i) {
        const index_t at = (n * channels + c) * inner + i;
        return real(dy[at]) * ((real(x[at]) - mean) * by * gain + plus > 0 ? real(1) : slope);
      },
      [=](index_t n, index_t i) {
        const index_t at = (n * channels + c) * inner + i;
        const real z = (real(x[at]) - mean) * by;
        return real(dy[at]) * (z * gain + plus > 0 ? z : slope * z);
      },
      sum, product);
    ROW_LEADER partial[2 * r] = sum;
    ROW_LEADER partial[2 * r + 1] = product;
  }
}

// dx = (u - mean(u) - z mean(u z)) g / deviation; `between`, if there, gets u g, the gradient between BatchNorm and Scale
KERNEL fused_norm_backward(long rows, long inner, long channels, const store* x, const real* factors, int made,
                           const store* g, const store* b, real slope, const real* sums, const store* dy,
                           store* between, store* dx) {
  FOR_EACH_ROW(r, rows, inner) {
    const index_t c = r % channels, at = r * inner;
    const real mean = made ? factors[2 * c] : real(0), by = made ? factors[2 * c + 1] : real(1);
    const real gain = g ? real(g[c]) : real(1), plus = b ? real(b[c]) : real(0), out = gain * factors[2 * c + 1];
    const real mean_u = sums[2 * c], mean_uz = sums[2 * c + 1];
    if (between) {
      FOR_EACH_LANE(i, inner) {
        const real z = (real(x[at + i]) - mean) * by;
        const real u = real(dy[at + i]) * (z * gain + plus > 0 ? real(1) : slope);
        between[at + i] = u * gain;
        dx[at + i] = (u - mean_u - z * mean_uz) * out;
      }
    } else {
      FOR_EACH_LANE(i, inner) {
        const real z = (real(x[at + i]) - mean) * by;
        const real u = real(dy[at + i]) * (z * gain + plus > 0 ? real(1) : slope);
        dx[at + i] = (u - mean_u - z * mean_uz) * out;
      }
    }
  }
}

// The same with stored statistics: dx = u g / deviation, the mask from y
KERNEL fused_norm_backward_stored(long rows, long inner, long channels, const store* y, const real* factors,
                                  const store* g, real slope, const store* dy, store* between, store* dx) {
  FOR_EACH_ROW(r, rows, inner) {
    const index_t c = r % channels, at = r * inner;
    const real gain = g ? real(g[c]) : real(1), by = factors[2 * c + 1];
    FOR_EACH_LANE(i, inner) {
      const real u = real(dy[at + i]) * (real(y[at + i]) > 0 ? real(1) : slope) * gain;
      if (between) between[at + i] = u;
      dx[at + i] = u * by;
    }
  }
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
