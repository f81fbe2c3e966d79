/* A mean that RoPE turned, for AVX-512. */
#include <immintrin.h>

#include "tq.h"

#define HALVES_AT_ONCE 16
#define CENTER tq_center_avx512

TQ_INLINE void widen_halves(const uint16_t *from, float *to) {
    _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)));
}

TQ_INLINE void narrow_halves(const float *from, uint16_t *to) {
    const __m256i half = _mm512_cvtps_ph(_mm512_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256((__m256i *)to, half);
}

#include "center_rows.h"
