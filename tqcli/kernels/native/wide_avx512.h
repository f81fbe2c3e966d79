/* Sixteen values of one vector for AVX-512 with VBMI: one register. See wide.h. */
#include "avx512.h"

#define WIDE_INLINE TQ_INLINE
#define WIDE_UNROLL TQ_UNROLL

typedef __m512 W;
typedef __m512i I;

#define w_load(p) _mm512_loadu_ps(p)
#define w_store(p, v) _mm512_storeu_ps(p, v)
#define w_set1(x) _mm512_set1_ps(x)
#define w_zero() _mm512_setzero_ps()
#define w_add(a, b) _mm512_add_ps(a, b)
#define w_sub(a, b) _mm512_sub_ps(a, b)
#define w_mul(a, b) _mm512_mul_ps(a, b)
#define w_widen(p, type) v_widen(p, type)
#define w_narrow(p, v, type) v_narrow(p, v, type)
#define i_load(p) _mm512_loadu_si512(p)
#define i_store(p, v) _mm512_storeu_si512(p, v)
#define i_set1(x) _mm512_set1_epi32(x)
#define i_add(a, b) _mm512_add_epi32(a, b)
#define i_and(a, b) _mm512_and_si512(a, b)
#define i_or(a, b) _mm512_or_si512(a, b)
#define i_least(a, b) _mm512_min_epi32(a, b)
#define i_left(v, n) _mm512_slli_epi32(v, n)
#define i_right(v, n) _mm512_srli_epi32(v, n)
#define i_as_float(v) _mm512_castsi512_ps(v)

TQ_INLINE W w_halves(float low, float high) {
    return _mm512_mask_mov_ps(w_set1(low), 0xff00, w_set1(high));
}

TQ_INLINE I i_lanes(void) {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

TQ_INLINE W w_flip(W v, __mmask16 lanes) { return _mm512_mask_sub_ps(v, lanes, w_zero(), v); }

/* Fused, a sum or difference is the same: the product with 1 or -1 is exact. */
TQ_INLINE W w_butterfly(W v, int stride) {
    W swapped, sign = w_set1(1.0f);
    switch (stride) {
    case 1: swapped = _mm512_permute_ps(v, 0xb1), sign = w_flip(sign, 0xaaaa); break;
    case 2: swapped = _mm512_permute_ps(v, 0x4e), sign = w_flip(sign, 0xcccc); break;
    case 4: swapped = _mm512_shuffle_f32x4(v, v, 0xb1), sign = w_flip(sign, 0xf0f0); break;
    default: swapped = _mm512_shuffle_f32x4(v, v, 0x4e), sign = w_flip(sign, 0xff00); break;
    }
    return _mm512_fmadd_ps(v, sign, swapped);
}

TQ_INLINE float w_fold(W v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

TQ_INLINE I w_key(W cost, I slot) {
    return _mm512_ternarylogic_epi32(_mm512_castps_si512(cost), slot, i_set1(15), 0xd8);
}

TQ_INLINE I w_count(W v, const float *levels, int count) {
    I found = _mm512_setzero_si512();
    TQ_UNROLL
    for (int k = 0; k < count; k++) {
        const __mmask16 above = _mm512_cmp_ps_mask(v, w_set1(levels[k]), _CMP_GE_OQ);
        found = _mm512_mask_add_epi32(found, above, found, i_set1(1));
    }
    return found;
}

TQ_INLINE W w_look_up(W levels, I code) { return _mm512_permutexvar_ps(code, levels); }

/* ---- the trellis ---- */

/* The table, and where the windows of values 16i to 16i + 7 (part 0) and 16i + 8 to 16i + 15
 * (part 1) stand: the bytes of a block that 64-bit lane i takes, and the first bit of each of
 * its eight windows. */
typedef struct {
    I entries[4], bytes[2], first_bit[2];
    __mmask64 there[2], stored;
} w_table;

static w_table w_load_table(const tq_trellis *layout) {
    w_table t;
    const int size = layout->group_bytes - 2, bits = layout->bits;
    uint8_t byte[64], bit[64];
    t.stored = size == 64 ? ~(__mmask64)0 : ((__mmask64)1 << size) - 1;
    for (int i = 0; i < 4; i++) t.entries[i] = i_load(layout->table8 + 64 * i);
    for (int part = 0; part < 2; part++) {
        /* With 4 bits a lane holds eight values and the state before, else sixteen. */
        const int skipped = bits == 4 ? 4 * part : 0, r = bits == 4 ? 0 : 8 * part;
        t.there[part] = 0;
        for (int at = 0; at < 64; at++) {
            const int from = at / 8 * 2 * bits + skipped + at % 8 - 1;
            if (from >= 0 && from < size) t.there[part] |= (__mmask64)1 << at;
            byte[at] = (uint8_t)from;
            bit[at] = (uint8_t)((r + at % 8 + 1) * bits - layout->window + 8);
        }
        t.bytes[part] = i_load(byte);
        t.first_bit[part] = i_load(bit);
    }
    return t;
}

/* Table entries of windows in bytes; seven bits of each count, or with 4 bits all. */
TQ_INLINE I w_entries(const w_table *t, I windows, int bits) {
    const I found = _mm512_permutex2var_epi8(t->entries[0], windows, t->entries[1]);
    if (bits != 4) return found;
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(windows), found,
                                  _mm512_permutex2var_epi8(t->entries[2], windows, t->entries[3]));
}

/* The values of a block's codes: parts 0 and 1 as w_load_table says. */
TQ_INLINE void w_block_entries(const w_table *t, const uint8_t *codes, int bits, I out[2]) {
    const I stream = _mm512_maskz_loadu_epi8(t->stored, codes);
    I lanes = _mm512_maskz_permutexvar_epi8(t->there[0], t->bytes[0], stream);
    out[0] = w_entries(t, _mm512_multishift_epi64_epi8(t->first_bit[0], lanes), bits);
    if (bits == 4) lanes = _mm512_maskz_permutexvar_epi8(t->there[1], t->bytes[1], stream);
    out[1] = w_entries(t, _mm512_multishift_epi64_epi8(t->first_bit[1], lanes), bits);
}

TQ_INLINE void w_unpack(const uint8_t *codes, int bits, int count, const w_table *t, W *out) {
    _Alignas(64) int8_t values[TQ_MAX_GROUP];
    I parts[2];
    w_block_entries(t, codes, bits, parts);
    _mm512_store_si512(values, _mm512_unpacklo_epi64(parts[0], parts[1]));
    _mm512_store_si512(values + 64, _mm512_unpackhi_epi64(parts[0], parts[1]));
    TQ_UNROLL
    for (int r = 0; r < count; r++) {
        const int8_t *row = values + r % 2 * 64 + r / 2 * 16;
        out[r] = _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)(const void *)row)));
    }
}

/* Only the low byte of each lane counts. */
TQ_INLINE W w_window_value(const w_table *t, I window, int bits) {
    const I byte = w_entries(t, window, bits);
    return w_mul(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(byte, 24), 24)),
                 w_set1(1.0f / 32.0f));
}

TQ_INLINE void w_predecessors(const W *from, int bits, W *to) {
    if (bits == 4) {
        TQ_UNROLL
        for (int j = 0; j < 16; j++) to[j] = _mm512_permutexvar_ps(i_set1(j), from[0]);
    } else if (bits == 3) {
        const I pairs = _mm512_setr_epi32(0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8);
        TQ_UNROLL
        for (int j = 0; j < 8; j++) to[j] = _mm512_permutexvar_ps(i_add(pairs, i_set1(j)), from[0]);
    } else {
        const I fours = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
        TQ_UNROLL
        for (int j = 0; j < 4; j++)
            to[j] = _mm512_permutex2var_ps(from[0], i_add(fours, i_set1(j)), from[1]);
    }
}

TQ_INLINE W w_inherit(const W *from, I state, int bits) {
    if (bits == 2) return _mm512_permutex2var_ps(from[0], state, from[1]);
    return _mm512_permutexvar_ps(state, from[0]);
}

/* ---- beams: halves of eight lanes that never mix ---- */

TQ_INLINE I i_in_half(I lane) {
    return i_or(lane, _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8));
}

TQ_INLINE W w_pick(W v, I lane) { return _mm512_permutexvar_ps(i_in_half(lane), v); }
TQ_INLINE I i_pick(I v, I lane) { return _mm512_permutexvar_epi32(i_in_half(lane), v); }

TQ_INLINE I i_reverse_halves(I v) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8), v);
}

#define ORDER(v, swapped, larger) \
    _mm512_mask_max_epi32(_mm512_min_epi32(v, swapped), larger, v, swapped)

TQ_INLINE I i_sort_halves(I v) {
    I s = _mm512_shuffle_epi32(v, 0xb1);
    v = ORDER(v, s, 0x6666);
    s = _mm512_shuffle_epi32(v, 0x4e);
    v = ORDER(v, s, 0x3c3c);
    s = _mm512_shuffle_epi32(v, 0xb1);
    v = ORDER(v, s, 0x5a5a);
    s = _mm512_shuffle_i32x4(v, v, 0xb1);
    v = ORDER(v, s, 0xf0f0);
    s = _mm512_shuffle_epi32(v, 0x4e);
    v = ORDER(v, s, 0xcccc);
    s = _mm512_shuffle_epi32(v, 0xb1);
    return ORDER(v, s, 0xaaaa);
}

#undef ORDER
