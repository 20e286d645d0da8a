// Convolution forward and backward-data with images in lanes: each output pixel is one product over the taps that
// reach it, so there are no columns, no padding and (backward) no scatter-add.
#pragma once
#include <vector>

#include "conv.h"
#include "lanes.h"

namespace core {

constexpr long LANE_STEP = 64;     // pixels of one task
constexpr long LANE_WINDOW = 64 * 1024;  // elements of input that a panel of weights passes over before the next one
constexpr long LANE_CHUNK = 2048;  // elements that one task turns into lanes

// For every pixel of the result the (tap, input pixel) pairs that it sums.
struct Reach {
    std::vector<Run> runs;
    std::vector<long> start;
};

static inline const Reach& forward_reach(const Shape& s) {
    static thread_local Reach reach;
    reach.runs.clear(), reach.start.assign(1, 0);
    for (long y = 0; y < s.oh; y++)
        for (long x = 0; x < s.ow; x++) {
            for (long i = 0; i < s.kh; i++)
                for (long j = 0; j < s.kw; j++) {
                    const long iy = y * s.sh + i * s.dh - s.ph, ix = x * s.sw + j * s.dw - s.pw;
                    if (iy >= 0 && iy < s.h && ix >= 0 && ix < s.w)
                        reach.runs.push_back({int(i * s.kw + j), int(iy * s.w + ix)});
                }
            reach.start.push_back(long(reach.runs.size()));
        }
    return reach;
}

static inline const Reach& backward_reach(const Shape& s) {
    static thread_local Reach reach;
    reach.runs.clear(), reach.start.assign(1, 0);
    for (long y = 0; y < s.h; y++)
        for (long x = 0; x < s.w; x++) {
            for (long i = 0; i < s.kh; i++) {
                const long oy = y + s.ph - i * s.dh;
                if (oy < 0 || oy % s.sh || oy / s.sh >= s.oh) continue;
                for (long j = 0; j < s.kw; j++) {
                    const long ox = x + s.pw - j * s.dw;
                    if (ox < 0 || ox % s.sw || ox / s.sw >= s.ow) continue;
                    reach.runs.push_back({int(i * s.kw + j), int(oy / s.sh * s.ow + ox / s.sw)});
                }
            }
            reach.start.push_back(long(reach.runs.size()));
        }
    return reach;
}

// One direction: `rows` channels per group come out of `depth` channels per group; weight (row, d, tap) lies at
// row * row_stride + d * depth_stride + tap.
struct LaneConv {
    long images, groups, rows, depth, taps, kh, kw, in_pixels, out_pixels, row_stride, depth_stride, group_stride;
};

static void lane_conv(const LaneConv& v, const Reach& reach, const real* in, const real* w, const real* bias, int relu,
                      real* out) {
    const long panels = ceil_div(v.rows, MR), batches = ceil_div(v.images, NR), k = v.taps * v.depth;
    const long in_image = v.groups * v.depth * v.in_pixels, out_image = v.groups * v.rows * v.out_pixels;
    const long in_lanes = in_image * NR, chunks = ceil_div(in_image, LANE_CHUNK);
    const long steps = v.out_pixels <= 2 * VL ? 1 : ceil_div(v.out_pixels, LANE_STEP);
    const long step = round_up(ceil_div(v.out_pixels, steps), steps == 1 ? 1 : VL);
    // Filters are shared out too where there are too few tasks; the sums of an output do not depend on that.
    const long places = batches * v.groups * steps;
    const long parts = least(panels, most(1l, ceil_div(4l * omp_get_max_threads(), places)));
    const bool threads = double(v.images) * v.rows * v.groups * double(reach.runs.size()) * v.depth > PARALLEL_WORK;
    const long block = most(4l, LANE_WINDOW / (v.depth * v.kh * NR) - v.kw);
    real* packed = scratch(SHARED_A, v.groups * v.rows * k);
    real* lanes = scratch(SHARED_X, batches * in_lanes);
    const LaneForm in_form{v.in_pixels, 1, v.depth};
#pragma omp parallel if (threads)
    {
#pragma omp for schedule(static) nowait
        for (long t = 0; t < v.groups * panels; t++) {
            const long g = t / panels, r0 = split(v.rows, panels, t % panels);
            const long rows = split(v.rows, panels, t % panels + 1) - r0;
            const real* from = w + g * v.group_stride;
            real* to = packed + (g * v.rows + r0) * k;
            for (long tap = 0; tap < v.taps; tap++)
                for (long d = 0; d < v.depth; d++, to += rows)
                    for (long r = 0; r < rows; r++) to[r] = from[(r0 + r) * v.row_stride + d * v.depth_stride + tap];
        }
#pragma omp for schedule(dynamic)
        for (long t = 0; t < batches * chunks; t++) {
            const long b = t / chunks, from = t % chunks * LANE_CHUNK, to = least(in_image, from + LANE_CHUNK);
            // Groups one after another, each [pixel][channel].
            for (long g = from / (v.depth * v.in_pixels); g * v.depth * v.in_pixels < to; g++) {
                const long base = g * v.depth * v.in_pixels, end = base + v.depth * v.in_pixels;
                to_lanes(in_form, in + b * NR * in_image + base, in_image, v.images - b * NR, most(from, base) - base,
                         least(to, end) - base, lanes + b * in_lanes + base * NR);
            }
        }
#pragma omp for schedule(dynamic)
        for (long t = 0; t < places * parts; t++) {
            const long place = t / parts, b = place / (v.groups * steps), g = place / steps % v.groups;
            const long p0 = place % steps * step, p1 = least(v.out_pixels, p0 + step), wide = p1 - p0;
            const long first = split(panels, parts, t % parts), last = split(panels, parts, t % parts + 1);
            const long begin = split(v.rows, panels, first), tall = split(v.rows, panels, last) - begin;
            if (wide <= 0) continue;
            const real* from = lanes + b * in_lanes + g * v.depth * v.in_pixels * NR;
            real* tile = scratch(OWN_TILE, wide * tall * NR);
            for (long q0 = p0; q0 < p1; q0 += block)
                for (long i = first; i < last; i++) {
                    const long r0 = split(v.rows, panels, i), rows = split(v.rows, panels, i + 1) - r0;
                    const Micro run = micro_for(rows, v.images - b * NR <= VL);
                    const real* a = packed + (g * v.rows + r0) * k;
                    Sink sink{tile + ((q0 - p0) * tall + r0 - begin) * NR, NR};
                    sink.bias = bias ? bias + g * v.rows + r0 : nullptr, sink.relu = relu;
                    for (long p = q0; p < least(p1, q0 + block); p++, sink.c += tall * NR)
                        run(reach.runs.data() + reach.start[p], reach.start[p + 1] - reach.start[p], v.depth, a, from,
                            sink);
                }
            real* y = out + b * NR * out_image + (g * v.rows + begin) * v.out_pixels;
            if (steps == 1)
                from_lanes({wide, 1, tall}, tile, 0, tall * wide, v.images - b * NR, y, out_image);
            else
                for (long r = 0; r < tall; r++)
                    from_lanes({wide, 0, tall}, tile + r * NR, 0, wide, v.images - b * NR, y + r * v.out_pixels + p0,
                               out_image);
        }
    }
}

static void lanes_forward(const Shape& s, const real* x, const real* w, const real* bias, int relu, real* y) {
    lane_conv({s.n, s.group, s.fg, s.cg, s.taps, s.kh, s.kw, s.h * s.w, s.pixels, s.depth, s.taps, s.fg * s.depth}, forward_reach(s), x, w, bias,
              relu, y);
}

static void lanes_data(const Shape& s, const real* dy, const real* w, real* dx) {
    lane_conv({s.n, s.group, s.cg, s.fg, s.taps, s.kh, s.kw, s.pixels, s.h * s.w, s.taps, s.depth, s.fg * s.depth}, backward_reach(s), dy, w,
              nullptr, 0, dx);
}

// Whether enough lanes are in use, and there is enough to do for each element that is turned.
static inline bool lanes_pay(const Shape& s) {
    const bool full = s.n * 10 >= round_up(s.n, VL) * 6;
    return full && !(s.pointwise() && s.pixels >= NR);
}

}  // namespace core
