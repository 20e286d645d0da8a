// Softmax, LogSoftmax and the losses on them, along one axis: element (o, c, i) lies at (o channels + c) inner + i,
// and a row is one (o, i).
#include "portable.h"

DEVICE index_t row_start(index_t r, long channels, long inner) { return (r / inner) * channels * inner + r % inner; }

// y = exp(x - max) / sum exp(x - max)
KERNEL softmax_forward(long rows, long channels, long inner, const store* x, store* y) {
  FOR_EACH_ROW(r, rows, channels * 4) {
    const index_t at = row_start(r, channels, inner);
    const real top = row_max(channels, [=](index_t c) { return real(x[at + c * inner]); });
    const real sum = row_sum(channels, [=](index_t c) { return exp_of(real(x[at + c * inner]) - top); });
    FOR_EACH_LANE(c, channels) y[at + c * inner] = exp_of(real(x[at + c * inner]) - top) / sum;
  }
}

// dx = y (dy - sum(y dy))
KERNEL softmax_backward(long rows, long channels, long inner, const store* y, const store* dy, store* dx) {
  FOR_EACH_ROW(r, rows, channels) {
    const index_t at = row_start(r, channels, inner);
    const real dot = row_sum(channels, [=](index_t c) { return real(y[at + c * inner]) * real(dy[at + c * inner]); });
    FOR_EACH_LANE(c, channels) dx[at + c * inner] = real(y[at + c * inner]) * (real(dy[at + c * inner]) - dot);
  }
}

// y = x - max - log sum exp(x - max)
KERNEL log_softmax_forward(long rows, long channels, long inner, const store* x, store* y) {
  FOR_EACH_ROW(r, rows, channels * 4) {
    const index_t at = row_start(r, channels, inner);
    const real top = row_max(channels, [=](index_t c) { return real(x[at + c * inner]); });
    const real norm = log_of(row_sum(channels, [=](index_t c) { return exp_of(real(x[at + c * inner]) - top); }));
    // The minimum changes nothing, but keeps fast maths from making it x - (top + norm), which loses norm's digits.
    FOR_EACH_LANE(c, channels) y[at + c * inner] = min_of(real(x[at + c * inner]) - top, real(0)) - norm;
  }
}

// dx = dy - exp(y) sum(dy)
KERNEL log_softmax_backward(long rows, long channels, long inner, const store* y, const store* dy, store* dx) {
  FOR_EACH_ROW(r, rows, channels * 2) {
    const index_t at = row_start(r, channels, inner);
    const real sum = row_sum(channels, [=](index_t c) { return real(dy[at + c * inner]); });
    FOR_EACH_LANE(c, channels) dx[at + c * inner] = real(dy[at + c * inner]) - exp_of(real(y[at + c * inner])) * sum;
  }
}

// What a row's label says: -1 to be ignored, -2 out of range (noted in status: flag, label), else the class.
DEVICE long class_of(real label, long channels, int has_ignore, int ignore, int* status) {
  const int k = whole_of(label);
  if (has_ignore && k == ignore) return -1;
  if (k >= 0 && k < channels) return k;
  status[0] = 1;
  status[1] = k;
  return -2;
}

// loss[r] = -log max(p[label], tiny), or -p[label] where p holds logarithms; valid[r] = 1 unless ignored
KERNEL nll_rows(long rows, long channels, long inner, const store* p, const store* label, int logarithms, int has_ignore,
                int ignore, real* loss, real* valid, int* status) {
  FOR_EACH(r, rows) {
    const long k = class_of(real(label[r]), channels, has_ignore, ignore, status);
    const real v = k < 0 ? real(1) : real(p[row_start(r, channels, inner) + k * inner]);
    const real nll = logarithms ? -v : -log_of(max_of(v, REAL_TINY));
    loss[r] = k < 0 ? real(0) : nll;
    valid[r] = k == -1 ? real(0) : real(1);
  }
}

// LogSoftmax and the rows of its NLLLoss: y, and loss and valid as in nll_rows
KERNEL log_softmax_nll_forward(long rows, long channels, long inner, const store* x, const store* label, int has_ignore,
                               int ignore, store* y, real* loss, real* valid, int* status) {
  FOR_EACH_ROW(r, rows, channels * 4) {
    const index_t at = row_start(r, channels, inner);
    const long k = class_of(real(label[r]), channels, has_ignore, ignore, status);
    const real top = row_max(channels, [=](index_t c) { return real(x[at + c * inner]); });
    const real mine = k < 0 ? top : real(x[at + k * inner]);  // before y is written: it may be x
    const real norm = log_of(row_sum(channels, [=](index_t c) { return exp_of(real(x[at + c * inner]) - top); }));
    FOR_EACH_LANE(c, channels) y[at + c * inner] = min_of(real(x[at + c * inner]) - top, real(0)) - norm;
    ROW_LEADER loss[r] = k < 0 ? real(0) : norm - min_of(mine - top, real(0));
    ROW_LEADER valid[r] = k == -1 ? real(0) : real(1);
  }
}

// dy as in nll_backward, dx = dy - exp(y) sum(dy)
KERNEL log_softmax_nll_backward(long rows, long channels, long inner, const store* y, const store* label, int has_ignore,
                                int ignore, const store* dloss, const real* normalizer, int* status, store* dy,
                                store* dx) {
  FOR_EACH_ROW(r, rows, channels * 2) {
    const long k = class_of(real(label[r]), channels, has_ignore, ignore, status);
    const real value = -real(dloss[0]) / normalizer[0], sum = k < 0 ? real(0) : value;
    const index_t at = row_start(r, channels, inner);
    FOR_EACH_LANE(c, channels) {
      const real g = c == k ? value : real(0);
      dy[at + c * inner] = g;
      dx[at + c * inner] = g - exp_of(real(y[at + c * inner])) * sum;
    }
  }
}

// normalizer[0] = max(1, fixed, or the number of valid rows if fixed < 0); out[0] = sum(loss) / normalizer
KERNEL loss_mean(long rows, long n, const real* loss, const real* valid, real fixed, real* normalizer, store* out) {
  FOR_EACH_ROW(r, rows, n) {
    const real sum = row_sum(n, [=](index_t j) { return loss[j]; });
    const real count = row_sum(n, [=](index_t j) { return valid[j]; });
    const real by = max_of(real(1), fixed < 0 ? count : fixed);
    ROW_LEADER normalizer[0] = by;
    ROW_LEADER out[0] = sum / by;
  }
}

// dx = (p - onehot(label)) dloss / normalizer, 0 where ignored; p are probabilities
KERNEL softmax_loss_backward(long rows, long channels, long inner, const store* p, const store* label, int has_ignore,
                             int ignore, const store* dloss, const real* normalizer, int* status, store* dx) {
  FOR_EACH_ROW(r, rows, channels) {
    const long k = class_of(real(label[r]), channels, has_ignore, ignore, status);
    const real scale = k < 0 ? real(0) : real(dloss[0]) / normalizer[0];
    const index_t at = row_start(r, channels, inner);
    FOR_EACH_LANE(c, channels) dx[at + c * inner] = k < 0 ? real(0) : scale * (real(p[at + c * inner]) - (c == k ? real(1) : real(0)));
  }
}

// dx = -onehot(label) dloss / normalizer
KERNEL nll_backward(long rows, long channels, long inner, const store* label, int has_ignore, int ignore, const store* dloss,
                    const real* normalizer, int* status, store* dx) {
  FOR_EACH_ROW(r, rows, channels) {
    const long k = class_of(real(label[r]), channels, has_ignore, ignore, status);
    const real value = -real(dloss[0]) / normalizer[0];
    const index_t at = row_start(r, channels, inner);
    FOR_EACH_LANE(c, channels) dx[at + c * inner] = c == k ? value : real(0);
  }
}

// correct[r] = 1 if fewer than top_k other classes score at least as much as the label (ties count against it); a score
// that is NaN is never right
KERNEL accuracy_rows(long rows, long channels, long inner, const store* x, const store* label, int top_k, int has_ignore,
                     int ignore, real* correct, real* valid, int* status) {
  FOR_EACH_ROW(r, rows, channels) {
    const long k = class_of(real(label[r]), channels, has_ignore, ignore, status);
    const index_t at = row_start(r, channels, inner);
    const real mine = k < 0 ? real(0) : real(x[at + k * inner]);
    const real above = row_sum(channels, [=](index_t c) { return real(x[at + c * inner]) >= mine ? real(1) : real(0); });
    ROW_LEADER correct[r] = k >= 0 && above >= 1 && above <= top_k ? real(1) : real(0);
    ROW_LEADER valid[r] = k == -1 ? real(0) : real(1);
  }
}

// out[c] = correct rows of class c / rows of class c (0 without any); with one_class all rows count as class 0
KERNEL accuracy_mean(long classes, long n, const real* correct, const real* valid, const store* label, int one_class, store* out) {
  FOR_EACH_ROW(c, classes, n) {
    const real right = row_sum(n, [=](index_t j) { return one_class || whole_of(real(label[j])) == c ? correct[j] * valid[j] : real(0); });
    const real all = row_sum(n, [=](index_t j) { return one_class || whole_of(real(label[j])) == c ? valid[j] : real(0); });
    ROW_LEADER out[c] = all > 0 ? right / all : real(0);
  }
}
