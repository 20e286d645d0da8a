// ArgMax along one axis: element (o, c, i) lies at (o channels + c) inner + i, a row is one (o, i).
#include "portable.h"

// NaN counts as the largest number, so that every row has a place to name.
DEVICE real rank_of(real v) { return is_nan(v) ? real(REAL_MAX_VALUE) : v; }

// On the CPU a row is a step of a plain loop, so that its own loop over channels may be vectorised; on the GPU a thread.
#if ON_GPU
#define FOR_EACH_SEARCH(r, rows, work) FOR_EACH(r, rows)
#else
#define FOR_EACH_SEARCH(r, rows, work) FOR_EACH_ROW(r, rows, work)
#endif

// The row's top_k places in order, of equal values the larger place first: index and value of the j-th lie j `step`
// elements into the row's part of y; index_at or value_at < 0: not wanted.
KERNEL arg_max_rows(long rows, long channels, long inner, int top_k, long block, long step, long index_at, long value_at,
                    const store* x, store* y) {
  FOR_EACH_SEARCH(r, rows, channels * top_k) {
    const long o = r / inner, i = r % inner;
    const store* in = x + o * channels * inner + i;
    store* out = y + o * block + i;
    real last = rank_of(real(in[0]));
    for (long c = 1; c < channels; ++c) {
      const real v = rank_of(real(in[c * inner]));
      last = v > last ? v : last;
    }
    long at = channels - 1;
    while (at > 0 && rank_of(real(in[at * inner])) != last) --at;
    for (int j = 0; j < top_k; ++j) {
      real best = 0;
      long place = j == 0 ? at : -1;
      for (long c = j == 0 ? -1 : channels - 1; c >= 0; --c) {
        const real v = rank_of(real(in[c * inner]));
        const bool left = v < last || (v == last && c < at);
        const bool better = left && (place < 0 || v > best);
        best = better ? v : best;
        place = better ? c : place;
      }
      last = j == 0 ? last : best;
      at = place;
      if (index_at >= 0) out[index_at + j * step] = real(place);
      if (value_at >= 0) out[value_at + j * step] = in[place * inner];
    }
  }
}
