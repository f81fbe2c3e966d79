/* The statistics for AVX2 with FMA. */
#include <immintrin.h>

#include "tq.h"

typedef struct {
    __m256d low, high;
} D;

#define EACH(name, intrinsic) \
    TQ_INLINE D name(D a, D b) { \
        const D both = {intrinsic(a.low, b.low), intrinsic(a.high, b.high)}; \
        return both; \
    }
EACH(d_add, _mm256_add_pd)
EACH(d_sub, _mm256_sub_pd)
EACH(d_mul, _mm256_mul_pd)
EACH(d_larger, _mm256_max_pd)
#undef EACH

TQ_INLINE D d_set1(double x) {
    const D both = {_mm256_set1_pd(x), _mm256_set1_pd(x)};
    return both;
}

#define d_zero() d_set1(0)

TQ_INLINE D d_abs(D a) {
    const __m256d sign = _mm256_set1_pd(-0.0);
    const D both = {_mm256_andnot_pd(sign, a.low), _mm256_andnot_pd(sign, a.high)};
    return both;
}

TQ_INLINE D d_add_product(D s, D a, D b) {
    const D both = {_mm256_fmadd_pd(a.low, b.low, s.low), _mm256_fmadd_pd(a.high, b.high, s.high)};
    return both;
}

TQ_INLINE D d_load(const double *from) {
    const D both = {_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)};
    return both;
}

TQ_INLINE void d_store(double *to, D v) {
    _mm256_storeu_pd(to, v.low);
    _mm256_storeu_pd(to + 4, v.high);
}

TQ_INLINE D d_of_floats(__m256 v) {
    const D both = {_mm256_cvtps_pd(_mm256_castps256_ps128(v)),
                    _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
    return both;
}

TQ_INLINE D d_widen(const uint8_t *from, enum tq_float type) {
    if (type == TQ_F32) return d_of_floats(_mm256_loadu_ps((const float *)(const void *)from));
    const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)from);
    if (type == TQ_F16) return d_of_floats(_mm256_cvtph_ps(half));
    const __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
    return d_of_floats(_mm256_castsi256_ps(wide));
}

TQ_INLINE void d_narrow(float *to, D v) {
    _mm_storeu_ps(to, _mm256_cvtpd_ps(v.low));
    _mm_storeu_ps(to + 4, _mm256_cvtpd_ps(v.high));
}

TQ_INLINE double d_sum(D v) {
    const __m256d four = _mm256_add_pd(v.low, v.high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

TQ_INLINE double d_max(D v) {
    const __m256d four = _mm256_max_pd(v.low, v.high);
    const __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

#define LANES 8

typedef __m256 V;

#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, v) _mm256_storeu_ps(p, v)
#define v_add(a, b) _mm256_add_ps(a, b)
#define v_sub(a, b) _mm256_sub_ps(a, b)
#define v_mul(a, b) _mm256_mul_ps(a, b)

/* Partner plus the value itself, or minus it where it has the bit of the stride: products by 1 and
 * -1 are exact. */
TQ_INLINE V v_inside(V v) {
    const V first = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const V second = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const V third = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    v = _mm256_fmadd_ps(v, first, _mm256_permute_ps(v, 0xb1));
    v = _mm256_fmadd_ps(v, second, _mm256_permute_ps(v, 0x4e));
    return _mm256_fmadd_ps(v, third, _mm256_permute2f128_ps(v, v, 1));
}

#include "stats_rotate.h"

#include "stats.h"

const tq_stats tq_stats_avx2 = {errors, moments};
