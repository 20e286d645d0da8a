// Weight gradient for few channels (first layers): columns x pixels times pixels x filters, some rows of one image at a
// time, so that columns exist only as panels in the innermost cache. The fixed number of partial sums is added in order.
#pragma once
#include "conv_panels.h"

namespace core {

constexpr long COLUMN_PIXELS = 256;  // output pixels of one product
constexpr long COLUMN_PARTS = 16;    // partial sums
constexpr int MR_VECTORS = (MR + VL - 1) / VL;

// `pixels` x `rows` panel of the columns that start at from[0 ...], for `count` rows of output pixels that lie `pitch`
// apart. Vectors write too far; what comes later puts it right (the panel has slack for the end).
static inline void pack_column_panel(const real* const* from, long rows, long count, long ow, long pitch, real* out) {
    for (long y = 0; y < count; y++, out += ow * rows)
        for (long x = 0; x < ow; x += VL) {
            vec r[MR_VECTORS][VL];
            for (long v = 0; v * VL < rows; v++) {
                for (long q = 0; q < VL; q++)
                    r[v][q] = v * VL + q < rows ? load(from[v * VL + q] + y * pitch + x) : vec{};
                transpose(r[v]);
            }
            for (long q = 0; q < VL; q++)
                for (long v = 0; v * VL < rows; v++) store(out + (x + q) * rows + v * VL, r[v][q]);
        }
}

// Whether there are few channels, and enough filters to make up for the packing.
static inline bool columns_pay(const Shape& s) {
    return s.cg <= 8 && s.depth >= MR && s.fg >= 48 && s.fg * s.depth <= 64 * 1024 && s.n * s.pixels >= 4 * COLUMN_PIXELS;
}

static void column_weights(const Shape& s, const real* x, const real* dy, real* dw, real* db) {
    const long panels = ceil_div(s.depth, MR), blocks = ceil_div(s.fg, NR);
    const long chunks = ceil_div(s.pixels, COLUMN_PIXELS) > s.oh ? s.oh : ceil_div(s.pixels, COLUMN_PIXELS);
    const long rows = ceil_div(s.oh, chunks), steps = s.n * chunks, parts = least(steps, COLUMN_PARTS);
    const Phases phases(s, (rows - 1) * s.sh + (s.kh - 1) * s.dh + 1);
    const long panel_size = blocks * MR * NR, part_size = (panels * MR + 1) * blocks * NR;
    const bool threads = double(s.n) * s.f * s.pixels * s.depth > PARALLEL_WORK;
    real* partial = scratch(SHARED_Y, s.group * parts * part_size);
#pragma omp parallel if (threads)
    {
#pragma omp for schedule(dynamic)
        for (long t = 0; t < s.group * parts; t++) {
            const long g = t / parts, part = t % parts;
            real* in = scratch(SHARED_X, s.cg * phases.rows * phases.pitch());
            real* lanes = scratch(OWN_PANEL, blocks * rows * s.ow * NR);
            real* panel = scratch(OWN_TILE, (rows * s.ow + VL) * MR);
            real* sums = partial + t * part_size;
            real* bias = sums + panels * panel_size;
            std::memset(sums, 0, size_t(part_size) * sizeof(real));
            for (long step = split(steps, parts, part); step < split(steps, parts, part + 1); step++) {
                const long n = step / chunks, y0 = split(s.oh, chunks, step % chunks);
                const long count = split(s.oh, chunks, step % chunks + 1) - y0, pixels = count * s.ow;
                phases.copy(s, s.image(x, n, g), y0 * s.sh, in);
                for (long block = 0; block < blocks; block++) {
                    real* to = lanes + block * pixels * NR;
                    to_lanes({pixels, 0, 1}, s.map(dy, n, g) + block * NR * s.pixels + y0 * s.ow, s.pixels,
                             s.fg - block * NR, 0, pixels, to);
                    vec low{}, high{};
                    for (long p = 0; p < pixels; p++)
                        low += *(const vec*)(to + p * NR), high += *(const vec*)(to + p * NR + VL);
                    *(vec*)(bias + block * NR) += low;
                    *(vec*)(bias + block * NR + VL) += high;
                }
                for (long i = 0; i < panels; i++) {
                    const long k0 = split(s.depth, panels, i), tall = split(s.depth, panels, i + 1) - k0;
                    const real* from[MR];
                    for (long r = 0; r < tall; r++) {
                        const long k = k0 + r, tap = k % s.taps;
                        from[r] = in + phases.at(k / s.taps, tap / s.kw * s.dh, tap % s.kw * s.dw);
                    }
                    pack_column_panel(from, tall, count, s.ow, s.sh * phases.pitch(), panel);
                    for (long block = 0; block < blocks; block++)
                        micro_for(tall, s.fg - block * NR <= VL)(&WHOLE, 1, pixels, panel, lanes + block * pixels * NR,
                                                                 {sums + i * panel_size + block * MR * NR, NR, 1, 1});
                }
            }
        }
#pragma omp for schedule(static)
        for (long t = 0; t < s.group * panels; t++) {
            const long g = t / panels, i = t % panels, k0 = split(s.depth, panels, i);
            real* total = partial + g * parts * part_size;
            for (long part = 1; part < parts; part++)
                for (long e = i * panel_size; e < (i + 1) * panel_size; e++) total[e] += total[part * part_size + e];
            for (long k = k0; k < split(s.depth, panels, i + 1); k++)
                for (long f = 0; f < s.fg; f++)
                    s.filter(dw, g)[f * s.depth + k] += total[i * panel_size + (f / NR * MR + k - k0) * NR + f % NR];
        }
    }
    for (long f = 0; db && f < s.f; f++) {
        const real* sums = partial + f / s.fg * parts * part_size + panels * panel_size + f % s.fg;
        for (long part = 0; part < parts; part++) db[f] += sums[part * part_size];
    }
}

}  // namespace core
