// 2-D convolution: shapes, and the plain im2col path that takes every parameter.
#pragma once
#include "gemm.h"

extern "C" struct conv2d {
    long n, c, h, w, f, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, group;
};

namespace core {

// One group of a convolution.
struct Shape : conv2d {
    long cg, fg, taps, depth, pixels;  // channels and filters of a group, kh * kw, cg * taps, oh * ow
    explicit Shape(const conv2d& s) : conv2d(s) {
        cg = c / group, fg = f / group, taps = kh * kw, depth = cg * taps, pixels = oh * ow;
    }
    bool pointwise() const { return taps == 1 && sh == 1 && sw == 1 && ph == 0 && pw == 0; }
    const real* image(const real* x, long i, long g) const { return x + (i * c + g * cg) * h * w; }
    real* image(real* x, long i, long g) const { return x + (i * c + g * cg) * h * w; }
    template <class T> T* map(T* y, long i, long g) const { return y + (i * f + g * fg) * pixels; }
    template <class T> T* filter(T* w_, long g) const { return w_ + g * fg * depth; }
};

// Calls body(column row, output offset, input offset, count) for each run of output pixels whose input lies inside;
// within a run the input advances by sw.
template <class Body> static inline void for_runs(const Shape& s, long channel, Body body) {
    for (long i = 0; i < s.kh; i++)
        for (long j = 0; j < s.kw; j++) {
            const long row = (channel * s.kh + i) * s.kw + j, left = j * s.dw - s.pw;
            const long first = left >= 0 ? 0 : ceil_div(-left, s.sw);
            const long last = least(s.ow, s.w > left ? ceil_div(s.w - left, s.sw) : 0);
            if (last <= first) continue;
            for (long y = 0; y < s.oh; y++) {
                const long iy = y * s.sh + i * s.dh - s.ph;
                if (iy < 0 || iy >= s.h) continue;
                body(row, y * s.ow + first, (channel * s.h + iy) * s.w + first * s.sw + left, last - first);
            }
        }
}

static inline void im2col(const Shape& s, const real* x, real* col) {
#pragma omp parallel for if (s.depth * s.pixels > 100000)
    for (long ch = 0; ch < s.cg; ch++) {
        real* to = col + ch * s.taps * s.pixels;
        std::memset(to, 0, size_t(s.taps * s.pixels) * sizeof(real));
        for_runs(s, ch, [&](long row, long out, long in, long count) {
            for (long q = 0; q < count; q++) col[row * s.pixels + out + q] = x[in + q * s.sw];
        });
    }
}

static inline void col2im(const Shape& s, const real* col, real* x) {
#pragma omp parallel for if (s.depth * s.pixels > 100000)
    for (long ch = 0; ch < s.cg; ch++) {
        std::memset(x + ch * s.h * s.w, 0, size_t(s.h * s.w) * sizeof(real));
        for_runs(s, ch, [&](long row, long out, long in, long count) {
            for (long q = 0; q < count; q++) x[in + q * s.sw] += col[row * s.pixels + out + q];
        });
    }
}

// The two gradients image by image; 1x1 convolutions need no columns.
static void plain_data(const Shape& s, const real* dy, const real* w, real* dx) {
    real* col = s.pointwise() ? nullptr : scratch(SHARED_X, s.depth * s.pixels);
    for (long i = 0; i < s.n; i++)
        for (long g = 0; g < s.group; g++) {
            real* image = s.image(dx, i, g);
            gemm(s.depth, s.pixels, s.fg, 1, {s.filter(w, g), 1, s.depth}, {s.map(dy, i, g), s.pixels, 1}, 0,
                 col ? col : image, s.pixels);
            if (col) col2im(s, col, image);
        }
}

static void plain_weights(const Shape& s, const real* x, const real* dy, real* dw) {
    real* col = s.pointwise() ? nullptr : scratch(SHARED_X, s.depth * s.pixels);
    for (long i = 0; i < s.n; i++)
        for (long g = 0; g < s.group; g++) {
            const real* image = s.image(x, i, g);
            if (col) im2col(s, image, col);
            gemm(s.fg, s.depth, s.pixels, 1, {s.map(dy, i, g), s.pixels, 1}, {col ? col : image, 1, s.pixels}, 1,
                 s.filter(dw, g), s.depth);
        }
}

static void bias_gradient(const Shape& s, const real* dy, real* db) {
#pragma omp parallel for if (s.n * s.f * s.pixels > 100000)
    for (long k = 0; k < s.f; k++) {
        real sum = 0;
        for (long i = 0; i < s.n; i++) {
            real part = 0;
            for (long p = 0; p < s.pixels; p++) part += dy[(i * s.f + k) * s.pixels + p];
            sum += part;
        }
        db[k] += sum;
    }
}

}  // namespace core
