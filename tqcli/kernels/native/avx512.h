/* Vectors of 16 floats for AVX-512 (F, DQ, BW, VL). */
#ifndef TQ_AVX512_H
#define TQ_AVX512_H

#include <immintrin.h>

#include "tq.h"

#define LANES 16

typedef __m512 V;
typedef __m512i VI;

#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, v) _mm512_storeu_ps(p, v)
#define v_stream(p, v) _mm512_stream_ps(p, v)
#define v_fence() _mm_sfence()
#define v_set1(x) _mm512_set1_ps(x)
#define v_zero() _mm512_setzero_ps()
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_sub(a, b) _mm512_sub_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)
#define v_div(a, b) _mm512_div_ps(a, b)
#define v_sqrt(a) _mm512_sqrt_ps(a)
#define v_negate(a) _mm512_xor_ps(a, _mm512_set1_ps(-0.0f))
#define v_as_int(a) _mm512_castps_si512(a)
#define v_as_float(a) _mm512_castsi512_ps(a)

TQ_INLINE V v_above_tiny(V a, V b, V c) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, v_set1(TQ_TINY), _CMP_GT_OQ), c, b);
}

TQ_INLINE void v_halves(V v, uint16_t *to) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

TQ_INLINE V v_of_halves(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

TQ_INLINE V v_widen(const uint8_t *from, enum tq_float type) {
    if (type == TQ_F32) return _mm512_loadu_ps(from);
    const __m256i half = _mm256_loadu_si256((const __m256i *)from);
    if (type == TQ_F16) return _mm512_cvtph_ps(half);
    return v_as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

TQ_INLINE __m256i to_bfloat(V v) {
    const VI bits = v_as_int(v);
    const VI odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const VI sum = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const VI quiet = _mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32((int)0x80000000)),
                                     _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, sum, quiet), 16));
}

TQ_INLINE void v_narrow(uint8_t *to, V v, enum tq_float type) {
    if (type == TQ_F32) _mm512_storeu_ps(to, v);
    else if (type == TQ_F16) v_halves(v, (uint16_t *)(void *)to);
    else _mm256_storeu_si256((__m256i *)to, to_bfloat(v));
}

/* Rows to columns: 2 x 2, 4 x 4, then quarters of registers. */
TQ_INLINE void v_transpose(V v[16]) {
    V a[16], b[16];
    TQ_UNROLL
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#define PAIRS(lo_hi, x, y) \
    _mm512_castpd_ps(_mm512_unpack##lo_hi##_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)))
    TQ_UNROLL
    for (int i = 0; i < 16; i += 4) {
        b[i] = PAIRS(lo, a[i], a[i + 2]);
        b[i + 1] = PAIRS(hi, a[i], a[i + 2]);
        b[i + 2] = PAIRS(lo, a[i + 1], a[i + 3]);
        b[i + 3] = PAIRS(hi, a[i + 1], a[i + 3]);
    }
#undef PAIRS
    TQ_UNROLL
    for (int i = 0; i < 4; i++) {
        const V even = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
        const V odd = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
        const V even2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        const V odd2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
        v[i] = _mm512_shuffle_f32x4(even, even2, 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(even, even2, 0xdd);
        v[i + 4] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
        v[i + 12] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
    }
}

#endif
