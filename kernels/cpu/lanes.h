// Images side by side in the lanes of a vector: [channel, pixel][NR images] from NCHW and back.
// A convolution in this form needs no columns: every tap of every image is one aligned vector.
#pragma once
#include "vec.h"

namespace core {

#ifdef REAL_DOUBLE
typedef int64_t lane_index;
#else
typedef int32_t lane_index;
#endif
typedef lane_index ivec __attribute__((vector_size(VBYTES)));

// r := transpose of the VL x VL matrix r.
template <int D> static CORE_INLINE void transpose_step(vec* r) {
    ivec low, high;
    for (int l = 0; l < VL; l++) {
        low[l] = lane_index(l & D ? VL + l - D : l);
        high[l] = lane_index(l & D ? VL + l : l + D);
    }
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        if (!(i & D)) {
            const vec a = r[i], b = r[i + D];
            r[i] = __builtin_shuffle(a, b, low);
            r[i + D] = __builtin_shuffle(a, b, high);
        }
}
static CORE_INLINE void transpose(vec* r) {
    if constexpr (VL > 8) transpose_step<8 % VL>(r);
    if constexpr (VL > 4) transpose_step<4 % VL>(r);
    if constexpr (VL > 2) transpose_step<2 % VL>(r);
    transpose_step<1>(r);
}

// Strides, in vectors of NR, of an array in lane form.
struct LaneForm {
    long pixels;         // of one channel in NCHW
    long channel, pixel; // strides
    long width = 0;      // if not 0: pixels are rows of `width`, `pitch` apart in lane form
    long pitch = 0;
    long origin = 0;
    long at(long ch, long px) const {
        const long where = width ? px / width * pitch + px % width : px;
        return (origin + ch * channel + where * pixel) * NR;
    }
};

// Elements [from, to) of each image (channel * pixels + pixel) into lane form; missing images become 0. What lies
// `ahead` elements further on is fetched: images often lie a multiple of 4 KB apart, which defeats the hardware.
static inline void to_lanes(const LaneForm& form, const real* x, long stride, long images, long from, long to,
                            real* out, long ahead = 8 * VL) {
    real* where[VL];
    long ch = from / form.pixels, px = from % form.pixels;
    for (long e = from; e < to; e += VL) {
        if (to - e < VL && to - from >= VL) {  // the last block overlaps the one before
            e = to - VL;
            ch = e / form.pixels, px = e % form.pixels;
        }
        const long count = least<long>(VL, to - e);
        for (long i = 0; i < count; i++) {
            where[i] = out + form.at(ch, px);
            if (++px == form.pixels) px = 0, ch++;
        }
        for (long half = 0; half < NR; half += VL) {
            const long live = most(0l, least<long>(VL, images - half));
            const real* p = x + half * stride + e;
            if (count == VL && live == VL) {
                vec r[VL];
#pragma GCC unroll 16
                for (int i = 0; i < VL; i++) {
                    r[i] = load(p + i * stride);
                    __builtin_prefetch(p + i * stride + ahead, 0, 2);
                }
                transpose(r);
#pragma GCC unroll 16
                for (int i = 0; i < VL; i++) *(vec*)(where[i] + half) = r[i];
            } else {
                for (long i = 0; i < count; i++)
                    for (long l = 0; l < VL; l++) where[i][half + l] = l < live ? p[l * stride + i] : 0;
            }
        }
    }
}

static inline void from_lanes(const LaneForm& form, const real* in, long from, long to, long images, real* y,
                              long stride) {
    const real* where[VL];
    long ch = from / form.pixels, px = from % form.pixels;
    for (long e = from; e < to; e += VL) {
        if (to - e < VL && to - from >= VL) {  // the last block overlaps the one before
            e = to - VL;
            ch = e / form.pixels, px = e % form.pixels;
        }
        const long count = least<long>(VL, to - e);
        for (long i = 0; i < count; i++) {
            where[i] = in + form.at(ch, px);
            if (++px == form.pixels) px = 0, ch++;
        }
        for (long half = 0; half < NR && half < images; half += VL) {
            const long live = least<long>(VL, images - half);
            real* p = y + half * stride + e;
            if (count == VL && live == VL) {
                vec r[VL];
#pragma GCC unroll 16
                for (int i = 0; i < VL; i++) r[i] = *(const vec*)(where[i] + half);
                transpose(r);
#pragma GCC unroll 16
                for (int i = 0; i < VL; i++) store(p + i * stride, r[i]);
            } else {
                for (long i = 0; i < count; i++)
                    for (long l = 0; l < live; l++) p[l * stride + i] = where[i][half + l];
            }
        }
    }
}

}  // namespace core
