// Vector types and per-thread scratch memory of the CPU core. One source for AVX-512, AVX2, SSE2 and NEON.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_max_threads() { return 1; }
static inline int omp_get_thread_num() { return 0; }
static inline void omp_set_num_threads(int) {}
#endif

namespace core {

#ifdef REAL_DOUBLE
typedef double real;
#else
typedef float real;
#endif

#if defined(__AVX512F__)
constexpr int VBYTES = 64, MR = 14;
#elif defined(__AVX__)
constexpr int VBYTES = 32, MR = 6;
#elif defined(__aarch64__)
constexpr int VBYTES = 16, MR = 12;
#else
constexpr int VBYTES = 16, MR = 6;
#endif
constexpr int VL = VBYTES / int(sizeof(real));  // lanes of a vector
constexpr int NR = 2 * VL;                      // columns of a micro-tile

typedef real vec __attribute__((vector_size(VBYTES), may_alias));
typedef real uvec __attribute__((vector_size(VBYTES), aligned(sizeof(real)), may_alias));

#define CORE_INLINE inline __attribute__((always_inline))

static CORE_INLINE vec load(const real* p) { return *(const uvec*)p; }
static CORE_INLINE void store(real* p, vec v) { *(uvec*)p = v; }
static CORE_INLINE vec splat(real v) { return v - vec{}; }

static inline long round_up(long n, long to) { return (n + to - 1) / to * to; }
static inline long ceil_div(long n, long by) { return (n + by - 1) / by; }
template <class T> static inline T least(T a, T b) { return a < b ? a : b; }
template <class T> static inline T most(T a, T b) { return a > b ? a : b; }

// The part [begin, end) of `total` that piece i of `pieces` covers when it is split as evenly as can be.
static inline long split(long total, long pieces, long i) { return total / pieces * i + least(i, total % pieces); }

// Grow-only buffer; contents are lost when it grows. `slack` elements past the end may be written too.
class Scratch {
  public:
    static constexpr long slack = 64;
    real* get(long count) {
        const size_t bytes = size_t(round_up((count + slack) * long(sizeof(real)), 4096));
        if (bytes > size_) {
            std::free(data_);
            size_ = 0;
            data_ = static_cast<real*>(std::aligned_alloc(4096, bytes));
            if (!data_) throw std::bad_alloc();
            size_ = bytes;
        }
        return data_;
    }
    ~Scratch() { std::free(data_); }

  private:
    real* data_ = nullptr;
    size_t size_ = 0;
};

// Buffers of one thread, by use: those a whole call shares belong to the calling thread.
enum Slot { SHARED_A, SHARED_B, SHARED_X, SHARED_Y, OWN_PANEL, OWN_TILE, OWN_SUM, SLOTS };
static inline real* scratch(Slot slot, long count) {
    static thread_local Scratch buffers[SLOTS];
    return buffers[slot].get(count);
}

}  // namespace core
