// Copies, sums and constants: the small change of every net.
#include "portable.h"

KERNEL fill(long n, store* y, real value) { each(n, out(y), [=] { return value; }); }

KERNEL copy(long n, const store* x, store* y) {
  each(n, out(y), [](real v) { return v; }, x);
}

KERNEL add(long n, const store* a, const store* b, store* y) {
  each(n, out(y), [](real u, real v) { return u + v; }, a, b);
}

KERNEL axpy(long n, real alpha, const store* x, store* y) {
  each(n, out(y), [=](real v, real w) { return w + alpha * v; }, x, y);
}

// y = alpha x
KERNEL scale_into(long n, real alpha, const store* x, store* y) {
  each(n, out(y), [=](real v) { return alpha * v; }, x);
}

// y[r, c] += b[r % channels]: rows are (image, channel) pairs, columns pixels.
KERNEL bias_add(long rows, long cols, long channels, const store* b, store* y) {
  const index_t count = channels;
  const auto add = [=](index_t r) {
    const real shift = b[r % count];
    return [=](real v) { return v + shift; };
  };
  rows_each(rows, cols, out(y), add, y);
}

// y[r, c] = max(y[r, c] + b[r % channels], 0)
KERNEL bias_relu(long rows, long cols, long channels, const store* b, store* y) {
  FOR_EACH_ROW(r, rows, cols) {
    const real v = b[r % channels];
    FOR_EACH_LANE(j, cols) y[r * cols + j] = max_of(real(y[r * cols + j]) + v, real(0));
  }
}

// y[r, c] += b[c]
KERNEL bias_add_columns(long rows, long cols, const store* b, store* y) {
  FOR_EACH_2D(r, rows, c, cols) y[r * cols + c] = real(y[r * cols + c]) + real(b[c]);
}

// db[f] += sum over images n and pixels p of dy[n, f, p]
KERNEL bias_gradient(long channels, long images, long pixels, const store* dy, store* db) {
  FOR_EACH_ROW(f, channels, images * pixels) {
    const real s = rows_sum(0, images, pixels, [=](index_t n, index_t p) { return real(dy[(n * channels + f) * pixels + p]); });
    ROW_LEADER db[f] = real(db[f]) + s;
  }
}

// For each (channel, chunk of images) the sum of dy
KERNEL bias_gradient_chunks(long rows, long chunks, long images, long channels, long pixels, const store* dy, real* partial) {
  FOR_EACH_ROW(r, rows, images * pixels / chunks) {
    const index_t f = r / chunks, k = r - f * chunks;
    const real s = rows_sum(k * images / chunks, (k + 1) * images / chunks, pixels, [=](index_t n, index_t p) {
      return real(dy[(n * channels + f) * pixels + p]);
    });
    ROW_LEADER partial[r] = s;
  }
}

// db[f] += the sum of the chunks
KERNEL bias_gradient_finish(long channels, long chunks, const real* partial, store* db) {
  FOR_EACH(f, channels) {
    real s = 0;
    for (index_t k = 0; k < chunks; ++k) s += partial[f * chunks + k];
    db[f] = real(db[f]) + s;
  }
}

// db[c] += sum over rows r of dy[r, c]
KERNEL bias_gradient_columns(long cols, long rows, const store* dy, store* db) {
  FOR_EACH(c, cols) {
    real s = 0;
    for (index_t r = 0; r < rows; ++r) s += real(dy[r * cols + c]);
    db[c] = real(db[c]) + s;
  }
}

// The same by panels of 32 columns; where y is there, dy is 0 from here on wherever y is not positive (a ReLU's)
KERNEL bias_gradient_panels(long panels, long rows, long cols, const store* y, store* dy, store* db) {
  const index_t width = cols, height = rows;
  FOR_EACH_ROW(p, panels, rows * 32) {
#if ON_GPU
    __shared__ real sums[32][33];
    const index_t c = p * 32 + (threadIdx.x & 31);
    const int warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    real s = 0;
    if (c < width)
      for (index_t r = warp; r < height; r += warps) {
        const index_t at = r * width + c;
        const bool keep = !y || real(y[at]) > 0;
        if (!keep) dy[at] = real(0);
        s += keep ? real(dy[at]) : real(0);
      }
    __syncthreads();
    sums[warp][threadIdx.x & 31] = s;
    __syncthreads();
    if (warp == 0 && c < width && db) {
      for (int w = 1; w < warps; ++w) s += sums[w][threadIdx.x];
      db[c] = real(db[c]) + s;
    }
#else
    const index_t first = p * 32, count = width - first < 32 ? width - first : 32;
    real sums[32];
    FOR_EACH_LANE(j, 32) sums[j] = 0;
    for (index_t r = 0; r < height; ++r) {
      store* row = dy + r * width + first;
      if (y) {
        const store* sign = y + r * width + first;
        FOR_EACH_LANE(j, count) row[j] = real(sign[j]) > 0 ? real(row[j]) : real(0);
      }
      FOR_EACH_LANE(j, count) sums[j] += real(row[j]);
    }
    if (db) FOR_EACH_LANE(j, count) db[first + j] = real(db[first + j]) + sums[j];
#endif
  }
}

// counter[0] += 1: the forward counter that addresses random numbers.
KERNEL count_up(long n, u64* counter) { FOR_EACH(i, n) counter[i] += 1; }

// ring[count mod size] += weight sum(top): the loss of an iteration; `begins` starts the next one. clip[1] as update.cu
// reads it.
KERNEL loss_note(long rows, long n, const store* top, real weight, int begins, int size, u64* count, real* ring,
                 real* clip) {
  FOR_EACH_ROW(r, rows, n) {
    const real sum = weight * row_sum(n, [=](index_t i) { return real(top[i]); });
    ROW_LEADER {
      count[0] += begins;
      const int at = int((count[0] - 1) % u64(size));
      ring[at] = (begins ? real(0) : ring[at]) + sum;
      if (!is_finite(sum)) clip[1] = 1;
    }
  }
}
