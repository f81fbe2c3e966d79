/* Weighted sums of packed values with AVX2. */
#include "attend_avx2.h"

/* One tile of one unit for one query (8 slots at a time) or two (4 slots at a time). */
TQ_INLINE void add_tile(const __m256i *nibbles, const __m256 *norms, const float *weights,
                        size_t stride, size_t count, tables t, double *total, size_t total_stride,
                        int rows, int bits) {
    const int slots = SLOTS / rows;
    for (int pass = 0; pass < rows; pass++) {
        __m256 sums[SLOTS], c[SLOTS];
        TQ_UNROLL
        for (int i = 0; i < SLOTS; i++) sums[i] = _mm256_setzero_ps();
        for (size_t k = 0; k < count; k++) {
            const __m256i x = pass ? _mm256_srli_epi32(nibbles[k], 16) : nibbles[k];
            expand4(x, t, bits, c);
            if (rows == 1) expand4(_mm256_srli_epi32(x, 16), t, bits, c + 4);
            TQ_UNROLL
            for (int r = 0; r < rows; r++) {
                const __m256 w = _mm256_mul_ps(_mm256_broadcast_ss(weights + r * stride + k),
                                               norms[k]);
                TQ_UNROLL
                for (int s = 0; s < slots; s++)
                    sums[r * slots + s] = _mm256_fmadd_ps(c[s], w, sums[r * slots + s]);
            }
        }
        TQ_UNROLL
        for (int r = 0; r < rows; r++)
            flush(total + r * total_stride + pass * slots * LANES, sums + r * slots, slots);
    }
}

TQ_INLINE void weighted_sum_body(const tq_packed *x, const float *weights, size_t stride, size_t m,
                                 double *total, char *room, int bits) {
    const walk w = make_walk(x);
    const tables t = float_tables(x);
    __m256i *nibbles = carve(&room, TQ_VALUE_TILE * sizeof *nibbles);
    __m256 *norms = carve(&room, TQ_VALUE_TILE * sizeof *norms);
    for (size_t first = 0; first < x->n; first += TQ_VALUE_TILE) {
        const size_t count = x->n - first < TQ_VALUE_TILE ? x->n - first : TQ_VALUE_TILE;
        for (size_t u = 0; u < w.units; u++) {
            const size_t inside = inside_of(&w, u);
            for (size_t k = 0; k < count; k++) {
                const uint8_t *vector = x->bytes + (first + k) * x->vector_bytes;
                const uint8_t *block = block_of(&w, vector, u);
                tq_prefetch((uintptr_t)block + PREFETCH);
                nibbles[k] = load_unit(x, block, inside, w.apart, bits);
                norms[k] = load_norms(block, w.apart, bits);
            }
            double *to = total + u * UNIT;
            const float *from = weights + first;
            size_t j = 0;
            for (; j + 2 <= m; j += 2)
                add_tile(nibbles, norms, from + j * stride, stride, count, t, to + j * x->dim,
                         x->dim, 2, bits);
            if (j < m)
                add_tile(nibbles, norms, from + j * stride, stride, count, t, to + j * x->dim,
                         x->dim, 1, bits);
        }
    }
}

void tq_weighted_sum_avx2(const tq_packed *x, const float *weights, size_t stride, size_t m,
                          double *out, void *memory) {
    char *room = memory;
    const size_t units = x->dim / UNIT;
    double *total = carve(&room, TQ_HEAD_TILE * x->dim * sizeof(double));
    for (size_t first = 0; first < m; first += TQ_HEAD_TILE) {
        const size_t some = m - first < TQ_HEAD_TILE ? m - first : TQ_HEAD_TILE;
        const float *from = weights + first * stride;
        memset(total, 0, some * x->dim * sizeof(double));
        switch (x->bits) {
        case 2: weighted_sum_body(x, from, stride, some, total, room, 2); break;
        case 3: weighted_sum_body(x, from, stride, some, total, room, 3); break;
        default: weighted_sum_body(x, from, stride, some, total, room, 4);
        }
        for (size_t u = 0; u < some * units; u++)
            for (int slot = 0; slot < SLOTS; slot++)
                for (int lane = 0; lane < LANES; lane++)
                    out[(first * units + u) * UNIT + (size_t)value_at(x->bits, slot, lane)] =
                        total[u * UNIT + slot * LANES + lane];
    }
}
