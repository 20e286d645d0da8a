// A strided convolution of few channels as one of stride 1 with more of them: pixels of a cell of stride x stride become
// channels (backends/depth.py).
#include "portable.h"

struct depth2d {
  int channels, h, w, sh, sw, ph, pw, cells_h, cells_w, kh, kw, taps_h, taps_w;
};

// y[n, (c, a, b), i, j] = x[n, c, i sh + a - ph, j sw + b - pw], 0 outside; n images
KERNEL depth_images(long n, depth2d shape, const store* x, store* y) {
  SHAPE(depth2d, s, shape);
  FOR_EACH_2D(r, n * s.channels * s.sh * s.sw * s.cells_h, j, s.cells_w) {
    const int i = int(r % s.cells_h);
    const index_t plane = r / s.cells_h;
    const int b = int(plane % s.sw), a = int(plane / s.sw % s.sh);
    const index_t source = plane / (s.sw * s.sh);
    const int iy = i * s.sh + a - s.ph, ix = int(j) * s.sw + b - s.pw;
    const bool inside = iy >= 0 && iy < s.h && ix >= 0 && ix < s.w;
    y[r * s.cells_w + j] = inside ? real(x[(source * s.h + iy) * s.w + ix]) : real(0);
  }
}

// v[f, (c, a, b), i, j] = w[f, c, i sh + a, j sw + b], 0 behind the kernel's end; n filters
KERNEL depth_weights(long n, depth2d shape, const store* w, store* v) {
  SHAPE(depth2d, s, shape);
  FOR_EACH_2D(r, n * s.channels * s.sh * s.sw * s.taps_h, j, s.taps_w) {
    const int i = int(r % s.taps_h);
    const index_t plane = r / s.taps_h;
    const int b = int(plane % s.sw), a = int(plane / s.sw % s.sh);
    const index_t source = plane / (s.sw * s.sh);
    const int y = i * s.sh + a, x = int(j) * s.sw + b;
    v[r * s.taps_w + j] = y < s.kh && x < s.kw ? real(w[(source * s.kh + y) * s.kw + x]) : real(0);
  }
}

// dw[f, c, y, x] += dv at the place that depth_weights gives it; n filters
KERNEL depth_gradient(long n, depth2d shape, const store* dv, store* dw) {
  SHAPE(depth2d, s, shape);
  FOR_EACH_2D(r, n * s.channels * s.kh, x, s.kw) {
    const int y = int(r % s.kh);
    const index_t plane = (r / s.kh * s.sh + y % s.sh) * s.sw + x % s.sw;
    dw[r * s.kw + x] = real(dw[r * s.kw + x]) + real(dv[(plane * s.taps_h + y / s.sh) * s.taps_w + x / s.sw]);
  }
}
