/* A mean that RoPE turned, for AVX2 with F16C. */
#include <immintrin.h>

#include "tq.h"

#define HALVES_AT_ONCE 8
#define CENTER tq_center_avx2

TQ_INLINE void widen_halves(const uint16_t *from, float *to) {
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)));
}

TQ_INLINE void narrow_halves(const float *from, uint16_t *to) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128((__m128i *)to, half);
}

#include "center_rows.h"
