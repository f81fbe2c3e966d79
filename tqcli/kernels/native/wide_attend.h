/* Scores from trellis blocks: unpack a key, multiply; a part of wide.h for instruction sets whose
 * float units are the fastest they have. int8 queries are multiplied as floats, which is exact:
 * 127 * 127 * 128 is below 2^24. */

static size_t scores_scratch(size_t dim) { return TQ_HEAD_TILE * dim * sizeof(float); }

WIDE_INLINE void score_key(const uint8_t *key, size_t dim, int group, int bits, size_t m,
                           const tq_trellis *layout, const w_table *table, const float *queries,
                           const float *scales, float *out, size_t stride) {
    const int count = group / WIDTH;
    W total[TQ_HEAD_TILE];
    for (size_t j = 0; j < m; j++) total[j] = w_zero();
    for (size_t at = 0; at < dim; at += (size_t)group) {
        const W scale = w_set1(tq_from_half((uint16_t)(key[0] | key[1] << 8)) * (1.0f / 32.0f));
        W rows[ROWS];
        w_unpack(key + 2, bits, count, table, rows);
        for (size_t j = 0; j < m; j++) {
            const float *query = queries + j * dim + at;
            W sum = times_row(rows[0], query, 0);
            WIDE_UNROLL
            for (int r = 1; r < count; r++) sum = w_add(sum, times_row(rows[r], query, r));
            total[j] = w_add(total[j], w_mul(sum, scale));
        }
        key += layout->group_bytes;
    }
    for (size_t j = 0; j < m; j++) out[j * stride] = w_fold(total[j]) * scales[j];
}

#define SCORE_KEY(group, bits) \
    score_key(key, dim, group, bits, m, layout, &table, floats, scales, out + i, stride)

static void scores_trellis(const uint8_t *keys, size_t n, size_t dim, const tq_queries *queries,
                           float *out, size_t stride, const tq_trellis *layout, void *scratch) {
    const w_table table = w_load_table(layout);
    const size_t key_bytes = dim / (size_t)layout->group * (size_t)layout->group_bytes;
    for (size_t first = 0; first < queries->m; first += TQ_HEAD_TILE) {
        const size_t m = queries->m - first < TQ_HEAD_TILE ? queries->m - first : TQ_HEAD_TILE;
        float *floats = scratch, scales[TQ_HEAD_TILE];
        for (size_t d = 0; d < m * dim; d++)
            floats[d] = queries->values ? queries->values[first * dim + d]
                                        : (float)queries->values8[first * dim + d];
        for (size_t j = 0; j < m; j++)
            scales[j] = queries->values ? 1.0f : queries->scales[first + j];
        for (size_t i = 0; i < n; i++) {
            const uint8_t *key = keys + i * key_bytes;
            if (layout->group == 64) {
                if (layout->bits == 2) SCORE_KEY(64, 2);
                if (layout->bits == 3) SCORE_KEY(64, 3);
                if (layout->bits == 4) SCORE_KEY(64, 4);
            } else {
                if (layout->bits == 2) SCORE_KEY(128, 2);
                if (layout->bits == 3) SCORE_KEY(128, 3);
                if (layout->bits == 4) SCORE_KEY(128, 4);
            }
        }
        out += m * stride;
    }
}
