/* Sums and norms of a tile of sixteen keys, for AVX-512. */
#ifndef TQ_ATTEND_AVX512_TILE_H
#define TQ_ATTEND_AVX512_TILE_H

#include <immintrin.h>
#include <string.h>

#include "attend.h"

TQ_INLINE __m512 add(__m512 a, __m512 b, int whole) {
    if (!whole) return _mm512_add_ps(a, b);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

/* Lane k of the result is the sum of the lanes of x[k], floats or (whole) int32: a tree of
 * additions in which every key meets the same shape, wherever it stands. */
TQ_INLINE __m512 sum_sixteen(const __m512 *x, int whole) {
    __m512 half[8], quarter[4], eighth[2];
    TQ_UNROLL
    for (int i = 0; i < 8; i++) {
        __m512 a = x[2 * i], b = x[2 * i + 1];
        half[i] = add(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e), whole);
    }
    TQ_UNROLL
    for (int i = 0; i < 4; i++) {
        __m512 a = half[2 * i], b = half[2 * i + 1];
        quarter[i] = add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd), whole);
    }
    TQ_UNROLL
    for (int i = 0; i < 2; i++) {
        __m512d a = _mm512_castps_pd(quarter[2 * i]), b = _mm512_castps_pd(quarter[2 * i + 1]);
        eighth[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                        _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)), whole);
    }
    __m512 sums = add(_mm512_shuffle_ps(eighth[0], eighth[1], 0x88),
                      _mm512_shuffle_ps(eighth[0], eighth[1], 0xdd), whole);
    const __m512i transpose = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11,
                                                15);
    return _mm512_permutexvar_ps(transpose, sums);
}

/* The norms of vectors that are one block each. They are collected early, since the load that
 * picks them up has to wait for all of these small stores. */
TQ_INLINE void collect_norms(uint16_t *norms, const uint8_t *at, size_t stride, size_t count) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (size_t k = 0; k < 8; k++) memcpy(norms + i + k, at + (i + k) * stride, 2);
    for (; i < count; i++) memcpy(norms + i, at + i * stride, 2);
}

TQ_INLINE __m512 widen_norms(const uint16_t *norms) {
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)norms));
}

#endif
