/* The kernel for AVX-512 (F, DQ, BW, VL): 16 vectors at once. */
#include <string.h>

#include "avx512.h"

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
