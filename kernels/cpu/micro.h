// The micro-kernel: R rows times NR columns, all sums in registers. GEMM and convolution are loops around it.
#pragma once
#include <utility>

#include "vec.h"

namespace core {

// Where a tile goes: c[i * ldc + j] = alpha * sum (+ beta * c, read only if beta != 0) (+ bias[i]), clipped at 0 if relu.
struct Sink {
    real* c;
    long ldc;
    real alpha = 1, beta = 0;
    const real* bias = nullptr;
    int relu = 0;
};

// One stretch of the inner product: block `a` of the packed rows (k x R each) times block `b` of the columns (k x NR).
struct Run {
    int a, b;
};

typedef void (*Micro)(const Run* runs, long count, long k, const real* a, const real* b, const Sink& sink);

template <int R>
static void micro(const Run* runs, long count, long k, const real* a0, const real* b0, const Sink& sink) {
    vec lo[R], hi[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) lo[i] = hi[i] = vec{};
    for (long r = 0; r < count; r++) {
        const real* a = a0 + runs[r].a * k * R;
        const real* b = b0 + runs[r].b * k * NR;
        for (long p = 0; p < k; p++, a += R, b += NR) {
            const vec left = *(const vec*)b, right = *(const vec*)(b + VL);
#pragma GCC unroll 16
            for (int i = 0; i < R; i++) {
                const vec ai = splat(a[i]);
                lo[i] += ai * left;
                hi[i] += ai * right;
            }
        }
    }
    real* c = sink.c;
    if (sink.alpha != 1) {
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) lo[i] *= sink.alpha, hi[i] *= sink.alpha;
    }
    if (sink.beta != 0) {
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
            lo[i] += sink.beta * load(c + i * sink.ldc);
            hi[i] += sink.beta * load(c + i * sink.ldc + VL);
        }
    }
    if (sink.bias) {
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) lo[i] += sink.bias[i], hi[i] += sink.bias[i];
    }
    if (sink.relu) {
        const vec zero{};
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) lo[i] = lo[i] < zero ? zero : lo[i], hi[i] = hi[i] < zero ? zero : hi[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
        store(c + i * sink.ldc, lo[i]);
        store(c + i * sink.ldc + VL, hi[i]);
    }
}

template <int... I> static Micro pick_micro(int rows, std::integer_sequence<int, I...>) {
    static constexpr Micro table[] = {micro<I + 1>...};
    return table[rows - 1];
}
static inline Micro micro_for(long rows) { return pick_micro(int(rows), std::make_integer_sequence<int, MR>()); }

constexpr Run WHOLE{0, 0};

// rows x k (packed) times k x NR (packed).
static inline void run_tile(long rows, long k, const real* a, const real* b, const Sink& sink) {
    micro_for(rows)(&WHOLE, 1, k, a, b, sink);
}

}  // namespace core
