/* Loads and stores of the NEON files, all through bytes: a load of floats would promise the
 * alignment of a float, and arrays may begin anywhere. */
#ifndef TQ_NEON_H
#define TQ_NEON_H

#include <arm_neon.h>

#include "tq.h"

TQ_INLINE float32x4_t load_floats(const void *from) { return vreinterpretq_f32_u8(vld1q_u8(from)); }

TQ_INLINE void store_floats(void *to, float32x4_t v) { vst1q_u8(to, vreinterpretq_u8_f32(v)); }

/* Four float16. */
TQ_INLINE float32x4_t load_halves(const void *from) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
}

TQ_INLINE void store_halves(void *to, float32x4_t v) {
    vst1_u8(to, vreinterpret_u8_f16(vcvt_f16_f32(v)));
}

#endif
