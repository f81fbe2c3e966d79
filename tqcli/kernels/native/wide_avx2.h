/* Sixteen values of one vector for AVX2: two registers. See wide.h. */
#include "avx2.h"

#define WIDE_INLINE TQ_INLINE
#define WIDE_UNROLL TQ_UNROLL

#define PARTS 2

typedef struct {
    V v[PARTS];
} W;
typedef struct {
    VI v[PARTS];
} I;

#define EACH(type, expression) \
    type result; \
    TQ_UNROLL \
    for (int p = 0; p < PARTS; p++) result.v[p] = expression; \
    return result

TQ_INLINE W w_load(const float *from) { EACH(W, v_load(from + p * LANES)); }
TQ_INLINE W w_set1(float x) { EACH(W, v_set1(x)); }
TQ_INLINE W w_zero(void) { EACH(W, v_zero()); }
TQ_INLINE W w_add(W a, W b) { EACH(W, v_add(a.v[p], b.v[p])); }
TQ_INLINE W w_sub(W a, W b) { EACH(W, v_sub(a.v[p], b.v[p])); }
TQ_INLINE W w_mul(W a, W b) { EACH(W, v_mul(a.v[p], b.v[p])); }
TQ_INLINE I i_load(const int32_t *from) {
    EACH(I, _mm256_loadu_si256((const __m256i *)(from + p * LANES)));
}
TQ_INLINE I i_set1(int32_t x) { EACH(I, _mm256_set1_epi32(x)); }
TQ_INLINE I i_add(I a, I b) { EACH(I, _mm256_add_epi32(a.v[p], b.v[p])); }
TQ_INLINE I i_and(I a, I b) { EACH(I, _mm256_and_si256(a.v[p], b.v[p])); }
TQ_INLINE I i_or(I a, I b) { EACH(I, _mm256_or_si256(a.v[p], b.v[p])); }
TQ_INLINE I i_least(I a, I b) { EACH(I, _mm256_min_epi32(a.v[p], b.v[p])); }
TQ_INLINE I i_left(I a, int n) { EACH(I, _mm256_slli_epi32(a.v[p], n)); }
TQ_INLINE I i_right(I a, int n) { EACH(I, _mm256_srli_epi32(a.v[p], n)); }
TQ_INLINE W i_as_float(I a) { EACH(W, v_as_float(a.v[p])); }

TQ_INLINE void w_store(float *to, W w) {
    for (int p = 0; p < PARTS; p++) v_store(to + p * LANES, w.v[p]);
}

TQ_INLINE void i_store(int32_t *to, I i) {
    for (int p = 0; p < PARTS; p++) _mm256_storeu_si256((__m256i *)(to + p * LANES), i.v[p]);
}

TQ_INLINE W w_widen(const uint8_t *from, enum tq_float type) {
    EACH(W, v_widen(from + (size_t)p * LANES * tq_float_size(type), type));
}

TQ_INLINE void w_narrow(uint8_t *to, W w, enum tq_float type) {
    for (int p = 0; p < PARTS; p++)
        v_narrow(to + (size_t)p * LANES * tq_float_size(type), w.v[p], type);
}

TQ_INLINE W w_halves(float low, float high) {
    const W w = {{v_set1(low), v_set1(high)}};
    return w;
}

TQ_INLINE I i_lanes(void) {
    const I i = {{_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                  _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)}};
    return i;
}

/* Fused, a sum or difference is the same: the product with 1 or -1 is exact. */
TQ_INLINE V v_butterfly(V v, int stride) {
    const V plus = v_set1(1.0f), minus = v_set1(-1.0f);
    if (stride == 1)
        return _mm256_fmadd_ps(v, _mm256_blend_ps(plus, minus, 0xaa), _mm256_permute_ps(v, 0xb1));
    if (stride == 2)
        return _mm256_fmadd_ps(v, _mm256_blend_ps(plus, minus, 0xcc), _mm256_permute_ps(v, 0x4e));
    return _mm256_fmadd_ps(v, _mm256_blend_ps(plus, minus, 0xf0),
                           _mm256_permute2f128_ps(v, v, 0x01));
}

TQ_INLINE W w_butterfly(W w, int stride) {
    if (stride == LANES) {
        const W crossed = {{v_add(w.v[0], w.v[1]), v_sub(w.v[0], w.v[1])}};
        return crossed;
    }
    EACH(W, v_butterfly(w.v[p], stride));
}

TQ_INLINE float w_fold(W w) {
    const V eight = v_add(w.v[0], w.v[1]);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

TQ_INLINE I w_key(W cost, I slot) {
    EACH(I,
         _mm256_or_si256(_mm256_and_si256(v_as_int(cost.v[p]), _mm256_set1_epi32(~15)), slot.v[p]));
}

TQ_INLINE I w_count(W w, const float *levels, int count) {
    I found = i_set1(0);
    TQ_UNROLL
    for (int k = 0; k < count; k++) TQ_UNROLL
    for (int p = 0; p < PARTS; p++)
        found.v[p] = _mm256_sub_epi32(
            found.v[p], v_as_int(_mm256_cmp_ps(w.v[p], v_set1(levels[k]), _CMP_GE_OQ)));
    return found;
}

/* Entries 0 to 7 of a, 8 to 15 of b. */
TQ_INLINE V v_of_two(V a, V b, VI index) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(a, index), _mm256_permutevar8x32_ps(b, index),
                            v_as_float(_mm256_slli_epi32(index, 28)));
}

TQ_INLINE W w_look_up(W levels, I code) { EACH(W, v_of_two(levels.v[0], levels.v[1], code.v[p])); }

/* ---- the trellis ---- */

/* The table, and where windows stand: row r of sixteen takes sixteen bytes of a block from `from`
 * on, two bytes to a window; `spread` moves each window to the top of its sixteen bits. */
typedef struct {
    const float *values;
    VI entries[16]; /* sixteen each, by halves of 128; each but the last xor the next */
    VI bytes[ROWS], spread;
    int from[ROWS];
} w_table;

TQ_INLINE VI v_twice(const void *sixteen) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)sixteen));
}

static w_table w_load_table(const tq_trellis *layout) {
    w_table t = {.values = layout->table};
    const int size = layout->group_bytes - 2, bits = layout->bits, window = layout->window;
    for (int k = 0; k < 16; k++) {
        int8_t part[16];
        for (int i = 0; i < 16; i++)
            part[i] = (int8_t)(layout->table8[16 * k + i] ^
                               (k % 8 == 7 ? 0 : layout->table8[16 * k + 16 + i]));
        t.entries[k] = v_twice(part);
    }
    uint16_t spread[WIDTH];
    for (int r = 0; r < layout->group / WIDTH; r++) {
        int8_t bytes[2 * WIDTH];
        const int first = 2 * bits * r - 1, last = size - 16;
        t.from[r] = first < 0 ? 0 : first > last ? last : first;
        for (int i = 0; i < WIDTH; i++) {
            const int bit = bits * (WIDTH * r + i + 1) - window + 8; /* of a stream 8 bits longer */
            for (int b = 0; b < 2; b++) {
                const int byte = bit / 8 - 1 + b;
                bytes[2 * i + b] = (int8_t)(byte < 0 || byte >= size ? -1 : byte - t.from[r]);
            }
            spread[i] = (uint16_t)(1 << (16 - window - bit % 8));
        }
        t.bytes[r] = _mm256_loadu_si256((const __m256i *)(const void *)bytes);
    }
    t.spread = _mm256_loadu_si256((const __m256i *)(const void *)spread);
    return t;
}

/* Entries of windows below 128 in bytes. Sixteen by sixteen: a place counts in the part that its
 * window lies in and in all after it, which leaves just its own of their differences. */
TQ_INLINE VI v_entries(const VI *parts, VI windows) {
    VI place = _mm256_add_epi8(windows, _mm256_set1_epi8(0x70));
    VI found = _mm256_shuffle_epi8(parts[0], place);
    TQ_UNROLL
    for (int k = 1; k < 8; k++) {
        place = _mm256_sub_epi8(place, _mm256_set1_epi8(16));
        found = _mm256_xor_si256(found, _mm256_shuffle_epi8(parts[k], place));
    }
    return found;
}

/* Entries of a block, two rows to a register: their first eights, then their second ones. */
TQ_INLINE void v_block_entries(const w_table *t, const uint8_t *codes, int bits, int count,
                               VI *out) {
    TQ_UNROLL
    for (int r = 0; r < count; r += 2) {
        VI rows[2];
        TQ_UNROLL
        for (int i = 0; i < 2; i++) {
            const VI words = _mm256_shuffle_epi8(v_twice(codes + t->from[r + i]), t->bytes[r + i]);
            rows[i] = _mm256_srli_epi16(_mm256_mullo_epi16(words, t->spread), bits == 4 ? 8 : 9);
        }
        const VI windows = _mm256_packus_epi16(rows[0], rows[1]);
        if (bits != 4) {
            out[r / 2] = v_entries(t->entries, windows);
            continue;
        }
        const VI low = _mm256_and_si256(windows, _mm256_set1_epi8(0x7f));
        out[r / 2] = _mm256_blendv_epi8(v_entries(t->entries, low), v_entries(t->entries + 8, low),
                                        windows);
    }
}

TQ_INLINE V v_eight(const int8_t *from) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)from)));
}

TQ_INLINE void w_unpack(const uint8_t *codes, int bits, int count, const w_table *t, W *out) {
    int8_t entries[TQ_MAX_GROUP];
    VI pairs[ROWS / 2];
    v_block_entries(t, codes, bits, count, pairs);
    TQ_UNROLL
    for (int r = 0; r < count; r += 2) {
        int8_t *to = entries + r * WIDTH;
        _mm256_storeu_si256((__m256i *)(void *)to, pairs[r / 2]);
        out[r].v[0] = v_eight(to);
        out[r + 1].v[0] = v_eight(to + 8);
        out[r].v[1] = v_eight(to + 16);
        out[r + 1].v[1] = v_eight(to + 24);
    }
}

TQ_INLINE W w_window_value(const w_table *t, I window, int bits) {
    (void)bits;
    EACH(W, _mm256_i32gather_ps(t->values, window.v[p], 4));
}

/* By branch the same eight values in both registers. */
TQ_INLINE void w_predecessors(const W *from, int bits, W *to) {
    if (bits == 4) {
        TQ_UNROLL
        for (int j = 0; j < 16; j++)
            to[j].v[0] = to[j].v[1] = _mm256_permutevar8x32_ps(from[0].v[j / 8],
                                                               _mm256_set1_epi32(j % 8));
    } else if (bits == 3) {
        TQ_UNROLL
        for (int j = 0; j < 8; j++)
            to[j].v[0] = to[j].v[1] =
                _mm256_blend_ps(_mm256_permutevar8x32_ps(from[0].v[0], _mm256_set1_epi32(j)),
                                _mm256_permutevar8x32_ps(from[0].v[1], _mm256_set1_epi32(j)), 0xaa);
    } else {
        /* Lane m of branch j is value 4m + j of 32: every register transposed 2 x 4, then halves
         * of pairs joined. */
        const VI pairs = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        V a[4];
        TQ_UNROLL
        for (int i = 0; i < 4; i++) a[i] = _mm256_permutevar8x32_ps(from[i / 2].v[i % 2], pairs);
        /* a[i] = branches 0, 1 of states 2i, 2i+1 in its lower half; 2, 3 in the upper. */
        TQ_UNROLL
        for (int j = 0; j < 4; j++) {
            const int half = j < 2 ? 0x20 : 0x31;
            const V low = half == 0x20 ? _mm256_permute2f128_ps(a[0], a[2], 0x20)
                                       : _mm256_permute2f128_ps(a[0], a[2], 0x31);
            const V high = half == 0x20 ? _mm256_permute2f128_ps(a[1], a[3], 0x20)
                                        : _mm256_permute2f128_ps(a[1], a[3], 0x31);
            to[j].v[0] = to[j].v[1] = j % 2 ? _mm256_shuffle_ps(low, high, 0xee)
                                            : _mm256_shuffle_ps(low, high, 0x44);
        }
    }
}

TQ_INLINE W w_inherit(const W *from, I state, int bits) {
    if (bits == 2) {
        /* Lanes 2i and 2i + 1 take from states 8i to 8i + 7. */
        W result;
        TQ_UNROLL
        for (int p = 0; p < PARTS; p++) {
            const VI at = state.v[p];
            const V low = _mm256_blend_ps(_mm256_permutevar8x32_ps(from[0].v[0], at),
                                          _mm256_permutevar8x32_ps(from[0].v[1], at), 0x0c);
            const V high = _mm256_blend_ps(_mm256_permutevar8x32_ps(from[1].v[0], at),
                                           _mm256_permutevar8x32_ps(from[1].v[1], at), 0xc0);
            result.v[p] = _mm256_blend_ps(low, high, 0xf0);
        }
        return result;
    }
    EACH(W, v_of_two(from[0].v[0], from[0].v[1], state.v[p]));
}

/* ---- beams: one in each register ---- */

TQ_INLINE W w_pick(W w, I lane) { EACH(W, _mm256_permutevar8x32_ps(w.v[p], lane.v[p])); }
TQ_INLINE I i_pick(I i, I lane) { EACH(I, _mm256_permutevar8x32_epi32(i.v[p], lane.v[p])); }

TQ_INLINE I i_reverse_halves(I i) {
    const VI reversed = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    EACH(I, _mm256_permutevar8x32_epi32(i.v[p], reversed));
}

/* Lanes of the mask take the larger. */
#define ORDER(v, swapped, larger) \
    _mm256_blend_epi32(_mm256_min_epi32(v, swapped), _mm256_max_epi32(v, swapped), larger)

TQ_INLINE VI v_sort(VI v) {
    VI s = _mm256_shuffle_epi32(v, 0xb1);
    v = ORDER(v, s, 0x66);
    s = _mm256_shuffle_epi32(v, 0x4e);
    v = ORDER(v, s, 0x3c);
    s = _mm256_shuffle_epi32(v, 0xb1);
    v = ORDER(v, s, 0x5a);
    s = _mm256_permute2x128_si256(v, v, 0x01);
    v = ORDER(v, s, 0xf0);
    s = _mm256_shuffle_epi32(v, 0x4e);
    v = ORDER(v, s, 0xcc);
    s = _mm256_shuffle_epi32(v, 0xb1);
    return ORDER(v, s, 0xaa);
}

#undef ORDER

TQ_INLINE I i_sort_halves(I i) { EACH(I, v_sort(i.v[p])); }
