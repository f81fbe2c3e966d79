/* Scores and weighted sums over float16 with AVX2: what the packed ones are measured against, and
 * built alike. */
#include "attend_avx2.h"

TQ_INLINE __m256 load_half(const uint16_t *at) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
}

void tq_scores_f16_avx2(const uint16_t *keys, size_t n, size_t dim, const float *queries, size_t m,
                        float *out, size_t stride, void *memory) {
    float *parts = memory; /* (queries of a tile, LANES keys, LANES) */
    memset(parts, 0, TQ_HEAD_TILE * LANES * LANES * sizeof(float));
    for (size_t j0 = 0; j0 < m; j0 += TQ_HEAD_TILE) {
        const size_t some = m - j0 < TQ_HEAD_TILE ? m - j0 : TQ_HEAD_TILE;
        for (size_t first = 0; first < n; first += LANES) {
            const size_t count = n - first < LANES ? n - first : LANES;
            for (size_t k = 0; k < count; k++)
                for (size_t d = 0; d < dim; d += UNIT) {
                    const uint16_t *key = keys + (first + k) * dim + d;
                    __m256 c[SLOTS];
                    tq_prefetch((uintptr_t)key + PREFETCH);
                    tq_prefetch((uintptr_t)key + PREFETCH + 64);
                    TQ_UNROLL
                    for (int s = 0; s < SLOTS; s++) c[s] = load_half(key + s * LANES);
                    for (size_t j = 0; j < some; j++) {
                        const float *q = queries + (j0 + j) * dim + d;
                        float *part = parts + (j * LANES + k) * LANES;
                        __m256 even = d == 0 ? _mm256_setzero_ps() : _mm256_load_ps(part);
                        __m256 odd = _mm256_setzero_ps();
                        TQ_UNROLL
                        for (int s = 0; s < SLOTS; s += 2) {
                            even = _mm256_fmadd_ps(c[s], _mm256_loadu_ps(q + s * LANES), even);
                            odd = _mm256_fmadd_ps(c[s + 1], _mm256_loadu_ps(q + (s + 1) * LANES),
                                                  odd);
                        }
                        _mm256_store_ps(part, _mm256_add_ps(even, odd));
                    }
                }
            for (size_t j = 0; j < some; j++) {
                float sums[LANES];
                _mm256_storeu_ps(sums, sum_eight(parts + j * LANES * LANES));
                memcpy(out + (j0 + j) * stride + first, sums, count * sizeof(float));
            }
        }
    }
}

/* One tile of 64 / rows values of each vector, for one, two or four queries. */
TQ_INLINE void add_tile_f16(const uint16_t *values, size_t dim, const float *weights, size_t stride,
                            size_t count, double *total, int rows) {
    const int slots = SLOTS / rows;
    __m256 sums[SLOTS];
    TQ_UNROLL
    for (int s = 0; s < SLOTS; s++) sums[s] = _mm256_setzero_ps();
    for (size_t k = 0; k < count; k++) {
        const uint16_t *value = values + k * dim;
        tq_prefetch((uintptr_t)value + 2 * PREFETCH);
        TQ_UNROLL
        for (int s = 0; s < slots; s++) {
            const __m256 c = load_half(value + s * LANES);
            TQ_UNROLL
            for (int r = 0; r < rows; r++)
                sums[r * slots + s] = _mm256_fmadd_ps(
                    c, _mm256_broadcast_ss(weights + r * stride + k), sums[r * slots + s]);
        }
    }
    TQ_UNROLL
    for (int r = 0; r < rows; r++) flush(total + r * dim, sums + r * slots, slots);
}

void tq_weighted_sum_f16_avx2(const uint16_t *values, size_t n, size_t dim, const float *weights,
                              size_t stride, size_t m, double *out, void *memory) {
    double *total = memory; /* (4, dim) */
    for (size_t j = 0, rows; j < m; j += rows) {
        rows = m - j >= 4 ? 4 : m - j >= 2 ? 2 : 1;
        memset(total, 0, rows * dim * sizeof(double));
        for (size_t first = 0; first < n; first += TQ_VALUE_TILE) {
            const size_t count = n - first < TQ_VALUE_TILE ? n - first : TQ_VALUE_TILE;
            const float *from = weights + j * stride + first;
            for (size_t d = 0; d < dim; d += UNIT / rows) {
                const uint16_t *at = values + first * dim + d;
                if (rows == 4) add_tile_f16(at, dim, from, stride, count, total + d, 4);
                else if (rows == 2) add_tile_f16(at, dim, from, stride, count, total + d, 2);
                else add_tile_f16(at, dim, from, stride, count, total + d, 1);
            }
        }
        memcpy(out + j * dim, total, rows * dim * sizeof(double));
    }
}
