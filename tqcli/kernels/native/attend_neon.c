/* Attention from packed blocks with AArch64 NEON.
 *
 * The unit of work is 64 values as four registers of 16 codes; register `part`, byte j:
 *
 *     bits 2, 3   value 4j + part
 *     bits 4      value 32*(part/2) + 2j + part%2
 *
 * The query is brought into that order once. A float32 centroid is looked up as its four bytes
 * (one table of 16 bytes each), which two rounds of zip put together. */
#include <string.h>

#include "attend.h"
#include "neon.h"

enum {
    UNIT = 64,
    PARTS = 4,
    QUADS = 4, /* float32x4 of a part */
};

static int value_at(int bits, int part, int j) {
    return bits == 4 ? 32 * (part / 2) + 2 * j + part % 2 : 4 * j + part;
}

static size_t scratch(size_t dim) {
    return dim * TQ_HEAD_TILE * sizeof(float) + TQ_VALUE_TILE * (UNIT + 2 * sizeof(float));
}

/* ---- reading a unit ---- */

typedef struct {
    size_t units, block_bytes;
    size_t apart;  /* from the first block of a unit to its second; 0 if it lies in one */
    size_t second; /* 1: every second unit is the second half of a block of 128 */
} walk;

static walk make_walk(const tq_packed *x) {
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

/* The codes of a unit whose block begins at `block`, `inside` values before it. */
TQ_INLINE void load_unit(const tq_packed *x, const uint8_t *block, size_t inside, size_t apart,
                         int bits, uint8x16_t *codes) {
    const uint8_t *at = block + x->header;
    if (bits == 4) {
        const uint8x16_t first = vld1q_u8(at + inside / 2);
        const uint8x16_t second = vld1q_u8(at + inside / 2 + (apart ? apart : 16));
        codes[0] = vandq_u8(first, vdupq_n_u8(15));
        codes[1] = vshrq_n_u8(first, 4);
        codes[2] = vandq_u8(second, vdupq_n_u8(15));
        codes[3] = vshrq_n_u8(second, 4);
        return;
    }
    const uint8_t *low = at + inside / 4;
    const uint8x16_t qs = vcombine_u8(vld1_u8(low), vld1_u8(low + (apart ? apart : 8)));
    const uint8x16_t two = vdupq_n_u8(3);
    codes[0] = vandq_u8(qs, two);
    codes[1] = vandq_u8(vshrq_n_u8(qs, 2), two);
    codes[2] = vandq_u8(vshrq_n_u8(qs, 4), two);
    codes[3] = vshrq_n_u8(qs, 6);
    if (bits == 2) return;
    const uint8_t *signs = at + x->block / 4 + inside / 8;
    uint8_t bytes[8];
    memcpy(bytes, signs, 4);
    memcpy(bytes + 4, signs + (apart ? apart : 4), 4);
    /* Byte j: the signs of values 4j to 4j+3 in its low four bits. */
    const uint8x8_t packed = vld1_u8(bytes);
    const uint8x8x2_t pairs = vzip_u8(packed, vshr_n_u8(packed, 4));
    const uint8x16_t four = vcombine_u8(pairs.val[0], pairs.val[1]), bit = vdupq_n_u8(4);
    codes[0] = vorrq_u8(codes[0], vandq_u8(vshlq_n_u8(four, 2), bit));
    codes[1] = vorrq_u8(codes[1], vandq_u8(vshlq_n_u8(four, 1), bit));
    codes[2] = vorrq_u8(codes[2], vandq_u8(four, bit));
    codes[3] = vorrq_u8(codes[3], vandq_u8(vshrq_n_u8(four, 1), bit));
}

TQ_INLINE float half_at(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

/* Does quad `quad` of part `part` belong to the second 32 values of its unit? */
TQ_INLINE int second_half(int bits, int part, int quad) { return bits == 4 ? part / 2 : quad / 2; }

/* ---- centroids as float32 ---- */

typedef struct {
    uint8x16_t bytes[4];
} planes;

static planes make_planes(const tq_packed *x) {
    planes p;
    for (int byte = 0; byte < 4; byte++) {
        uint8_t plane[16];
        for (int i = 0; i < 16; i++) {
            uint8_t value[4];
            memcpy(value, &x->centroids[i & ((1 << x->bits) - 1)], 4);
            plane[i] = value[byte];
        }
        p.bytes[byte] = vld1q_u8(plane);
    }
    return p;
}

TQ_INLINE void expand(const planes *p, uint8x16_t codes, float32x4_t *out) {
    const uint8x16_t b0 = vqtbl1q_u8(p->bytes[0], codes), b1 = vqtbl1q_u8(p->bytes[1], codes);
    const uint8x16_t b2 = vqtbl1q_u8(p->bytes[2], codes), b3 = vqtbl1q_u8(p->bytes[3], codes);
    const uint16x8_t low0 = vreinterpretq_u16_u8(vzip1q_u8(b0, b1));
    const uint16x8_t low1 = vreinterpretq_u16_u8(vzip2q_u8(b0, b1));
    const uint16x8_t high0 = vreinterpretq_u16_u8(vzip1q_u8(b2, b3));
    const uint16x8_t high1 = vreinterpretq_u16_u8(vzip2q_u8(b2, b3));
    out[0] = vreinterpretq_f32_u16(vzip1q_u16(low0, high0));
    out[1] = vreinterpretq_f32_u16(vzip2q_u16(low0, high0));
    out[2] = vreinterpretq_f32_u16(vzip1q_u16(low1, high1));
    out[3] = vreinterpretq_f32_u16(vzip2q_u16(low1, high1));
}

/* ---- scores ---- */

/* Queries in the order of the codes, (m, units, PARTS, 16). */
typedef struct {
    size_t m;
    float *values;
    int8_t *values8;
    float scales[TQ_HEAD_TILE];
    int8x16_t table8;
} ordered;

static void order_queries(ordered *to, const tq_queries *from, size_t first,
                          const tq_packed *keys) {
    for (size_t j = 0; j < to->m; j++) {
        for (size_t u = 0; u < keys->dim; u += UNIT)
            for (int part = 0; part < PARTS; part++)
                for (int i = 0; i < 16; i++) {
                    const size_t into = j * keys->dim + u + (size_t)(16 * part + i);
                    const size_t at = (first + j) * keys->dim + u +
                                      (size_t)value_at(keys->bits, part, i);
                    if (from->values) to->values[into] = from->values[at];
                    else to->values8[into] = from->values8[at];
                }
        to->scales[j] = from->values ? 1.0f : from->scales[first + j];
    }
    if (!from->values) {
        int8_t table[16];
        for (int i = 0; i < 16; i++) table[i] = from->centroids8[i & ((1 << keys->bits) - 1)];
        to->table8 = vld1q_s8(table);
    }
}

/* Both sums of a unit: over its first 32 values and over the others. */
TQ_INLINE void dot_float(const float32x4_t c[PARTS][QUADS], const float *q, int bits,
                         float32x4_t *sums) {
    sums[0] = sums[1] = vdupq_n_f32(0.0f);
    for (int part = 0; part < PARTS; part++)
        for (int quad = 0; quad < QUADS; quad++) {
            const int half = second_half(bits, part, quad);
            sums[half] = vfmaq_f32(sums[half], c[part][quad],
                                   load_floats(q + 16 * part + 4 * quad));
        }
}

/* Two products of -127..127 fit an int16, and no more. */
TQ_INLINE int32x4_t add_pair(int32x4_t sum, int8x8_t c0, int8x8_t q0, int8x8_t c1, int8x8_t q1) {
    return vpadalq_s16(sum, vmlal_s8(vmull_s8(c0, q0), c1, q1));
}

TQ_INLINE void dot_int8(const int8x16_t *c, const int8_t *query, int bits, float32x4_t *sums) {
    int8x16_t q[PARTS];
    int32x4_t first = vdupq_n_s32(0), second = first;
    for (int part = 0; part < PARTS; part++) q[part] = vld1q_s8(query + 16 * part);
    for (int part = 0; part < PARTS; part += 2) {
        const int8x8_t c0 = vget_low_s8(c[part]), c1 = vget_low_s8(c[part + 1]);
        const int8x8_t c2 = vget_high_s8(c[part]), c3 = vget_high_s8(c[part + 1]);
        const int8x8_t q0 = vget_low_s8(q[part]), q1 = vget_low_s8(q[part + 1]);
        const int8x8_t q2 = vget_high_s8(q[part]), q3 = vget_high_s8(q[part + 1]);
        if (bits < 4 || part == 0) first = add_pair(first, c0, q0, c1, q1);
        if (bits < 4) second = add_pair(second, c2, q2, c3, q3);
        if (bits == 4 && part == 0) first = add_pair(first, c2, q2, c3, q3);
        if (bits == 4 && part == 2) second = add_pair(second, c0, q0, c1, q1);
        if (bits == 4 && part == 2) second = add_pair(second, c2, q2, c3, q3);
    }
    sums[0] = vcvtq_f32_s32(first);
    sums[1] = vcvtq_f32_s32(second);
}

/* bits and int8 are constants where this is expanded. */
TQ_INLINE void scores_body(const tq_packed *keys, const ordered *q, float *out, size_t stride,
                           int bits, int int8) {
    const walk w = make_walk(keys);
    const planes p = make_planes(keys);
    for (size_t i = 0; i < keys->n; i++) {
        const uint8_t *key = keys->bytes + i * keys->vector_bytes;
        float32x4_t total[TQ_HEAD_TILE];
        for (size_t j = 0; j < q->m; j++) total[j] = vdupq_n_f32(0.0f);
        for (size_t u = 0; u < w.units; u++) {
            const uint8_t *block = block_of(&w, key, u);
            const float first = half_at(block), second = half_at(block + w.apart);
            uint8x16_t codes[PARTS];
            int8x16_t c8[PARTS];
            float32x4_t c[PARTS][QUADS];
            load_unit(keys, block, inside_of(&w, u), w.apart, bits, codes);
            for (int part = 0; part < PARTS; part++)
                if (int8) c8[part] = vqtbl1q_s8(q->table8, codes[part]);
                else expand(&p, codes[part], c[part]);
            for (size_t j = 0; j < q->m; j++) {
                const size_t at = j * keys->dim + u * UNIT;
                float32x4_t sums[2];
                if (int8) dot_int8(c8, q->values8 + at, bits, sums);
                else dot_float((const float32x4_t(*)[QUADS])c, q->values + at, bits, sums);
                total[j] = vfmaq_n_f32(vfmaq_n_f32(total[j], sums[0], first), sums[1], second);
            }
        }
        for (size_t j = 0; j < q->m; j++) out[j * stride + i] = vaddvq_f32(total[j]) * q->scales[j];
    }
}

static void scores(const tq_packed *keys, const tq_queries *queries, float *out, size_t stride,
                   void *memory) {
    ordered q;
    q.values = memory;
    q.values8 = memory;
    q.table8 = vdupq_n_s8(0);
    for (size_t first = 0; first < queries->m; first += TQ_HEAD_TILE) {
        const size_t left = queries->m - first;
        float *to = out + first * stride;
        q.m = left < TQ_HEAD_TILE ? left : TQ_HEAD_TILE;
        order_queries(&q, queries, first, keys);
        if (queries->values) {
            if (keys->bits == 2) scores_body(keys, &q, to, stride, 2, 0);
            if (keys->bits == 3) scores_body(keys, &q, to, stride, 3, 0);
            if (keys->bits == 4) scores_body(keys, &q, to, stride, 4, 0);
        } else {
            if (keys->bits == 2) scores_body(keys, &q, to, stride, 2, 1);
            if (keys->bits == 3) scores_body(keys, &q, to, stride, 3, 1);
            if (keys->bits == 4) scores_body(keys, &q, to, stride, 4, 1);
        }
    }
}

/* ---- weighted sum ---- */

/* One tile of one unit for one row of weights, added to 64 float64 in the order of the values. */
TQ_INLINE void add_tile(const uint8_t *codes, const float *norms, const float *weights,
                        size_t count, const planes *p, double *total, int bits) {
    float32x4_t sums[PARTS][QUADS];
    float ordered_sums[UNIT];
    for (int part = 0; part < PARTS; part++)
        for (int quad = 0; quad < QUADS; quad++) sums[part][quad] = vdupq_n_f32(0.0f);
    for (size_t k = 0; k < count; k++)
        for (int part = 0; part < PARTS; part++) {
            const float first = weights[k] * norms[2 * k], second = weights[k] * norms[2 * k + 1];
            float32x4_t c[QUADS];
            expand(p, vld1q_u8(codes + k * UNIT + 16 * part), c);
            for (int quad = 0; quad < QUADS; quad++)
                sums[part][quad] = vfmaq_n_f32(sums[part][quad], c[quad],
                                               second_half(bits, part, quad) ? second : first);
        }
    for (int part = 0; part < PARTS; part++)
        for (int quad = 0; quad < QUADS; quad++)
            store_floats(ordered_sums + 16 * part + 4 * quad, sums[part][quad]);
    for (int part = 0; part < PARTS; part++)
        for (int j = 0; j < 16; j++) total[value_at(bits, part, j)] += ordered_sums[16 * part + j];
}

TQ_INLINE void weighted_sum_body(const tq_packed *x, const float *weights, size_t stride, size_t m,
                                 double *out, uint8_t *codes, float *norms, int bits) {
    const walk w = make_walk(x);
    const planes p = make_planes(x);
    for (size_t first = 0; first < x->n; first += TQ_VALUE_TILE) {
        const size_t left = x->n - first, count = left < TQ_VALUE_TILE ? left : TQ_VALUE_TILE;
        for (size_t u = 0; u < w.units; u++) {
            for (size_t k = 0; k < count; k++) {
                const uint8_t *vector = x->bytes + (first + k) * x->vector_bytes;
                const uint8_t *block = block_of(&w, vector, u);
                uint8x16_t unit[PARTS];
                load_unit(x, block, inside_of(&w, u), w.apart, bits, unit);
                for (int part = 0; part < PARTS; part++)
                    vst1q_u8(codes + k * UNIT + 16 * part, unit[part]);
                norms[2 * k] = half_at(block);
                norms[2 * k + 1] = half_at(block + w.apart);
            }
            for (size_t j = 0; j < m; j++)
                add_tile(codes, norms, weights + j * stride + first, count, &p,
                         out + j * x->dim + u * UNIT, bits);
        }
    }
}

static void weighted_sum(const tq_packed *x, const float *weights, size_t stride, size_t m,
                         double *out, void *memory) {
    float *norms = memory; /* (tile, 2) */
    uint8_t *codes = (uint8_t *)(norms + 2 * TQ_VALUE_TILE);
    for (size_t d = 0; d < m * x->dim; d++) out[d] = 0.0;
    if (x->bits == 2) weighted_sum_body(x, weights, stride, m, out, codes, norms, 2);
    if (x->bits == 3) weighted_sum_body(x, weights, stride, m, out, codes, norms, 3);
    if (x->bits == 4) weighted_sum_body(x, weights, stride, m, out, codes, norms, 4);
}

/* ---- the same over float16 ---- */

static void scores_f16(const uint16_t *keys, size_t n, size_t dim, const float *queries, size_t m,
                       float *out, size_t stride, void *memory) {
    (void)memory;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++) {
            const uint16_t *key = keys + i * dim;
            const float *q = queries + j * dim;
            float32x4_t sums[4];
            for (int s = 0; s < 4; s++) sums[s] = vdupq_n_f32(0.0f);
            for (size_t d = 0; d < dim; d += 16)
                for (int s = 0; s < 4; s++)
                    sums[s] = vfmaq_f32(sums[s], load_halves(key + d + 4 * s),
                                        load_floats(q + d + 4 * s));
            out[j * stride + i] =
                vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
        }
}

static void weighted_sum_f16(const uint16_t *values, size_t n, size_t dim, const float *weights,
                             size_t stride, size_t m, double *out, void *memory) {
    (void)memory;
    for (size_t d = 0; d < m * dim; d++) out[d] = 0.0;
    for (size_t j = 0; j < m; j++)
        for (size_t first = 0; first < n; first += TQ_VALUE_TILE) {
            const size_t left = n - first, count = left < TQ_VALUE_TILE ? left : TQ_VALUE_TILE;
            for (size_t d = 0; d < dim; d += UNIT) {
                float32x4_t sums[UNIT / 4];
                for (int s = 0; s < UNIT / 4; s++) sums[s] = vdupq_n_f32(0.0f);
                for (size_t k = first; k < first + count; k++)
                    for (int s = 0; s < UNIT / 4; s++)
                        sums[s] = vfmaq_n_f32(sums[s], load_halves(values + k * dim + d + 4 * s),
                                              weights[j * stride + k]);
                for (int s = 0; s < UNIT / 4; s++) {
                    float four[4];
                    store_floats(four, sums[s]);
                    for (int lane = 0; lane < 4; lane++)
                        out[j * dim + d + (size_t)(4 * s + lane)] += four[lane];
                }
            }
        }
}

const tq_attend_ops tq_attend_neon = {
    .scratch = scratch,
    .scores = scores,
    .weighted_sum = weighted_sum,
    .scores_f16 = scores_f16,
    .weighted_sum_f16 = weighted_sum_f16,
};
