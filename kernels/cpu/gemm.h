// Packing GEMM, row-major: C = alpha op(A) op(B) + beta C.
#pragma once
#include "lanes.h"
#include "micro.h"

namespace core {

constexpr long KC = 256;                // depth of a packed panel
constexpr long MC = 10 * MR;            // rows that one task takes
constexpr long NC = 64 * NR;            // columns packed at a time
constexpr long TOGETHER = 8;            // panels of B that a task of gemm_few_rows packs at a time
constexpr long FLAT = 64;               // depth up to which C is passed over in rows
constexpr double PARALLEL_WORK = 4e5;   // multiply-adds below which threads do not pay

// A matrix that is read at (row, column) through two strides.
struct View {
    const real* p;
    long rs, cs;
    const real* at(long r, long c) const { return p + r * rs + c * cs; }
};

// out[p * width + i] = from[i * stride + p]: `rows` rows of k values side by side.
static void pack_across(const real* from, long stride, long rows, long k, long width, real* out) {
    long p = 0;
    for (; p + VL <= k; p += VL) {
        real* to = out + p * width;
        long i = 0;
        for (; i < rows; i += VL) {
            const long live = least<long>(VL, rows - i);
            vec r[VL];
            for (long q = 0; q < VL; q++) r[q] = q < live ? load(from + (i + q) * stride + p) : vec{};
            transpose(r);
            if (i + VL <= width) {
#pragma GCC unroll 16
                for (int q = 0; q < VL; q++) store(to + q * width + i, r[q]);
            } else {  // a vector is wider than the panel: what it writes too far, the next rows put right
                for (long q = 0; q < VL; q++)
                    if (i == 0 && (k - p - q) * width >= VL)
                        store(to + q * width + i, r[q]);
                    else
                        std::memcpy(to + q * width + i, &r[q], size_t(width - i) * sizeof(real));
            }
        }
        for (; i < width; i++)
            for (long q = 0; q < VL; q++) to[q * width + i] = 0;
    }
    for (; p < k; p++)
        for (long i = 0; i < width; i++) out[p * width + i] = i < rows ? from[i * stride + p] : 0;
}

// rows x k of `a` as k x rows.
static inline void pack_rows(const View& a, long rows, long k, real* out) {
    if (a.cs == 1) return pack_across(a.p, a.rs, rows, k, rows, out);
    for (long p = 0; p < k; p++, out += rows)
        for (long i = 0; i < rows; i++) out[i] = a.p[i * a.rs + p * a.cs];
}

// k x cols of `b` as k x NR, missing columns 0.
static inline void pack_columns(const View& b, long k, long cols, real* out) {
    if (b.cs != 1) return pack_across(b.p, b.cs, cols, k, NR, out);
    for (long p = 0; p < k; p++, out += NR) {
        const real* row = b.p + p * b.rs;
        if (cols == NR) {
            store(out, load(row));
            store(out + VL, load(row + VL));
        } else {
            for (long j = 0; j < NR; j++) out[j] = j < cols ? row[j] : 0;
        }
    }
}

// Several panels of columns at once, one after another in `out`: rows are read in long stretches, and ahead of use.
static inline void pack_panels(const View& b, long k, long cols, real* out) {
    const long whole = b.cs == 1 ? cols / NR : 0, lines = ceil_div(cols * long(sizeof(real)), 64);
    for (long p = 0; p < k && whole; p++) {
        const real* row = b.p + p * b.rs;
        for (long l = 0; l < lines && p + 8 < k; l++) __builtin_prefetch((const char*)(row + 8 * b.rs) + 64 * l, 0, 2);
        for (long j = 0; j < whole; j++) {
            store(out + (j * k + p) * NR, load(row + j * NR));
            store(out + (j * k + p) * NR + VL, load(row + j * NR + VL));
        }
    }
    for (long j = whole; j * NR < cols; j++)
        pack_columns({b.at(0, j * NR), b.rs, b.cs}, k, least<long>(NR, cols - j * NR), out + j * NR * k);
}

static inline void scale_c(long m, long n, real beta, real* c, long ldc) {
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j++) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

// C tile of `rows` x `cols` (cols <= NR) = alpha a b + beta C.
static inline void gemm_tile(long rows, long cols, long k, real alpha, const real* a, const real* b, real beta, real* c,
                             long ldc) {
    if (cols == NR) return run_tile(rows, k, a, b, {c, ldc, alpha, beta});
    alignas(VBYTES) real tile[MR * NR];
    run_tile(rows, k, a, b, {tile, NR, alpha});
    for (long r = 0; r < rows; r++)
        for (long q = 0; q < cols; q++)
            c[r * ldc + q] = tile[r * NR + q] + (beta != 0 ? beta * c[r * ldc + q] : 0);
}

// Few rows, so that B is large beside the work done on it: each task packs its own columns of B, in stretches of whole
// cache lines, and goes through all of k with them.
static void gemm_few_rows(long m, long n, long k, real alpha, const View& a, const View& b, real beta, real* c,
                          long ldc) {
    const bool threads = double(m) * double(n) * double(k) > PARALLEL_WORK;
    const long panels_a = ceil_div(m, MR), panels_b = ceil_div(n, NR), blocks_k = ceil_div(k, KC);
    const long together = most(1l, least(TOGETHER, panels_b / (4 * omp_get_max_threads())));
    real* pa = scratch(SHARED_A, m * k);
#pragma omp parallel if (threads)
    {
#pragma omp for schedule(static)
        for (long t = 0; t < panels_a * blocks_k; t++) {
            const long i = t % panels_a, p0 = t / panels_a * KC, kk = least(KC, k - p0);
            const long r0 = split(m, panels_a, i), rows = split(m, panels_a, i + 1) - r0;
            pack_rows({a.at(r0, p0), a.rs, a.cs}, rows, kk, pa + m * p0 + r0 * kk);
        }
#pragma omp for schedule(dynamic)
        for (long t = 0; t < ceil_div(panels_b, together); t++) {
            const long first = t * together, last = least(panels_b, first + together);
            real* mine = scratch(OWN_PANEL, together * NR * KC);
            for (long p0 = 0; p0 < k; p0 += KC) {
                const long kk = least(KC, k - p0), cols = least(n, last * NR) - first * NR;
                pack_panels({b.at(p0, first * NR), b.rs, b.cs}, kk, cols, mine);
                for (long i = 0; i < panels_a; i++) {
                    const long r0 = split(m, panels_a, i), rows = split(m, panels_a, i + 1) - r0;
                    for (long j = first; j < last; j++)
                        gemm_tile(rows, least<long>(NR, n - j * NR), kk, alpha, pa + m * p0 + r0 * kk,
                                  mine + (j - first) * NR * kk, p0 ? real(1) : beta, c + r0 * ldc + j * NR, ldc);
                }
            }
        }
    }
}

static void gemm(long m, long n, long k, real alpha, const View& a, const View& b, real beta, real* c, long ldc) {
    if (m <= 0 || n <= 0) return;
    if (k <= 0 || alpha == 0) return scale_c(m, n, beta, c, ldc);
    if (m <= MC) return gemm_few_rows(m, n, k, alpha, a, b, beta, c, ldc);
    const bool threads = double(m) * double(n) * double(k) > PARALLEL_WORK;
    // A task takes some rows and one panel of B; where k is small C is the largest matrix, and it takes few rows and all
    // columns, to pass over C in long stretches.
    const bool flat = k <= FLAT;
    const long panels_a = ceil_div(m, MR), blocks_a = ceil_div(m, flat ? 2 * MR : MC);
    const long nc = least(n, NC), kc = least(k, KC);
    real* pa = scratch(SHARED_A, m * kc);
    real* pb = scratch(SHARED_B, round_up(nc, NR) * kc);
#pragma omp parallel if (threads)
    for (long p0 = 0; p0 < k; p0 += KC) {
        const long kk = least(KC, k - p0);
#pragma omp for schedule(static)
        for (long i = 0; i < panels_a; i++) {
            const long r0 = split(m, panels_a, i), rows = split(m, panels_a, i + 1) - r0;
            pack_rows({a.at(r0, p0), a.rs, a.cs}, rows, kk, pa + r0 * kk);
        }
        for (long j0 = 0; j0 < n; j0 += NC) {
            const long panels_b = ceil_div(least(NC, n - j0), NR), parts = flat ? 1 : panels_b;
#pragma omp for schedule(static)
            for (long j = 0; j < panels_b; j++)
                pack_columns({b.at(p0, j0 + j * NR), b.rs, b.cs}, kk, least<long>(NR, n - j0 - j * NR),
                             pb + j * NR * kk);
#pragma omp for schedule(dynamic)
            for (long task = 0; task < blocks_a * parts; task++) {
                const long part = task % parts, block = task / parts;
                for (long i = split(panels_a, blocks_a, block); i < split(panels_a, blocks_a, block + 1); i++)
                    for (long j = split(panels_b, parts, part); j < split(panels_b, parts, part + 1); j++) {
                        const long r0 = split(m, panels_a, i), rows = split(m, panels_a, i + 1) - r0;
                        const long col = j0 + j * NR;
                        gemm_tile(rows, least<long>(NR, n - col), kk, alpha, pa + r0 * kk, pb + j * NR * kk,
                                  p0 ? real(1) : beta, c + r0 * ldc + col, ldc);
                    }
            }
        }
    }
}

static inline View op(int trans, const real* p, long ld) { return trans ? View{p, 1, ld} : View{p, ld, 1}; }

}  // namespace core
