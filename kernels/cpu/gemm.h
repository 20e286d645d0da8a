// Packing GEMM, row-major: C = alpha op(A) op(B) + beta C.
#pragma once
#include "lanes.h"
#include "micro.h"

namespace core {

constexpr long KC = 256;                // depth of a packed panel
constexpr long MC = 10 * MR;            // rows that one task takes
constexpr long NC = 64 * NR;            // columns packed at a time
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

static void gemm(long m, long n, long k, real alpha, const View& a, const View& b, real beta, real* c, long ldc) {
    if (m <= 0 || n <= 0) return;
    if (k <= 0 || alpha == 0) return scale_c(m, n, beta, c, ldc);
    const bool threads = double(m) * double(n) * double(k) > PARALLEL_WORK;
    const long panels_a = ceil_div(m, MR), blocks_a = ceil_div(m, MC);
    const long nc = least(n, NC), kc = least(k, KC);
    // Few rows: every panel of B is used by one task only, which packs it into its own cache.
    const bool own = blocks_a == 1;
    real* pa = scratch(SHARED_A, m * kc);
    real* pb = own ? nullptr : scratch(SHARED_B, round_up(nc, NR) * kc);
#pragma omp parallel if (threads)
    for (long p0 = 0; p0 < k; p0 += KC) {
        const long kk = least(KC, k - p0);
#pragma omp for schedule(static)
        for (long i = 0; i < panels_a; i++) {
            const long r0 = split(m, panels_a, i), rows = split(m, panels_a, i + 1) - r0;
            pack_rows({a.at(r0, p0), a.rs, a.cs}, rows, kk, pa + r0 * kk);
        }
        for (long j0 = 0; j0 < n; j0 += NC) {
            const long panels_b = ceil_div(least(NC, n - j0), NR);
            if (!own) {
#pragma omp for schedule(static)
                for (long j = 0; j < panels_b; j++)
                    pack_columns({b.at(p0, j0 + j * NR), b.rs, b.cs}, kk, least<long>(NR, n - j0 - j * NR),
                                 pb + j * NR * kk);
            }
#pragma omp for schedule(dynamic)
            for (long task = 0; task < blocks_a * panels_b; task++) {
                const long j = task % panels_b, block = task / panels_b, col = j0 + j * NR;
                const long first = split(panels_a, blocks_a, block), last = split(panels_a, blocks_a, block + 1);
                const real* panel = pb + j * NR * kk;
                if (own) {
                    real* mine = scratch(OWN_PANEL, NR * KC);
                    pack_columns({b.at(p0, col), b.rs, b.cs}, kk, least<long>(NR, n - col), mine);
                    panel = mine;
                }
                for (long i = first; i < last; i++) {
                    const long r0 = split(m, panels_a, i), rows = split(m, panels_a, i + 1) - r0;
                    gemm_tile(rows, least<long>(NR, n - col), kk, alpha, pa + r0 * kk, panel, p0 ? real(1) : beta,
                              c + r0 * ldc + col, ldc);
                }
            }
        }
    }
}

static inline View op(int trans, const real* p, long ld) { return trans ? View{p, 1, ld} : View{p, ld, 1}; }

}  // namespace core
