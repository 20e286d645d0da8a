// Sums over the values of a channel, for layers that normalise, scale or shift channels: element (n, c, i) of N images
// lies at (n channels + c) inner + i. Sums go over a fixed number of chunks of images, which does not depend on the
// number of threads, and are put together in a fixed order.
#include "portable.h"

DEVICE index_t chunk_start(index_t k, long chunks, long images) { return k * images / chunks; }

// For each (channel, chunk): partial = (mean, sum of (x - mean)^2) over the chunk, whose second reading hits the cache
KERNEL channel_moments(long rows, long chunks, long images, long channels, long inner, const store* x, real* partial) {
  FOR_EACH_ROW(r, rows, images * inner / chunks) {
    const index_t c = r / chunks, k = r - c * chunks;
    const index_t first = chunk_start(k, chunks, images), last = chunk_start(k + 1, chunks, images);
    const real count = real((last - first) * inner);
    const real sum = rows_sum(first, last, inner, [=](index_t n, index_t i) { return real(x[(n * channels + c) * inner + i]); });
    const real mean = count > 0 ? sum / count : real(0);
    const real squares = rows_sum(first, last, inner, [=](index_t n, index_t i) {
      const real d = real(x[(n * channels + c) * inner + i]) - mean;
      return d * d;
    });
    ROW_LEADER partial[2 * r] = mean;
    ROW_LEADER partial[2 * r + 1] = squares;
  }
}

// The chunks' moments put together (Chan, Golub and LeVeque 1979); factors[c] = (mean, 1 / sqrt(variance + eps)).
// running: Caffe's three blobs, sums that decay by `decay` and grow by the mean, the unbiased variance, and 1.
KERNEL channel_statistics(long channels, long chunks, long images, long inner, const real* partial, real eps, real decay,
                          real* factors, store* running_mean, store* running_variance, store* running_factor) {
  FOR_EACH(c, channels) {
    real count = 0, mean = 0, squares = 0;
    for (index_t k = 0; k < chunks; ++k) {
      const real more = real((chunk_start(k + 1, chunks, images) - chunk_start(k, chunks, images)) * inner);
      const real all = count + more;
      const real by = all > 0 ? real(1) / all : real(0);
      const real d = partial[2 * (c * chunks + k)] - mean;
      mean += d * more * by;
      squares += partial[2 * (c * chunks + k) + 1] + d * d * count * more * by;
      count = all;
    }
    const real variance = count > 0 ? squares / count : real(0);
    factors[2 * c] = mean;
    factors[2 * c + 1] = real(1) / sqrt_of(variance + eps);
    running_mean[c] = decay * real(running_mean[c]) + mean;
    running_variance[c] = decay * real(running_variance[c]) + (count > 1 ? squares / (count - 1) : variance);
    if (c == 0) running_factor[0] = decay * real(running_factor[0]) + real(1);
  }
}

// factors[c] = (mean, 1 / sqrt(variance + eps)) from the running sums
KERNEL channel_running(long channels, const store* running_mean, const store* running_variance,
                       const store* running_factor, real eps, real* factors) {
  FOR_EACH(c, channels) {
    const real by = real(running_factor[0]) == 0 ? real(0) : real(1) / real(running_factor[0]);
    factors[2 * c] = real(running_mean[c]) * by;
    factors[2 * c + 1] = real(1) / sqrt_of(real(running_variance[c]) * by + eps);
  }
}

// For each (channel, chunk): partial = (sum dy, sum dy z), z = (x - mean) / deviation, or x where there are no factors
KERNEL channel_gradient_sums(long rows, long chunks, long images, long channels, long inner, const store* x,
                             const real* factors, int normalise, const store* dy, real* partial) {
  FOR_EACH_ROW(r, rows, images * inner / chunks) {
    const index_t c = r / chunks, k = r - c * chunks;
    const real mean = normalise ? factors[2 * c] : real(0), by = normalise ? factors[2 * c + 1] : real(1);
    real sum, product;
    rows_sums(
      chunk_start(k, chunks, images), chunk_start(k + 1, chunks, images), inner,
      [=](index_t n, index_t i) { return real(dy[(n * channels + c) * inner + i]); },
      [=](index_t n, index_t i) {
        const index_t at = (n * channels + c) * inner + i;
        return real(dy[at]) * ((real(x[at]) - mean) * by);
      },
      sum, product);
    ROW_LEADER partial[2 * r] = sum;
    ROW_LEADER partial[2 * r + 1] = product;
  }
}

// The chunks' sums put together: sums[c] = (sum dy, sum dy z) / count
KERNEL channel_gradient_means(long channels, long chunks, real count, const real* partial, real* sums) {
  FOR_EACH(c, channels) {
    real sum = 0, product = 0;
    for (index_t k = 0; k < chunks; ++k) {
      sum += partial[2 * (c * chunks + k)];
      product += partial[2 * (c * chunks + k) + 1];
    }
    sums[2 * c] = sum / count;
    sums[2 * c + 1] = product / count;
  }
}

// out[c] += (or =) the chunks' sum number `which` (0: dy, 1: dy z)
KERNEL channel_gradient_add(long channels, long chunks, int which, int add, const real* partial, store* out) {
  FOR_EACH(c, channels) {
    real sum = 0;
    for (index_t k = 0; k < chunks; ++k) sum += partial[2 * (c * chunks + k) + which];
    out[c] = add ? real(out[c]) + sum : sum;
  }
}

// y = (x - mean) / deviation
KERNEL batch_norm_forward(long rows, long inner, long channels, const store* x, const real* factors, store* y) {
  FOR_EACH_ROW(r, rows, inner) {
    const real mean = factors[2 * (r % channels)], by = factors[2 * (r % channels) + 1];
    FOR_EACH_LANE(i, inner) y[r * inner + i] = (real(x[r * inner + i]) - mean) * by;
  }
}

// dx = (dy - mean(dy) - z mean(dy z)) / deviation; z is stored, or made from x again; without sums dx = dy / deviation
KERNEL batch_norm_backward(long rows, long inner, long channels, const store* x, int stored, const real* factors,
                           const real* sums, int from_batch, const store* dy, store* dx) {
  FOR_EACH_ROW(r, rows, inner) {
    const index_t c = r % channels;
    const real by = factors[2 * c + 1];
    const real mean = stored ? real(0) : factors[2 * c], scale = stored ? real(1) : by;
    const real a = from_batch ? sums[2 * c] : real(0), b = from_batch ? sums[2 * c + 1] : real(0);
    FOR_EACH_LANE(i, inner) {
      const real z = from_batch ? (real(x[r * inner + i]) - mean) * scale : real(0);
      dx[r * inner + i] = (real(dy[r * inner + i]) - a - z * b) * by;
    }
  }
}

// y = x g[c] + b[c]; without b: y = x g[c]
KERNEL scale_forward(long rows, long inner, long channels, const store* x, const store* g, const store* b, int shift,
                     store* y) {
  FOR_EACH_ROW(r, rows, inner) {
    const real by = g[r % channels], plus = shift ? real(b[r % channels]) : real(0);
    FOR_EACH_LANE(i, inner) y[r * inner + i] = real(x[r * inner + i]) * by + plus;
  }
}

// y = x + b[c]
KERNEL shift_forward(long rows, long inner, long channels, const store* x, const store* b, store* y) {
  FOR_EACH_ROW(r, rows, inner) {
    const real plus = b[r % channels];
    FOR_EACH_LANE(i, inner) y[r * inner + i] = real(x[r * inner + i]) + plus;
  }
}
