/* Scores from trellis blocks for AVX-512 with VBMI and VNNI. */
#include "attend.h"
#include "half.h"
#include "trellis.h"

#include "attend_avx512_tile.h"
#include "wide_avx512.h"

enum {
    HALF = 64,       /* values of one register of bytes: a part, as w_load_table says */
    QUARTER = 16,    /* of its values that fit a register of floats */
    PREFETCH = 4096, /* bytes ahead */
    BIAS = 128,      /* makes table entries unsigned, as vpdpbusd wants them */
};

/* Queries in the order of the parts, by query and group: bytes (2, HALF) and where each sum starts
 * to take back the bias, or floats (8, QUARTER). */
typedef struct {
    size_t m, groups;
    int8_t *bytes;
    int32_t *start;
    float *floats, scales[TQ_HEAD_TILE];
} ordered;

size_t tq_trellis_scratch_avx512(size_t dim) {
    return TQ_HEAD_TILE * (dim / HALF) * 2 * HALF * (sizeof(float) + 1) +
           TQ_HEAD_TILE * (dim / HALF) * WIDTH * sizeof(int32_t) +
           TQ_HEAD_TILE * TQ_KEY_TILE * WIDTH * sizeof(float) + 3 * 64;
}

/* The value of byte `at` of part `part`. */
static size_t value_at(int part, int at) { return (size_t)(at / 8 * 16 + 8 * part + at % 8); }

static void order_queries(ordered *to, const tq_queries *from, size_t first, size_t dim,
                          size_t group) {
    for (size_t j = 0; j < to->m; j++)
        for (size_t g = 0; g < to->groups; g++) {
            const size_t place = j * to->groups + g, base = (first + j) * dim + g * group;
            int32_t *start = to->start + place * WIDTH;
            for (int l = 0; l < WIDTH; l++) start[l] = 0;
            for (int part = 0; part < 2; part++)
                for (int at = 0; at < HALF; at++) {
                    const size_t v = value_at(part, at), byte = (place * 2 + part) * HALF + at;
                    const int there = v < group;
                    if (from->values) {
                        to->floats[byte] = there ? from->values[base + v] : 0;
                    } else {
                        to->bytes[byte] = there ? from->values8[base + v] : 0;
                        start[at / 4] -= BIAS * to->bytes[byte];
                    }
                }
        }
    for (size_t j = 0; j < to->m; j++)
        to->scales[j] = from->values ? 1.0f : from->scales[first + j];
}

TQ_INLINE I dot_bytes(const I parts[2], const int8_t *query, const int32_t *start) {
    const I sum = _mm512_dpbusd_epi32(i_load(start), parts[0], i_load(query));
    return _mm512_dpbusd_epi32(sum, parts[1], i_load(query + HALF));
}

/* Byte by byte the parts as floats, QUARTER values at a time. */
TQ_INLINE void expand(const I parts[2], W *rows) {
    _Alignas(64) int8_t entries[2 * HALF];
    _mm512_store_si512(entries, parts[0]);
    _mm512_store_si512(entries + HALF, parts[1]);
    TQ_UNROLL
    for (int r = 0; r < 2 * HALF / QUARTER; r++)
        rows[r] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
            _mm_load_si128((const __m128i *)(const void *)(entries + r * QUARTER))));
}

TQ_INLINE W dot_floats(const W *rows, const float *query) {
    W even = w_mul(rows[0], w_load(query)), odd = w_mul(rows[1], w_load(query + QUARTER));
    TQ_UNROLL
    for (int r = 2; r < 2 * HALF / QUARTER; r += 2) {
        even = _mm512_fmadd_ps(rows[r], w_load(query + r * QUARTER), even);
        odd = _mm512_fmadd_ps(rows[r + 1], w_load(query + (r + 1) * QUARTER), odd);
    }
    return w_add(even, odd);
}

/* Sixteen keys of one group each against one int8 query: no sum leaves the registers. */
TQ_INLINE W single_tile(const uint8_t *key, size_t key_bytes, int bits, const w_table *table,
                        const ordered *q) {
    const I first = i_load(q->bytes), second = i_load(q->bytes + HALF), start = i_load(q->start);
    W dots[TQ_KEY_TILE];
    TQ_UNROLL
    for (int k = 0; k < TQ_KEY_TILE; k++, key += key_bytes) {
        I parts[2];
        tq_prefetch((uintptr_t)key + PREFETCH);
        w_block_entries(table, key + 2, bits, parts);
        const I sum = _mm512_dpbusd_epi32(start, parts[0], first);
        dots[k] = i_as_float(_mm512_dpbusd_epi32(sum, parts[1], second));
    }
    return sum_sixteen(dots, 1);
}

/* The products of one group with every query, for the sums of key k. single: a key is one group,
 * whose sums stay integers (int8) and meet its norm at the end. */
TQ_INLINE void multiply(const uint8_t *block, size_t g, size_t k, const w_table *table,
                        const ordered *q, float *sums, int bits, int int8, int single) {
    const W scale = w_set1(tq_from_half((uint16_t)(block[0] | block[1] << 8)) / 32.0f);
    I parts[2];
    W rows[8];
    w_block_entries(table, block + 2, bits, parts);
    if (!int8) expand(parts, rows);
    for (size_t j = 0; j < q->m; j++) {
        const size_t place = j * q->groups + g;
        float *to = sums + (j * TQ_KEY_TILE + k) * WIDTH;
        W dot;
        if (int8) {
            const I sum = dot_bytes(parts, q->bytes + place * 2 * HALF, q->start + place * WIDTH);
            dot = single ? i_as_float(sum) : _mm512_cvtepi32_ps(sum);
        } else {
            dot = dot_floats(rows, q->floats + place * 2 * HALF);
        }
        if (!single) dot = w_mul(dot, scale);
        w_store(to, g ? w_add(w_load(to), dot) : dot);
    }
}

/* bits, int8 and single are constants where this is expanded. */
TQ_INLINE void scores_body(const uint8_t *keys, size_t n, size_t key_bytes,
                           const tq_trellis *layout, const w_table *shared, const ordered *q,
                           float *sums, float *out, size_t stride, int bits, int int8, int single) {
    const w_table own = *shared, *table = &own;
    _Alignas(32) uint16_t halves[TQ_KEY_TILE] = {0};
    for (size_t first = 0; first < n; first += TQ_KEY_TILE) {
        const size_t count = n - first < TQ_KEY_TILE ? n - first : TQ_KEY_TILE;
        const uint8_t *key = keys + first * key_bytes;
        const int in_registers = single && int8 && q->m == 1 && count == TQ_KEY_TILE;
        W norms = w_set1(1.0f), dots[TQ_KEY_TILE];
        if (single) {
            collect_norms(halves, key, key_bytes, count);
            norms = w_mul(widen_norms(halves), w_set1(1.0f / 32.0f));
        }
        for (size_t k = 0; k < count && !in_registers; k++)
            for (size_t g = 0; g < q->groups; g++)
                multiply(key + k * key_bytes + g * (size_t)layout->group_bytes, g, k, table, q,
                         sums, bits, int8, single);
        for (size_t j = 0; j < q->m; j++) {
            W total;
            if (in_registers) {
                total = single_tile(key, key_bytes, bits, table, q);
            } else {
                TQ_UNROLL
                for (int k = 0; k < TQ_KEY_TILE; k++)
                    dots[k] = w_load(sums + (j * TQ_KEY_TILE + (size_t)k) * WIDTH);
                total = sum_sixteen(dots, single && int8);
            }
            if (single && int8) total = _mm512_cvtepi32_ps(_mm512_castps_si512(total));
            total = w_mul(w_mul(total, norms), w_set1(q->scales[j]));
            _mm512_mask_storeu_ps(out + j * stride + first, (__mmask16)((1u << count) - 1), total);
        }
    }
}

#define SCORES_OF(bits, int8) \
    do { \
        if (q.groups == 1) \
            scores_body(keys, n, key_bytes, layout, &table, &q, sums, out, stride, bits, int8, 1); \
        else \
            scores_body(keys, n, key_bytes, layout, &table, &q, sums, out, stride, bits, int8, 0); \
    } while (0)

#define SCORES(bits) \
    do { \
        if (queries->values) SCORES_OF(bits, 0); \
        else SCORES_OF(bits, 1); \
    } while (0)

void tq_trellis_scores_avx512(const uint8_t *keys, size_t n, size_t dim, const tq_queries *queries,
                              float *out, size_t stride, const tq_trellis *layout, void *scratch) {
    const size_t group = (size_t)layout->group;
    const size_t key_bytes = dim / group * (size_t)layout->group_bytes;
    w_table table = w_load_table(layout);
    ordered q = {.groups = dim / group};
    float *sums = scratch;
    const size_t places = TQ_HEAD_TILE * q.groups;
    q.floats = sums + TQ_HEAD_TILE * TQ_KEY_TILE * WIDTH;
    q.bytes = (int8_t *)q.floats;
    q.start = (int32_t *)(void *)(q.floats + places * 2 * HALF);
    memset(sums, 0, TQ_HEAD_TILE * TQ_KEY_TILE * WIDTH * sizeof(float));
    if (!queries->values)
        for (int i = 0; i < 4; i++)
            table.entries[i] = _mm512_xor_si512(table.entries[i], _mm512_set1_epi8((char)BIAS));
    for (size_t first = 0; first < queries->m; first += TQ_HEAD_TILE) {
        q.m = queries->m - first < TQ_HEAD_TILE ? queries->m - first : TQ_HEAD_TILE;
        order_queries(&q, queries, first, dim, group);
        if (layout->bits == 2) SCORES(2);
        if (layout->bits == 3) SCORES(3);
        if (layout->bits == 4) SCORES(4);
        out += q.m * stride;
    }
}
