// Sums over the values of a channel, for layers that normalise, scale or shift channels: element (n, c, i) of N images
// lies at (n channels + c) inner + i. Sums go over a fixed number of chunks of images, which does not depend on the
// number of threads, and are put together in a fixed order.
#include "portable.h"

DEVICE index_t chunk_start(index_t k, long chunks, long images) { return k * images / chunks; }

// (mean, sum of (x - mean)^2) over channel c of images first to last. On the CPU the second reading hits the cache. On the
// GPU one pass: each lane sums distances from the first value it meets, which loses no digits whatever the mean is; what
// lanes found is put together exactly.
DEVICE reals<2> chunk_moments(index_t first, index_t last, long channels, index_t c, long inner, const store* x) {
  const real count = real((last - first) * inner), by = count > 0 ? real(1) / count : real(0);
#if ON_GPU
  real shift = 0, met = 0;
  const auto distances = [&](real v) {
    shift = met == 0 ? v : shift;
    met += real(1);
    const real d = v - shift;
    return reals<2>{{d, d * d}};
  };
  const reals<2> s = lane_sums<2>(first, last, channels, c, inner, distances, x);
  const auto add = [](real a, real b) { return a + b; };
  const real mean = block_reduce(s.v[0] + met * shift, add) * by;
  const real own = met > 0 ? s.v[0] / met : real(0), off = shift + own - mean;
  return {{mean, block_reduce(s.v[1] - s.v[0] * own + met * off * off, add)}};
#else
  const real mean = channel_sums<1>(first, last, channels, c, inner, [](real v) { return v; }, x).v[0] * by;
  const auto square = [=](real v) { return (v - mean) * (v - mean); };
  return {{mean, channel_sums<1>(first, last, channels, c, inner, square, x).v[0]}};
#endif
}

// For each (channel, chunk): partial = its moments
KERNEL channel_moments(long rows, long chunks, long images, long channels, long inner, const store* x, real* partial) {
  FOR_EACH_ROW(r, rows, images * inner / chunks) {
    const index_t c = r / chunks, k = r - c * chunks;
    const reals<2> m = chunk_moments(chunk_start(k, chunks, images), chunk_start(k + 1, chunks, images), channels, c, inner, x);
    ROW_LEADER partial[2 * r] = m.v[0];
    ROW_LEADER partial[2 * r + 1] = m.v[1];
  }
}

// The chunks' moments put together; factors[c] = (mean, 1 / sqrt(variance + eps)).
// running: Caffe's three blobs, sums that decay by `decay` and grow by the mean, the unbiased variance, and 1.
KERNEL channel_statistics(long channels, long chunks, long images, long inner, const real* partial, real eps, real decay,
                          real* factors, store* running_mean, store* running_variance, store* running_factor) {
  FOR_EACH_ROW(c, channels, chunks) {
    const real* own = partial + 2 * c * chunks;
    const real count = real(images * inner), by = count > 0 ? real(1) / count : real(0);
    const auto share = [=](index_t k) {
      return real((chunk_start(k + 1, chunks, images) - chunk_start(k, chunks, images)) * inner);
    };
    const real mean = row_sum(chunks, [=](index_t k) { return share(k) * own[2 * k]; }) * by;
    const real squares = row_sum(chunks, [=](index_t k) {
      const real d = own[2 * k] - mean;
      return own[2 * k + 1] + share(k) * d * d;
    });
    const real variance = squares * by;
    ROW_LEADER {
      factors[2 * c] = mean;
      factors[2 * c + 1] = real(1) / sqrt_of(variance + eps);
      running_mean[c] = decay * real(running_mean[c]) + mean;
      running_variance[c] = decay * real(running_variance[c]) + (count > 1 ? squares / (count - 1) : variance);
      if (c == 0) running_factor[0] = decay * real(running_factor[0]) + real(1);
    }
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
    const auto f = [=](real v, real g) { return reals<2>{{g, g * ((v - mean) * by)}}; };
    const index_t first = chunk_start(k, chunks, images), last = chunk_start(k + 1, chunks, images);
    const reals<2> s = channel_sums<2>(first, last, channels, c, inner, f, x, dy);
    ROW_LEADER partial[2 * r] = s.v[0];
    ROW_LEADER partial[2 * r + 1] = s.v[1];
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

// The same, with what learnt gains and shifts of the channels get: dg += sum dy z, db += sum dy; each if it is there
KERNEL channel_gradients(long channels, long chunks, real count, const real* partial, real* sums, store* dg, store* db) {
  FOR_EACH(c, channels) {
    real sum = 0, product = 0;
    for (index_t k = 0; k < chunks; ++k) {
      sum += partial[2 * (c * chunks + k)];
      product += partial[2 * (c * chunks + k) + 1];
    }
    if (sums) {
      sums[2 * c] = sum / count;
      sums[2 * c + 1] = product / count;
    }
    if (dg) dg[c] = real(dg[c]) + product;
    if (db) db[c] = real(db[c]) + sum;
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
  const index_t count = channels;
  const auto of_row = [=](index_t r) {
    const real mean = factors[2 * (r % count)], by = factors[2 * (r % count) + 1];
    return [=](real v) { return (v - mean) * by; };
  };
  rows_each(rows, inner, out(y), of_row, x);
}

// dx = (dy - mean(dy) - z mean(dy z)) / deviation; z is stored, or made from x again; without sums dx = dy / deviation
KERNEL batch_norm_backward(long rows, long inner, long channels, const store* x, int stored, const real* factors,
                           const real* sums, int from_batch, const store* dy, store* dx) {
  const index_t count = channels;
  if (!from_batch) {
    const auto of_row = [=](index_t r) {
      const real by = factors[2 * (r % count) + 1];
      return [=](real g) { return g * by; };
    };
    rows_each(rows, inner, out(dx), of_row, dy);
    return;
  }
  const auto of_row = [=](index_t r) {
    const index_t c = r % count;
    const real by = factors[2 * c + 1], a = sums[2 * c], b = sums[2 * c + 1];
    const real mean = stored ? real(0) : factors[2 * c], scale = stored ? real(1) : by;
    return [=](real v, real g) { return (g - a - (v - mean) * scale * b) * by; };
  };
  rows_each(rows, inner, out(dx), of_row, x, dy);
}

// y = x g[c] + b[c]; without b: y = x g[c]
KERNEL scale_forward(long rows, long inner, long channels, const store* x, const store* g, const store* b, int shift,
                     store* y) {
  const index_t count = channels;
  const auto of_row = [=](index_t r) {
    const real by = g[r % count], plus = shift ? real(b[r % count]) : real(0);
    return [=](real v) { return v * by + plus; };
  };
  rows_each(rows, inner, out(y), of_row, x);
}

// y = x + b[c]
KERNEL shift_forward(long rows, long inner, long channels, const store* x, const store* b, store* y) {
  const index_t count = channels;
  const auto of_row = [=](index_t r) {
    const real plus = b[r % count];
    return [=](real v) { return v + plus; };
  };
  rows_each(rows, inner, out(y), of_row, x);
}
