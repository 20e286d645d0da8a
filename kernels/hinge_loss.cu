// HingeLoss over rows of scores, one against the rest.
#include "portable.h"

// how far the score is on the wrong side of its margin: the label's above 1, others below -1
DEVICE real hinge_of(real x, bool is_label) { return max_of(is_label ? real(1) - x : real(1) + x, real(0)); }

// loss[r] = sum over c of the hinge, or with `squared` of its square; a label out of range is noted in status
KERNEL hinge_loss_rows(long rows, long channels, const store* x, const store* label, int squared, real* loss, int* status) {
  FOR_EACH_ROW(r, rows, channels) {
    const long k = (long)real(label[r]), at = (long)r * channels;
    if (k < 0 || k >= channels) {
      status[0] = 1;
      status[1] = (int)k;
    }
    const real s = row_sum(channels, [=](index_t c) {
      const real h = hinge_of(real(x[at + c]), c == k);
      return squared ? h * h : h;
    });
    ROW_LEADER loss[r] = s;
  }
}

KERNEL hinge_loss_backward(long rows, long channels, const store* x, const store* label, int squared, const store* dloss,
                           const real* normalizer, store* dx) {
  FOR_EACH_ROW(r, rows, channels) {
    const long k = (long)real(label[r]), at = (long)r * channels;
    const real by = real(dloss[0]) / normalizer[0];
    FOR_EACH_LANE(c, channels) {
      const real h = hinge_of(real(x[at + c]), c == k);
      const real g = by * (squared ? real(2) * h : (h > 0 ? real(1) : real(0)));
      dx[at + c] = c == k ? -g : g;
    }
  }
}
