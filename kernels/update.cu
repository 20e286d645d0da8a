// The solvers' update rules over the whole parameter arena in one launch, under the mask.
//
// The arena is cut into blocks of 64 elements; a block belongs to one parameter, so the multipliers are read per block.
// hyper: 0 learning rate, 1 momentum, 2 momentum2 or rms_decay, 3 delta, 4 weight decay, 5 1 / iter_size,
// 6 Adam's correction sqrt(1 - beta2^t) / (1 - beta1^t), 7 clip_gradients. Kept in memory, not passed by value, so that
// a captured step sees a new learning rate. clip[0] scales the gradient (clip_gradients), 1 without clipping.
// A pruned weight gets no gradient, keeps no history and stays +0, whatever momentum or decay say.
#include "portable.h"

#define ARENA_BLOCK 64

struct step_terms {
  real rate, gradient;
};

// rate = lr lr_mult; gradient = scaled gradient plus weight decay (L2: w, L1: sign w)
DEVICE step_terms regularized(const real* hyper, real clip, real lr_mult, real decay_mult, int l1, real w, real g) {
  const real decay = hyper[4] * decay_mult;
  const real term = l1 ? real(w > 0) - real(w < 0) : w;
  return {hyper[0] * lr_mult, g * clip * hyper[5] + (decay != 0 ? decay * term : real(0))};
}

#define UPDATE_LOOP(...)                                                                                   \
  FOR_EACH_2D(b, blocks, j, ARENA_BLOCK) {                                                                 \
    const index_t i = b * ARENA_BLOCK + j;                                                                 \
    const step_terms t = regularized(hyper, clip[0], lr_mult[b], decay_mult[b], l1, w[i], diff[i]);        \
    const real g = t.gradient;                                                                             \
    const bool keep = !masked || mask[i];                                                                  \
    __VA_ARGS__                                                                                                   \
  }

KERNEL sgd_update(long blocks, real* w, const real* diff, real* h, const u8* mask, int masked, const real* lr_mult,
                  const real* decay_mult, int l1, const real* hyper, const real* clip) {
  UPDATE_LOOP({
    const real v = hyper[1] * h[i] + t.rate * g;
    h[i] = keep ? v : real(0);
    w[i] = keep ? w[i] - v : real(0);
  })
}

KERNEL nesterov_update(long blocks, real* w, const real* diff, real* h, const u8* mask, int masked, const real* lr_mult,
                       const real* decay_mult, int l1, const real* hyper, const real* clip) {
  UPDATE_LOOP({
    const real old = h[i], v = hyper[1] * old + t.rate * g;
    h[i] = keep ? v : real(0);
    w[i] = keep ? w[i] - ((real(1) + hyper[1]) * v - hyper[1] * old) : real(0);
  })
}

KERNEL adagrad_update(long blocks, real* w, const real* diff, real* h, const u8* mask, int masked, const real* lr_mult,
                      const real* decay_mult, int l1, const real* hyper, const real* clip) {
  UPDATE_LOOP({
    const real v = h[i] + g * g;
    h[i] = keep ? v : real(0);
    w[i] = keep ? w[i] - t.rate * g / (sqrt_of(v) + hyper[3]) : real(0);
  })
}

KERNEL rmsprop_update(long blocks, real* w, const real* diff, real* h, const u8* mask, int masked, const real* lr_mult,
                      const real* decay_mult, int l1, const real* hyper, const real* clip) {
  UPDATE_LOOP({
    const real v = hyper[2] * h[i] + (real(1) - hyper[2]) * g * g;
    h[i] = keep ? v : real(0);
    w[i] = keep ? w[i] - t.rate * g / (sqrt_of(v) + hyper[3]) : real(0);
  })
}

// h: mean square of gradients, h2: of updates
KERNEL adadelta_update(long blocks, real* w, const real* diff, real* h, real* h2, const u8* mask, int masked,
                       const real* lr_mult, const real* decay_mult, int l1, const real* hyper, const real* clip) {
  UPDATE_LOOP({
    const real v = hyper[1] * h[i] + (real(1) - hyper[1]) * g * g;
    const real u = g * sqrt_of((h2[i] + hyper[3]) / (v + hyper[3]));
    const real v2 = hyper[1] * h2[i] + (real(1) - hyper[1]) * u * u;
    h[i] = keep ? v : real(0);
    h2[i] = keep ? v2 : real(0);
    w[i] = keep ? w[i] - t.rate * u : real(0);
  })
}

KERNEL adam_update(long blocks, real* w, const real* diff, real* h, real* h2, const u8* mask, int masked,
                   const real* lr_mult, const real* decay_mult, int l1, const real* hyper, const real* clip) {
  UPDATE_LOOP({
    const real v = hyper[1] * h[i] + (real(1) - hyper[1]) * g;
    const real v2 = hyper[2] * h2[i] + (real(1) - hyper[2]) * g * g;
    h[i] = keep ? v : real(0);
    h2[i] = keep ? v2 : real(0);
    w[i] = keep ? w[i] - t.rate * hyper[6] * v / (sqrt_of(v2) + hyper[3]) : real(0);
  })
}

// partial[r] = sum of squares of the r-th of `rows` equal pieces of the gradient, pruned weights left out
KERNEL square_sums(long rows, long n, const real* diff, const u8* mask, int masked, real* partial) {
  const index_t piece = (n + rows - 1) / rows;
  FOR_EACH_ROW(r, rows, piece) {
    const index_t from = r * piece, left = n - from, count = left < 0 ? 0 : (left < piece ? left : piece);
    const real s = row_sum(count, [=](index_t j) {
      const real g = !masked || mask[from + j] ? diff[from + j] : real(0);
      return g * g;
    });
    ROW_LEADER partial[r] = s;
  }
}

// clip[0] = hyper[7] / norm if norm > hyper[7], else 1
KERNEL clip_scale(long rows, long n, const real* partial, const real* hyper, real* clip) {
  FOR_EACH_ROW(r, rows, n) {
    const real norm = sqrt_of(row_sum(n, [=](index_t j) { return partial[j]; }));
    ROW_LEADER clip[0] = norm > hyper[7] ? hyper[7] / norm : real(1);
  }
}

// y = keep ? y : +0
KERNEL apply_mask(long n, const u8* mask, real* y) { FOR_EACH(i, n) y[i] = mask[i] ? y[i] : real(0); }
