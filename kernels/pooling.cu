// Max and average pooling over planes of h x w. Backward gathers: each input pixel sums over the windows that cover it,
// so the result does not depend on the order of threads.
#include "portable.h"

struct pool2d {
  int h, w, oh, ow, kh, kw, sh, sw, ph, pw;
};

DEVICE int first_window(int at, int kernel, int stride) { return at < kernel ? 0 : (at - kernel) / stride + 1; }
DEVICE int end_window(int at, int stride, int windows) { return at / stride + 1 < windows ? at / stride + 1 : windows; }

#define STRIP 2048

#if !ON_GPU
#define NO_PLACE 0x7fffffff
#define WHOLE(n) (((n) + 7) / 8 * 8)  // loops over whole vectors, where what lies behind the end may be touched

// One plane on the CPU, a row of windows at a time: maxima of columns, then of each window's columns, in vector loops.
// Columns outside the plane hold -infinity, which loses to all that have a place.
static void max_rows(const pool2d& s, const store* x, store* y, int* index) {
  const int wide = (s.ow - 1) * s.sw + s.kw, first = s.pw, count = (s.w < wide - s.pw ? s.w : wide - s.pw);
  const int half = WHOLE((wide + 1) / 2);
  real top[STRIP + 16], best[STRIP + 8], sorted[STRIP + 32];
  int at[STRIP + 16], place[STRIP + 8], sorted_at[STRIP + 32];
  for (int j = wide; j < wide + 16; ++j) top[j] = 0, at[j] = 0;
  for (int oy = 0; oy < s.oh; ++oy) {
    const int y0 = oy * s.sh - s.ph;
    const int ya = y0 > 0 ? y0 : 0, yb = y0 + s.kh < s.h ? y0 + s.kh : s.h;
    if (oy == 0 || ya >= yb) FOR_EACH_LANE(j, wide) top[j] = real(-__builtin_inf()), at[j] = NO_PLACE;
    for (int iy = ya; iy < yb; ++iy) {
      const store* row = x + iy * s.w;
      const bool behind = first + count == wide && iy * s.w + WHOLE(count) <= s.h * s.w;
      FOR_EACH_LANE(j, behind ? WHOLE(count) : count) {
        const real v = row[j], old = top[first + j];
        const bool take = iy == ya || beats(v, old);
        top[first + j] = take ? v : old;
        at[first + j] = take ? iy * s.w + int(j) : at[first + j];
      }
    }
    if (s.sw == 2) {  // even and odd columns apart: then every column of the windows is a stretch
      FOR_EACH_LANE(o, half) {
        sorted[o] = top[2 * o], sorted_at[o] = at[2 * o];
        sorted[half + o] = top[2 * o + 1], sorted_at[half + o] = at[2 * o + 1];
      }
      FOR_EACH_LANE(o, WHOLE(s.ow)) best[o] = sorted[o], place[o] = sorted_at[o];
      for (int k = 1; k < s.kw; ++k) {
        const real* v = sorted + k % 2 * half + k / 2;
        const int* i = sorted_at + k % 2 * half + k / 2;
        FOR_EACH_LANE(o, WHOLE(s.ow)) max2_pick(best[o], place[o], v[o], i[o], best[o], place[o]);
      }
    } else {
      FOR_EACH_LANE(o, s.ow) best[o] = top[o * s.sw], place[o] = at[o * s.sw];
      for (int k = 1; k < s.kw; ++k) {
        if (s.sw == 1)
          FOR_EACH_LANE(o, WHOLE(s.ow)) max2_pick(best[o], place[o], top[o + k], at[o + k], best[o], place[o]);
        else
          FOR_EACH_LANE(o, s.ow) max2_pick(best[o], place[o], top[o * s.sw + k], at[o * s.sw + k], best[o], place[o]);
      }
    }
    const bool behind = oy * s.ow + WHOLE(s.ow) <= s.oh * s.ow;
    FOR_EACH_LANE(o, behind ? WHOLE(s.ow) : s.ow) {
      y[oy * s.ow + o] = place[o] == NO_PLACE ? real(0) : best[o];
      index[oy * s.ow + o] = place[o] == NO_PLACE ? -1 : place[o];
    }
  }
}
#endif

#if ON_GPU
#define UNROLLED 32  // windows of up to as many pixels: all of them are loaded at once, where the shape is a constant

// Calls f(place in the plane, whether it is inside of it) for each pixel of a window, in order
template <class F>
DEVICE void window_pixels(const pool2d& s, int oy, int ox, F f) {
  const int y0 = oy * s.sh - s.ph, x0 = ox * s.sw - s.pw;
#pragma unroll
  for (int k = 0; k < s.kh * s.kw; ++k) {
    const int iy = y0 + k / s.kw, ix = x0 + k % s.kw;
    f(iy * s.w + ix, iy >= 0 && iy < s.h && ix >= 0 && ix < s.w);
  }
}

// Calls f(place among the outputs, whether it is one, oy, ox) for each window that may hold a pixel, in order
template <class F>
DEVICE void pixel_windows(const pool2d& s, int iy, int ix, F f) {
  const int ky = (s.kh + s.sh - 1) / s.sh, kx = (s.kw + s.sw - 1) / s.sw;
  const int ty = iy + s.ph, tx = ix + s.pw;
#pragma unroll
  for (int k = 0; k < ky * kx; ++k) {
    const int oy = ty / s.sh - (ky - 1) + k / kx, ox = tx / s.sw - (kx - 1) + k % kx;
    const bool there = oy >= 0 && oy < s.oh && ox >= 0 && ox < s.ow && oy * s.sh + s.kh > ty && ox * s.sw + s.kw > tx;
    f(oy * s.ow + ox, there, oy, ox);
  }
}

// A thread takes the sh x sw pixels between the starts of windows: they lie in the same windows, whose gradients and places
// are loaded once for all of them.
#define TILE 4
DEVICE void max_tiles_backward(const pool2d& s, long planes, const store* dy, const int* index, store* dx) {
  const int down = (s.h + s.ph + s.sh - 1) / s.sh, across = (s.w + s.pw + s.sw - 1) / s.sw;
  const int ky = (s.kh + s.sh - 1) / s.sh, kx = (s.kw + s.sw - 1) / s.sw;
  FOR_EACH_2D(r, planes * down, b, across) {
    const int a = int(r % down), top = a * s.sh - s.ph, left = int(b) * s.sw - s.pw;
    const index_t plane = r / down, from = plane * s.oh * s.ow;
    real sum[TILE] = {};
#pragma unroll
    for (int k = 0; k < ky * kx; ++k) {
      const int oy = a - (ky - 1) + k / kx, ox = int(b) - (kx - 1) + k % kx;
      const bool there = oy >= 0 && oy < s.oh && ox >= 0 && ox < s.ow;
      const real g = there ? real(dy[from + oy * s.ow + ox]) : real(0);
      const int chosen = there ? index[from + oy * s.ow + ox] : -1;
#pragma unroll
      for (int e = 0; e < TILE; ++e)
        if (e < s.sh * s.sw) sum[e] += chosen == (top + e / s.sw) * s.w + left + e % s.sw ? g : real(0);
    }
#pragma unroll
    for (int e = 0; e < TILE; ++e) {
      const int iy = top + e / s.sw, ix = left + e % s.sw;
      if (e < s.sh * s.sw && iy >= 0 && iy < s.h && ix >= 0 && ix < s.w) dx[(plane * s.h + iy) * s.w + ix] = sum[e];
    }
  }
}
#endif

// y = max of the window, index = its place in the plane; of equal values the first wins, and NaN beats numbers, so that
// it reaches the loss
KERNEL pooling_max_forward(long planes, pool2d shape, const store* x, store* y, int* index) {
  SHAPE(pool2d, s, shape);
#if !ON_GPU
  if ((s.ow - 1) * s.sw + s.kw <= STRIP) {
    FOR_EACH_ROW(p, planes, s.h * s.w) max_rows(s, x + p * s.h * s.w, y + p * s.oh * s.ow, index + p * s.oh * s.ow);
    return;
  }
#else
  if (s.kh * s.kw <= UNROLLED) {
    FOR_EACH_2D(r, planes * s.oh, ox, s.ow) {
      const store* plane = x + (r / s.oh) * s.h * s.w;
      real top = 0;
      int best = -1;
      window_pixels(s, int(r % s.oh), int(ox), [&](int at, bool inside) {
        const real v = inside ? real(plane[at]) : real(0);
        const bool take = inside && (best < 0 || beats(v, top));
        top = take ? v : top;
        best = take ? at : best;
      });
      y[r * s.ow + ox] = top;
      index[r * s.ow + ox] = best;
    }
    return;
  }
#endif
  FOR_EACH_2D(r, planes * s.oh, ox, s.ow) {
    const int oy = int(r % s.oh);
    const store* plane = x + (r / s.oh) * s.h * s.w;
    const int y0 = oy * s.sh - s.ph, x0 = int(ox) * s.sw - s.pw;
    const int ya = y0 > 0 ? y0 : 0, yb = y0 + s.kh < s.h ? y0 + s.kh : s.h;
    const int xa = x0 > 0 ? x0 : 0, xb = x0 + s.kw < s.w ? x0 + s.kw : s.w;
    const bool empty = ya >= yb || xa >= xb;  // a stride larger than the kernel can leave the plane
    int best = empty ? -1 : ya * s.w + xa;
    real top = empty ? real(0) : real(plane[best]);
    int nan = -1;  // kept apart: a maximum that prefers NaN takes three times as long
    for (int iy = ya; iy < yb; ++iy)
      for (int ix = xa; ix < xb; ++ix) {
        const real v = plane[iy * s.w + ix];
        best = v > top ? iy * s.w + ix : best;
        top = v > top ? v : top;
        nan = v != v ? iy * s.w + ix : nan;
      }
    y[r * s.ow + ox] = nan < 0 ? top : real(plane[nan]);
    index[r * s.ow + ox] = nan < 0 ? best : nan;
  }
}

// On the CPU a plane has one thread, so gradients are scattered, in the order in which the GPU's gather adds them.
KERNEL pooling_max_backward(long planes, pool2d shape, const store* dy, const int* index, store* dx) {
  SHAPE(pool2d, s, shape);
#if !ON_GPU
  FOR_EACH_ROW(p, planes, s.h * s.w) {
    store* plane = dx + p * s.h * s.w;
    FOR_EACH_LANE(i, s.h * s.w) plane[i] = 0;
    for (index_t o = p * s.oh * s.ow; o < (p + 1) * s.oh * s.ow; ++o)
      if (index[o] >= 0) plane[index[o]] = real(plane[index[o]]) + real(dy[o]);
  }
#else
  if (s.kh * s.kw <= UNROLLED && s.sh * s.sw <= TILE) {
    max_tiles_backward(s, planes, dy, index, dx);
    return;
  }
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
#endif
}

// The common 2x2 windows at stride 2 without padding on even planes. On the CPU the rows are short, so a strip of rows
// is gathered in cache: column maxima row by row, then pairs over the whole strip, each a long vector loop (3 to 5 times
// the general kernel). Of equal values the first in row order wins, as in the general kernel.
KERNEL pooling_max2_forward(long planes, long oh, long ow, const store* x, store* y, int* index) {
  FOR_EACH_ROW(p, planes, 4 * oh * ow) {
    const store* in = x + p * 4 * oh * ow;
    store* out = y + p * oh * ow;
    int* where = index + p * oh * ow;
#if !ON_GPU
    if (2 * ow <= STRIP) {
      real top[STRIP];
      int at[STRIP];
      const long rows = STRIP / (2 * ow);
      for (long from = 0; from < oh; from += rows) {
        const long count = from + rows < oh ? rows : oh - from;
        for (long r = 0; r < count; ++r) {
          const store *a = in + (from + r) * 4 * ow, *b = a + 2 * ow;
          const int base = int((from + r) * 4 * ow);
          FOR_EACH_LANE(j, 2 * ow) {
            const real va = a[j], vb = b[j];
            top[r * 2 * ow + j] = beats(vb, va) ? vb : va;
            at[r * 2 * ow + j] = base + int(j) + (beats(vb, va) ? int(2 * ow) : 0);
          }
        }
        FOR_EACH_LANE(o, count * ow) {
          real best;
          int place;
          max2_pick(top[2 * o], at[2 * o], top[2 * o + 1], at[2 * o + 1], best, place);
          out[from * ow + o] = best;
          where[from * ow + o] = place;
        }
      }
      continue;
    }
#endif
    const index_t width = ow;  // a division of 64 bits is many times slower on a GPU
    FOR_EACH_LANE(o, oh * ow) {
      const int a = int((o / width) * 4 * width + 2 * (o % width)), b = a + int(2 * width);
      real left, right, best;
      int i, j, place;
      max2_pick(in[a], a, in[b], b, left, i);
      max2_pick(in[a + 1], a + 1, in[b + 1], b + 1, right, j);
      max2_pick(left, i, right, j, best, place);
      out[o] = best;
      where[o] = place;
    }
  }
}

// Windows do not overlap: each pixel asks whether its window chose it. On the CPU again strip by strip: gradient and
// place are doubled in one long loop, then compared row by row.
KERNEL pooling_max2_backward(long planes, long oh, long ow, const store* dy, const int* index, store* dx) {
  FOR_EACH_ROW(p, planes, 4 * oh * ow) {
    const store* from = dy + p * oh * ow;
    const int* which = index + p * oh * ow;
    store* out = dx + p * 4 * oh * ow;
#if !ON_GPU
    if (2 * ow <= STRIP) {
      real grad[STRIP];
      int at[STRIP];
      const long rows = STRIP / (2 * ow);
      for (long first = 0; first < oh; first += rows) {
        const long count = first + rows < oh ? rows : oh - first;
        FOR_EACH_LANE(o, count * ow) {
          grad[2 * o] = grad[2 * o + 1] = from[first * ow + o];
          at[2 * o] = at[2 * o + 1] = which[first * ow + o];
        }
        for (long r = 0; r < count; ++r) {
          store *a = out + (first + r) * 4 * ow, *b = a + 2 * ow;
          const int here = int((first + r) * 4 * ow), below = here + int(2 * ow);
          FOR_EACH_LANE(j, 2 * ow) {
            const real g = grad[r * 2 * ow + j];
            const int k = at[r * 2 * ow + j];
            a[j] = k == here + int(j) ? g : real(0);
            b[j] = k == below + int(j) ? g : real(0);
          }
        }
      }
      continue;
    }
#endif
    const index_t width = ow;
    FOR_EACH_LANE(o, oh * ow) {
      const index_t a = (o / width) * 4 * width + 2 * (o % width), b = a + 2 * width;
      const real g = from[o];
      const int k = which[o];
      out[a] = k == int(a) ? g : real(0);
      out[a + 1] = k == int(a) + 1 ? g : real(0);
      out[b] = k == int(b) ? g : real(0);
      out[b + 1] = k == int(b) + 1 ? g : real(0);
    }
  }
}

// The divisor counts padding, but no pixel beyond it: as Caffe's.
DEVICE int window_size(const pool2d& s, int oy, int ox) {
  const int y0 = oy * s.sh - s.ph, x0 = ox * s.sw - s.pw;
  const int y1 = y0 + s.kh < s.h + s.ph ? y0 + s.kh : s.h + s.ph;
  const int x1 = x0 + s.kw < s.w + s.pw ? x0 + s.kw : s.w + s.pw;
  return y1 > y0 && x1 > x0 ? (y1 - y0) * (x1 - x0) : 1;
}

DEVICE bool is_global(const pool2d& s) { return s.kh == s.h && s.kw == s.w && s.ph == 0 && s.pw == 0; }

KERNEL pooling_ave_forward(long planes, pool2d shape, const store* x, store* y) {
  SHAPE(pool2d, s, shape);
#if ON_GPU
  if (is_global(s)) {  // 32 threads a plane
    const index_t lane = threadIdx.x & 31, size = s.h * s.w, count = planes;
    const index_t first = (blockIdx.x * (index_t)blockDim.x + threadIdx.x) >> 5, step = (index_t)blockDim.x * gridDim.x >> 5;
    for (index_t p = first; p < count; p += step) {
      real sum = 0;
      for (index_t i = lane; i < size; i += 32) sum += real(x[p * size + i]);
      for (int d = 16; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
      if (lane == 0) y[p] = sum / size;
    }
    return;
  }
  if (s.kh * s.kw <= UNROLLED) {
    FOR_EACH_2D(r, planes * s.oh, ox, s.ow) {
      const store* plane = x + (r / s.oh) * s.h * s.w;
      real sum = 0;
      window_pixels(s, int(r % s.oh), int(ox), [&](int at, bool inside) { sum += inside ? real(plane[at]) : real(0); });
      y[r * s.ow + ox] = sum / window_size(s, int(r % s.oh), int(ox));
    }
    return;
  }
#endif
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
#if ON_GPU
  if (is_global(s)) {
    const auto of_plane = [=](index_t p) {
      const real g = real(dy[p]) / (s.h * s.w);
      return [=] { return g; };
    };
    rows_each(planes, s.h * s.w, out(dx), of_plane);
    return;
  }
  if (s.kh * s.kw <= UNROLLED) {
    FOR_EACH_2D(r, planes * s.h, ix, s.w) {
      const store* plane = dy + (r / s.h) * s.oh * s.ow;
      real sum = 0;
      pixel_windows(s, int(r % s.h), int(ix), [&](int o, bool there, int oy, int ox) {
        sum += there ? real(plane[o]) / window_size(s, oy, ox) : real(0);
      });
      dx[r * s.w + ix] = sum;
    }
    return;
  }
#endif
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
