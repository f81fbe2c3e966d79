/* The kernel for AVX-512 (F, DQ, BW, VL): 16 vectors at once. */
#include <immintrin.h>
#include <string.h>

#include "tq.h"

#define LANES 16

typedef __m512 V;
typedef __m512i VI;

#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, v) _mm512_storeu_ps(p, v)
#define v_stream(p, v) _mm512_stream_ps(p, v)
#define v_fence() _mm_sfence()
#define v_set1(x) _mm512_set1_ps(x)
#define v_zero() _mm512_setzero_ps()
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_sub(a, b) _mm512_sub_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)
#define v_div(a, b) _mm512_div_ps(a, b)
#define v_sqrt(a) _mm512_sqrt_ps(a)
#define v_negate(a) _mm512_xor_ps(a, _mm512_set1_ps(-0.0f))
#define v_as_int(a) _mm512_castps_si512(a)
#define v_as_float(a) _mm512_castsi512_ps(a)

TQ_INLINE V v_above_tiny(V a, V b, V c) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, v_set1(TQ_TINY), _CMP_GT_OQ), c, b);
}

TQ_INLINE void v_halves(V v, uint16_t *to) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

TQ_INLINE V v_of_halves(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

TQ_INLINE V v_widen(const uint8_t *from, enum tq_float type) {
    if (type == TQ_F32) return _mm512_loadu_ps(from);
    const __m256i half = _mm256_loadu_si256((const __m256i *)from);
    if (type == TQ_F16) return _mm512_cvtph_ps(half);
    return v_as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

TQ_INLINE __m256i to_bfloat(V v) {
    const VI bits = v_as_int(v);
    const VI odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const VI sum = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const VI quiet = _mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32((int)0x80000000)),
                                     _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, sum, quiet), 16));
}

TQ_INLINE void v_narrow(uint8_t *to, V v, enum tq_float type) {
    if (type == TQ_F32) _mm512_storeu_ps(to, v);
    else if (type == TQ_F16) v_halves(v, (uint16_t *)(void *)to);
    else _mm256_storeu_si256((__m256i *)to, to_bfloat(v));
}

/* Rows to columns: 2 x 2, 4 x 4, then quarters of registers. */
TQ_INLINE void v_transpose(V v[16]) {
    V a[16], b[16];
    TQ_UNROLL
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#define PAIRS(lo_hi, x, y) \
    _mm512_castpd_ps(_mm512_unpack##lo_hi##_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)))
    TQ_UNROLL
    for (int i = 0; i < 16; i += 4) {
        b[i] = PAIRS(lo, a[i], a[i + 2]);
        b[i + 1] = PAIRS(hi, a[i], a[i + 2]);
        b[i + 2] = PAIRS(lo, a[i + 1], a[i + 3]);
        b[i + 3] = PAIRS(hi, a[i + 1], a[i + 3]);
    }
#undef PAIRS
    TQ_UNROLL
    for (int i = 0; i < 4; i++) {
        const V even = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
        const V odd = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
        const V even2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        const V odd2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
        v[i] = _mm512_shuffle_f32x4(even, even2, 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(even, even2, 0xdd);
        v[i + 4] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
        v[i + 12] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
    }
}

/* Tables for one register permute each. `steps[s]` holds, at a code whose bits from s down are
 * open (zero), the midpoint that decides bit s. Places in a word are tables too: as literals gcc
 * makes each with a move and a broadcast on the busiest port. */
typedef struct {
    V steps[4], squares, levels;
    V low, high; /* centroids by their low two bits, of 3 bits: without and with bit 2 */
    int32_t bit[32], pair[16];
} tables;

static void load_tables(tables *t, const tq_layout *layout) {
    float step[16];
    for (int i = 0; i < 32; i++) {
        t->bit[i] = (int32_t)(1u << i);
        t->pair[i / 2] = (int32_t)(3u << i / 2 * 2);
    }
    for (int s = 0; s < layout->bits; s++) {
        for (int k = 0; k < 16; k++) {
            const int at = k + (1 << s) - 1;
            step[k] = at < layout->levels - 1 ? layout->midpoints[at] : 0;
        }
        t->steps[s] = v_load(step);
    }
    t->squares = v_load(layout->squares);
    /* A permute reads four bits of its index. Where codes have fewer, the tables repeat, so that
     * the bits above need not be cleared. */
    float levels[16], low[16], high[16];
    for (int k = 0; k < 16; k++) {
        levels[k] = layout->centroids[k % layout->levels];
        low[k] = layout->bits == 3 ? layout->centroids[k % 4] : levels[k];
        high[k] = layout->bits == 3 ? layout->centroids[4 + k % 4] : levels[k];
    }
    t->levels = v_load(levels);
    t->low = v_load(low);
    t->high = v_load(high);
}

/* Binary search: the code of y; its bits go to `word` (place i) and, bit 2 of three, to `plane`
 * (place e). Returns the square of its centroid. */
TQ_INLINE V quantize_one(V y, int bits, int i, int e, const tables *t, VI *word, VI *plane) {
    VI code = _mm512_setzero_si512();
    for (int s = bits - 1; s >= 0; s--) {
        const V midpoint = s == bits - 1
                               ? _mm512_broadcastss_ps(_mm512_castps512_ps128(t->steps[s]))
                               : _mm512_permutexvar_ps(code, t->steps[s]);
        const __mmask16 above = _mm512_cmp_ps_mask(y, midpoint, _CMP_GE_OQ);
        if (s == bits - 1) code = _mm512_maskz_mov_epi32(above, _mm512_set1_epi32(1 << s));
        else code = _mm512_mask_or_epi32(code, above, code, _mm512_set1_epi32(1 << s));
        if (bits == 3 && s == 2)
            *plane = _mm512_mask_or_epi32(*plane, above, *plane, _mm512_set1_epi32(t->bit[e]));
    }
    if (bits == 3) /* word | (code << 2i & 3 << 2i) */
        *word = _mm512_ternarylogic_epi32(*word, _mm512_slli_epi32(code, 2 * i),
                                          _mm512_set1_epi32(t->pair[i]), 0xf8);
    else *word = _mm512_or_si512(*word, _mm512_slli_epi32(code, bits * i));
    return _mm512_permutexvar_ps(code, t->squares);
}

TQ_INLINE V level_one(VI word, VI plane, int bits, int i, int e, const tables *t) {
    const VI low = _mm512_srli_epi32(word, bits == 4 ? 4 * i : 2 * i);
    if (bits != 3) return _mm512_permutexvar_ps(low, t->levels);
    const VI high = e < 2 ? _mm512_slli_epi32(plane, 2 - e) : _mm512_srli_epi32(plane, e - 2);
    /* Bits 0 and 1 of low, the others of high. */
    const VI code = _mm512_ternarylogic_epi32(_mm512_set1_epi32(3), low, high, 0xca);
    return _mm512_permutexvar_ps(code, t->levels);
}

/* One block without the rotation: the row's table is scaled once and looked up. */
TQ_INLINE void rotated_block(const uint8_t *codes, uint16_t norm, int bits, int block,
                             enum tq_float type, const tables *t, uint8_t *out) {
    const size_t size = type == TQ_F32 ? 4 : 2;
    const V scale = _mm512_cvtph_ps(_mm256_set1_epi16((short)norm));
    const V low = v_mul(t->low, scale), high = v_mul(t->high, scale);
    const VI twos = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const VI fours = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    for (int e = 0; e < block; e += 16) {
        V v;
        if (bits == 4) {
            int32_t words[2];
            memcpy(words, codes + e / 2, 8);
            const VI both = _mm512_inserti64x4(_mm512_set1_epi32(words[0]),
                                               _mm256_set1_epi32(words[1]), 1);
            v = _mm512_permutexvar_ps(_mm512_srlv_epi32(both, fours), low);
        } else {
            int32_t word;
            memcpy(&word, codes + e / 4, 4);
            const VI code = _mm512_srlv_epi32(_mm512_set1_epi32(word), twos);
            v = _mm512_permutexvar_ps(code, low);
            if (bits == 3) {
                uint16_t plane;
                memcpy(&plane, codes + block / 4 + e / 8, 2);
                v = _mm512_mask_permutexvar_ps(v, plane, code, high);
            }
        }
        v_narrow(out + (size_t)e * size, v, type);
    }
}

#include "bmi2.h"
#include "lanes.h"

const tq_kernel tq_avx512 = {
    .name = "avx512",
    .encode = encode,
    .decode = decode,
    .pack = pack,
    .unpack = unpack,
    .stats = &tq_stats_avx512,
};
