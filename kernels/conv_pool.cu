// Convolution, bias, ReLU and max pooling in 2x2 windows that tile the plane (protocaffe/patterns_pooled.py): everything
// that the layers by themselves leave is left, in a fraction of their passes over memory.
#include "portable.h"

// a convolution of few inputs and small windows, stride 1, no padding: all that a window of 2x2 outputs reads fits
// into registers
struct conv_pool2d {
  int channels, h, w, filters, oh, ow, kh, kw;
};

#define CONV_POOL_PATCH 64  // values that four outputs read, at most
#define CONV_POOL_FILTERS 8  // filters that share them
#define CONV_POOL_STAGE 4096  // values of images that a block keeps at hand

struct alignas(2 * sizeof(store)) store_pair {
  store left, right;
};

DEVICE real clipped(real v) { return max_of(v, real(0)); }

// One window: outputs of its four places (top left, top right, below left, below right), clipped and stored with the
// largest and its place. Of equal values the first in row order wins.
DEVICE void keep_window(real a, real b, real c, real d, int place, int width, store* y, store* pooled, int* index) {
  real left, right, best;
  int i, j, k;
  *(store_pair*)y = {store(a), store(b)};
  *(store_pair*)(y + width) = {store(c), store(d)};
  max2_pick(a, place, c, place + width, left, i);
  max2_pick(b, place + 1, d, place + width + 1, right, j);
  max2_pick(left, i, right, j, best, k);
  *pooled = best;
  *index = k;
}

// y = max(w * x + b, 0), pooled = max of its 2x2 windows, index = place of the maximum in the plane; n images
KERNEL conv_pool_direct(long n, conv_pool2d shape, const store* x, const store* w, const store* b, store* y,
                        store* pooled, int* index) {
  SHAPE(conv_pool2d, s, shape);
  const int ph = s.oh / 2, pw = s.ow / 2, wide = s.kw + 1, taps = s.kh * s.kw;
  const int groups = (s.filters + CONV_POOL_FILTERS - 1) / CONV_POOL_FILTERS;
  FOR_EACH_2D(r, n * groups * ph, px, pw) {
    const int py = int(r % ph), group = int(r / ph % groups);
    const index_t image = r / (index_t(ph) * groups);
    real patch[CONV_POOL_PATCH];
    UNROLL
    for (int c = 0; c < s.channels; ++c)
      UNROLL
      for (int i = 0; i <= s.kh; ++i)
        UNROLL
        for (int j = 0; j <= s.kw; ++j)
          patch[(c * (s.kh + 1) + i) * wide + j] = x[((image * s.channels + c) * s.h + 2 * py + i) * s.w + 2 * px + j];
    for (int f = group * CONV_POOL_FILTERS; f < (group + 1) * CONV_POOL_FILTERS && f < s.filters; ++f) {
      const store* filter = w + index_t(f) * s.channels * taps;
      real a00 = 0, a01 = 0, a10 = 0, a11 = 0;
      UNROLL
      for (int c = 0; c < s.channels; ++c)
        UNROLL
        for (int i = 0; i < s.kh; ++i)
          UNROLL
          for (int j = 0; j < s.kw; ++j) {
            const real v = filter[(c * s.kh + i) * s.kw + j];
            const real* at = patch + (c * (s.kh + 1) + i) * wide + j;
            a00 += v * at[0];
            a01 += v * at[1];
            a10 += v * at[wide];
            a11 += v * at[wide + 1];
          }
      const real plus = b ? real(b[f]) : real(0);
      const index_t plane = image * s.filters + f, at = (plane * ph + py) * pw + px;
      keep_window(clipped(a00 + plus), clipped(a01 + plus), clipped(a10 + plus), clipped(a11 + plus),
                  2 * py * s.ow + 2 * int(px), s.ow, y + (plane * s.oh + 2 * py) * s.ow + 2 * px, pooled + at, index + at);
    }
  }
}

// The same from products that lie [filter, image, pixel]; rows are (image, filter) pairs
KERNEL conv_pool_epilogue(long rows, long oh, long ow, long channels, long images, const store* x, const store* b,
                          store* y, store* pooled, int* index) {
  const index_t filters = channels, count = images, width = ow, windows = oh * ow;
  FOR_EACH_2D(r, rows, o, windows) {
    const index_t n = r / filters, f = r - n * filters;
    const int py = int(o / width), px = int(o - py * width), place = 4 * py * int(width) + 2 * px;
    const store* from = x + (f * count + n) * 4 * windows + place;
    const store_pair above = *(const store_pair*)from, below = *(const store_pair*)(from + 2 * width);
    const real plus = b ? real(b[f]) : real(0);
    keep_window(clipped(above.left + plus), clipped(above.right + plus), clipped(below.left + plus),
                clipped(below.right + plus), place, 2 * int(width), y + r * 4 * windows + place,
                pooled + r * windows + o, index + r * windows + o);
  }
}

// dy of the convolution: the window's gradient at the place of its maximum, if that is positive; `outer`, if it is
// there, gets it as [filter, image, pixel], too
KERNEL conv_pool_backward(long rows, long oh, long ow, long channels, long images, const store* dpooled,
                          const store* pooled, const int* index, store* dy, store* outer) {
  const index_t filters = channels, count = images, width = ow, windows = oh * ow;
  FOR_EACH_2D(r, rows, o, windows) {
    const int py = int(o / width), px = int(o - py * width), place = 4 * py * int(width) + 2 * px;
    const real g = real(pooled[r * windows + o]) > 0 ? real(dpooled[r * windows + o]) : real(0);
    const int k = index[r * windows + o], below = place + 2 * int(width);
    const store_pair first = {store(k == place ? g : real(0)), store(k == place + 1 ? g : real(0))};
    const store_pair second = {store(k == below ? g : real(0)), store(k == below + 1 ? g : real(0))};
    store* to = dy + r * 4 * windows;
    *(store_pair*)(to + place) = first;
    *(store_pair*)(to + below) = second;
    if (outer) {
      const index_t n = r / filters, f = r - n * filters;
      store* there = outer + (f * count + n) * 4 * windows;
      *(store_pair*)(there + place) = first;
      *(store_pair*)(there + below) = second;
    }
  }
}

// For each (filter, chunk of images): the gradient of the filter's weights, then of its bias, by way of the one place of
// each window that has a gradient: a quarter of the work
KERNEL conv_pool_direct_gradient(long rows, long chunks, long images, conv_pool2d shape, const store* x,
                                 const store* dpooled, const store* pooled, const int* index, real* partial) {
  SHAPE(conv_pool2d, s, shape);
  const int windows = s.oh / 2 * (s.ow / 2), taps = s.channels * s.kh * s.kw;
  FOR_EACH_ROW(r, rows, images * windows * taps / chunks) {
    const index_t f = r / chunks, k = r - f * chunks;
    const index_t first = k * images / chunks, last = (k + 1) * images / chunks;
    real sums[CONV_POOL_PATCH];
    UNROLL
    for (int t = 0; t <= taps; ++t) sums[t] = 0;
    const int size = s.channels * s.h * s.w;
#if ON_GPU
    __shared__ real stage[CONV_POOL_STAGE];  // images, of which scattered places are read
    const index_t group = size <= CONV_POOL_STAGE ? CONV_POOL_STAGE / size : last - first;
#else
    const index_t group = last - first;
#endif
    for (index_t base = first; base < last; base += group) {
      const index_t count = last - base < group ? last - base : group;
      const auto add = [&](const store* source) {
        FOR_EACH_OF_LANE(j, count * windows) {
          const index_t n = j / windows, at = ((base + n) * s.filters + f) * windows + (j - n * windows);
          const real g = real(pooled[at]) > 0 ? real(dpooled[at]) : real(0);
          const int place = index[at], iy = place / s.ow, ix = place - iy * s.ow;
          const store* from = source + n * size + iy * s.w + ix;
          UNROLL
          for (int c = 0; c < s.channels; ++c)
            UNROLL
            for (int a = 0; a < s.kh; ++a)
              UNROLL
              for (int b = 0; b < s.kw; ++b) sums[(c * s.kh + a) * s.kw + b] += g * real(from[(c * s.h + a) * s.w + b]);
          sums[taps] += g;
        }
      };
#if ON_GPU
      if (size <= CONV_POOL_STAGE) {
        __syncthreads();
        FOR_EACH_LANE(j, count * size) stage[j] = x[base * size + j];
        __syncthreads();
        add(stage);
        continue;
      }
#endif
      add(x + base * size);
    }
#if ON_GPU
    __shared__ real parts[32][CONV_POOL_PATCH];
    UNROLL
    for (int t = 0; t <= taps; ++t) {
      real v = sums[t];
      for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
      if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5][t] = v;
    }
    __syncthreads();
    FOR_EACH_LANE(t, taps + 1) {
      real v = 0;
      for (int w = 0; w < (int)(blockDim.x >> 5); ++w) v += parts[w][t];
      partial[r * (taps + 1) + t] = v;
    }
    __syncthreads();
#else
    for (int t = 0; t <= taps; ++t) partial[r * (taps + 1) + t] = sums[t];
#endif
  }
}

// dw[f, t] and db[f] += the chunks' sums, each if it is there; n filters
KERNEL conv_pool_finish(long n, long chunks, long taps, const real* partial, store* dw, store* db) {
  const index_t each = taps + 1, parts = chunks;
  FOR_EACH_2D(f, n, t, each) {
    real sum = 0;
    for (index_t k = 0; k < parts; ++k) sum += partial[(f * parts + k) * each + t];
    if (t < index_t(taps)) {
      if (dw) dw[f * taps + t] = real(dw[f * taps + t]) + sum;
    } else if (db) {
      db[f] = real(db[f]) + sum;
    }
  }
}
