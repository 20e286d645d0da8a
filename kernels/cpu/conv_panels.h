// Convolution forward with pixels in lanes, for large maps and small batches: columns are packed straight into the
// panels of the micro-kernel, which writes finished pixels (bias, ReLU) into NCHW.
#pragma once
#include "conv.h"

namespace core {

constexpr long PANEL_ROOM = 48 * 1024;  // elements of the panels that a task packs before it multiplies

// Where one panel's pixels lie: stretches of one output row.
struct PanelPiece {
    long to, from, count;
};

// Copies pixels as vectors; may read and write up to a vector too far (both buffers have slack, later pieces follow).
static CORE_INLINE void copy_pixels(real* to, const real* from, long count, long step) {
    if (step == 1) {
        store(to, load(from));
        for (long q = VL; q < count; q += VL) store(to + q, load(from + q));
    } else {
        for (long q = 0; q < count; q++) to[q] = from[q * step];
    }
}

// depth x NR columns for pixels [p0, p0 + cols) of an image held as cg x hp x wp.
static void pack_pixels(const Shape& s, const real* x, long hp, long wp, long p0, long cols, real* out) {
    PanelPiece pieces[NR];
    long count = 0;
    for (long done = 0; done < cols;) {
        const long y = (p0 + done) / s.ow, at = (p0 + done) % s.ow, run = least(cols - done, s.ow - at);
        pieces[count++] = {done, y * s.sh * wp + at * s.sw, run};
        done += run;
    }
    for (long ch = 0; ch < s.cg; ch++)
        for (long i = 0; i < s.kh; i++)
            for (long j = 0; j < s.kw; j++, out += NR) {
                const real* from = x + (ch * hp + i * s.dh) * wp + j * s.dw;
                for (long q = 0; q < count; q++)
                    copy_pixels(out + pieces[q].to, from + pieces[q].from, pieces[q].count, s.sw);
            }
}

static void panels_forward(const Shape& s, const real* x, const real* w, const real* bias, int relu, real* y) {
    const long hp = s.h + 2 * s.ph, wp = s.w + 2 * s.pw, rows_a = ceil_div(s.fg, MR);
    const long panels = ceil_div(s.pixels, NR), together = most(1l, least(panels, PANEL_ROOM / (s.depth * NR)));
    const long bundles = ceil_div(panels, together);
    // Few images: an image's bundles are tasks of their own; each then copies the image.
    const long pieces = s.n * s.group >= 16 ? 1 : least(bundles, 16l);
    const bool threads = double(s.n) * s.f * s.pixels * s.depth > PARALLEL_WORK;
    real* packed = scratch(SHARED_A, s.f * s.depth);
#pragma omp parallel if (threads)
    {
#pragma omp for schedule(static)
        for (long t = 0; t < s.group * rows_a; t++) {
            const long g = t / rows_a, r0 = split(s.fg, rows_a, t % rows_a), r1 = split(s.fg, rows_a, t % rows_a + 1);
            pack_rows({s.filter(w, g) + r0 * s.depth, s.depth, 1}, r1 - r0, s.depth,
                      packed + (g * s.fg + r0) * s.depth);
        }
#pragma omp for schedule(dynamic)
        for (long t = 0; t < s.n * s.group * pieces; t++) {
            const long n = t / (s.group * pieces), g = t / pieces % s.group, piece = t % pieces;
            real* in = scratch(SHARED_X, s.cg * hp * wp);
            real* cols = scratch(OWN_PANEL, together * NR * s.depth);
            const real* image = s.image(x, n, g);
            if (s.ph || s.pw) {
                std::memset(in, 0, size_t(s.cg * hp * wp) * sizeof(real));
                for (long r = 0; r < s.cg * s.h; r++)
                    std::memcpy(in + (r / s.h * hp + r % s.h + s.ph) * wp + s.pw, image + r * s.w,
                                size_t(s.w) * sizeof(real));
            } else {
                std::memcpy(in, image, size_t(s.cg * s.h * s.w) * sizeof(real));
            }
            alignas(VBYTES) real tile[MR * NR];
            for (long u = split(bundles, pieces, piece); u < split(bundles, pieces, piece + 1); u++) {
                const long first = split(panels, bundles, u), last = split(panels, bundles, u + 1);
                for (long j = first; j < last; j++)
                    pack_pixels(s, in, hp, wp, j * NR, least<long>(NR, s.pixels - j * NR),
                                cols + (j - first) * NR * s.depth);
                for (long i = 0; i < rows_a; i++) {
                    const long r0 = split(s.fg, rows_a, i), rows = split(s.fg, rows_a, i + 1) - r0;
                    const real* a = packed + (g * s.fg + r0) * s.depth;
                    for (long j = first; j < last; j++) {
                        const long wide = least<long>(NR, s.pixels - j * NR);
                        real* to = s.map(y, n, g) + r0 * s.pixels + j * NR;
                        Sink sink{wide == NR ? to : tile, wide == NR ? s.pixels : NR};
                        sink.bias = bias ? bias + g * s.fg + r0 : nullptr, sink.relu = relu;
                        run_tile(rows, s.depth, a, cols + (j - first) * NR * s.depth, sink);
                        for (long r = 0; r < rows && wide < NR; r++)
                            for (long q = 0; q < wide; q++) to[r * s.pixels + q] = tile[r * NR + q];
                    }
                }
            }
        }
    }
}

}  // namespace core
