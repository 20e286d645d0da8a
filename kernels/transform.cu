// Batches from items in the device's memory: which item comes, its crop, mirror, mean and scale, as data/order.py and
// data/transformer.py have them, bit for bit. What changes from batch to batch is read from `state`, which the last
// kernel of a batch brings forward:
//
//   state[0]     position: items taken so far
//   state[1, 2]  key of the draws for crop and mirror
//   state[3]     items skipped before the first
//   state[4]     batches taken since the ring was started
#include "portable.h"

struct transform {
  int channels, height, width;  // of an item before it is cropped
  int out_height, out_width;
  int random, mirror;  // whether place of the crop and mirroring are drawn
  int cropped;         // items are stored cropped: the place of the crop concerns the mean alone
  int mean;            // 0: none, 1: one value for each channel, 2: one for each value of an item
  int batch, pieces;   // items of a batch, pieces that an item is divided into
  int slots;           // batches in the ring; 0: all items are there
  int epochs;          // epochs in the table of the order
};

// Philox4x64-10 (Salmon et al. 2011) as NumPy's Philox draws: the words of counter c are those of block c + 1.
struct draw4 {
  u64 v[4];
};
DEVICE u64 high_of(u64 a, u64 b) {
#if ON_GPU
  return __umul64hi(a, b);
#else
  __extension__ typedef unsigned __int128 u128;
  return (u64)(((u128)a * b) >> 64);
#endif
}
DEVICE draw4 draws_of(u64 k0, u64 k1, u64 counter) {
  u64 a = counter + 1, b = 0, c = 0, d = 0;
  for (int round = 0; round < 10; ++round) {
    const u64 h0 = high_of(0xD2E7470EE14C6C93ull, a), l0 = 0xD2E7470EE14C6C93ull * a;
    const u64 h1 = high_of(0xCA5A826395121157ull, c), l1 = 0xCA5A826395121157ull * c;
    a = h1 ^ b ^ k0;
    b = l1;
    c = h0 ^ d ^ k1;
    d = l0;
    k0 += 0x9E3779B97F4A7C15ull;
    k1 += 0xBB67AE8584CAA73Bull;
  }
  return {{a, b, c, d}};
}

// Where the batch's item n lies.
DEVICE long place_of(const transform& s, long size, const int* order, const u64* state, index_t n) {
  if (s.slots) return (long)(state[4] % (u64)s.slots) * s.batch + n;
  const u64 position = state[0] + state[3] + (u64)n, epoch = position / (u64)size, at = position - epoch * (u64)size;
  return order ? order[(long)(epoch % (u64)s.epochs) * size + (long)at] : (long)at;
}

// A row is a piece of an item. Draws are made once for a row and thread; arithmetic is float in every build.
template <class T>
DEVICE void transform_items(
    long rows, const transform& s, long size, const T* items, const int* order, const u64* state, const real* mean,
    float scale, store* y) {
  const int pixels = s.out_height * s.out_width, count = s.channels * pixels, piece = (count + s.pieces - 1) / s.pieces;
  const int stored_width = s.cropped ? s.out_width : s.width, stored_height = s.cropped ? s.out_height : s.height;
  FOR_EACH_ROW(r, rows, piece) {
    const index_t n = r / s.pieces;
    const int first = (int)(r - n * s.pieces) * piece, end = first + piece < count ? first + piece : count;
    int top = (s.height - s.out_height) / 2, left = (s.width - s.out_width) / 2;
    bool flip = false;
    if (s.random || s.mirror) {
      const draw4 drawn = draws_of(state[1], state[2], state[0] + (u64)n);
      if (s.random) {
        top = (int)(drawn.v[0] % (u64)(s.height - s.out_height + 1));
        left = (int)(drawn.v[1] % (u64)(s.width - s.out_width + 1));
      }
      flip = s.mirror && (drawn.v[2] & 1);
    }
    const T* item = items + place_of(s, size, order, state, n) * s.channels * stored_height * stored_width;
    const int down = s.cropped ? 0 : top, right = s.cropped ? 0 : left;
    store* out = y + (long)n * count;
    FOR_EACH_LANE(j, end - first) {
      const int i = first + (int)j, c = i / pixels, p = i - c * pixels, row = p / s.out_width, x = p - row * s.out_width;
      const int column = flip ? s.out_width - 1 - x : x;
      float v = (float)item[(c * stored_height + down + row) * stored_width + right + column];
      if (s.mean == 1) v -= (float)mean[c];
      if (s.mean == 2) v -= (float)mean[(c * s.height + top + row) * s.width + left + column];
      out[i] = store(v * scale);
    }
  }
}

KERNEL transform_bytes(
    long rows, transform shape, long size, const u8* items, const int* order, const u64* state, const real* mean,
    real scale, store* y) {
  SHAPE(transform, s, shape);
  transform_items(rows, s, size, items, order, state, mean, (float)scale, y);
}

KERNEL transform_reals(
    long rows, transform shape, long size, const real* items, const int* order, const u64* state, const real* mean,
    real scale, store* y) {
  SHAPE(transform, s, shape);
  transform_items(rows, s, size, items, order, state, mean, (float)scale, y);
}

// The batch's labels, if there are any, and then on to the next batch. One row: nobody reads the state beside it.
KERNEL transform_labels(
    long rows, transform shape, long size, const store* labels, const int* order, u64* state, store* y) {
  SHAPE(transform, s, shape);
  FOR_EACH_ROW(r, rows, s.batch) {
    if (y) {
      FOR_EACH_LANE(n, s.batch) y[n] = labels[place_of(s, size, order, state, n)];
    }
    ROW_SYNC;
    ROW_LEADER {
      state[0] += (u64)s.batch;
      state[4] += 1;
    }
  }
}

// A finished array of the ring's next batch.
KERNEL transform_take(long n, int slots, const u64* state, const store* ring, store* y) {
  const store* slot = ring + (long)(state[4] % (u64)slots) * n;
  FOR_EACH(i, n) y[i] = slot[i];
}

// On to the next batch, after `transform_take` of all arrays.
KERNEL transform_next(long n, int batch, u64* state) {
  FOR_EACH(i, n) {
    state[0] += (u64)batch;
    state[4] += 1;
  }
}
