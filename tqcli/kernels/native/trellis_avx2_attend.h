/* Scores of int8 queries from trellis blocks, by integer products; a part of trellis_avx2.c. */

/* Value `i` of a group stands here among the bytes of v_block_entries. */
static size_t place_of(size_t i) {
    const size_t row = i / WIDTH, eight = i % WIDTH / 8;
    return row / 2 * 2 * WIDTH + eight * WIDTH + row % 2 * 8 + i % 8;
}

/* Products of bytes in -127..127, summed by fours: |a| * (b with the sign of a) fits the
 * saturating pair sums of vpmaddubsw. */
TQ_INLINE VI dot_bytes(VI a, VI b) {
    const VI pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

TQ_INLINE void score_bytes(const uint8_t *key, size_t dim, int group, int bits, size_t m,
                           const tq_trellis *layout, const w_table *table, const int8_t *queries,
                           const float *scales, float *out, size_t stride) {
    const int count = group / WIDTH;
    V total[TQ_HEAD_TILE];
    for (size_t j = 0; j < m; j++) total[j] = v_zero();
    for (size_t at = 0; at < dim; at += (size_t)group) {
        const V scale = v_set1(tq_from_half((uint16_t)(key[0] | key[1] << 8)) * (1.0f / 32.0f));
        VI entries[ROWS / 2];
        v_block_entries(table, key + 2, bits, count, entries);
        for (size_t j = 0; j < m; j++) {
            const VI *query = (const VI *)(const void *)(queries + j * dim + at);
            VI sum = dot_bytes(entries[0], _mm256_loadu_si256(query));
            TQ_UNROLL
            for (int r = 1; r < count / 2; r++)
                sum = _mm256_add_epi32(sum, dot_bytes(entries[r], _mm256_loadu_si256(query + r)));
            total[j] = v_add(total[j], v_mul(_mm256_cvtepi32_ps(sum), scale));
        }
        key += layout->group_bytes;
    }
    for (size_t j = 0; j < m; j++) {
        const W sums = {{total[j], v_zero()}};
        out[j * stride] = w_fold(sums) * scales[j];
    }
}

#define SCORE_BYTES(group, bits) \
    score_bytes(key, dim, group, bits, m, layout, &table, bytes, queries->scales + first, out + i, \
                stride)

static void scores_avx2(const uint8_t *keys, size_t n, size_t dim, const tq_queries *queries,
                        float *out, size_t stride, const tq_trellis *layout, void *scratch) {
    if (queries->values) {
        scores_trellis(keys, n, dim, queries, out, stride, layout, scratch);
        return;
    }
    const size_t group = (size_t)layout->group;
    const size_t key_bytes = dim / group * (size_t)layout->group_bytes;
    const w_table table = w_load_table(layout);
    for (size_t first = 0; first < queries->m; first += TQ_HEAD_TILE) {
        const size_t m = queries->m - first < TQ_HEAD_TILE ? queries->m - first : TQ_HEAD_TILE;
        int8_t *bytes = scratch;
        for (size_t d = 0; d < m * dim; d++)
            bytes[d / group * group + place_of(d % group)] = queries->values8[first * dim + d];
        for (size_t i = 0; i < n; i++) {
            const uint8_t *key = keys + i * key_bytes;
            if (layout->group == 64) {
                if (layout->bits == 2) SCORE_BYTES(64, 2);
                if (layout->bits == 3) SCORE_BYTES(64, 3);
                if (layout->bits == 4) SCORE_BYTES(64, 4);
            } else {
                if (layout->bits == 2) SCORE_BYTES(128, 2);
                if (layout->bits == 3) SCORE_BYTES(128, 3);
                if (layout->bits == 4) SCORE_BYTES(128, 4);
            }
        }
        out += m * stride;
    }
}
