// Max and average pooling over planes of h x w. Backward gathers: each input pixel sums over the windows that cover it,
// so the result does not depend on the order of threads.
#include "portable.h"

struct pool2d {
  int h, w, oh, ow, kh, kw, sh, sw, ph, pw;
};

DEVICE int first_window(int at, int kernel, int stride) { return at < kernel ? 0 : (at - kernel) / stride + 1; }
DEVICE int end_window(int at, int stride, int windows) { return at / stride + 1 < windows ? at / stride + 1 : windows; }

// y = max of the window, index = its place in the plane; of equal values the first wins
KERNEL pooling_max_forward(long planes, pool2d shape, const store* x, store* y, int* index) {
  SHAPE(pool2d, s, shape);
  FOR_EACH_2D(r, planes * s.oh, ox, s.ow) {
    const int oy = int(r % s.oh);
    const store* plane = x + (r / s.oh) * s.h * s.w;
    const int y0 = oy * s.sh - s.ph, x0 = int(ox) * s.sw - s.pw;
    const int ya = y0 > 0 ? y0 : 0, yb = y0 + s.kh < s.h ? y0 + s.kh : s.h;
    const int xa = x0 > 0 ? x0 : 0, xb = x0 + s.kw < s.w ? x0 + s.kw : s.w;
    const bool empty = ya >= yb || xa >= xb;  // a stride larger than the kernel can leave the plane
    int best = empty ? -1 : ya * s.w + xa;
    real top = empty ? real(0) : real(plane[best]);
    for (int iy = ya; iy < yb; ++iy)
      for (int ix = xa; ix < xb; ++ix) {
        const real v = plane[iy * s.w + ix];
        best = v > top ? iy * s.w + ix : best;
        top = v > top ? v : top;
      }
    y[r * s.ow + ox] = top;
    index[r * s.ow + ox] = best;
  }
}

KERNEL pooling_max_backward(long planes, pool2d shape, const store* dy, const int* index, store* dx) {
  SHAPE(pool2d, s, shape);
  FOR_EACH_2D(r, planes * s.h, ix, s.w) {
    const int iy = int(r % s.h), here = iy * s.w + int(ix);
    const index_t plane = (r / s.h) * s.oh * s.ow;
    const int ya = first_window(iy + s.ph, s.kh, s.sh), yb = end_window(iy + s.ph, s.sh, s.oh);
    const int xa = first_window(int(ix) + s.pw, s.kw, s.sw), xb = end_window(int(ix) + s.pw, s.sw, s.ow);
    real sum = 0;
    for (int oy = ya; oy < yb; ++oy)
      for (int ox = xa; ox < xb; ++ox) {
        const index_t o = plane + oy * s.ow + ox;
        sum += index[o] == here ? real(dy[o]) : real(0);
      }
    dx[r * s.w + ix] = sum;
  }
}

// The common 2x2 windows at stride 2 without padding on even planes: rows of all planes follow one another, nothing
// overlaps, so both directions are straight vector code (3 to 5 times the general kernel on a CPU).
KERNEL pooling_max2_forward(long rows, long ow, long oh, const store* x, store* y, int* index) {
  FOR_EACH_2D(r, rows, ox, ow) {
    const store* a = x + r * 4 * ow + 2 * ox;
    const store* b = a + 2 * ow;
    const int at = int((r % oh) * 4 * ow + 2 * ox);
    const real a0 = a[0], a1 = a[1], b0 = b[0], b1 = b[1];
    const real ma = a1 > a0 ? a1 : a0, mb = b1 > b0 ? b1 : b0;
    const int ia = a1 > a0 ? at + 1 : at, ib = int(2 * ow) + (b1 > b0 ? at + 1 : at);
    y[r * ow + ox] = mb > ma ? mb : ma;
    index[r * ow + ox] = mb > ma ? ib : ia;
  }
}

KERNEL pooling_max2_backward(long rows, long ow, long oh, const store* dy, const int* index, store* dx) {
  FOR_EACH_2D(r, rows, ox, ow) {
    const index_t o = r * 4 * ow + 2 * ox;
    const int at = int((r % oh) * 4 * ow + 2 * ox), which = index[r * ow + ox];
    const real g = dy[r * ow + ox];
    dx[o] = which == at ? g : real(0);
    dx[o + 1] = which == at + 1 ? g : real(0);
    dx[o + 2 * ow] = which == at + int(2 * ow) ? g : real(0);
    dx[o + 2 * ow + 1] = which == at + int(2 * ow) + 1 ? g : real(0);
  }
}

// The divisor counts padding, but no pixel beyond it: as Caffe's.
DEVICE int window_size(const pool2d& s, int oy, int ox) {
  const int y0 = oy * s.sh - s.ph, x0 = ox * s.sw - s.pw;
  const int y1 = y0 + s.kh < s.h + s.ph ? y0 + s.kh : s.h + s.ph;
  const int x1 = x0 + s.kw < s.w + s.pw ? x0 + s.kw : s.w + s.pw;
  return y1 > y0 && x1 > x0 ? (y1 - y0) * (x1 - x0) : 1;
}

KERNEL pooling_ave_forward(long planes, pool2d shape, const store* x, store* y) {
  SHAPE(pool2d, s, shape);
  FOR_EACH_2D(r, planes * s.oh, ox, s.ow) {
    const int oy = int(r % s.oh);
    const store* plane = x + (r / s.oh) * s.h * s.w;
    const int y0 = oy * s.sh - s.ph, x0 = int(ox) * s.sw - s.pw;
    const int ya = y0 > 0 ? y0 : 0, yb = y0 + s.kh < s.h ? y0 + s.kh : s.h;
    const int xa = x0 > 0 ? x0 : 0, xb = x0 + s.kw < s.w ? x0 + s.kw : s.w;
    real sum = 0;
    for (int iy = ya; iy < yb; ++iy)
      for (int ix = xa; ix < xb; ++ix) sum += real(plane[iy * s.w + ix]);
    y[r * s.ow + ox] = sum / window_size(s, oy, int(ox));
  }
}

KERNEL pooling_ave_backward(long planes, pool2d shape, const store* dy, store* dx) {
  SHAPE(pool2d, s, shape);
  FOR_EACH_2D(r, planes * s.h, ix, s.w) {
    const int iy = int(r % s.h);
    const store* plane = dy + (r / s.h) * s.oh * s.ow;
    const int ya = first_window(iy + s.ph, s.kh, s.sh), yb = end_window(iy + s.ph, s.sh, s.oh);
    const int xa = first_window(int(ix) + s.pw, s.kw, s.sw), xb = end_window(int(ix) + s.pw, s.sw, s.ow);
    real sum = 0;
    for (int oy = ya; oy < yb; ++oy)
      for (int ox = xa; ox < xb; ++ox) sum += real(plane[oy * s.ow + ox]) / window_size(s, oy, ox);
    dx[r * s.w + ix] = sum;
  }
}

KERNEL index_to_real(long n, const int* index, store* y) { FOR_EACH(i, n) y[i] = real(index[i]); }
