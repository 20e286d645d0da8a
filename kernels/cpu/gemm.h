// Packing GEMM, row-major: C = alpha op(A) op(B) + beta C.
#pragma once
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

// rows x k of `a` as k x rows.
static inline void pack_rows(const View& a, long rows, long k, real* out) {
    if (a.rs == 1) {
        for (long p = 0; p < k; p++, out += rows)
            for (long i = 0; i < rows; i++) out[i] = a.p[p * a.cs + i];
    } else {
        for (long i = 0; i < rows; i++)
            for (long p = 0; p < k; p++) out[p * rows + i] = a.p[i * a.rs + p * a.cs];
    }
}

// k x cols of `b` as k x NR, missing columns 0.
static inline void pack_columns(const View& b, long k, long cols, real* out) {
    if (b.cs == 1) {
        for (long p = 0; p < k; p++, out += NR) {
            const real* row = b.p + p * b.rs;
            if (cols == NR) {
                store(out, load(row));
                store(out + VL, load(row + VL));
            } else {
                for (long j = 0; j < NR; j++) out[j] = j < cols ? row[j] : 0;
            }
        }
    } else {
        for (long j = 0; j < NR; j++)
            for (long p = 0; p < k; p++) out[p * NR + j] = j < cols ? b.p[p * b.rs + j * b.cs] : 0;
    }
}

static inline void scale_c(long m, long n, real beta, real* c, long ldc) {
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j++) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

static void gemm(long m, long n, long k, real alpha, const View& a, const View& b, real beta, real* c, long ldc) {
    if (m <= 0 || n <= 0) return;
    if (k <= 0 || alpha == 0) return scale_c(m, n, beta, c, ldc);
    const bool threads = double(m) * double(n) * double(k) > PARALLEL_WORK;
    const long panels_a = ceil_div(m, MR), blocks_a = ceil_div(m, MC);
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
            const long nn = least(NC, n - j0), panels_b = ceil_div(nn, NR);
#pragma omp for schedule(static)
            for (long j = 0; j < panels_b; j++)
                pack_columns({b.at(p0, j0 + j * NR), b.rs, b.cs}, kk, least<long>(NR, nn - j * NR), pb + j * NR * kk);
#pragma omp for schedule(dynamic)
            for (long task = 0; task < blocks_a * panels_b; task++) {
                const long j = task % panels_b, block = task / panels_b, col = j0 + j * NR;
                const long cols = least<long>(NR, n - col);
                const long first = split(panels_a, blocks_a, block), last = split(panels_a, blocks_a, block + 1);
                const real by = p0 ? real(1) : beta;
                alignas(64) real tile[MR * NR];
                for (long i = first; i < last; i++) {
                    const long r0 = split(m, panels_a, i), rows = split(m, panels_a, i + 1) - r0;
                    real* to = c + r0 * ldc + col;
                    if (cols == NR) {
                        run_tile(rows, kk, pa + r0 * kk, pb + j * NR * kk, {to, ldc, alpha, by});
                    } else {
                        run_tile(rows, kk, pa + r0 * kk, pb + j * NR * kk, {tile, NR, alpha});
                        for (long r = 0; r < rows; r++)
                            for (long q = 0; q < cols; q++)
                                to[r * ldc + q] = tile[r * NR + q] + (by != 0 ? by * to[r * ldc + q] : 0);
                    }
                }
            }
        }
    }
}

static inline View op(int trans, const real* p, long ld) { return trans ? View{p, 1, ld} : View{p, ld, 1}; }

}  // namespace core
