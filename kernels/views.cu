// Copies between a dense blob and a view of another one: parts of it (Crop), its axes in another order (Permute).
#include "portable.h"

// The view's element (i_0, i_1, ...) lies at offset + sum i_a step[a]; the last axis is left to the lanes of a row.
struct view_nd {
  int axes, offset;
  int extent[8], step[8];
};

DEVICE index_t view_row(const view_nd& v, index_t r) {
  index_t at = v.offset;
  for (int a = v.axes - 2; a >= 0; --a) {
    at += (r % v.extent[a]) * v.step[a];
    r /= v.extent[a];
  }
  return at;
}

// y = the view of x
KERNEL view_gather(long rows, view_nd view, const store* x, store* y) {
  SHAPE(view_nd, v, view);
  FOR_EACH_ROW(r, rows, v.extent[v.axes - 1]) {
    const index_t at = view_row(v, r), cols = v.extent[v.axes - 1], step = v.step[v.axes - 1];
    FOR_EACH_LANE(j, cols) y[r * cols + j] = x[at + j * step];
  }
}

// The view of x = y
KERNEL view_scatter(long rows, view_nd view, const store* y, store* x) {
  SHAPE(view_nd, v, view);
  FOR_EACH_ROW(r, rows, v.extent[v.axes - 1]) {
    const index_t at = view_row(v, r), cols = v.extent[v.axes - 1], step = v.step[v.axes - 1];
    FOR_EACH_LANE(j, cols) x[at + j * step] = y[r * cols + j];
  }
}

// y = every row of x `tiles` times
KERNEL tile_forward(long rows, long cols, long tiles, const store* x, store* y) {
  const index_t times = tiles;
  FOR_EACH_2D(r, rows, j, cols) y[r * cols + j] = x[(r / times) * cols + j];
}

// dx = the sum of a row's copies
KERNEL tile_backward(long rows, long cols, long tiles, const store* dy, store* dx) {
  FOR_EACH_2D(r, rows, j, cols) {
    real s = 0;
    for (index_t t = 0; t < tiles; ++t) s += real(dy[(r * tiles + t) * cols + j]);
    dx[r * cols + j] = s;
  }
}
