/* Attention from packed blocks with AVX2, FMA and F16C.
 *
 * The unit of work is 64 values as one register of nibbles, in an order that is cheap to build; the
 * query is brought into that order once. Byte P of the register:
 *
 *     bits 4      byte P of the codes: values 2P and 2P+1
 *     bits 2, 3   byte j = P % 16 of qs, shifted right by 2*(P/16): values 4j + P/16 and
 *                 4j + 2 + P/16; bit 2 of a nibble comes from signs[j/2]
 *
 * vpermps reads the low three bits of an index, so what lies above a code selects among copies of
 * one centroid; four bits take a second lookup and a blend. */
#ifndef TQ_ATTEND_AVX2_H
#define TQ_ATTEND_AVX2_H

#include "attend.h"

#include <immintrin.h>
#include <string.h>

enum {
    UNIT = 64,
    LANES = 8,
    SLOTS = 8, /* nibbles of a 32-bit lane */
    PREFETCH = 4096,
};

/* Where slot `slot` of 32-bit lane `lane` stands in its unit. */
static inline int value_at(int bits, int slot, int lane) {
    const int p = 4 * lane + slot / 2;
    if (bits == 4) return 2 * p + slot % 2;
    return 4 * (p % 16) + 2 * (slot % 2) + p / 16;
}

/* 16 bytes in both halves of a register; from two places when the unit is two blocks of 32. */
TQ_INLINE __m256i load_twice(const uint8_t *at, size_t apart) {
    if (apart == 0) return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)at));
    const __m128i first = _mm_loadl_epi64((const __m128i *)at);
    const __m128i second = _mm_loadl_epi64((const __m128i *)(at + apart));
    return _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(first, second));
}

/* Four sign bits a byte, values 4j to 4j+3 in byte j of either half; garbage above them. */
TQ_INLINE __m256i load_signs(const uint8_t *at, size_t apart) {
    uint64_t word;
    memcpy(&word, at, 8);
    if (apart) {
        uint32_t second;
        memcpy(&second, at + apart, 4);
        word = (word & 0xffffffffu) | (uint64_t)second << 32;
    }
    const __m256i signs = _mm256_set1_epi64x((long long)word);
    return _mm256_unpacklo_epi8(signs, _mm256_srli_epi16(signs, 4));
}

/* The nibbles of a unit whose block begins at `block`, `inside` values before it. apart: distance
 * to the second block when the blocks hold 32 values, else 0. */
TQ_INLINE __m256i load_unit(const tq_packed *x, const uint8_t *block, size_t inside, size_t apart,
                            int bits) {
    const uint8_t *codes = block + x->header;
    if (bits == 4) {
        codes += inside / 2;
        return _mm256_loadu2_m128i((const __m128i *)(codes + (apart ? apart : 16)),
                                   (const __m128i *)codes);
    }
    const __m256i shift = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    const __m256i nibbles = _mm256_srlv_epi32(load_twice(codes + inside / 4, apart), shift);
    const __m256i places = _mm256_set1_epi8(0x33);
    if (bits == 2) return _mm256_and_si256(nibbles, places);
    /* The signs of values 4j and 4j+2 to bits 2 and 6, those of 4j+1 and 4j+3 likewise. */
    const __m256i spread = _mm256_setr_epi8(0, 4, 0, 4, 64, 68, 64, 68, 0, 4, 0, 4, 64, 68, 64, 68,
                                            0, 0, 4, 4, 0, 0, 4, 4, 64, 64, 68, 68, 64, 64, 68, 68);
    const __m256i signs = _mm256_and_si256(load_signs(codes + x->block / 4 + inside / 8, apart),
                                           _mm256_set1_epi8(15));
    const __m256i high = _mm256_shuffle_epi8(spread, signs);
    return _mm256_or_si256(_mm256_and_si256(nibbles, places), high);
}

/* The units of a vector. */
typedef struct {
    size_t units, block_bytes, apart;
    size_t second; /* 1: every second unit is the second half of a block of 128 */
} walk;

static inline walk make_walk(const tq_packed *x) {
    walk w;
    w.block_bytes = (size_t)(x->header + x->block * x->bits / 8);
    w.units = x->dim / UNIT;
    w.apart = x->block == 32 ? w.block_bytes : 0;
    w.second = x->block == 128;
    return w;
}

TQ_INLINE const uint8_t *block_of(const walk *w, const uint8_t *vector, size_t unit) {
    return vector + (w->apart ? 2 * unit : unit >> w->second) * w->block_bytes;
}

TQ_INLINE size_t inside_of(const walk *w, size_t unit) { return (unit & w->second) * UNIT; }

TQ_INLINE float half_at(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return _cvtsh_ss(half);
}

/* The norm of every 32-bit lane of a unit. */
TQ_INLINE __m256 load_norms(const uint8_t *block, size_t apart, int bits) {
    const __m256 first = _mm256_set1_ps(half_at(block));
    if (apart == 0) return first;
    const __m256 second = _mm256_set1_ps(half_at(block + apart));
    return bits == 4 ? _mm256_blend_ps(first, second, 0xf0) : _mm256_blend_ps(first, second, 0xcc);
}

/* ---- centroids as float32 ---- */

typedef struct {
    __m256 low, high;
} tables;

static inline tables float_tables(const tq_packed *x) {
    float all[16];
    for (int i = 0; i < 16; i++) all[i] = x->centroids[i & ((1 << x->bits) - 1)];
    const tables t = {_mm256_loadu_ps(all), _mm256_loadu_ps(all + 8)};
    return t;
}

TQ_INLINE __m256 lookup(__m256i index, tables t, int bits) {
    const __m256 low = _mm256_permutevar8x32_ps(t.low, index);
    if (bits < 4) return low;
    const __m256 high = _mm256_permutevar8x32_ps(t.high, index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

/* Centroids of slots 0 to 3; of 4 to 7 after a shift of the nibbles by 16. */
TQ_INLINE void expand4(__m256i nibbles, tables t, int bits, __m256 *out) {
    out[0] = lookup(nibbles, t, bits);
    out[1] = lookup(_mm256_srli_epi32(nibbles, 4), t, bits);
    out[2] = lookup(_mm256_srli_epi32(nibbles, 8), t, bits);
    out[3] = lookup(_mm256_srli_epi32(nibbles, 12), t, bits);
}

/* ---- sums ---- */

/* Lane k of the result is the sum of the eight floats at parts[8 * k]. */
TQ_INLINE __m256 sum_eight(const float *parts) {
    __m256 half[4];
    TQ_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m256 a = _mm256_load_ps(parts + 8 * i), b = _mm256_load_ps(parts + 8 * i + 32);
        half[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20),
                                _mm256_permute2f128_ps(a, b, 0x31)); /* keys i and i + 4 */
    }
    const __m256 even = _mm256_hadd_ps(half[0], half[1]), odd = _mm256_hadd_ps(half[2], half[3]);
    return _mm256_hadd_ps(even, odd);
}

/* Add sums (slots, LANES) of float32 to float64. */
TQ_INLINE void flush(double *to, const __m256 *sums, int slots) {
    TQ_UNROLL
    for (int s = 0; s < slots; s++) {
        const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(sums[s]));
        const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(sums[s], 1));
        double *at = to + s * LANES;
        _mm256_store_pd(at, _mm256_add_pd(_mm256_load_pd(at), low));
        _mm256_store_pd(at + 4, _mm256_add_pd(_mm256_load_pd(at + 4), high));
    }
}

/* ---- scratch ---- */

static inline void *carve(char **from, size_t bytes) {
    void *taken = *from;
    *from += (bytes + 63) / 64 * 64;
    return taken;
}

void tq_weighted_sum_avx2(const tq_packed *x, const float *weights, size_t stride, size_t m,
                          double *out, void *memory);
void tq_scores_f16_avx2(const uint16_t *keys, size_t n, size_t dim, const float *queries, size_t m,
                        float *out, size_t stride, void *memory);
void tq_weighted_sum_f16_avx2(const uint16_t *values, size_t n, size_t dim, const float *weights,
                              size_t stride, size_t m, double *out, void *memory);

#endif
