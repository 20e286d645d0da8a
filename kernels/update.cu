// The solvers' update rules over the whole parameter arena in one launch, under the mask.
//
// The arena is cut into blocks of 64 elements; a block belongs to one parameter, so the multipliers are read per block.
// hyper: 0 learning rate, 1 momentum, 2 momentum2 or rms_decay, 3 delta, 4 weight decay, 5 1 / iter_size,
// 6 Adam's correction sqrt(1 - beta2^t) / (1 - beta1^t), 7 clip_gradients. Kept in memory, not passed by value, so that
// a captured step sees a new learning rate. clip: 0 scales the gradient (clip_gradients), 1 without clipping; 1 is not 0
// once a loss was not finite: nothing is updated then, however late it is noticed.
// A pruned weight gets no gradient, keeps no history and stays +0, whatever momentum or decay say.
#include "portable.h"

#define ARENA_BLOCK 64

struct step_terms {
  real rate, decay, clip, share, momentum, second, delta, correction;
  int l1;
};

DEVICE step_terms step_of(const real* hyper, const real* clip, real lr_mult, real decay_mult, int l1) {
  return {hyper[0] * lr_mult, hyper[4] * decay_mult, clip[0], hyper[5], hyper[1], hyper[2], hyper[3], hyper[6], l1};
}

// The scaled gradient plus weight decay (L2: w, L1: sign w)
DEVICE real regularized(const step_terms& t, real w, real g) {
  const real term = t.l1 ? real(w > 0) - real(w < 0) : w;
  return g * t.clip * t.share + (t.decay != 0 ? t.decay * term : real(0));
}

// Runs a rule, a function of the step's terms, mask, weight, gradient and history (one or two), over the arena
template <int K, class Rule, class... History>
DEVICE void run_rule(outputs<K, real> y, Rule rule, long blocks, const u8* mask, int masked, const real* lr_mult,
                     const real* decay_mult, int l1, const real* hyper, const real* clip, const real* w,
                     const real* diff, const History*... h) {
  if (clip[1] != 0) return;
  const auto masking = [=](index_t b) {
    const step_terms t = step_of(hyper, clip, lr_mult[b], decay_mult[b], l1);
    return [=](real keep, auto... v) { return rule(t, keep, v...); };
  };
  const auto whole = [=](index_t b) {
    const step_terms t = step_of(hyper, clip, lr_mult[b], decay_mult[b], l1);
    return [=](auto... v) { return rule(t, real(1), v...); };
  };
  if (masked) rows_each(blocks, ARENA_BLOCK, y, masking, mask, w, diff, h...);
  else rows_each(blocks, ARENA_BLOCK, y, whole, w, diff, h...);
}
#define ARENA blocks, mask, masked, lr_mult, decay_mult, l1, hyper, clip, w, diff

KERNEL sgd_update(long blocks, real* w, const real* diff, real* h, const u8* mask, int masked,
                  const real* lr_mult, const real* decay_mult, int l1, const real* hyper, const real* clip) {
  const auto rule = [](const step_terms& t, real keep, real w, real d, real h) {
    const real g = regularized(t, w, d);
    const real v = t.momentum * h + t.rate * g;
    return reals<2>{{keep != 0 ? w - v : real(0), keep != 0 ? v : real(0)}};
  };
  run_rule(out(w, h), rule, ARENA, h);
}

KERNEL nesterov_update(long blocks, real* w, const real* diff, real* h, const u8* mask, int masked,
                       const real* lr_mult, const real* decay_mult, int l1, const real* hyper, const real* clip) {
  const auto rule = [](const step_terms& t, real keep, real w, real d, real h) {
    const real g = regularized(t, w, d);
    const real v = t.momentum * h + t.rate * g, change = (real(1) + t.momentum) * v - t.momentum * h;
    return reals<2>{{keep != 0 ? w - change : real(0), keep != 0 ? v : real(0)}};
  };
  run_rule(out(w, h), rule, ARENA, h);
}

KERNEL adagrad_update(long blocks, real* w, const real* diff, real* h, const u8* mask, int masked,
                      const real* lr_mult, const real* decay_mult, int l1, const real* hyper, const real* clip) {
  const auto rule = [](const step_terms& t, real keep, real w, real d, real h) {
    const real g = regularized(t, w, d);
    const real v = h + g * g;
    return reals<2>{{keep != 0 ? w - t.rate * g / (sqrt_of(v) + t.delta) : real(0), keep != 0 ? v : real(0)}};
  };
  run_rule(out(w, h), rule, ARENA, h);
}

KERNEL rmsprop_update(long blocks, real* w, const real* diff, real* h, const u8* mask, int masked,
                      const real* lr_mult, const real* decay_mult, int l1, const real* hyper, const real* clip) {
  const auto rule = [](const step_terms& t, real keep, real w, real d, real h) {
    const real g = regularized(t, w, d);
    const real v = t.second * h + (real(1) - t.second) * g * g;
    return reals<2>{{keep != 0 ? w - t.rate * g / (sqrt_of(v) + t.delta) : real(0), keep != 0 ? v : real(0)}};
  };
  run_rule(out(w, h), rule, ARENA, h);
}

// h: mean square of gradients, h2: of updates
KERNEL adadelta_update(long blocks, real* w, const real* diff, real* h, real* h2, const u8* mask, int masked,
                       const real* lr_mult, const real* decay_mult, int l1, const real* hyper, const real* clip) {
  const auto rule = [](const step_terms& t, real keep, real w, real d, real h, real h2) {
    const real g = regularized(t, w, d);
    const real v = t.momentum * h + (real(1) - t.momentum) * g * g;
    const real u = g * sqrt_of((h2 + t.delta) / (v + t.delta));
    const real v2 = t.momentum * h2 + (real(1) - t.momentum) * u * u;
    return reals<3>{{keep != 0 ? w - t.rate * u : real(0), keep != 0 ? v : real(0), keep != 0 ? v2 : real(0)}};
  };
  run_rule(out(w, h, h2), rule, ARENA, h, h2);
}

KERNEL adam_update(long blocks, real* w, const real* diff, real* h, real* h2, const u8* mask, int masked,
                   const real* lr_mult, const real* decay_mult, int l1, const real* hyper, const real* clip) {
  const auto rule = [](const step_terms& t, real keep, real w, real d, real h, real h2) {
    const real g = regularized(t, w, d);
    const real v = t.momentum * h + (real(1) - t.momentum) * g;
    const real v2 = t.second * h2 + (real(1) - t.second) * g * g, change = t.rate * t.correction * v / (sqrt_of(v2) + t.delta);
    return reals<3>{{keep != 0 ? w - change : real(0), keep != 0 ? v : real(0), keep != 0 ? v2 : real(0)}};
  };
  run_rule(out(w, h, h2), rule, ARENA, h, h2);
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

// y += x^2
KERNEL square_add(long n, const real* x, real* y) { FOR_EACH(i, n) y[i] += x[i] * x[i]; }

// y = keep ? x : +0: the weights that layers read, of those that are updated
KERNEL masked_copy(long n, const u8* mask, const real* x, real* y) { FOR_EACH(i, n) y[i] = mask[i] ? x[i] : real(0); }

// y = keep ? y : +0
KERNEL apply_mask(long n, const u8* mask, real* y) {
  each(n, out(y), [](real v, real keep) { return keep != 0 ? v : real(0); }, y, mask);
}
