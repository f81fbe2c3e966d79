/* Weighted sums of packed values with AVX-512. */
#include "attend_avx512.h"

/* One tile of one unit for `rows` queries: rows * slots registers of sums, in 8 / slots passes.
 * total: (rows, units, SLOTS, LANES), `total_stride` apart. */
TQ_INLINE void add_tile(const __m512i *nibbles, const __m512 *norms, const float *weights,
                        size_t count, __m512 table, double *total, size_t total_stride, int rows,
                        int slots, int single, uintptr_t ahead, size_t stride) {
    for (int pass = 0; pass < SLOTS / slots; pass++) {
        __m512 sums[16], c[SLOTS];
        TQ_UNROLL
        for (int i = 0; i < rows * slots; i++) sums[i] = _mm512_setzero_ps();
        for (size_t k = 0; k < count; k++) {
            tq_prefetch(ahead + k * stride);
            if (slots == SLOTS || pass == 0) expand4(nibbles[k], table, c);
            if (slots == SLOTS) expand_high4(nibbles[k], table, c + 4);
            else if (pass == 1) expand_high4(nibbles[k], table, c);
            TQ_UNROLL
            for (int r = 0; r < rows; r++) {
                __m512 w = _mm512_set1_ps(weights[r * TQ_VALUE_TILE + k]);
                if (!single) w = _mm512_mul_ps(w, norms[k]);
                TQ_UNROLL
                for (int s = 0; s < slots; s++)
                    sums[r * slots + s] = _mm512_fmadd_ps(c[s], w, sums[r * slots + s]);
            }
        }
        TQ_UNROLL
        for (int r = 0; r < rows; r++)
            flush(total + r * total_stride + pass * slots * LANES, sums + r * slots, slots);
    }
}

/* One tile of vectors that are one block each, for one query: nothing is stored between. */
TQ_INLINE void add_single_tile(const plan *p, const uint8_t *tile, size_t stride,
                               const float *weights, size_t count, __m512 table, double *total,
                               int bits) {
    __m512 sums[SLOTS], c[SLOTS];
    TQ_UNROLL
    for (int s = 0; s < SLOTS; s++) sums[s] = _mm512_setzero_ps();
    for (size_t k = 0; k < count; k++) {
        const uint8_t *unit = tile + k * stride;
        tq_prefetch((uintptr_t)unit + PREFETCH);
        __m512i nibbles = load_unit(p, unit, bits, 1);
        __m512 w = _mm512_set1_ps(weights[k]);
        expand4(nibbles, table, c);
        expand_high4(nibbles, table, c + 4);
        TQ_UNROLL
        for (int s = 0; s < SLOTS; s++) sums[s] = _mm512_fmadd_ps(c[s], w, sums[s]);
    }
    flush(total, sums, SLOTS);
}

TQ_INLINE void weighted_sum_body(const tq_packed *x, const plan *shared, const float *weights,
                                 size_t stride, size_t m, double *total, char *room, int bits,
                                 int single) {
    const plan own = *shared, *p = &own;
    const __m512 table = float_table(x);
    __m512i *nibbles = carve(&room, TQ_VALUE_TILE * 64);
    __m512 *norms = carve(&room, TQ_VALUE_TILE * 64);
    float *scaled = carve(&room, TQ_HEAD_TILE * TQ_VALUE_TILE * sizeof(float));
    uint8_t *copy = carve(&room, copy_bytes(x->vector_bytes));
    size_t total_stride = p->units * UNIT;
    _Alignas(32) uint16_t raw_norms[TQ_VALUE_TILE] = {0};
    for (size_t first = 0; first < x->n; first += TQ_VALUE_TILE) {
        size_t count = x->n - first < TQ_VALUE_TILE ? x->n - first : TQ_VALUE_TILE;
        const uint8_t *tile = readable(x, p, first, count, copy);
        if (single) collect_norms(raw_norms, tile, x->vector_bytes, count);
        for (size_t k = 0; k < count; k += LANES) {
            size_t some = count - k < LANES ? count - k : LANES;
            __mmask16 mask = (__mmask16)((1u << some) - 1);
            __m512 one = single ? widen_norms(raw_norms + k) : _mm512_set1_ps(1.0f);
            for (size_t j = 0; j < m; j++)
                _mm512_store_ps(scaled + j * TQ_VALUE_TILE + k,
                                _mm512_mul_ps(one, _mm512_maskz_loadu_ps(
                                                       mask, weights + j * stride + first + k)));
        }
        if (single && m == 1) {
            add_single_tile(p, tile, x->vector_bytes, scaled, count, table, total, bits);
            continue;
        }
        for (size_t u = 0; u < p->units; u++) {
            for (size_t k = 0; k < count; k++) {
                const uint8_t *unit = tile + k * x->vector_bytes + u * p->unit_bytes;
                nibbles[k] = load_unit(p, unit, bits, single || p->whole);
                if (!single) norms[k] = load_norms(p, unit, u, bits);
            }
            double *to = total + u * UNIT;
            const uintptr_t ahead = (uintptr_t)tile + u * p->unit_bytes +
                                    TQ_VALUE_TILE * x->vector_bytes;
            size_t j = 0;
            for (; j + 4 <= m; j += 4)
                add_tile(nibbles, norms, scaled + j * TQ_VALUE_TILE, count, table,
                         to + j * total_stride, total_stride, 4, 4, single, ahead, x->vector_bytes);
            for (; j + 2 <= m; j += 2)
                add_tile(nibbles, norms, scaled + j * TQ_VALUE_TILE, count, table,
                         to + j * total_stride, total_stride, 2, 8, single, ahead, x->vector_bytes);
            if (j < m)
                add_tile(nibbles, norms, scaled + j * TQ_VALUE_TILE, count, table,
                         to + j * total_stride, total_stride, 1, 8, single, ahead, x->vector_bytes);
        }
    }
}

void tq_weighted_sum_avx512(const tq_packed *x, const float *weights, size_t stride, size_t m,
                            double *out, void *memory) {
    char *room = memory;
    plan p = make_plan(x);
    int single = p.whole && p.units == 1;
    double *total = carve(&room, TQ_HEAD_TILE * p.units * UNIT * sizeof(double));
    for (size_t first = 0; first < m; first += TQ_HEAD_TILE) {
        size_t some = m - first < TQ_HEAD_TILE ? m - first : TQ_HEAD_TILE;
        const float *w = weights + first * stride;
        memset(total, 0, some * p.units * UNIT * sizeof(double));
        if (p.bits == 2 && single) weighted_sum_body(x, &p, w, stride, some, total, room, 2, 1);
        else if (p.bits == 2) weighted_sum_body(x, &p, w, stride, some, total, room, 2, 0);
        else if (p.bits == 3 && single)
            weighted_sum_body(x, &p, w, stride, some, total, room, 3, 1);
        else if (p.bits == 3) weighted_sum_body(x, &p, w, stride, some, total, room, 3, 0);
        else if (single) weighted_sum_body(x, &p, w, stride, some, total, room, 4, 1);
        else weighted_sum_body(x, &p, w, stride, some, total, room, 4, 0);
        for (size_t j = 0; j < some; j++)
            for (size_t u = 0; u < p.units; u++)
                for (int slot = 0; slot < SLOTS; slot++)
                    for (int lane = 0; lane < LANES; lane++) {
                        size_t d = u * UNIT + (size_t)value_at(p.bits, slot, lane);
                        if (d < x->dim)
                            out[(first + j) * x->dim + d] =
                                total[((j * p.units + u) * SLOTS + slot) * LANES + lane];
                    }
    }
}
