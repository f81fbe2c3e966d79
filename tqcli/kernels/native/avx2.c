/* The kernel for AVX2 with F16C: 8 vectors at once. */
#include <string.h>

#include "avx2.h"

/* Tables for permutes of eight entries, which read three bits of their index. The search keeps
 * the code negated (a comparison that holds is -1), so table k stands at place -k. `steps[s]`
 * holds, at the bits of the code found so far (those above s), the midpoint that decides bit s.
 * The search leaves all bits but the last as index, so tables of 16 come as one for even and one
 * for odd codes. */
typedef struct {
    V top, steps[3], squares[2];
    V low, high; /* centroids by their code: of 8 or fewer levels, repeated; or halves of 16 */
} tables;

static void load_tables(tables *t, const tq_layout *layout) {
    float entry[8];
    const int bits = layout->bits, levels = layout->levels;
    t->top = v_set1(layout->midpoints[levels / 2 - 1]);
    for (int s = 0; s < bits - 1; s++) {
        for (int k = 0; k < 8; k++) {
            const int prefix = k << (s + 1), at = prefix + (1 << s) - 1;
            entry[-k & 7] = prefix < levels ? layout->midpoints[at] : 0;
        }
        t->steps[s] = v_load(entry);
    }
    for (int odd = 0; odd < 2; odd++) {
        for (int k = 0; k < 8; k++) {
            const int code = bits == 4 ? 2 * k + odd : k;
            entry[-k & 7] = code < levels ? layout->squares[code] : 0;
        }
        t->squares[odd] = v_load(entry);
    }
    for (int k = 0; k < 8; k++) entry[k] = layout->centroids[k % levels];
    t->low = v_load(entry);
    t->high = v_load(layout->centroids + (bits == 4 ? 8 : 0));
}

/* Binary search: the code of y; its bits go to `word` (place i) and, bit 2 of three, to `plane`
 * (place e). Returns the square of its centroid. */
TQ_INLINE V quantize_one(V y, int bits, int i, int e, const tables *t, VI *word, VI *plane) {
    VI last = v_as_int(_mm256_cmp_ps(y, t->top, _CMP_GE_OQ));
    VI prefix = last, low = last; /* negated: all bits but the last; those for the word */
    if (bits == 3)
        *plane = _mm256_or_si256(*plane, _mm256_and_si256(last, _mm256_set1_epi32((int)(1u << e))));
    for (int s = bits - 2; s >= 0; s--) {
        const V midpoint = _mm256_permutevar8x32_ps(t->steps[s], prefix);
        last = v_as_int(_mm256_cmp_ps(y, midpoint, _CMP_GE_OQ));
        low = bits == 3 && s == 1 ? last : _mm256_add_epi32(_mm256_add_epi32(low, low), last);
        if (s > 0) prefix = _mm256_add_epi32(_mm256_add_epi32(prefix, prefix), last);
    }
    /* The words collect negated codes by subtraction; no borrow leaves a place. */
    *word = _mm256_sub_epi32(*word, _mm256_slli_epi32(low, (bits == 4 ? 4 : 2) * i));
    if (bits == 4)
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t->squares[0], prefix),
                                _mm256_permutevar8x32_ps(t->squares[1], prefix), v_as_float(last));
    const VI code = bits == 2 ? low : _mm256_add_epi32(_mm256_add_epi32(prefix, prefix), last);
    return _mm256_permutevar8x32_ps(t->squares[0], code);
}

/* The centroids of codes whose low four bits, if there are as many, are in `code`. */
TQ_INLINE V look_up(VI code, int bits, V low, V high) {
    const V found = _mm256_permutevar8x32_ps(low, code);
    if (bits != 4) return found;
    const V upper = v_as_float(_mm256_slli_epi32(code, 28)); /* bit 3 as sign */
    return _mm256_blendv_ps(found, _mm256_permutevar8x32_ps(high, code), upper);
}

TQ_INLINE V level_one(VI word, VI plane, int bits, int i, int e, const tables *t) {
    VI code = _mm256_srli_epi32(word, bits == 4 ? 4 * i : 2 * i);
    if (bits == 3) {
        const VI high = e < 2 ? _mm256_slli_epi32(plane, 2 - e) : _mm256_srli_epi32(plane, e - 2);
        code = _mm256_or_si256(_mm256_and_si256(code, _mm256_set1_epi32(3)),
                               _mm256_and_si256(high, _mm256_set1_epi32(4)));
    }
    return look_up(code, bits, t->low, t->high);
}

/* One block without the rotation: the row's table is scaled once and looked up. */
TQ_INLINE void rotated_block(const uint8_t *codes, uint16_t norm, int bits, int block,
                             enum tq_float type, const tables *t, uint8_t *out) {
    const size_t size = type == TQ_F32 ? 4 : 2;
    const V scale = _mm256_cvtph_ps(_mm_set1_epi16((short)norm));
    const V low = v_mul(t->low, scale), high = v_mul(t->high, scale);
    const VI places = bits == 4 ? _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)
                                : _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    for (int e = 0; e < block; e += 8) {
        VI code;
        if (bits == 4) {
            int32_t word;
            memcpy(&word, codes + e / 2, 4);
            code = _mm256_srlv_epi32(_mm256_set1_epi32(word), places);
        } else {
            uint16_t word;
            memcpy(&word, codes + e / 4, 2);
            code = _mm256_srlv_epi32(_mm256_set1_epi32(word), places);
        }
        if (bits == 3) {
            const int plane = codes[block / 4 + e / 8];
            const VI bit = _mm256_sllv_epi32(_mm256_set1_epi32(plane),
                                             _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
            code =
                _mm256_or_si256(_mm256_and_si256(code, _mm256_set1_epi32(3)),
                                _mm256_and_si256(_mm256_srli_epi32(bit, 5), _mm256_set1_epi32(4)));
        }
        v_narrow(out + (size_t)e * size, look_up(code, bits, low, high), type);
    }
}

#include "bmi2.h"
#include "lanes.h"

const tq_kernel tq_avx2 = {
    .name = "avx2",
    .encode = encode,
    .decode = decode,
    .pack = pack,
    .unpack = unpack,
    .stats = &tq_stats_avx2,
};
