/* Scores of packed keys with AVX2, and the table of this instruction set. */
#include "attend_avx2.h"

static size_t scratch(size_t dim) {
    return dim * TQ_HEAD_TILE * (sizeof(float) + sizeof(double)) +
           TQ_HEAD_TILE * TQ_KEY_TILE * LANES * sizeof(float) + TQ_VALUE_TILE * (32 + 32) +
           TQ_HEAD_TILE * TQ_VALUE_TILE * sizeof(float) + 8 * 64;
}

/* Queries in the order of the nibbles: (m, units, SLOTS, LANES) float32, or (m, units, {low,
 * high}, 32) int8. */
typedef struct {
    size_t m;
    float *values;
    int8_t *values8;
    float scales[TQ_HEAD_TILE];
    __m256i table8;
} ordered;

static void order_queries(ordered *to, const tq_queries *from, size_t first,
                          const tq_packed *keys) {
    const size_t units = keys->dim / UNIT;
    for (size_t j = 0; j < to->m; j++) {
        for (size_t u = 0; u < units; u++)
            for (int lane = 0; lane < LANES; lane++)
                for (int slot = 0; slot < SLOTS; slot++) {
                    const size_t unit = j * units + u;
                    const size_t at = (first + j) * keys->dim + u * UNIT +
                                      (size_t)value_at(keys->bits, slot, lane);
                    if (from->values)
                        to->values[(unit * SLOTS + slot) * LANES + lane] = from->values[at];
                    else
                        to->values8[(unit * 2 + slot % 2) * 32 + 4 * lane + slot / 2] =
                            from->values8[at];
                }
        to->scales[j] = from->values ? 1.0f : from->scales[first + j];
    }
    if (!from->values) {
        int8_t table[32];
        for (int i = 0; i < 32; i++) table[i] = from->centroids8[i & ((1 << keys->bits) - 1)];
        to->table8 = _mm256_loadu_si256((const __m256i *)table);
    }
}

TQ_INLINE __m256 dot_float(const __m256 *c, const float *q) {
    __m256 even = _mm256_mul_ps(c[0], _mm256_load_ps(q));
    __m256 odd = _mm256_mul_ps(c[1], _mm256_load_ps(q + LANES));
    TQ_UNROLL
    for (int s = 2; s < SLOTS; s += 2) {
        even = _mm256_fmadd_ps(c[s], _mm256_load_ps(q + s * LANES), even);
        odd = _mm256_fmadd_ps(c[s + 1], _mm256_load_ps(q + (s + 1) * LANES), odd);
    }
    return _mm256_add_ps(even, odd);
}

/* Products of bytes in -127..127, summed by fours: |c| * (q with the sign of c) fits the
 * saturating pair sums of vpmaddubsw. */
TQ_INLINE __m256i dot_bytes(__m256i c, __m256i q) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(q, c));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

TQ_INLINE __m256 dot_int8(__m256i low, __m256i high, const int8_t *q) {
    const __m256i sum =
        _mm256_add_epi32(dot_bytes(low, _mm256_load_si256((const __m256i *)q)),
                         dot_bytes(high, _mm256_load_si256((const __m256i *)(q + 32))));
    return _mm256_cvtepi32_ps(sum);
}

/* The norms of vectors that are one block each; collected early, since the load that picks them
 * up has to wait for these small stores. */
TQ_INLINE void collect_norms(uint16_t *norms, const uint8_t *at, size_t stride, size_t count) {
    for (size_t i = 0; i < count; i++) memcpy(norms + i, at + i * stride, 2);
}

/* single: a vector is one block. bits, int8, single and one_query are constants where this is
 * expanded. */
TQ_INLINE void scores_body(const tq_packed *keys, const ordered *q, float *out, size_t stride,
                           float *parts, int bits, int int8, int single, int one_query) {
    const tq_packed own = *keys, *x = &own; /* a copy that no store can change */
    const walk w = make_walk(keys);
    const tables t = float_tables(keys);
    const __m256i table8 = q->table8, nibble = _mm256_set1_epi8(15);
    const size_t m = one_query ? 1 : q->m;
    const int8_t *values8 = q->values8;
    const float *values = q->values;
    uint16_t raw[LANES] = {0};
    for (size_t first = 0; first < x->n; first += LANES) {
        const size_t count = x->n - first < LANES ? x->n - first : LANES;
        const uint8_t *tile = x->bytes + first * x->vector_bytes;
        if (single && count == LANES) collect_norms(raw, tile, x->vector_bytes, LANES);
        else if (single) collect_norms(raw, tile, x->vector_bytes, count);
        for (size_t k = 0; k < count; k++) {
            const uint8_t *key = tile + k * x->vector_bytes;
            __m256 sum = _mm256_setzero_ps(), norms = _mm256_set1_ps(1.0f);
            for (size_t u = 0; u < w.units; u++) {
                const uint8_t *block = block_of(&w, key, u);
                const __m256i nibbles = load_unit(x, block, inside_of(&w, u), w.apart, bits);
                __m256 c[SLOTS];
                __m256i low, high;
                if (!single && inside_of(&w, u) == 0) norms = load_norms(block, w.apart, bits);
                if (int8) {
                    low = _mm256_shuffle_epi8(table8, _mm256_and_si256(nibbles, nibble));
                    high = _mm256_shuffle_epi8(
                        table8, _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), nibble));
                } else {
                    expand4(nibbles, t, bits, c);
                    expand4(_mm256_srli_epi32(nibbles, 16), t, bits, c + 4);
                }
                tq_prefetch((uintptr_t)block + PREFETCH);
                for (size_t j = 0; j < m; j++) {
                    const size_t at = (j * w.units + u) * UNIT;
                    float *part = parts + (j * LANES + k) * LANES;
                    const __m256 dot = int8 ? dot_int8(low, high, values8 + at)
                                            : dot_float(c, values + at);
                    if (!one_query) sum = u == 0 ? _mm256_setzero_ps() : _mm256_load_ps(part);
                    sum = _mm256_fmadd_ps(dot, norms, sum);
                    if (!one_query) _mm256_store_ps(part, sum);
                }
            }
            if (one_query) _mm256_store_ps(parts + k * LANES, sum);
        }
        __m256 norms = _mm256_set1_ps(1.0f);
        if (single) norms = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)raw));
        for (size_t j = 0; j < m; j++) {
            __m256 sum = _mm256_mul_ps(sum_eight(parts + j * LANES * LANES), norms);
            if (int8) sum = _mm256_mul_ps(sum, _mm256_set1_ps(q->scales[j]));
            if (count == LANES) {
                _mm256_storeu_ps(out + j * stride + first, sum);
            } else {
                float tail[LANES];
                _mm256_storeu_ps(tail, sum);
                memcpy(out + j * stride + first, tail, count * sizeof(float));
            }
        }
    }
}

#define SCORES(bits, int8) \
    do { \
        if (single && q.m == 1) scores_body(keys, &q, to, stride, parts, bits, int8, 1, 1); \
        else if (single) scores_body(keys, &q, to, stride, parts, bits, int8, 1, 0); \
        else scores_body(keys, &q, to, stride, parts, bits, int8, 0, 0); \
    } while (0)

#define SCORES_BITS(int8) \
    do { \
        if (keys->bits == 2) SCORES(2, int8); \
        else if (keys->bits == 3) SCORES(3, int8); \
        else SCORES(4, int8); \
    } while (0)

static void scores(const tq_packed *keys, const tq_queries *queries, float *out, size_t stride,
                   void *memory) {
    char *room = memory;
    ordered q;
    const int single = (size_t)keys->block == keys->dim;
    const size_t parts_bytes = TQ_HEAD_TILE * LANES * LANES * sizeof(float);
    q.values = carve(&room, TQ_HEAD_TILE * keys->dim * sizeof(float));
    q.values8 = (int8_t *)q.values;
    q.table8 = _mm256_setzero_si256();
    float *parts = carve(&room, parts_bytes);
    memset(parts, 0, parts_bytes);
    for (size_t first = 0; first < queries->m; first += TQ_HEAD_TILE) {
        float *to = out + first * stride;
        q.m = queries->m - first < TQ_HEAD_TILE ? queries->m - first : TQ_HEAD_TILE;
        order_queries(&q, queries, first, keys);
        if (queries->values) SCORES_BITS(0);
        else SCORES_BITS(1);
    }
}

const tq_attend_ops tq_attend_avx2 = {
    .scratch = scratch,
    .scores = scores,
    .weighted_sum = tq_weighted_sum_avx2,
    .scores_f16 = tq_scores_f16_avx2,
    .weighted_sum_f16 = tq_weighted_sum_f16_avx2,
};
