// GEMM and convolution for the CPU; C interface. Built once per instruction set, for float and (REAL_DOUBLE) double.
#include "conv_columns.h"
#include "conv_taps.h"
#include "conv_weights.h"

using core::real;

extern "C" {

void core_set_threads(int threads) { omp_set_num_threads(threads < 1 ? 1 : threads); }
int core_get_threads(void) { return omp_get_max_threads(); }

void core_gemm(int trans_a, int trans_b, long m, long n, long k, real alpha, const real* a, long lda, const real* b,
               long ldb, real beta, real* c, long ldc) {
    core::gemm(m, n, k, alpha, core::op(trans_a, a, lda), core::op(trans_b, b, ldb), beta, c, ldc);
}

void core_gemm_batched(long batch, int trans_a, int trans_b, long m, long n, long k, real alpha, const real* a,
                       long lda, const real* b, long ldb, real beta, real* c, long ldc, long stride_a, long stride_b,
                       long stride_c) {
    for (long i = 0; i < batch; i++)
        core_gemm(trans_a, trans_b, m, n, k, alpha, a + i * stride_a, lda, b + i * stride_b, ldb, beta,
                  c + i * stride_c, ldc);
}

void core_conv_forward(const conv2d* shape, const real* x, const real* w, const real* bias, int relu, real* y) {
    const core::Shape s(*shape);
    if (s.n <= 0) return;
    if (core::lanes_pay(s) && s.cg > 4) return core::lanes_forward(s, x, w, bias, relu, y);
    core::panels_forward(s, x, w, bias, relu, y);
}

void core_conv_backward_data(const conv2d* shape, const real* dy, const real* w, real* dx) {
    const core::Shape s(*shape);
    if (s.n <= 0) return;
    if (core::lanes_pay(s)) return core::lanes_data(s, dy, w, dx);
    core::plain_data(s, dy, w, dx);
}

void core_conv_backward_weights(const conv2d* shape, const real* x, const real* dy, real* dw, real* db) {
    const core::Shape s(*shape);
    if (s.n <= 0) return;
    if (core::columns_pay(s)) return core::column_weights(s, x, dy, dw, db);
    const bool lanes = core::lanes_pay(s);
    if (const long rows = lanes ? core::near_rows(s) : 0) return core::near_weights(s, rows, x, dy, dw, db);
    if (core::taps_pay(s)) return core::tap_weights(s, x, dy, dw, db);
    if (lanes) return core::far_weights(s, x, dy, dw, db);
    core::plain_weights(s, x, dy, dw);
    if (db) core::bias_gradient(s, dy, db);
}

}  // extern "C"
