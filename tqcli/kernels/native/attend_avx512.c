/* Scores of packed keys with AVX-512, and the table of this instruction set. */
#include "attend_avx512.h"

static size_t scratch(size_t dim) {
    size_t units = units_of(dim);
    return units * UNIT * TQ_HEAD_TILE * (sizeof(float) + sizeof(double)) +
           units * TQ_HEAD_TILE * 64 + TQ_HEAD_TILE * TQ_KEY_TILE * LANES * sizeof(float) +
           TQ_VALUE_TILE * (64 + 64) + TQ_HEAD_TILE * TQ_VALUE_TILE * sizeof(float) +
           copy_bytes(units * MAX_UNIT_BYTES) + 8 * 64;
}

/* Queries in the order of the nibbles: float32 (m, units, SLOTS, LANES), or int8
 * (m, units, {low, high}, 64) with the start of each sum, which takes back the bias of the
 * unsigned centroids. */
typedef struct {
    size_t m;
    float *values;
    int8_t *values8;
    int32_t *start;
    float scales[TQ_HEAD_TILE];
    __m512i table8;
} ordered;

static void order_queries(ordered *to, const tq_queries *from, size_t first,
                          const tq_packed *keys) {
    size_t units = units_of(keys->dim);
    for (size_t j = 0; j < to->m; j++)
        for (size_t u = 0; u < units; u++)
            for (int lane = 0; lane < LANES; lane++) {
                int32_t sum = 0;
                for (int slot = 0; slot < SLOTS; slot++) {
                    size_t d = u * UNIT + (size_t)value_at(keys->bits, slot, lane);
                    size_t from_at = (first + j) * keys->dim + d, unit = j * units + u;
                    if (from->values) {
                        to->values[(unit * SLOTS + slot) * LANES + lane] =
                            d < keys->dim ? from->values[from_at] : 0.0f;
                    } else {
                        int8_t q = d < keys->dim ? from->values8[from_at] : 0;
                        to->values8[(unit * 2 + slot % 2) * 64 + 4 * lane + slot / 2] = q;
                        sum += q;
                    }
                }
                if (!from->values) to->start[(j * units + u) * LANES + lane] = -128 * sum;
            }
    for (size_t j = 0; j < to->m; j++)
        to->scales[j] = from->values ? 1.0f : from->scales[first + j];
    if (!from->values) {
        _Alignas(64) uint8_t table[64];
        for (int i = 0; i < 64; i++)
            table[i] = (uint8_t)(from->centroids8[i & ((1 << keys->bits) - 1)] + 128);
        to->table8 = _mm512_load_si512(table);
    }
}

/* Dot product of one unit, unreduced. */
TQ_INLINE __m512 dot_float(const __m512 *c, const float *q) {
    __m512 even = _mm512_mul_ps(c[0], _mm512_load_ps(q));
    __m512 odd = _mm512_mul_ps(c[1], _mm512_load_ps(q + LANES));
    even = _mm512_fmadd_ps(c[2], _mm512_load_ps(q + 2 * LANES), even);
    odd = _mm512_fmadd_ps(c[3], _mm512_load_ps(q + 3 * LANES), odd);
    even = _mm512_fmadd_ps(c[4], _mm512_load_ps(q + 4 * LANES), even);
    odd = _mm512_fmadd_ps(c[5], _mm512_load_ps(q + 5 * LANES), odd);
    even = _mm512_fmadd_ps(c[6], _mm512_load_ps(q + 6 * LANES), even);
    odd = _mm512_fmadd_ps(c[7], _mm512_load_ps(q + 7 * LANES), odd);
    return _mm512_add_ps(even, odd);
}

TQ_INLINE __m512 dot_int8(__m512i low, __m512i high, const int8_t *q, const int32_t *start) {
    __m512i sum = _mm512_load_si512(start);
    sum = _mm512_dpbusd_epi32(sum, low, _mm512_load_si512(q));
    sum = _mm512_dpbusd_epi32(sum, high, _mm512_load_si512(q + 64));
    return _mm512_cvtepi32_ps(sum);
}

/* Sixteen keys of one block each against one query: the sums never leave the registers. */
TQ_INLINE __m512 single_tile(const plan *p, const uint8_t *tile, size_t stride, __m512 table,
                             const float *q, __m512i table8, const __m512i *q8, int bits,
                             int int8) {
    __m512 dots[TQ_KEY_TILE], c[SLOTS];
    TQ_UNROLL
    for (int k = 0; k < TQ_KEY_TILE; k++, tile += stride) {
        tq_prefetch((uintptr_t)tile + PREFETCH);
        __m512i nibbles = load_unit(p, tile, bits, 1);
        if (int8) {
            __m512i low = _mm512_permutexvar_epi8(nibbles, table8);
            __m512i high = _mm512_permutexvar_epi8(_mm512_srli_epi16(nibbles, 4), table8);
            __m512i sum = _mm512_dpbusd_epi32(q8[2], low, q8[0]);
            dots[k] = _mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, high, q8[1]));
        } else {
            expand4(nibbles, table, c);
            expand_high4(nibbles, table, c + 4);
            dots[k] = dot_float(c, q);
        }
    }
    __m512 sums = sum_sixteen(dots, int8);
    return int8 ? _mm512_cvtepi32_ps(_mm512_castps_si512(sums)) : sums;
}

/* single: a vector is one block of 128. int8, bits, single and one_query are constants where this
 * is expanded. */
TQ_INLINE void scores_body(const tq_packed *keys, const plan *shared, const ordered *q, float *out,
                           size_t stride, float *parts, uint8_t *copy, int bits, int int8,
                           int single, int one_query) {
    const plan own = *shared, *p = &own; /* a copy that no store can change stays in registers */
    const __m512 table = float_table(keys);
    const __m512i table8 = q->table8;
    /* of the first query: its even and its odd values, and the start of its sums */
    const __m512i q8[3] = {_mm512_load_si512(q->values8), _mm512_load_si512(q->values8 + 64),
                           _mm512_load_si512(q->start)};
    const __m512 scale = _mm512_set1_ps(q->scales[0]);
    const float *values = q->values;
    const size_t m = one_query ? 1 : q->m, units = single ? 1 : p->units;
    const size_t vector_bytes = keys->vector_bytes;
    _Alignas(32) uint16_t raw_norms[TQ_KEY_TILE] = {0};
    for (size_t first = 0; first < keys->n; first += TQ_KEY_TILE) {
        size_t count = keys->n - first < TQ_KEY_TILE ? keys->n - first : TQ_KEY_TILE;
        const uint8_t *tile = readable(keys, p, first, count, copy);
        if (single) collect_norms(raw_norms, tile, vector_bytes, count);
        if (single && one_query && count == TQ_KEY_TILE) {
            __m512 sums = single_tile(p, tile, vector_bytes, table, values, table8, q8, bits, int8);
            sums = _mm512_mul_ps(sums, widen_norms(raw_norms));
            if (int8) sums = _mm512_mul_ps(sums, scale);
            _mm512_storeu_ps(out + first, sums);
            continue;
        }
        for (size_t k = 0; k < count; k++) {
            const uint8_t *key = tile + k * vector_bytes;
            __m512 sums[TQ_HEAD_TILE];
            if (!single)
                for (size_t j = 0; j < m; j++) sums[j] = _mm512_setzero_ps();
            for (size_t u = 0; u < units; u++) {
                const uint8_t *unit = key + u * p->unit_bytes;
                tq_prefetch((uintptr_t)unit + PREFETCH);
                __m512i nibbles = load_unit(p, unit, bits, single || p->whole);
                __m512 norms, c[SLOTS];
                __m512i low, high;
                if (!single) norms = load_norms(p, unit, u, bits);
                if (int8) {
                    low = _mm512_permutexvar_epi8(nibbles, table8);
                    high = _mm512_permutexvar_epi8(_mm512_srli_epi16(nibbles, 4), table8);
                } else {
                    expand4(nibbles, table, c);
                    expand_high4(nibbles, table, c + 4);
                }
                for (size_t j = 0; j < m; j++) {
                    size_t at = j * units + u;
                    __m512 dot = int8 ? dot_int8(low, high, q->values8 + at * UNIT,
                                                 q->start + at * LANES)
                                      : dot_float(c, q->values + at * UNIT);
                    if (single) _mm512_store_ps(parts + (j * TQ_KEY_TILE + k) * LANES, dot);
                    else sums[j] = _mm512_fmadd_ps(dot, norms, sums[j]);
                }
            }
            if (!single)
                for (size_t j = 0; j < m; j++)
                    _mm512_store_ps(parts + (j * TQ_KEY_TILE + k) * LANES, sums[j]);
        }
        __m512 norms = single ? widen_norms(raw_norms) : _mm512_set1_ps(1.0f);
        for (size_t j = 0; j < m; j++) {
            __m512 sum = _mm512_mul_ps(sum_stored(parts + j * TQ_KEY_TILE * LANES), norms);
            if (int8) sum = _mm512_mul_ps(sum, _mm512_set1_ps(q->scales[j]));
            _mm512_mask_storeu_ps(out + j * stride + first, (__mmask16)((1u << count) - 1), sum);
        }
    }
}

#define SCORES(bits, int8, single) \
    do { \
        if (q.m == 1) scores_body(keys, &p, &q, to, stride, parts, copy, bits, int8, single, 1); \
        else scores_body(keys, &p, &q, to, stride, parts, copy, bits, int8, single, 0); \
    } while (0)

#define SCORES_BITS(int8, single) \
    do { \
        if (p.bits == 2) SCORES(2, int8, single); \
        else if (p.bits == 3) SCORES(3, int8, single); \
        else SCORES(4, int8, single); \
    } while (0)

static void scores(const tq_packed *keys, const tq_queries *queries, float *out, size_t stride,
                   void *memory) {
    char *room = memory;
    plan p = make_plan(keys);
    ordered q;
    int single = p.whole && p.units == 1;
    q.values = carve(&room, TQ_HEAD_TILE * p.units * UNIT * sizeof(float));
    q.values8 = (int8_t *)q.values;
    q.start = carve(&room, TQ_HEAD_TILE * p.units * LANES * sizeof(int32_t));
    float *parts = carve(&room, TQ_HEAD_TILE * TQ_KEY_TILE * LANES * sizeof(float));
    uint8_t *copy = carve(&room, copy_bytes(keys->vector_bytes));
    memset(parts, 0, TQ_HEAD_TILE * TQ_KEY_TILE * LANES * sizeof(float));
    for (size_t first = 0; first < queries->m; first += TQ_HEAD_TILE) {
        float *to = out + first * stride;
        q.m = queries->m - first < TQ_HEAD_TILE ? queries->m - first : TQ_HEAD_TILE;
        q.table8 = _mm512_setzero_si512();
        order_queries(&q, queries, first, keys);
        if (queries->values && single) SCORES_BITS(0, 1);
        else if (queries->values) SCORES_BITS(0, 0);
        else if (single) SCORES_BITS(1, 1);
        else SCORES_BITS(1, 0);
    }
}

const tq_attend_ops tq_attend_avx512 = {
    .scratch = scratch,
    .scores = scores,
    .weighted_sum = tq_weighted_sum_avx512,
    .scores_f16 = tq_scores_f16_avx512,
    .weighted_sum_f16 = tq_weighted_sum_f16_avx512,
};
