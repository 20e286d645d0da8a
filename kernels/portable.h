// One kernel source for two compilers: g++ (OpenMP and SIMD loops) and nvcc/NVRTC (grids of threads).
//
// A kernel is written once, as a loop:
//
//   KERNEL relu_forward(long n, const store* x, store* y, real slope) {
//     FOR_EACH(i, n) y[i] = max_of(real(x[i]), real(0)) + slope * min_of(real(x[i]), real(0));
//   }
//
// `real` is the type of arithmetic, `store` the type of what lies in memory. No header of CUDA or of the C++ library is
// included, so that NVRTC needs no include path. A kernel's signature is parsed into a manifest (backends/manifest.py):
// arguments are scalars (long, int, u32, u64, real), structs of scalars declared here, or pointers to store, real, int,
// u8 or u64.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef REAL_DOUBLE
typedef double real;
#define REAL_MAX_VALUE 1.7976931348623157e308
#define REAL_TINY 2.2250738585072014e-308
#else
typedef float real;
#define REAL_MAX_VALUE 3.402823466e38f
#define REAL_TINY 1.17549435e-38f
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define ON_GPU 1
#define DEVICE __device__ __forceinline__
#else
#define ON_GPU 0
#define DEVICE static inline __attribute__((always_inline))
#endif

// bfloat16 in memory, float in arithmetic: round to nearest even, NaN kept.
struct bf16 {
  unsigned short bits;
#if ON_GPU
  __device__ __forceinline__ bf16() {}
  __device__ __forceinline__ bf16(float v) { set(__float_as_uint(v)); }
  __device__ __forceinline__ operator float() const { return __uint_as_float(u32(bits) << 16); }
  __device__ __forceinline__
#else
  bf16() {}
  bf16(float v) { set(__builtin_bit_cast(u32, v)); }
  operator float() const { return __builtin_bit_cast(float, u32(bits) << 16); }
#endif
  void set(u32 b) {
    const bool nan = (b & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? (unsigned short)((b >> 16) | 0x40u) : (unsigned short)((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
  }
};

#ifdef STORE_BF16
typedef bf16 store;
#else
typedef real store;
#endif

// ---------------------------------------------------------------------------------------------------------------- loops
// FOR_EACH(i, n)                      n independent elements
// FOR_EACH_2D(r, rows, c, cols)       rows x cols independent elements, no division on the CPU
// FOR_EACH_ROW(r, rows, work)         a block (GPU) or an iteration (CPU) for each row; inside it
//   FOR_EACH_LANE(j, n)               the row's elements, and row_sum / row_max over them (every lane gets the result)
//   FOR_EACH_OF_LANE(j, n)            the same where elements add to what is the lane's own
//   rows_sum(first, last, n, f)     the sum of f(r, j) over first <= r < last and j < n
//   channel_sums(first, last, channels, c, n, f, x...)   the sums of what f(x...) returns over channel c of some images
// each(n, out(y), f, x...)            y = f(x...), element by element: on the GPU 16 bytes at a time
// rows_each(rows, n, out(y), make, x...)   the same, in row r with the function make(r)
//   With out(y, z) (or three) f returns reals<2>{{...}}. Outputs may be inputs. A null pointer is no array.
// SHAPE(type, s, argument)            s is the argument, or on the GPU a compile-time constant if one was given
template <int K>
struct reals {
  real v[K];
};
template <int K, class T>
struct outputs {
  T* to[K];
};
template <class T>
DEVICE outputs<1, T> out(T* a) { return {{a}}; }
template <class T>
DEVICE outputs<2, T> out(T* a, T* b) { return {{a, b}}; }
template <class T>
DEVICE outputs<3, T> out(T* a, T* b, T* c) { return {{a, b, c}}; }
DEVICE reals<1> as_reals(real v) { return {{v}}; }
template <int K>
DEVICE reals<K> as_reals(reals<K> v) { return v; }

#if ON_GPU
#ifdef INDEX64
typedef long index_t;
#else
typedef int index_t;
#endif
#define KERNEL extern "C" __global__ void
#define FOR_EACH(i, n) \
  for (index_t i = blockIdx.x * (index_t)blockDim.x + threadIdx.x; i < (index_t)(n); i += (index_t)blockDim.x * gridDim.x)
#define FOR_EACH_2D(r, rows, c, cols)                                                                               \
  for (index_t i_##r = blockIdx.x * (index_t)blockDim.x + threadIdx.x; i_##r < (index_t)(rows) * (index_t)(cols); \
       i_##r += (index_t)blockDim.x * gridDim.x)                                                                   \
    if (index_t r = i_##r / (index_t)(cols), c = i_##r - r * (index_t)(cols); true)
#define FOR_EACH_ROW(r, rows, work) for (index_t r = blockIdx.x; r < (index_t)(rows); r += gridDim.x)
#define FOR_EACH_LANE(j, n) for (index_t j = threadIdx.x; j < (index_t)(n); j += blockDim.x)
#define FOR_EACH_OF_LANE(j, n) FOR_EACH_LANE(j, n)
#define UNROLL _Pragma("unroll")
#define ROW_LEADER if (threadIdx.x == 0)
#define ROW_SYNC __syncthreads()

template <class Merge>
DEVICE real block_reduce(real v, Merge merge) {
  __shared__ real partial[32];
  for (int d = 16; d > 0; d >>= 1) v = merge(v, __shfl_xor_sync(0xffffffffu, v, d));
  __syncthreads();
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = v;
  __syncthreads();
  v = partial[0];
  for (int w = 1; w < (int)(blockDim.x >> 5); ++w) v = merge(v, partial[w]);
  return v;
}
template <class F>
DEVICE real row_sum(long n, F f) {
  real s = 0;
  FOR_EACH_LANE(j, n) s += f(j);
  return block_reduce(s, [](real a, real b) { return a + b; });
}
template <class F>
DEVICE real rows_sum(index_t first, index_t last, long n, F f) {
  const index_t width = (index_t)n;
  real s = 0;
  FOR_EACH_LANE(j, (last - first) * width) {
    const index_t r = j / width;
    s += f(first + r, j - r * width);
  }
  return block_reduce(s, [](real a, real b) { return a + b; });
}

// Four values that are read and written as one.
template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) pack {
  T v[4];
};
template <class T>
DEVICE pack<T> load4(const T* x, index_t i) { return ((const pack<T>*)x)[i]; }
template <class... T>
DEVICE bool packable(const T*... x) { return ((u64(0) | ... | (u64)x) & 15) == 0; }
template <int K, class T>
DEVICE bool packable(outputs<K, T> y) {
  u64 all = 0;
  for (int k = 0; k < K; ++k) all |= (u64)y.to[k];
  return (all & 15) == 0;
}
template <int K, class T, class... In>
DEVICE bool packable(outputs<K, T> y, const In*... x) { return packable(y) && packable(x...); }

template <int K, class T>
DEVICE void put(outputs<K, T> y, index_t i, reals<K> v) {
  for (int k = 0; k < K; ++k) y.to[k][i] = v.v[k];
}
// f(k) gives the values of element 4 i + k
template <int K, class T, class F>
DEVICE void put4(outputs<K, T> y, index_t i, F f) {
  pack<T> all[K];
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const reals<K> v = f(e);
#pragma unroll
    for (int k = 0; k < K; ++k) all[k].v[e] = v.v[k];
  }
#pragma unroll
  for (int k = 0; k < K; ++k) ((pack<T>*)y.to[k])[i] = all[k];
}
template <int K, class T, class F, class... P>
DEVICE void apply4(outputs<K, T> y, index_t i, F f, const P&... x) {
  put4(y, i, [&](int e) { return as_reals(f(real(x.v[e])...)); });
}

template <int K, class T, class F, class... In>
DEVICE void each(long n, outputs<K, T> y, F f, const In*... x) {
  const index_t count = n, packs = packable(y, x...) ? count / 4 : 0;
  const index_t first = blockIdx.x * (index_t)blockDim.x + threadIdx.x, step = (index_t)blockDim.x * gridDim.x;
  for (index_t i = first; i < packs; i += step) apply4(y, i, f, load4(x, i)...);
  for (index_t i = 4 * packs + first; i < count; i += step) put(y, i, as_reals(f(real(x[i])...)));
}

// Four elements that may lie in two rows or more
template <int K, class T, class Make, class... P>
DEVICE void apply_across(outputs<K, T> y, index_t i, index_t n, Make make, const P&... x) {
  index_t r = 4 * i / n, j = 4 * i - r * n;
  put4(y, i, [&](int e) {
    if (e > 0 && ++j == n) j = 0, ++r;
    return as_reals(make(r)(real(x.v[e])...));
  });
}
template <int K, class T, class Make, class... In>
DEVICE void rows_each(long rows, long n, outputs<K, T> y, Make make, const In*... x) {
  const index_t width = n, quarter = width / 4, count = (index_t)rows * width, packs = packable(y, x...) ? count / 4 : 0;
  const index_t first = blockIdx.x * (index_t)blockDim.x + threadIdx.x, step = (index_t)blockDim.x * gridDim.x;
  if (4 * quarter == width) {
    for (index_t i = first; i < packs; i += step) apply4(y, i, make(i / quarter), load4(x, i)...);
  } else {
    for (index_t i = first; i < packs; i += step) apply_across(y, i, width, make, load4(x, i)...);
  }
  for (index_t i = 4 * packs + first; i < count; i += step) put(y, i, as_reals(make(i / width)(real(x[i])...)));
}

template <int K>
DEVICE reals<K> block_sums(reals<K> v) {
  for (int k = 0; k < K; ++k) v.v[k] = block_reduce(v.v[k], [](real a, real b) { return a + b; });
  return v;
}
// The lanes' own sums over channel c of images first to last; block_sums puts them together
template <int K, class F, class... In>
DEVICE reals<K> lane_sums(index_t first, index_t last, long channels, index_t c, long n, F f, const In*... x) {
  const index_t width = n, count = channels, quarter = width / 4;
  reals<K> s = {};
  if (4 * quarter == width && packable(x...)) {
#pragma unroll 2
    for (index_t j = threadIdx.x; j < (last - first) * quarter; j += blockDim.x) {
      const index_t image = j / quarter, at = ((first + image) * count + c - image) * quarter + j;
      const auto add = [&](const auto&... p) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const reals<K> v = as_reals(f(real(p.v[e])...));
          for (int k = 0; k < K; ++k) s.v[k] += v.v[k];
        }
      };
      add(load4(x, at)...);
    }
  } else {
#pragma unroll 4
    for (index_t j = threadIdx.x; j < (last - first) * width; j += blockDim.x) {
      const index_t image = j / width, at = ((first + image) * count + c - image) * width + j;
      const reals<K> v = as_reals(f(real(x[at])...));
      for (int k = 0; k < K; ++k) s.v[k] += v.v[k];
    }
  }
  return s;
}
template <int K, class F, class... In>
DEVICE reals<K> channel_sums(index_t first, index_t last, long channels, index_t c, long n, F f, const In*... x) {
  return block_sums(lane_sums<K>(first, last, channels, c, n, f, x...));
}
template <class F>
DEVICE real row_max(long n, F f) {
  real m = -REAL_MAX_VALUE;
  FOR_EACH_LANE(j, n) { real v = f(j); m = v > m ? v : m; }
  return block_reduce(m, [](real a, real b) { return a > b ? a : b; });
}
#else
typedef long index_t;
#define KERNEL extern "C" void
#define PARALLEL_MIN 16384  // below it, waking the threads costs more than the loop
#define DO_PRAGMA(text) _Pragma(#text)
#define FOR_EACH(i, n) \
  DO_PRAGMA(omp parallel for simd schedule(static) if(parallel : (n) > PARALLEL_MIN)) for (index_t i = 0; i < (n); ++i)
#define FOR_EACH_2D(r, rows, c, cols)                                                        \
  DO_PRAGMA(omp parallel for schedule(static) if((rows) * (cols) > PARALLEL_MIN))            \
  for (index_t r = 0; r < (rows); ++r) DO_PRAGMA(omp simd) for (index_t c = 0; c < (cols); ++c)
#define FOR_EACH_ROW(r, rows, work) \
  DO_PRAGMA(omp parallel for schedule(static) if((rows) * (work) > PARALLEL_MIN)) for (index_t r = 0; r < (rows); ++r)
#define FOR_EACH_LANE(j, n) DO_PRAGMA(omp simd) for (index_t j = 0; j < (n); ++j)
#define FOR_EACH_OF_LANE(j, n) for (index_t j = 0; j < (n); ++j)
#define UNROLL
#define ROW_LEADER
#define ROW_SYNC

template <class F>
DEVICE real row_sum(long n, F f) {
  real s = 0;
#pragma omp simd reduction(+ : s)
  for (long j = 0; j < n; ++j) s += f(j);
  return s;
}
template <class F>
DEVICE real rows_sum(index_t first, index_t last, long n, F f) {
  real s = 0;
  for (index_t r = first; r < last; ++r) s += row_sum(n, [=](index_t j) { return f(r, j); });
  return s;
}
// Written out, since a loop over the outputs keeps g++ from vectorising the one over elements
#define PUT(y, i, value)                     \
  const auto put_v = as_reals(value);        \
  y.to[0][i] = put_v.v[0];                   \
  if constexpr (K > 1) y.to[1][i] = put_v.v[1]; \
  if constexpr (K > 2) y.to[2][i] = put_v.v[2];

template <int K, class T, class F, class... In>
DEVICE void each(long n, outputs<K, T> y, F f, const In*... x) {
#pragma omp parallel for simd schedule(static) firstprivate(y, f) if (parallel : n > PARALLEL_MIN)
  for (index_t i = 0; i < n; ++i) {
    PUT(y, i, f(real(x[i])...))
  }
}
template <int K, class T, class Make, class... In>
DEVICE void rows_each(long rows, long n, outputs<K, T> y, Make make, const In*... x) {
#pragma omp parallel for schedule(static) firstprivate(y, make) if (rows * n > PARALLEL_MIN)
  for (index_t r = 0; r < rows; ++r) {
    const auto f = make(r);
    const index_t at = r * n;
#pragma omp simd
    for (index_t i = 0; i < n; ++i) {
      PUT(y, at + i, f(real(x[at + i])...))
    }
  }
}
template <int K, class F, class... In>
DEVICE reals<K> channel_sums(index_t first, index_t last, long channels, index_t c, long n, F f, const In*... x) {
  reals<K> s = {};
  for (index_t r = first; r < last; ++r) {
    const index_t at = (r * channels + c) * n;
    s.v[0] += row_sum(n, [=](index_t i) { return as_reals(f(real(x[at + i])...)).v[0]; });
    if constexpr (K > 1) s.v[1] += row_sum(n, [=](index_t i) { return as_reals(f(real(x[at + i])...)).v[1]; });
  }
  return s;
}
template <class F>
DEVICE real row_max(long n, F f) {
  real m = f(0);
#pragma omp simd reduction(max : m)
  for (long j = 1; j < n; ++j) {
    const real v = f(j);
    m = v > m ? v : m;
  }
  return m;
}
#endif

#if ON_GPU && defined(SHAPED)  // SHAPE_<type> comes from the compiler's line (backends/cuda_kernels.py)
#define SHAPE(type, s, argument) SHAPE_##type(s, argument)
#else
#define SHAPE(type, s, argument) const type s = argument
#endif

// ----------------------------------------------------------------------------------------------------------- arithmetic
// A NaN in the first argument stays.
DEVICE real max_of(real a, real b) { return a < b ? b : a; }
DEVICE real min_of(real a, real b) { return a > b ? b : a; }
// the larger of two values and its place: of equal ones the earlier place, and NaN beats numbers
DEVICE bool beats(real v, real top) { return v > top || v != v; }
DEVICE void max2_pick(real a, int ia, real b, int ib, real& top, int& at) {
  const bool second = beats(b, a) || (b == a && ib < ia);
  top = second ? b : a;
  at = second ? ib : ia;
}

#if ON_GPU
DEVICE float exp_of(float x) { return expf(x); }
DEVICE float log_of(float x) { return logf(x); }
DEVICE float tanh_of(float x) { return tanhf(x); }
DEVICE float sqrt_of(float x) { return sqrtf(x); }
DEVICE double exp_of(double x) { return exp(x); }
DEVICE double log_of(double x) { return log(x); }
DEVICE double tanh_of(double x) { return tanh(x); }
DEVICE double sqrt_of(double x) { return sqrt(x); }
DEVICE bool is_nan(float x) { return (__float_as_uint(x) & 0x7fffffffu) > 0x7f800000u; }
DEVICE bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
DEVICE bool is_finite(double x) { return (__double_as_longlong(x) & 0x7ff0000000000000ll) != 0x7ff0000000000000ll; }
DEVICE bool is_nan(double x) { return (__double_as_longlong(x) & 0x7fffffffffffffffll) > 0x7ff0000000000000ll; }
#else
// exp in a form that g++ vectorises without a vector maths library: 2^k * 2^f, with the reduction in double so that
// re-association under fast maths cannot lose bits. Relative error below 2e-7 on [-87.3, 88.7]; 0 below, inf above.
DEVICE float exp_of(float x) {
  const float c = x < -88.f ? -88.f : (x > 89.f ? 89.f : x);
  const double t = double(c) * 1.4426950408889634;
  // Adding 1.5 * 2^52 leaves t, rounded, in the low bits: a comparison here would keep the loop from being vectorised.
  const int k = (int)(u32)__builtin_bit_cast(u64, t + 6755399441055744.0);
  const float f = float(t - double(k)) * 0.6931471805599453f;
  float p = 1.9841270e-4f;
  p = p * f + 1.3888889e-3f;
  p = p * f + 8.3333333e-3f;
  p = p * f + 4.1666667e-2f;
  p = p * f + 1.6666667e-1f;
  p = p * f + 0.5f;
  p = p * f + 1.f;
  p = p * f + 1.f;
  // times 2^k by its exponent's bits: k reaches 128, and a product of two halves may be re-associated to infinity
  const float scaled = __builtin_bit_cast(float, __builtin_bit_cast(u32, p) + ((u32)k << 23));
  const float y = x < -87.33654f ? 0.f : (x > 88.72283f ? __builtin_inff() : scaled);
  return x == x ? y : x;
}
DEVICE float log_of(float x) { return __builtin_logf(x); }
DEVICE float tanh_of(float x) {
  const float a = x < 0 ? -x : x, s = x * x;
  const float series = x + x * s * (-0.33333333f + s * (0.13333333f + s * (-0.053968254f + s * (0.021869489f - s * 0.0088632355f))));
  const float e = exp_of(-2.f * a), t = (1.f - e) / (1.f + e);
  return a < 0.35f ? series : (x < 0 ? -t : t);
}
DEVICE float sqrt_of(float x) { return __builtin_sqrtf(x); }
DEVICE double exp_of(double x) { return __builtin_exp(x); }
DEVICE double log_of(double x) { return __builtin_log(x); }
DEVICE double tanh_of(double x) { return __builtin_tanh(x); }
DEVICE double sqrt_of(double x) { return __builtin_sqrt(x); }
DEVICE bool is_nan(float x) { return (__builtin_bit_cast(u32, x) & 0x7fffffffu) > 0x7f800000u; }
DEVICE bool is_finite(float x) { return (__builtin_bit_cast(u32, x) & 0x7f800000u) != 0x7f800000u; }
DEVICE bool is_finite(double x) { return (__builtin_bit_cast(u64, x) & 0x7ff0000000000000ull) != 0x7ff0000000000000ull; }
DEVICE bool is_nan(double x) { return (__builtin_bit_cast(u64, x) & 0x7fffffffffffffffull) > 0x7ff0000000000000ull; }
#endif

// a label as an integer: casting NaN, or what no int holds, is undefined, and a GPU may make a class of it
DEVICE int whole_of(real x) { return x > real(-2e9) && x < real(2e9) ? (int)x : -2000000000; }
DEVICE real sigmoid_of(real x) { return real(1) / (real(1) + exp_of(-x)); }

// --------------------------------------------------------------------------------------------------------------- random
// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a function of key and counter, so
// that both devices and a resumed run draw the same numbers.
struct philox4 {
  u32 v[4];
};
DEVICE philox4 philox(u64 key, u64 high, u64 low) {
  u32 k0 = (u32)key, k1 = (u32)(key >> 32);
  u32 a = (u32)low, b = (u32)(low >> 32), c = (u32)high, d = (u32)(high >> 32);
  for (int round = 0; round < 10; ++round) {
    const u64 p0 = 0xD2511F53ull * a, p1 = 0xCD9E8D57ull * c;
    a = (u32)(p1 >> 32) ^ b ^ k0;
    b = (u32)p1;
    c = (u32)(p0 >> 32) ^ d ^ k1;
    d = (u32)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}
DEVICE float uniform_of(u32 bits) { return (float)(bits >> 8) * 5.9604645e-8f; }  // [0, 1), 24 bits
