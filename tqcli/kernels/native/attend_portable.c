/* Attention from packed blocks in plain C11.
 *
 * Codes are looked up two at a time, in a table of all pairs of centroids, 32 values of a block
 * after the other. Sums run in eight lanes, element i of a vector in lane i % 8, so that compilers
 * may vectorise them without being allowed to reorder anything. */
#include "attend.h"
#include "half.h"

enum {
    UNIT = 32, /* divides every block */
    LANES = 8,
    PAIRS = 256,
};

typedef struct {
    float pair[PAIRS][2];
} table;

/* Index of a pair: bits 4: its byte; else four bits of qs and the two sign bits above them. */
static void fill(table *t, int bits, const float *centroids) {
    for (int i = 0; i < 1 << 2 * bits; i++) {
        const int low = bits == 4 ? i & 15 : (i & 3) | (i >> 4 & 1) << 2;
        const int high = bits == 4 ? i >> 4 : (i >> 2 & 3) | (i >> 5 & 1) << 2;
        t->pair[i][0] = centroids[low];
        t->pair[i][1] = centroids[high];
    }
}

static size_t scratch(size_t dim) { return dim * (2 + TQ_HEAD_TILE) * sizeof(float); }

static float half_at(const uint8_t *at) { return tq_from_half((uint16_t)(at[0] | at[1] << 8)); }

/* The centroids of 32 values, `inside` values into a block. */
TQ_INLINE void expand_unit(const tq_packed *x, const table *t, const uint8_t *block, int inside,
                           int bits, float *out) {
    const uint8_t *codes = block + x->header;
    const uint8_t *low = codes + (bits == 4 ? inside / 2 : inside / 4);
    const uint8_t *signs = codes + x->block / 4 + inside / 8;
    if (bits == 4) {
        for (int i = 0; i < UNIT / 2; i++) memcpy(out + 2 * i, t->pair[low[i]], 8);
        return;
    }
    for (int i = 0; i < UNIT / 4; i++) {
        const int sign = bits == 3 ? signs[i / 2] >> 4 * (i % 2) : 0;
        memcpy(out + 4 * i, t->pair[(low[i] & 15) | (sign & 3) << 4], 8);
        memcpy(out + 4 * i + 2, t->pair[low[i] >> 4 | (sign & 12) << 2], 8);
    }
}

static size_t block_bytes(const tq_packed *x) {
    return (size_t)(x->header + x->block * x->bits / 8);
}

/* One vector as float32 without its norms; those go to norms, one for 32 values. */
TQ_INLINE void expand_bits(const tq_packed *x, const table *t, const uint8_t *vector, int bits,
                           float *out, float *norms) {
    const size_t per_vector = x->dim / (size_t)x->block, bytes = block_bytes(x);
    for (size_t b = 0; b < per_vector; b++) {
        const float norm = half_at(vector + b * bytes);
        for (int inside = 0; inside < x->block; inside += UNIT, out += UNIT) {
            expand_unit(x, t, vector + b * bytes, inside, bits, out);
            *norms++ = norm;
        }
    }
}

static void expand(const tq_packed *x, const table *t, const uint8_t *vector, float *out,
                   float *norms) {
    if (x->bits == 2) expand_bits(x, t, vector, 2, out, norms);
    if (x->bits == 3) expand_bits(x, t, vector, 3, out, norms);
    if (x->bits == 4) expand_bits(x, t, vector, 4, out, norms);
}

static float sum_lanes(const float *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static float dot(const float *vector, const float *norms, const float *q, size_t dim) {
    float lanes[LANES] = {0};
    for (size_t d = 0; d < dim; d += UNIT) {
        float sums[LANES] = {0};
        for (int i = 0; i < UNIT; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                sums[lane] += q[d + (size_t)(i + lane)] * vector[d + (size_t)(i + lane)];
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += sums[lane] * norms[d / UNIT];
    }
    return sum_lanes(lanes);
}

/* int8 queries and centroids become float32: their products and sums stay whole numbers below
 * 2^24 within a unit, so nothing is rounded. */
static void scores(const tq_packed *keys, const tq_queries *queries, float *out, size_t stride,
                   void *memory) {
    const size_t dim = keys->dim;
    float *key = memory, *norms = key + dim, *converted = norms + dim;
    float centroids8[TQ_MAX_LEVELS];
    table t;
    if (queries->values8)
        for (int i = 0; i < 1 << keys->bits; i++) centroids8[i] = queries->centroids8[i];
    fill(&t, keys->bits, queries->values8 ? centroids8 : keys->centroids);
    for (size_t j0 = 0; j0 < queries->m; j0 += TQ_HEAD_TILE) {
        const size_t left = queries->m - j0, some = left < TQ_HEAD_TILE ? left : TQ_HEAD_TILE;
        const float *q = queries->values8 ? converted : queries->values + j0 * dim;
        if (queries->values8)
            for (size_t d = 0; d < some * dim; d++) converted[d] = queries->values8[j0 * dim + d];
        for (size_t i = 0; i < keys->n; i++) {
            expand(keys, &t, keys->bytes + i * keys->vector_bytes, key, norms);
            for (size_t j = 0; j < some; j++) {
                const float scale = queries->values8 ? queries->scales[j0 + j] : 1.0f;
                out[(j0 + j) * stride + i] = dot(key, norms, q + j * dim, dim) * scale;
            }
        }
    }
}

static void weighted_sum(const tq_packed *x, const float *weights, size_t stride, size_t m,
                         double *out, void *memory) {
    const size_t dim = x->dim;
    float *vector = memory, *norms = vector + dim, *sums = norms + dim; /* (m of a tile, dim) */
    table t;
    fill(&t, x->bits, x->centroids);
    for (size_t d = 0; d < m * dim; d++) out[d] = 0.0;
    for (size_t j0 = 0; j0 < m; j0 += TQ_HEAD_TILE) {
        const size_t some = m - j0 < TQ_HEAD_TILE ? m - j0 : TQ_HEAD_TILE;
        for (size_t first = 0; first < x->n; first += TQ_VALUE_TILE) {
            const size_t left = x->n - first, count = left < TQ_VALUE_TILE ? left : TQ_VALUE_TILE;
            memset(sums, 0, some * dim * sizeof(float));
            for (size_t k = first; k < first + count; k++) {
                expand(x, &t, x->bytes + k * x->vector_bytes, vector, norms);
                for (size_t j = 0; j < some; j++)
                    for (size_t d = 0; d < dim; d += UNIT) {
                        const float w = weights[(j0 + j) * stride + k] * norms[d / UNIT];
                        float *sum = sums + j * dim + d;
                        for (int i = 0; i < UNIT; i++) sum[i] += w * vector[d + (size_t)i];
                    }
            }
            for (size_t d = 0; d < some * dim; d++) out[j0 * dim + d] += sums[d];
        }
    }
}

/* ---- the same over float16 ---- */

static void scores_f16(const uint16_t *keys, size_t n, size_t dim, const float *queries, size_t m,
                       float *out, size_t stride, void *memory) {
    float *key = memory;
    for (size_t i = 0; i < n; i++) {
        for (size_t d = 0; d < dim; d++) key[d] = tq_from_half(keys[i * dim + d]);
        for (size_t j = 0; j < m; j++) {
            const float *q = queries + j * dim;
            float sums[LANES] = {0};
            for (size_t d = 0; d < dim; d += LANES)
                for (size_t lane = d; lane < d + LANES; lane++)
                    sums[lane - d] += q[lane] * key[lane];
            out[j * stride + i] = sum_lanes(sums);
        }
    }
}

static void weighted_sum_f16(const uint16_t *values, size_t n, size_t dim, const float *weights,
                             size_t stride, size_t m, double *out, void *memory) {
    float *sums = memory;
    for (size_t j = 0; j < m; j++) {
        double *total = out + j * dim;
        for (size_t d = 0; d < dim; d++) total[d] = 0.0;
        for (size_t first = 0; first < n; first += TQ_VALUE_TILE) {
            const size_t left = n - first, count = left < TQ_VALUE_TILE ? left : TQ_VALUE_TILE;
            memset(sums, 0, dim * sizeof(float));
            for (size_t k = first; k < first + count; k++)
                for (size_t d = 0; d < dim; d++)
                    sums[d] += weights[j * stride + k] * tq_from_half(values[k * dim + d]);
            for (size_t d = 0; d < dim; d++) total[d] += sums[d];
        }
    }
}

const tq_attend_ops tq_attend_portable = {
    .scratch = scratch,
    .scores = scores,
    .weighted_sum = weighted_sum,
    .scores_f16 = scores_f16,
    .weighted_sum_f16 = weighted_sum_f16,
};
