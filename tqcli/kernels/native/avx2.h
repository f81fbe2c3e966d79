/* Vectors of 8 floats for AVX2 with F16C. */
#ifndef TQ_AVX2_H
#define TQ_AVX2_H

#include <immintrin.h>

#include "tq.h"

#define LANES 8

typedef __m256 V;
typedef __m256i VI;

#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, v) _mm256_storeu_ps(p, v)
#define v_stream(p, v) _mm256_stream_ps(p, v)
#define v_fence() _mm_sfence()
#define v_set1(x) _mm256_set1_ps(x)
#define v_zero() _mm256_setzero_ps()
#define v_add(a, b) _mm256_add_ps(a, b)
#define v_sub(a, b) _mm256_sub_ps(a, b)
#define v_mul(a, b) _mm256_mul_ps(a, b)
#define v_div(a, b) _mm256_div_ps(a, b)
#define v_sqrt(a) _mm256_sqrt_ps(a)
#define v_negate(a) _mm256_xor_ps(a, _mm256_set1_ps(-0.0f))
#define v_as_int(a) _mm256_castps_si256(a)
#define v_as_float(a) _mm256_castsi256_ps(a)

TQ_INLINE V v_above_tiny(V a, V b, V c) {
    return _mm256_blendv_ps(c, b, _mm256_cmp_ps(a, v_set1(TQ_TINY), _CMP_GT_OQ));
}

TQ_INLINE void v_halves(V v, uint16_t *to) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

TQ_INLINE V v_of_halves(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

TQ_INLINE V v_widen(const uint8_t *from, enum tq_float type) {
    if (type == TQ_F32) return _mm256_loadu_ps((const float *)(const void *)from);
    const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)from);
    if (type == TQ_F16) return _mm256_cvtph_ps(half);
    return v_as_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

TQ_INLINE __m128i to_bfloat(V v) {
    const VI bits = v_as_int(v);
    const VI odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const VI sum = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    const VI quiet = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32((int)0x80000000)),
                                     _mm256_set1_epi32(0x7fc00000));
    const VI nan = v_as_int(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const VI high = _mm256_srli_epi32(_mm256_blendv_epi8(sum, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

TQ_INLINE void v_narrow(uint8_t *to, V v, enum tq_float type) {
    if (type == TQ_F32) _mm256_storeu_ps((float *)(void *)to, v);
    else if (type == TQ_F16) v_halves(v, (uint16_t *)(void *)to);
    else _mm_storeu_si128((__m128i *)(void *)to, to_bfloat(v));
}

/* Rows to columns: halves, then 2 x 2 and 4 x 4 within them. */
TQ_INLINE void v_transpose(V v[8]) {
    V a[8], b[8];
    TQ_UNROLL
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    }
    TQ_UNROLL
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    TQ_UNROLL
    for (int i = 0; i < 8; i += 4) {
        v[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        v[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        v[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        v[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
}

#endif
