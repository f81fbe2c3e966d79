/* The kernel for AArch64: 4 vectors at once, with what every such processor has. */
#include <string.h>

#include "neon.h"

#define LANES 4
#define STREAM_BYTES SIZE_MAX /* no stores past the cache here */

typedef float32x4_t V;
typedef uint32x4_t VI;

#define v_load(p) load_floats(p)
#define v_store(p, v) store_floats(p, v)
#define v_stream(p, v) store_floats(p, v)
#define v_fence() ((void)0)
#define v_set1(x) vdupq_n_f32(x)
#define v_zero() vdupq_n_f32(0)
#define v_add(a, b) vaddq_f32(a, b)
#define v_sub(a, b) vsubq_f32(a, b)
#define v_mul(a, b) vmulq_f32(a, b)
#define v_div(a, b) vdivq_f32(a, b)
#define v_sqrt(a) vsqrtq_f32(a)
#define v_negate(a) vnegq_f32(a)
#define v_as_int(a) vreinterpretq_u32_f32(a)
#define v_as_float(a) vreinterpretq_f32_u32(a)

TQ_INLINE V v_above_tiny(V a, V b, V c) { return vbslq_f32(vcgtq_f32(a, v_set1(TQ_TINY)), b, c); }

TQ_INLINE void v_halves(V v, uint16_t *to) { store_halves(to, v); }

TQ_INLINE V v_of_halves(const uint16_t *from) { return load_halves(from); }

TQ_INLINE V v_widen(const uint8_t *from, enum tq_float type) {
    if (type == TQ_F32) return load_floats(from);
    if (type == TQ_F16) return load_halves(from);
    return v_as_float(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(from)), 16));
}

TQ_INLINE uint16x4_t to_bfloat(V v) {
    const VI bits = v_as_int(v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const VI sum = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
    const VI quiet = vorrq_u32(vandq_u32(bits, vdupq_n_u32(0x80000000)), vdupq_n_u32(0x7fc00000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), sum, quiet), 16);
}

TQ_INLINE void v_narrow(uint8_t *to, V v, enum tq_float type) {
    if (type == TQ_F32) store_floats(to, v);
    else if (type == TQ_F16) store_halves(to, v);
    else vst1_u8(to, vreinterpret_u8_u16(to_bfloat(v)));
}

TQ_INLINE void v_transpose(V v[4]) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
    const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
    const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
    v[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    v[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    v[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    v[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

/* Sixteen floats that one table instruction reaches. `steps[s]` holds, at a code whose bits from
 * s down are open (zero), the midpoint that decides bit s. */
typedef uint8x16x4_t table;
typedef struct {
    V top;
    table steps[3], squares, centroids;
    float levels[16];
} tables;

TQ_INLINE table load_table(const float *entries) {
    table t;
    TQ_UNROLL
    for (int i = 0; i < 4; i++) t.val[i] = vreinterpretq_u8_f32(load_floats(entries + 4 * i));
    return t;
}

/* Entry `code` of each lane; codes are below 16. */
TQ_INLINE V look_up(table t, VI code) {
    const VI bytes = vmlaq_u32(vdupq_n_u32(0x03020100), code, vdupq_n_u32(0x04040404));
    return vreinterpretq_f32_u8(vqtbl4q_u8(t, vreinterpretq_u8_u32(bytes)));
}

static void load_tables(tables *t, const tq_layout *layout) {
    float step[16];
    t->top = v_set1(layout->midpoints[layout->levels / 2 - 1]);
    for (int s = 0; s < 3; s++) {
        for (int k = 0; k < 16; k++) {
            const int at = k + (1 << s) - 1;
            step[k] = at < layout->levels - 1 ? layout->midpoints[at] : 0;
        }
        t->steps[s] = load_table(step);
    }
    t->squares = load_table(layout->squares);
    t->centroids = load_table(layout->centroids);
    memcpy(t->levels, layout->centroids, sizeof t->levels);
}

/* Binary search: the code of y; its bits go to `word` (place i) and, bit 2 of three, to `plane`
 * (place e). Returns the square of its centroid. */
TQ_INLINE V quantize_one(V y, int bits, int i, int e, const tables *t, VI *word, VI *plane) {
    VI above = vcgeq_f32(y, t->top);
    VI code = vandq_u32(above, vdupq_n_u32(1u << (bits - 1)));
    if (bits == 3) *plane = vorrq_u32(*plane, vandq_u32(above, vdupq_n_u32(1u << e)));
    for (int s = bits - 2; s >= 0; s--) {
        above = vcgeq_f32(y, look_up(t->steps[s], code));
        code = vorrq_u32(code, vandq_u32(above, vdupq_n_u32(1u << s)));
    }
    const VI low = bits == 3 ? vandq_u32(code, vdupq_n_u32(3)) : code;
    *word = vorrq_u32(*word, vshlq_u32(low, vdupq_n_s32((bits == 4 ? 4 : 2) * i)));
    return look_up(t->squares, code);
}

TQ_INLINE V level_one(VI word, VI plane, int bits, int i, int e, const tables *t) {
    const VI mask = vdupq_n_u32(bits == 4 ? 15 : 3);
    VI code = vandq_u32(vshlq_u32(word, vdupq_n_s32(bits == 4 ? -4 * i : -2 * i)), mask);
    if (bits == 3)
        code = vorrq_u32(code, vandq_u32(vshlq_u32(plane, vdupq_n_s32(2 - e)), vdupq_n_u32(4)));
    return look_up(t->centroids, code);
}

/* One block without the rotation: the row's table is scaled once and looked up. */
TQ_INLINE void rotated_block(const uint8_t *codes, uint16_t norm, int bits, int block,
                             enum tq_float type, const tables *t, uint8_t *out) {
    const size_t size = type == TQ_F32 ? 4 : 2;
    const uint16_t four_norms[4] = {norm, norm, norm, norm};
    const V scale = v_of_halves(four_norms);
    const int32_t pairs[4] = {0, -2, -4, -6}, nibbles[4] = {0, -4, -8, -12};
    const int32_t planes[4] = {2, 1, 0, -1};
    float products[16];
    TQ_UNROLL
    for (int k = 0; k < 16; k += 4) v_store(products + k, v_mul(v_load(t->levels + k), scale));
    const table scaled = load_table(products);
    for (int e = 0; e < block; e += 4) {
        VI code;
        if (bits == 4) {
            const uint32_t word = codes[e / 2] | (uint32_t)codes[e / 2 + 1] << 8;
            code = vandq_u32(vshlq_u32(vdupq_n_u32(word), vld1q_s32(nibbles)), vdupq_n_u32(15));
        } else {
            const uint32_t word = codes[e / 4];
            code = vandq_u32(vshlq_u32(vdupq_n_u32(word), vld1q_s32(pairs)), vdupq_n_u32(3));
        }
        if (bits == 3) {
            const uint32_t plane = codes[block / 4 + e / 8] >> e % 8;
            const VI bit = vshlq_u32(vdupq_n_u32(plane), vld1q_s32(planes));
            code = vorrq_u32(code, vandq_u32(bit, vdupq_n_u32(4)));
        }
        v_narrow(out + (size_t)e * size, look_up(scaled, code), type);
    }
}

#include "lanes.h"

static unsigned pack(const uint8_t *codes, size_t n, size_t block, int bits, uint8_t *packed) {
    return tq_portable.pack(codes, n, block, bits, packed);
}

static void unpack(const uint8_t *packed, size_t stride, size_t n, size_t block, int bits,
                   uint8_t *codes) {
    tq_portable.unpack(packed, stride, n, block, bits, codes);
}

const tq_kernel tq_neon = {
    .name = "neon",
    .encode = encode,
    .decode = decode,
    .pack = pack,
    .unpack = unpack,
    .stats = &tq_stats_neon,
};
