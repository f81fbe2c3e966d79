/* The statistics for AVX-512 (F, DQ, BW, VL). */
#include <immintrin.h>

#include "tq.h"

typedef __m512d D;

#define d_zero() _mm512_setzero_pd()
#define d_set1(x) _mm512_set1_pd(x)
#define d_add(a, b) _mm512_add_pd(a, b)
#define d_sub(a, b) _mm512_sub_pd(a, b)
#define d_mul(a, b) _mm512_mul_pd(a, b)
#define d_abs(a) _mm512_abs_pd(a)
#define d_load(p) _mm512_loadu_pd(p)
#define d_store(p, v) _mm512_storeu_pd(p, v)
#define d_add_product(s, a, b) _mm512_fmadd_pd(a, b, s)
#define d_larger(a, b) _mm512_max_pd(a, b)
#define d_narrow(p, v) _mm256_storeu_ps(p, _mm512_cvtpd_ps(v))

TQ_INLINE D d_widen(const uint8_t *from, enum tq_float type) {
    if (type == TQ_F32) return _mm512_cvtps_pd(_mm256_loadu_ps((const float *)(const void *)from));
    const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)from);
    if (type == TQ_F16) return _mm512_cvtps_pd(_mm256_cvtph_ps(half));
    const __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
    return _mm512_cvtps_pd(_mm256_castsi256_ps(wide));
}

TQ_INLINE double d_sum(D v) {
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

TQ_INLINE double d_max(D v) {
    const __m256d four = _mm256_max_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    const __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

#define LANES 16

typedef __m512 V;

#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, v) _mm512_storeu_ps(p, v)
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_sub(a, b) _mm512_sub_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)

/* a + b where the value has no bit of the stride, a - b (of the partner's) where it has: the
 * products by 1 and -1 are exact. */
TQ_INLINE V v_inside(V v) {
    const V one = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f);
    v = _mm512_fmadd_ps(v, _mm512_mask_mov_ps(one, 0xaaaa, minus), _mm512_permute_ps(v, 0xb1));
    v = _mm512_fmadd_ps(v, _mm512_mask_mov_ps(one, 0xcccc, minus), _mm512_permute_ps(v, 0x4e));
    v = _mm512_fmadd_ps(v, _mm512_mask_mov_ps(one, 0xf0f0, minus),
                        _mm512_shuffle_f32x4(v, v, 0xb1));
    return _mm512_fmadd_ps(v, _mm512_mask_mov_ps(one, 0xff00, minus),
                           _mm512_shuffle_f32x4(v, v, 0x4e));
}

#include "stats_rotate.h"

#include "stats.h"

const tq_stats tq_stats_avx512 = {errors, moments};
