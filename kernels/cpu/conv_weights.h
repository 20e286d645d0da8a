// Weight gradient with images in lanes: dw[f][k] = sum over images and pixels of dy[f] * x[k], kept in registers for a
// tile of filters times taps; the lanes are summed once, at the end. No columns are made.
#pragma once
#include "conv_lanes.h"

namespace core {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int WF = 5, WK = 5;  // filters times taps of a register tile
#else
constexpr int WF = 4, WK = 3;
#endif

// Rows of output pixels that a tile sums over.
struct WeightRows {
    long rows, ow;           // how many rows, pixels of each
    long dy_filter, dy_row;  // strides of dy
    long x_row, x_pixel;     // strides of x per output row and pixel
    long batches = 1, dy_batch = 0, x_batch = 0;
    bool narrow = false;  // only the first VL images count
};

typedef void (*WeightTile)(const WeightRows& v, const real* dy, const real* x, const long* taps, real* sums);

// sums (F x K vectors) += over pixels of dy * x.
template <int F, int K>
static void weight_tile(const WeightRows& v, const real* dy, const real* x, const long* taps, real* sums) {
    vec s[F][K];
#pragma GCC unroll 8
    for (int f = 0; f < F; f++)
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) s[f][k] = *(const vec*)(sums + (f * K + k) * VL);
    for (long b = 0, r = 0; b < v.batches; r + 1 < v.rows ? r++ : (r = 0, b++)) {
        const real* xs[K];
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) xs[k] = x + taps[k] + b * v.x_batch + r * v.x_row;
        const real* d = dy + b * v.dy_batch + r * v.dy_row;
        // One vector a turn: two would be re-associated into more additions.
        const int both = !v.narrow;
        for (long q = 0; q < v.ow << both; q++) {
            const long at = (q >> both) * v.x_pixel + (q & both) * VL, to = (q >> both) * NR + (q & both) * VL;
            vec xv[K];
#pragma GCC unroll 8
            for (int k = 0; k < K; k++) xv[k] = *(const vec*)(xs[k] + at);
#pragma GCC unroll 8
            for (int f = 0; f < F; f++) {
                const vec dv = *(const vec*)(d + to + f * v.dy_filter);
#pragma GCC unroll 8
                for (int k = 0; k < K; k++) s[f][k] += dv * xv[k];
            }
        }
    }
#pragma GCC unroll 8
    for (int f = 0; f < F; f++)
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) *(vec*)(sums + (f * K + k) * VL) = s[f][k];
}

template <int... I> static WeightTile pick_weight_tile(long f, long k, std::integer_sequence<int, I...>) {
    static constexpr WeightTile table[] = {weight_tile<I / WK + 1, I % WK + 1>...};
    return table[(f - 1) * WK + k - 1];
}

static inline real lane_sum(const real* v) {
    real s = 0;
    for (int l = 0; l < VL; l++) s += v[l];
    return s;
}

// The grid of register tiles over one group's filters x depth matrix.
struct WeightGrid {
    static constexpr long TILE = WF * WK * VL;  // room for the sums of one tile
    const Shape& s;
    long f_tiles, k_tiles;
    const std::vector<long>& taps;  // offset in x (lane form) of each column
    // channel, width: strides of x, in vectors of NR.
    WeightGrid(const Shape& shape, long channel, long width)
        : s(shape), f_tiles(ceil_div(s.fg, WF)), k_tiles(ceil_div(s.depth, WK)), taps(offsets(shape, channel, width)) {}
    static const std::vector<long>& offsets(const Shape& s, long channel, long width) {
        static thread_local std::vector<long> list;
        list.clear();
        for (long ch = 0; ch < s.cg; ch++)
            for (long i = 0; i < s.kh; i++)
                for (long j = 0; j < s.kw; j++) list.push_back((ch * channel + i * s.dh * width + j * s.dw) * NR);
        return list;
    }
    long filter(long i) const { return split(s.fg, f_tiles, i); }
    long column(long i) const { return split(s.depth, k_tiles, i); }

    // Adds the rows `v` of dy (filter 0 of the group) and x (channel 0) to the sums of tiles [f0, f1) x [k0, k1).
    void add(const WeightRows& v, const real* dy, const real* x, long f0, long f1, long k0, long k1, real* sums) const {
        for (long i = f0; i < f1; i++)
            for (long j = k0; j < k1; j++, sums += TILE) {
                const long first = column(j), count = column(j + 1) - first;
                pick_weight_tile(filter(i + 1) - filter(i), count, std::make_integer_sequence<int, WF * WK>())(
                    v, dy + filter(i) * v.dy_filter, x, taps.data() + first, sums);
            }
    }

    // to[f * depth + k] += sums over lanes.
    void finish(const real* sums, long f0, long f1, long k0, long k1, real* to) const {
        for (long i = f0; i < f1; i++)
            for (long j = k0; j < k1; j++, sums += TILE) {
                const real* v = sums;
                for (long f = filter(i); f < filter(i + 1); f++)
                    for (long k = column(j); k < column(j + 1); k++, v += VL) to[f * s.depth + k] += lane_sum(v);
            }
    }
};

// Sum of `count` pixels of dy in lane form.
static inline real lane_total(const real* d, long count) {
    vec lo{}, hi{};
    for (long p = 0; p < count; p++, d += NR) lo += *(const vec*)d, hi += *(const vec*)(d + VL);
    alignas(VBYTES) real sum[VL];
    *(vec*)sum = lo + hi;
    return lane_sum(sum);
}

// Few weights, large maps (first layers): a task turns some rows into lanes, uses them while they are in its cache and
// keeps its own sums; the fixed number of partial results is added in order.
static void near_weights(const Shape& s, long rows, const real* x, const real* dy, real* dw, real* db) {
    const long wp = s.w + 2 * s.pw, in_rows = (rows - 1) * s.sh + (s.kh - 1) * s.dh + 1;
    const long x_channel = in_rows * wp | 1, y_channel = rows * s.ow | 1;
    const long x_image = s.c * s.h * s.w, y_image = s.f * s.pixels, weights = s.fg * s.depth;
    const long batches = ceil_div(s.n, NR), chunks = ceil_div(s.oh, rows);
    const long ranges = least(chunks, most(1l, 16 / batches)), parts = batches * ranges;
    const WeightGrid grid(s, x_channel, wp);
    const long room = grid.f_tiles * grid.k_tiles * WeightGrid::TILE, part_size = weights + s.fg;
    const bool threads = double(s.n) * s.f * s.pixels * s.depth > PARALLEL_WORK;
    real* partial = scratch(SHARED_X, s.group * parts * part_size);
#pragma omp parallel if (threads)
    {
#pragma omp for schedule(dynamic)
        for (long t = 0; t < s.group * parts; t++) {
            const long g = t / parts, b = t % parts / ranges, range = t % ranges, images = s.n - b * NR;
            real* xl = scratch(OWN_PANEL, s.cg * x_channel * NR);
            real* yl = scratch(OWN_TILE, s.fg * y_channel * NR);
            real* sums = scratch(OWN_SUM, room);
            real* mine = partial + t * part_size;
            std::memset(sums, 0, size_t(room) * sizeof(real));
            std::memset(mine, 0, size_t(part_size) * sizeof(real));
            for (long chunk = split(chunks, ranges, range); chunk < split(chunks, ranges, range + 1); chunk++) {
                const long y0 = chunk * rows, top = y0 * s.sh - s.ph;
                WeightRows v{least(rows, s.oh - y0), s.ow, y_channel * NR, s.ow * NR, s.sh * wp * NR, s.sw * NR};
                v.narrow = images <= VL;
                const long i0 = most(0l, top), i1 = least(s.h, top + in_rows), wide = v.rows * s.ow;
                if (s.pw || i0 != top || i1 != top + in_rows)
                    std::memset(xl, 0, size_t(s.cg * x_channel * NR) * sizeof(real));
                for (long ch = 0; ch < s.cg && i1 > i0; ch++)
                    to_lanes({(i1 - i0) * s.w, 0, 1, s.pw ? s.w : 0, wp, (i0 - top) * wp + s.pw},
                             s.image(x, b * NR, g) + (ch * s.h + i0) * s.w, x_image, images, 0, (i1 - i0) * s.w,
                             xl + ch * x_channel * NR);
                for (long f = 0; f < s.fg; f++) {
                    to_lanes({wide, 0, 1}, s.map(dy, b * NR, g) + f * s.pixels + y0 * s.ow, y_image, images, 0, wide,
                             yl + f * y_channel * NR, f + 1 < s.fg ? s.pixels * 2 : 2 * VL);
                    if (db) mine[weights + f] += lane_total(yl + f * y_channel * NR, wide);
                }
                grid.add(v, yl, xl, 0, grid.f_tiles, 0, grid.k_tiles, sums);
            }
            grid.finish(sums, 0, grid.f_tiles, 0, grid.k_tiles, mine);
        }
#pragma omp for schedule(static)
        for (long f = 0; f < s.f; f++) {
            const long g = f / s.fg, row = f % s.fg;
            for (long part = 0; part < parts; part++) {
                const real* from = partial + (g * parts + part) * part_size;
                for (long k = 0; k < s.depth; k++) dw[f * s.depth + k] += from[row * s.depth + k];
                if (db) db[f] += from[weights + row];
            }
        }
    }
}

// Many weights, small maps: everything in lanes at once, a task owns some filters and taps.
static void far_weights(const Shape& s, const real* x, const real* dy, real* dw, real* db) {
    const long hp = s.h + 2 * s.ph, wp = s.w + 2 * s.pw, batches = ceil_div(s.n, NR);
    const bool padded = s.ph || s.pw;
    const LaneForm xf{s.h * s.w, hp * wp | 1, 1, padded ? s.w : 0, wp, s.ph * wp + s.pw};
    const LaneForm yf{s.pixels, s.pixels | 1, 1};
    const long x_image = s.c * s.h * s.w, y_image = s.f * s.pixels;
    const long x_lanes = s.c * xf.channel * NR, y_lanes = s.f * yf.channel * NR;
    const long x_chunks = ceil_div(x_image, LANE_CHUNK), y_chunks = ceil_div(y_image, LANE_CHUNK);
    const WeightGrid grid(s, xf.channel, wp);
    const long k_parts = least(grid.k_tiles, most(1l, ceil_div(32, grid.f_tiles * s.group)));
    // About 64 pixels at a time: rows of one batch, or whole maps of several.
    const long step = least(s.oh, most(1l, 64 / s.ow));
    const long several = step < s.oh ? 1 : least(batches, most(1l, 64 / s.pixels));
    const bool threads = double(s.n) * s.f * s.pixels * s.depth > PARALLEL_WORK;
    real* xl = scratch(SHARED_X, batches * x_lanes);
    real* yl = scratch(SHARED_Y, batches * y_lanes);
#pragma omp parallel if (threads)
    {
        if (padded) {
#pragma omp for schedule(static)
            for (long t = 0; t < batches * s.c; t++)
                std::memset(xl + t * xf.channel * NR, 0, size_t(xf.channel * NR) * sizeof(real));
        }
#pragma omp for schedule(dynamic) nowait
        for (long t = 0; t < batches * x_chunks; t++) {
            const long b = t / x_chunks, from = t % x_chunks * LANE_CHUNK;
            to_lanes(xf, x + b * NR * x_image, x_image, s.n - b * NR, from, least(x_image, from + LANE_CHUNK),
                     xl + b * x_lanes);
        }
#pragma omp for schedule(dynamic)
        for (long t = 0; t < batches * y_chunks; t++) {
            const long b = t / y_chunks, from = t % y_chunks * LANE_CHUNK;
            to_lanes(yf, dy + b * NR * y_image, y_image, s.n - b * NR, from, least(y_image, from + LANE_CHUNK),
                     yl + b * y_lanes);
        }
#pragma omp for schedule(dynamic) nowait
        for (long t = 0; t < s.group * grid.f_tiles * k_parts; t++) {
            const long g = t / (grid.f_tiles * k_parts), fi = t / k_parts % grid.f_tiles, part = t % k_parts;
            const long first = split(grid.k_tiles, k_parts, part), last = split(grid.k_tiles, k_parts, part + 1);
            const long room = (last - first) * WeightGrid::TILE;
            real* sums = scratch(OWN_SUM, room);
            std::memset(sums, 0, size_t(room) * sizeof(real));
            const long full = s.n % NR && s.n % NR <= VL ? batches - 1 : batches;  // batches of more than VL images
            for (long b = 0; b < batches; b = b < full ? least(full, b + several) : b + 1)
                for (long y0 = 0; y0 < s.oh; y0 += step) {
                    WeightRows v{least(step, s.oh - y0), s.ow, yf.channel * NR, s.ow * NR, s.sh * wp * NR, s.sw * NR};
                    v.batches = b < full ? least(several, full - b) : 1, v.dy_batch = y_lanes, v.x_batch = x_lanes;
                    v.narrow = b >= full;
                    grid.add(v, yl + b * y_lanes + (g * s.fg * yf.channel + y0 * s.ow) * NR,
                             xl + b * x_lanes + (g * s.cg * xf.channel + y0 * s.sh * wp) * NR, fi, fi + 1, first, last,
                             sums);
                }
            grid.finish(sums, fi, fi + 1, first, last, s.filter(dw, g));
        }
        if (db) {
#pragma omp for schedule(dynamic) nowait
            for (long f = 0; f < s.f; f++)
                for (long b = 0; b < batches; b++)
                    db[f] += lane_total(yl + b * y_lanes + f * yf.channel * NR, s.pixels);
        }
    }
}

// Rows of output pixels that near_weights takes at a time; 0 where it does not pay.
static inline long near_rows(const Shape& s) {
    long rows = most(1l, least(s.oh, 4096 / (s.fg * s.ow)));
    for (long fewer = rows; fewer > rows / 2; fewer--)  // whole vectors of pixels, if there are such
        if (fewer * s.ow % VL == 0) {
            rows = fewer;
            break;
        }
    const long in_rows = (rows - 1) * s.sh + (s.kh - 1) * s.dh + 1;
    const bool near = s.fg * s.depth <= 8192 && rows * s.ow >= 2 * VL && s.cg * in_rows * (s.w + 2 * s.pw) <= 2048 &&
                      rows < s.oh;
    return near ? rows : 0;
}

}  // namespace core
