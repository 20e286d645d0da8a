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

// R rows times V vectors of columns (V == 1: only the first half of each row of b and c).
template <int R, int V>
static void micro(const Run* runs, long count, long k, const real* a0, const real* b0, const Sink& sink) {
    vec sum[R][V];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sum[i][v] = vec{};
    for (long r = 0; r < count; r++) {
        const real* a = a0 + runs[r].a * k * R;
        const real* b = b0 + runs[r].b * k * NR;
        for (long p = 0; p < k; p++, a += R, b += NR) {
            vec bv[V];
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) bv[v] = *(const vec*)(b + v * VL);
#pragma GCC unroll 16
            for (int i = 0; i < R; i++) {
                const vec ai = splat(a[i]);
#pragma GCC unroll 2
                for (int v = 0; v < V; v++) sum[i][v] += ai * bv[v];
            }
        }
    }
    const vec zero{};
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) {
            real* c = sink.c + i * sink.ldc + v * VL;
            vec value = sum[i][v];
            if (sink.alpha != 1) value *= sink.alpha;
            if (sink.beta != 0) value += sink.beta * load(c);
            if (sink.bias) value += sink.bias[i];
            if (sink.relu) value = value < zero ? zero : value;
            store(c, value);
        }
}

template <int V, int... I> static Micro pick_micro(int rows, std::integer_sequence<int, I...>) {
    static constexpr Micro table[] = {micro<I + 1, V>...};
    return table[rows - 1];
}
static inline Micro micro_for(long rows, bool narrow = false) {
    constexpr auto all = std::make_integer_sequence<int, MR>();
    return narrow ? pick_micro<1>(int(rows), all) : pick_micro<2>(int(rows), all);
}

constexpr Run WHOLE{0, 0};

// rows x k (packed) times k x NR (packed).
static inline void run_tile(long rows, long k, const real* a, const real* b, const Sink& sink) {
    micro_for(rows)(&WHOLE, 1, k, a, b, sink);
}

}  // namespace core
