// Convolution forward with pixels in lanes, for large maps and small batches: columns are packed straight into the
// panels of the micro-kernel, which writes finished pixels (bias, ReLU) into NCHW.
#pragma once
#include "conv.h"

namespace core {

constexpr long PANEL_ROOM = 48 * 1024;  // elements of the panels that a task packs before it multiplies

// A padded copy of some rows of an image, each sorted by column modulo the stride, so that the pixels under a tap lie
// side by side: [channel][row][phase][column / stride].
struct Phases {
    long rows, width, phases;  // width: columns of a phase
    Phases(const Shape& s, long count) : rows(count) {
        const long padded = s.w + 2 * s.pw;
        phases = least(s.sw, most(1l, padded));  // a stride beyond the row leaves one pixel of output
        width = ceil_div(padded, phases);
    }
    long pitch() const { return phases * width; }
    long at(long channel, long row, long column) const {
        return (channel * rows + row) * pitch() + column % phases * width + column / phases;
    }
    // Row 0 becomes row `top` of the padded image.
    void copy(const Shape& s, const real* image, long top, real* to) const {
        std::memset(to, 0, size_t(s.cg * rows * pitch()) * sizeof(real));
        const long first = most(0l, s.ph - top), last = least(rows, s.ph + s.h - top);
        for (long ch = 0; ch < s.cg; ch++)
            for (long r = first; r < last; r++) {
                const real* in = image + (ch * s.h + top + r - s.ph) * s.w;
                if (phases == 1)
                    std::memcpy(to + at(ch, r, s.pw), in, size_t(s.w) * sizeof(real));
                else
                    for (long phase = 0; phase < least(phases, s.w); phase++) {
                        real* out = to + at(ch, r, s.pw + phase);
                        for (long q = 0; q * phases + phase < s.w; q++) out[q] = in[q * phases + phase];
                    }
            }
    }
};

// Where one panel's pixels lie: stretches of one output row.
struct PanelPiece {
    long to, from, count;
};

// depth x NR columns for pixels [p0, p0 + cols) of an image in phases. Vectors may reach past a piece: both buffers have
// slack, and later pieces put right what is written too far.
static void pack_pixels(const Shape& s, const Phases& v, const real* x, long p0, long cols, real* out) {
    PanelPiece pieces[NR];
    long count = 0;
    for (long done = 0; done < cols;) {
        const long y = (p0 + done) / s.ow, at = (p0 + done) % s.ow, run = least(cols - done, s.ow - at);
        pieces[count++] = {done, y * s.sh * v.pitch() + at, run};
        done += run;
    }
    for (long ch = 0; ch < s.cg; ch++)
        for (long i = 0; i < s.kh; i++)
            for (long j = 0; j < s.kw; j++, out += NR) {
                const real* from = x + v.at(ch, i * s.dh, j * s.dw);
                for (long q = 0; q < count; q++)
                    for (long p = 0; p < pieces[q].count; p += VL)
                        store(out + pieces[q].to + p, load(from + pieces[q].from + p));
            }
}

static void panels_forward(const Shape& s, const real* x, const real* w, const real* bias, int relu, real* y) {
    const Phases phases(s, s.h + 2 * s.ph);
    const long rows_a = ceil_div(s.fg, MR);
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
            real* in = scratch(SHARED_X, s.cg * phases.rows * phases.pitch());
            real* cols = scratch(OWN_PANEL, together * NR * s.depth);
            phases.copy(s, s.image(x, n, g), 0, in);
            alignas(VBYTES) real tile[MR * NR];
            for (long u = split(bundles, pieces, piece); u < split(bundles, pieces, piece + 1); u++) {
                const long first = split(panels, bundles, u), last = split(panels, bundles, u + 1);
                for (long j = first; j < last; j++)
                    pack_pixels(s, phases, in, j * NR, least<long>(NR, s.pixels - j * NR),
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
