/* Attention from packed blocks with AVX-512 (F, BW, DQ, VL, VBMI, VNNI) and GFNI.
 *
 * The unit of work is 128 values as one register of nibbles. A dot product does not care about the
 * order of its terms, so the nibbles stand where they are cheapest to build, and the query is
 * brought into that order once. Byte P of the register, r = P % 8:
 *
 *     bits 4      byte P of the codes: values 2P and 2P+1
 *     bits 2, 3   byte j = 16*(P/8%2) + 2*r + P/16%2 of qs, shifted right by 2*(P/32):
 *                 values 4j + P/32 and 4j + 2 + P/32; bit 2 of a nibble comes from signs[j/2]
 *
 * vpermps and vpermb read the low 4 or 6 bits of an index, so what lies above a nibble, or above
 * the code within it, selects among copies of one centroid and needs no mask. */
#ifndef TQ_ATTEND_AVX512_H
#define TQ_ATTEND_AVX512_H

#include "attend.h"

#include <immintrin.h>
#include <string.h>

#include "attend_avx512_tile.h"

enum {
    UNIT = 128,
    LANES = 16,
    SLOTS = 8,           /* nibbles of a 32-bit lane */
    READ = 64,           /* bytes of a load, whatever the unit needs */
    MAX_UNIT_BYTES = 80, /* bits 4, block 32, header 4 */
    PREFETCH = 4096,     /* bytes ahead */
};

/* Where slot `slot` of 32-bit lane `lane` stands in its unit. */
static inline int value_at(int bits, int slot, int lane) {
    int p = 4 * lane + slot / 2;
    if (bits == 4) return 2 * p + slot % 2;
    return 4 * (16 * (p / 8 % 2) + 2 * (p % 8) + p / 16 % 2) + 2 * (slot % 2) + p / 32;
}

/* How to bring the scattered bytes of a unit into one register: two permuted loads. */
typedef struct {
    __m512i first, second;
    __mmask64 from_second;
} gather;

typedef struct {
    int bits, whole; /* whole: a unit is one block */
    size_t units, unit_bytes, second, reach;
    gather codes, signs, norms;
    __mmask16 last_lanes; /* lanes of the last unit that hold values: half of them if dim is odd */
    __m512i shift, sign_matrix, sign_mask;
    int header;
} plan;

static inline void gather_set(uint8_t *first, uint8_t *second, uint64_t *mask, int to, size_t from,
                              size_t second_at) {
    first[to] = second[to] = 0;
    if (from < READ) {
        first[to] = (uint8_t)from;
    } else {
        second[to] = (uint8_t)(from - second_at);
        *mask |= (uint64_t)1 << to;
    }
}

static inline plan make_plan(const tq_packed *x) {
    _Alignas(64) uint8_t index[3][2][64] = {{{0}}};
    uint64_t mask[3] = {0, 0, 0};
    plan p;
    size_t code_bytes = (size_t)(x->block * x->bits / 8), block_bytes = x->header + code_bytes;
    p.bits = x->bits;
    p.header = x->header;
    p.whole = x->block == UNIT;
    p.units = (x->dim + UNIT - 1) / UNIT;
    p.unit_bytes = UNIT / x->block * block_bytes;
    p.second = p.unit_bytes > READ ? p.unit_bytes - READ : 0;
    p.reach = (p.units - 1) * p.unit_bytes + READ + p.second;
    for (int at = 0; at < 64; at++) {
        int value = value_at(x->bits, at % 4 * 2, at / 4);
        size_t block = (size_t)(value / x->block), inside = (size_t)(value % x->block);
        size_t start = block * block_bytes;
        size_t bits_low = x->bits == 4 ? 4 : 2;
        gather_set(index[0][0], index[0][1], &mask[0], at,
                   start + (p.whole ? 0 : x->header) + inside * bits_low / 8, p.second);
        if (x->bits == 3)
            gather_set(index[1][0], index[1][1], &mask[1], at,
                       start + x->header + (size_t)x->block / 4 + inside / 8, p.second);
    }
    p.last_lanes = 0;
    for (int lane = 0; lane < LANES; lane++) {
        if ((p.units - 1) * UNIT + (size_t)value_at(x->bits, 0, lane) < x->dim)
            p.last_lanes |= (__mmask16)(1u << lane);
        for (int byte = 0; byte < 2; byte++) {
            size_t start = (size_t)(value_at(x->bits, 0, lane) / x->block) * block_bytes;
            gather_set(index[2][0], index[2][1], &mask[2], 2 * lane + byte, start + byte, p.second);
        }
    }
    gather *into[3] = {&p.codes, &p.signs, &p.norms};
    for (int i = 0; i < 3; i++) {
        into[i]->first = _mm512_load_si512(index[i][0]);
        into[i]->second = _mm512_load_si512(index[i][1]);
        into[i]->from_second = mask[i];
    }
    _Alignas(64) uint32_t shift[LANES];
    _Alignas(64) uint64_t matrix[8];
    for (int lane = 0; lane < LANES; lane++) shift[lane] = x->bits == 4 ? 0 : 2 * (lane / 8);
    for (int i = 0; i < 8; i++) {
        /* byte 7-b of a matrix is the row that makes bit b: bits 2 and 6 of the nibbles */
        int low = 4 * (i / 2 % 2) + i / 4, high = low + 2;
        matrix[i] = (uint64_t)1 << low << 8 * (7 - 2) | (uint64_t)1 << high << 8 * (7 - 6);
    }
    p.shift = _mm512_load_si512(shift);
    p.sign_matrix = _mm512_load_si512(matrix);
    p.sign_mask = _mm512_set1_epi8(0x33);
    return p;
}

TQ_INLINE __m512i gather_bytes(const gather *g, __m512i first, const uint8_t *second, int two) {
    __m512i bytes = _mm512_permutexvar_epi8(g->first, first);
    if (two)
        bytes = _mm512_mask_permutexvar_epi8(bytes, g->from_second, g->second,
                                             _mm512_loadu_si512(second));
    return bytes;
}

/* The nibbles of one unit. `whole`: the unit is one block, whose codes stand together. */
TQ_INLINE __m512i load_unit(const plan *p, const uint8_t *at, int bits, int whole) {
    __m512i codes, signs;
    if (whole) {
        at += p->header;
        if (bits == 4) return _mm512_loadu_si512(at);
        codes = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)at));
        codes = _mm512_permutexvar_epi8(p->codes.first, codes);
        if (bits == 3)
            signs = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(at + UNIT / 4)));
    } else {
        __m512i bytes = _mm512_loadu_si512(at);
        codes = gather_bytes(&p->codes, bytes, at + p->second, bits == 4);
        if (bits == 4) return codes;
        if (bits == 3) signs = _mm512_permutexvar_epi8(p->signs.first, bytes);
    }
    codes = _mm512_srlv_epi32(codes, p->shift);
    if (bits == 2) return codes;
    signs = _mm512_gf2p8affine_epi64_epi8(signs, p->sign_matrix, 0);
    return _mm512_ternarylogic_epi32(p->sign_mask, codes, signs, 0xca); /* mask ? codes : signs */
}

/* The norm of every 32-bit lane of a unit; zero where the last unit has no value. */
TQ_INLINE __m512 load_norms(const plan *p, const uint8_t *at, size_t unit, int bits) {
    __mmask16 lanes = unit + 1 == p->units ? p->last_lanes : (__mmask16)0xffff;
    if (p->whole) {
        uint16_t norm;
        memcpy(&norm, at, sizeof norm);
        return _mm512_cvtph_ps(_mm256_set1_epi16((short)norm));
    }
    __m512i words = gather_bytes(&p->norms, _mm512_loadu_si512(at), at + p->second, bits == 4);
    return _mm512_maskz_cvtph_ps(lanes, _mm512_castsi512_si256(words));
}

TQ_INLINE __m512 float_table(const tq_packed *x) {
    _Alignas(64) float table[16];
    for (int i = 0; i < 16; i++) table[i] = x->centroids[i & ((1 << x->bits) - 1)];
    return _mm512_load_ps(table);
}

/* Centroids of the slots from..from+count-1 (count 4 or 8; from 0 or 4). */
TQ_INLINE void expand4(__m512i nibbles, __m512 table, __m512 *out) {
    out[0] = _mm512_permutexvar_ps(nibbles, table);
    out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 4), table);
    out[2] = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 8), table);
    out[3] = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 12), table);
}

TQ_INLINE void expand_high4(__m512i nibbles, __m512 table, __m512 *out) {
    out[0] = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 16), table);
    out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 20), table);
    out[2] = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 24), table);
    out[3] = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 28), table);
}

TQ_INLINE __m512 sum_stored(const float *parts) {
    __m512 x[LANES];
    TQ_UNROLL
    for (int i = 0; i < LANES; i++) x[i] = _mm512_load_ps(parts + i * LANES);
    return sum_sixteen(x, 0);
}

/* Add sums (slots, LANES) of float32 to float64. */
TQ_INLINE void flush(double *to, const __m512 *sums, int slots) {
    for (int s = 0; s < slots; s++) {
        __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(sums[s]));
        __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(sums[s], 1));
        double *at = to + s * LANES;
        _mm512_store_pd(at, _mm512_add_pd(_mm512_load_pd(at), low));
        _mm512_store_pd(at + 8, _mm512_add_pd(_mm512_load_pd(at + 8), high));
    }
}

/* ---- scratch ---- */

/* Copies of the last keys, so that full loads never leave the caller's buffer. */
static inline size_t copy_bytes(size_t vector_bytes) {
    return TQ_VALUE_TILE * vector_bytes + 2 * READ;
}

static inline size_t units_of(size_t dim) { return (dim + UNIT - 1) / UNIT; }

static inline void *carve(char **from, size_t bytes) {
    void *taken = *from;
    *from += (bytes + 63) / 64 * 64;
    return taken;
}

/* `count` vectors from `first` on, with room to read past the last one. */
TQ_INLINE const uint8_t *readable(const tq_packed *x, const plan *p, size_t first, size_t count,
                                  uint8_t *copy) {
    const uint8_t *at = x->bytes + first * x->vector_bytes;
    size_t left = (x->n - first) * x->vector_bytes;
    if ((count - 1) * x->vector_bytes + p->reach <= left) return at;
    memcpy(copy, at, count * x->vector_bytes);
    return copy;
}

void tq_weighted_sum_avx512(const tq_packed *x, const float *weights, size_t stride, size_t m,
                            double *out, void *memory);
void tq_scores_f16_avx512(const uint16_t *keys, size_t n, size_t dim, const float *queries,
                          size_t m, float *out, size_t stride, void *memory);
void tq_weighted_sum_f16_avx512(const uint16_t *values, size_t n, size_t dim, const float *weights,
                                size_t stride, size_t m, double *out, void *memory);

#endif
