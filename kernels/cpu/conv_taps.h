// Weight gradient as one product per tap: the sum runs over output pixels and images, x and dy lie as [pixel][image]
// [channels], so that every (output pixel, input pixel) pair of a tap is a run of images for the micro-kernel. There
// are no columns and no padding, and strides cost nothing.
#pragma once
#include "conv_lanes.h"

namespace core {

constexpr long TAP_IMAGES = 16;        // images of a run
constexpr long TAP_CHUNK = 48 * 1024;  // elements of a block that all panels and taps pass over before the next chunk

// One side of the product. The wide one's channels are the columns of the micro-kernel, in blocks of NR; the tall one's
// are its rows, in panels of at most MR. Both: [group][block or panel][batch][pixel][image][channel].
struct TapSide {
    const real* from;
    long channels, pixels;  // of one group's map
    real* packed = nullptr;
    const real* image(const Shape& s, long n, long g) const { return from + (n * s.group + g) * channels * pixels; }
};

// The (tall, wide) pairs of pixels of each tap, by rows of output pixels.
struct TapRuns {
    std::vector<Run> runs;
    std::vector<long> start;  // of (tap, output row)
};

static inline const TapRuns& tap_runs(const Shape& s, bool x_wide) {
    static thread_local TapRuns list;
    list.runs.clear(), list.start.assign(1, 0);
    for (long i = 0; i < s.kh; i++)
        for (long j = 0; j < s.kw; j++)
            for (long y = 0; y < s.oh; y++) {
                const long iy = y * s.sh + i * s.dh - s.ph;
                for (long x = 0; x < s.ow && iy >= 0 && iy < s.h; x++) {
                    const long ix = x * s.sw + j * s.dw - s.pw;
                    if (ix < 0 || ix >= s.w) continue;
                    const int out = int(y * s.ow + x), in = int(iy * s.w + ix);
                    list.runs.push_back(x_wide ? Run{out, in} : Run{in, out});
                }
                list.start.push_back(long(list.runs.size()));
            }
    return list;
}

// `rows` channels of one image to out[pixel * step + channel]. A vector may be wider than the panel and spoil what later
// images then put right; `room` is how much of a pixel's place is theirs.
static inline void pack_panel(const real* from, long pixels, long rows, long step, long room, real* out) {
    long p = 0;
    for (; p + VL <= pixels; p += VL)
        for (long i = 0; i < rows; i += VL) {
            const long live = least<long>(VL, rows - i);
            vec r[VL];
            for (long q = 0; q < VL; q++) r[q] = q < live ? load(from + (i + q) * pixels + p) : vec{};
            transpose(r);
            for (long q = 0; q < VL; q++) {
                if (room - i >= VL)
                    store(out + (p + q) * step + i, r[q]);
                else
                    std::memcpy(out + (p + q) * step + i, &r[q], size_t(live) * sizeof(real));
            }
        }
    for (; p < pixels; p++)
        for (long i = 0; i < rows; i++) out[p * step + i] = from[i * pixels + p];
}

// Vectors' worth of multiply-adds with this side wide.
static inline long tap_cost(long wide, long tall) { return round_up(wide, VL) * (tall + ceil_div(tall, MR)); }

// Whether few lanes stay empty and panels are tall enough: else (depthwise, few channels) images in lanes are faster.
static inline bool taps_pay(const Shape& s) {
    return s.n >= 4 && 10 * least(tap_cost(s.cg, s.fg), tap_cost(s.fg, s.cg)) <= 13 * s.cg * s.fg;
}

static void tap_weights(const Shape& s, const real* x, const real* dy, real* dw, real* db) {
    const bool x_wide = tap_cost(s.cg, s.fg) <= tap_cost(s.fg, s.cg);
    const TapRuns& list = tap_runs(s, x_wide);
    TapSide wide{x, s.cg, s.h * s.w}, tall{dy, s.fg, s.pixels};
    if (!x_wide) std::swap(wide, tall);
    const long blocks = ceil_div(wide.channels, NR), panels = ceil_div(tall.channels, MR);
    const long batches = ceil_div(s.n, TAP_IMAGES), tile_size = MR * NR;
    const long row = ceil_div(wide.pixels, s.oh) * ceil_div(s.n, batches) * NR;  // of a block, per row of output pixels
    const long chunks = least(s.oh, ceil_div(s.oh * row, TAP_CHUNK));
    const long parts = least(panels, most(1l, ceil_div(4l * omp_get_max_threads(), s.group * blocks)));
    const bool threads = double(s.n) * s.f * s.pixels * s.depth > PARALLEL_WORK;
    wide.packed = scratch(SHARED_X, s.group * blocks * s.n * wide.pixels * NR);
    tall.packed = scratch(SHARED_Y, s.group * s.n * tall.channels * tall.pixels);
    const auto first_image = [&](long b) { return split(s.n, batches, b); };
    const auto first_row = [&](long panel) { return split(tall.channels, panels, panel); };
    const auto block_at = [&](long g, long block, long b) {
        return wide.packed + ((g * blocks + block) * s.n + first_image(b)) * wide.pixels * NR;
    };
    const auto panel_at = [&](long g, long panel, long b) {
        const long r0 = first_row(panel), rows = first_row(panel + 1) - r0;
        return tall.packed + ((g * tall.channels + r0) * s.n + first_image(b) * rows) * tall.pixels;
    };
#pragma omp parallel if (threads)
    {
#pragma omp for schedule(dynamic) nowait
        for (long t = 0; t < s.group * blocks * batches; t++) {
            const long g = t / (blocks * batches), block = t / batches % blocks, b = t % batches;
            const long images = first_image(b + 1) - first_image(b);
            const LaneForm form{wide.pixels, 0, images};
            for (long i = 0; i < images; i++)
                to_lanes(form, wide.image(s, first_image(b) + i, g) + block * NR * wide.pixels, wide.pixels,
                         wide.channels - block * NR, 0, wide.pixels, block_at(g, block, b) + i * NR);
        }
#pragma omp for schedule(dynamic)
        for (long t = 0; t < s.group * panels * batches; t++) {
            const long g = t / (panels * batches), panel = t / batches % panels, b = t % batches;
            const long images = first_image(b + 1) - first_image(b);
            const long r0 = first_row(panel), rows = first_row(panel + 1) - r0;
            for (long i = 0; i < images; i++)
                pack_panel(tall.image(s, first_image(b) + i, g) + r0 * tall.pixels, tall.pixels, rows, images * rows,
                           (images - i) * rows, panel_at(g, panel, b) + i * rows);
        }
#pragma omp for schedule(dynamic)
        for (long t = 0; t < s.group * blocks * parts; t++) {
            const long g = t / (blocks * parts), block = t / parts % blocks, part = t % parts;
            const long first = split(panels, parts, part), last = split(panels, parts, part + 1);
            const long live = least<long>(NR, wide.channels - block * NR);
            real* sums = scratch(OWN_SUM, (last - first) * s.taps * tile_size);
            for (long u = 0; u < batches * chunks; u++) {
                const long b = u / chunks, images = first_image(b + 1) - first_image(b);
                const long y0 = split(s.oh, chunks, u % chunks), y1 = split(s.oh, chunks, u % chunks + 1);
                Sink sink{sums, NR, 1, real(u > 0)};
                for (long i = first; i < last; i++) {
                    const Micro run = micro_for(first_row(i + 1) - first_row(i), live <= VL);
                    for (long tap = 0; tap < s.taps; tap++, sink.c += tile_size) {
                        const long from = list.start[tap * s.oh + y0], to = list.start[tap * s.oh + y1];
                        run(list.runs.data() + from, to - from, images, panel_at(g, i, b), block_at(g, block, b), sink);
                    }
                }
            }
            const long by_row = (x_wide ? s.cg : 1) * s.taps, by_column = (x_wide ? 1 : s.cg) * s.taps;
            for (long r = first_row(first); r < first_row(last); r++) {
                long panel = first;
                while (first_row(panel + 1) <= r) panel++;
                const real* tile = sums + ((panel - first) * s.taps * MR + r - first_row(panel)) * NR;
                real* to = s.filter(dw, g) + r * by_row + block * NR * by_column;
                for (long c = 0; c < live; c++)
                    for (long tap = 0; tap < s.taps; tap++) to[c * by_column + tap] += tile[tap * tile_size + c];
            }
        }
    }
    if (db) bias_gradient(s, dy, db);
}

}  // namespace core
