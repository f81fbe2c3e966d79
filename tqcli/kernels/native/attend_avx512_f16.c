/* Scores and weighted sums over float16 with AVX-512: what the packed ones are measured against,
 * and built alike. */
#include "attend_avx512.h"

TQ_INLINE void scores_f16_body(const uint16_t *keys, size_t n, size_t dim, const float *queries,
                               size_t m, float *out, size_t stride, float *parts) {
    for (size_t first = 0; first < n; first += TQ_KEY_TILE) {
        size_t count = n - first < TQ_KEY_TILE ? n - first : TQ_KEY_TILE;
        for (size_t k = 0; k < count; k++) {
            const uint16_t *key = keys + (first + k) * dim;
            __m512 sums[4];
            TQ_UNROLL
            for (size_t j = 0; j < m; j++) sums[j] = _mm512_setzero_ps();
            for (size_t d = 0; d < dim; d += 64) {
                __m512 c[4];
                tq_prefetch((uintptr_t)(key + d) + PREFETCH);
                tq_prefetch((uintptr_t)(key + d) + PREFETCH + 64);
                for (int s = 0; s < 4; s++)
                    c[s] =
                        _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(key + d + LANES * s)));
                TQ_UNROLL
                for (size_t j = 0; j < m; j++) {
                    const float *q = queries + j * dim + d;
                    __m512 sum = _mm512_fmadd_ps(c[0], _mm512_loadu_ps(q), sums[j]);
                    sum = _mm512_fmadd_ps(c[1], _mm512_loadu_ps(q + LANES), sum);
                    sum = _mm512_fmadd_ps(c[2], _mm512_loadu_ps(q + 2 * LANES), sum);
                    sums[j] = _mm512_fmadd_ps(c[3], _mm512_loadu_ps(q + 3 * LANES), sum);
                }
            }
            TQ_UNROLL
            for (size_t j = 0; j < m; j++)
                _mm512_store_ps(parts + (j * TQ_KEY_TILE + k) * LANES, sums[j]);
        }
        for (size_t j = 0; j < m; j++)
            _mm512_mask_storeu_ps(out + j * stride + first, (__mmask16)((1u << count) - 1),
                                  sum_stored(parts + j * TQ_KEY_TILE * LANES));
    }
}

void tq_scores_f16_avx512(const uint16_t *keys, size_t n, size_t dim, const float *queries,
                          size_t m, float *out, size_t stride, void *memory) {
    float *parts = memory;
    memset(parts, 0, TQ_HEAD_TILE * TQ_KEY_TILE * LANES * sizeof(float));
    for (size_t j = 0, some; j < m; j += some) {
        const float *q = queries + j * dim;
        float *to = out + j * stride;
        some = m - j >= 4 ? 4 : 1;
        if (some == 4) scores_f16_body(keys, n, dim, q, 4, to, stride, parts);
        else if (dim == UNIT) scores_f16_body(keys, n, UNIT, q, 1, to, stride, parts);
        else scores_f16_body(keys, n, dim, q, 1, to, stride, parts);
    }
}

TQ_INLINE void add_tile_f16(const uint16_t *values, size_t dim, const float *weights, size_t stride,
                            size_t count, double *total, int rows, int slots) {
    __m512 sums[16], c[SLOTS];
    TQ_UNROLL
    for (int i = 0; i < rows * slots; i++) sums[i] = _mm512_setzero_ps();
    for (size_t k = 0; k < count; k++) {
        const uint16_t *value = values + k * dim;
        for (int s = 0; s < slots; s += 2)
            tq_prefetch((uintptr_t)(value + LANES * s) + 2 * PREFETCH);
        TQ_UNROLL
        for (int s = 0; s < slots; s++)
            c[s] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(value + LANES * s)));
        TQ_UNROLL
        for (int r = 0; r < rows; r++) {
            __m512 w = _mm512_set1_ps(weights[r * stride + k]);
            TQ_UNROLL
            for (int s = 0; s < slots; s++)
                sums[r * slots + s] = _mm512_fmadd_ps(c[s], w, sums[r * slots + s]);
        }
    }
    TQ_UNROLL
    for (int r = 0; r < rows; r++) flush(total + r * dim, sums + r * slots, slots);
}

void tq_weighted_sum_f16_avx512(const uint16_t *values, size_t n, size_t dim, const float *weights,
                                size_t stride, size_t m, double *out, void *memory) {
    double *total = memory; /* (4, dim) */
    for (size_t j = 0; j < m;) {
        size_t rows = m - j >= 4 ? 4 : 1;
        memset(total, 0, rows * dim * sizeof(double));
        for (size_t first = 0; first < n; first += TQ_VALUE_TILE) {
            size_t count = n - first < TQ_VALUE_TILE ? n - first : TQ_VALUE_TILE;
            const float *w = weights + j * stride + first;
            for (size_t d = 0; d < dim;) {
                const uint16_t *at = values + first * dim + d;
                size_t slots = rows == 1 && dim - d >= UNIT ? 8 : 4;
                if (rows == 4) add_tile_f16(at, dim, w, stride, count, total + d, 4, 4);
                else if (slots == 8) add_tile_f16(at, dim, w, stride, count, total + d, 1, 8);
                else add_tile_f16(at, dim, w, stride, count, total + d, 1, 4);
                d += slots * LANES;
            }
        }
        memcpy(out + j * dim, total, rows * dim * sizeof(double));
        j += rows;
    }
}
