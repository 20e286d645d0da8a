// Windows of an image as the columns of a matrix [channels * kernel, pixels out], and back.
#include "portable.h"

struct window2d {
  int channels, h, w, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw;
};

struct window_nd {
  int axes, channels;
  int in[6], out[6], kernel[6], stride[6], pad[6], dilation[6];
};

KERNEL im2col(long n, window2d shape, const store* x, store* columns) {
  SHAPE(window2d, s, shape);
  FOR_EACH_2D(r, n * s.channels * s.kh * s.kw * s.oh, ox, s.ow) {
    const int oy = int(r % s.oh), k = int((r / s.oh) % (s.kh * s.kw));
    const index_t plane = r / (index_t(s.oh) * s.kh * s.kw);
    const int iy = oy * s.sh - s.ph + (k / s.kw) * s.dh, ix = int(ox) * s.sw - s.pw + (k % s.kw) * s.dw;
    const bool inside = iy >= 0 && iy < s.h && ix >= 0 && ix < s.w;
    columns[r * s.ow + ox] = inside ? real(x[(plane * s.h + iy) * s.w + ix]) : real(0);
  }
}

// dx = sum over the windows that hold the pixel (a gather)
KERNEL col2im(long n, window2d shape, const store* columns, store* x) {
  SHAPE(window2d, s, shape);
  FOR_EACH_2D(r, n * s.channels * s.h, ix, s.w) {
    const int iy = int(r % s.h);
    const index_t plane = r / s.h;
    real sum = 0;
    for (int ky = 0; ky < s.kh; ++ky) {
      const int ty = iy + s.ph - ky * s.dh;
      if (ty < 0 || ty % s.sh != 0 || ty / s.sh >= s.oh) continue;
      for (int kx = 0; kx < s.kw; ++kx) {
        const int tx = int(ix) + s.pw - kx * s.dw;
        if (tx < 0 || tx % s.sw != 0 || tx / s.sw >= s.ow) continue;
        sum += real(columns[(((plane * s.kh + ky) * s.kw + kx) * s.oh + ty / s.sh) * s.ow + tx / s.sw]);
      }
    }
    x[r * s.w + ix] = sum;
  }
}

struct alignas(4 * sizeof(store)) store_quad {
  store v[4];
};

// The same for n images beside each other: a matrix [channels * kernel, n * pixels out]
KERNEL im2col_wide(long n, window2d shape, const store* x, store* columns) {
  SHAPE(window2d, s, shape);
  const index_t images = n, taps = s.kh * s.kw;
#if ON_GPU
  if (s.ow % 4 == 0) {  // four values at a time: half the time
    FOR_EACH_2D(r, images * s.channels * taps * s.oh, q, s.ow / 4) {
      const int oy = int(r % s.oh);
      const index_t row = r / s.oh / images, image = r / s.oh - row * images;
      const int k = int(row % taps);
      const index_t plane = image * s.channels + row / taps;
      const int iy = oy * s.sh - s.ph + (k / s.kw) * s.dh, ix = 4 * int(q) * s.sw - s.pw + (k % s.kw) * s.dw;
      const store* from = x + (plane * s.h + iy) * s.w;
      store_quad out;
      for (int j = 0; j < 4; ++j) {
        const int at = ix + j * s.sw;
        out.v[j] = iy >= 0 && iy < s.h && at >= 0 && at < s.w ? real(from[at]) : real(0);
      }
      *(store_quad*)(columns + r * s.ow + 4 * q) = out;
    }
    return;
  }
#endif
  FOR_EACH_2D(r, images * s.channels * taps * s.oh, ox, s.ow) {
    const int oy = int(r % s.oh);
    const index_t row = r / s.oh / images, image = r / s.oh - row * images;
    const int k = int(row % taps);
    const index_t plane = image * s.channels + row / taps;
    const int iy = oy * s.sh - s.ph + (k / s.kw) * s.dh, ix = int(ox) * s.sw - s.pw + (k % s.kw) * s.dw;
    const bool inside = iy >= 0 && iy < s.h && ix >= 0 && ix < s.w;
    columns[r * s.ow + ox] = inside ? real(x[(plane * s.h + iy) * s.w + ix]) : real(0);
  }
}

KERNEL col2im_wide(long n, window2d shape, const store* columns, store* x) {
  SHAPE(window2d, s, shape);
  const index_t images = n;
  FOR_EACH_2D(r, images * s.channels * s.h, ix, s.w) {
    const int iy = int(r % s.h);
    const index_t image = r / s.h / s.channels, channel = r / s.h - image * s.channels;
    real sum = 0;
    for (int ky = 0; ky < s.kh; ++ky) {
      const int ty = iy + s.ph - ky * s.dh;
      if (ty < 0 || ty % s.sh != 0 || ty / s.sh >= s.oh) continue;
      for (int kx = 0; kx < s.kw; ++kx) {
        const int tx = int(ix) + s.pw - kx * s.dw;
        if (tx < 0 || tx % s.sw != 0 || tx / s.sw >= s.ow) continue;
        const index_t row = ((channel * s.kh + ky) * s.kw + kx) * images + image;
        sum += real(columns[(row * s.oh + ty / s.sh) * s.ow + tx / s.sw]);
      }
    }
    x[r * s.w + ix] = sum;
  }
}

// y[n, f, p] = x[f, n, p] + b[f], with `relu` max(0, that); rows are (n, f) pairs, columns p
KERNEL images_first(long rows, long cols, long channels, long images, const store* x, const store* b, int relu, store* y) {
  const index_t filters = channels, count = images;
  FOR_EACH_2D(r, rows, j, cols) {
    const index_t n = r / filters, f = r - n * filters;
    const real v = real(x[(f * count + n) * cols + j]) + (b ? real(b[f]) : real(0));
    y[r * cols + j] = relu ? max_of(v, real(0)) : v;
  }
}

// y[f, n, p] = x[n, f, p]; rows are (f, n) pairs, columns p
KERNEL channels_first(long rows, long cols, long channels, long images, const store* x, store* y) {
  const index_t filters = channels, count = images;
  FOR_EACH_2D(r, rows, j, cols) {
    const index_t f = r / count, n = r - f * count;
    y[r * cols + j] = x[(n * filters + f) * cols + j];
  }
}

// The same for 1 to 6 spatial axes; n = channels * product(kernel) * product(out) elements
KERNEL im2col_nd(long n, window_nd shape, const store* x, store* columns) {
  SHAPE(window_nd, s, shape);
  FOR_EACH(i, n) {
    index_t rest = i, offset = 0, step = 1;
    int at[6];
    for (int a = s.axes - 1; a >= 0; --a) {
      at[a] = int(rest % s.out[a]) * s.stride[a] - s.pad[a];
      rest /= s.out[a];
    }
    bool inside = true;
    for (int a = s.axes - 1; a >= 0; --a) {
      at[a] += int(rest % s.kernel[a]) * s.dilation[a];
      rest /= s.kernel[a];
      inside = inside && at[a] >= 0 && at[a] < s.in[a];
      offset += at[a] * step;
      step *= s.in[a];
    }
    columns[i] = inside ? real(x[rest * step + offset]) : real(0);
  }
}

// n = channels * product(in) elements
KERNEL col2im_nd(long n, window_nd shape, const store* columns, store* x) {
  SHAPE(window_nd, s, shape);
  FOR_EACH(i, n) {
    index_t channel = i, taps = 1;
    int at[6];
    for (int a = s.axes - 1; a >= 0; --a) {
      at[a] = int(channel % s.in[a]) + s.pad[a];
      channel /= s.in[a];
      taps *= s.kernel[a];
    }
    real sum = 0;
    for (index_t k = 0; k < taps; ++k) {
      index_t rest = k, column = 0, step = 1;
      bool inside = true;
      for (int a = s.axes - 1; a >= 0; --a) {
        const int t = at[a] - int(rest % s.kernel[a]) * s.dilation[a];
        rest /= s.kernel[a];
        inside = inside && t >= 0 && t % s.stride[a] == 0 && t / s.stride[a] < s.out[a];
        column += (t / s.stride[a]) * step;
        step *= s.out[a];
      }
      if (inside) sum += real(columns[(channel * taps + k) * step + column]);
    }
    x[i] = sum;
  }
}
