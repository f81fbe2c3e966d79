/* float16 and bfloat16 in plain C, rounding to nearest even; without branches, so that compilers
 * turn loops over them into vector code. */
#ifndef TQ_HALF_H
#define TQ_HALF_H

#include <string.h>

#include "tq.h"

static inline float tq_float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t tq_bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* Magnitudes are compared as signed integers, which every vector unit can do. */
static inline float tq_from_half(uint16_t half) {
    const int32_t magnitude = (half & 0x7fff) << 13;
    const int32_t normal = magnitude + ((127 - 15) << 23);
    /* A subnormal is a count of 2^-24: put it under the exponent of 2^-14 and take 2^-14 off. */
    const uint32_t base = (127 - 14) << 23;
    const float count = tq_float_of((uint32_t)magnitude + base) - tq_float_of(base);
    const int32_t subnormal = (int32_t)tq_bits_of(count);
    int32_t bits = magnitude < (0x400 << 13) ? subnormal : normal;
    bits = magnitude >= (0x7c00 << 13) ? (magnitude | 0x7f800000) : bits;
    return tq_float_of((uint32_t)bits | (uint32_t)(half & 0x8000) << 16);
}

static inline uint16_t tq_to_half(float value) {
    const uint32_t bits = tq_bits_of(value);
    const int32_t magnitude = (int32_t)(bits & 0x7fffffff);
    /* Normal: shift the exponent's bias, round the 13 bits that go. */
    const int32_t rebiased = magnitude - ((127 - 15) << 23);
    const int32_t normal = (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13;
    /* Subnormal: adding 2^-1 makes float32 round at 2^-24. */
    const uint32_t one_half = (127 - 1) << 23;
    const float rounded = tq_float_of((uint32_t)magnitude) + tq_float_of(one_half);
    const int32_t subnormal = (int32_t)(tq_bits_of(rounded) - one_half);
    int32_t result = magnitude < ((127 - 14) << 23) ? subnormal : normal;
    result = magnitude >= ((127 + 16) << 23) ? 0x7c00 : result;
    result = magnitude > 0x7f800000 ? TQ_NAN_HALF : result;
    return (uint16_t)((uint32_t)result | (bits >> 16 & 0x8000));
}

static inline float tq_from_bfloat(uint16_t value) { return tq_float_of((uint32_t)value << 16); }

static inline uint16_t tq_to_bfloat(float value) {
    const uint32_t bits = tq_bits_of(value);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const uint32_t quiet = (bits >> 16 & 0x8000) | 0x7fc0;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

#endif
