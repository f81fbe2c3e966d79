/* Decoding in lanes; a part of lanes.h. */
#include "outflow.h"

/* Code rows, one a lane, to words in columns. */
TQ_INLINE void words_of_rows(uint8_t rows[LANES][TQ_MAX_CODES], int count, VI *words) {
    for (int w = 0; w < count; w += LANES) {
        V v[LANES];
        TQ_UNROLL
        for (int l = 0; l < LANES; l++) v[l] = v_load((const float *)(void *)(rows[l] + 4 * w));
        v_transpose(v);
        TQ_UNROLL
        for (int i = 0; i < LANES; i++) words[w + i] = v_as_int(v[i]);
    }
}

/* Columns from words: centroid times norm, and the butterflies below LANES. What comes out is
 * transposed: rows of `group` floats. After each tile some `lines` may flow. */
TQ_INLINE void spread(const VI *words, int bits, int group, const V (*norms)[2],
                      const tq_layout *layout, const tables *t, V *rows, outflow *flow, int lines) {
    const int per_word = bits == 4 ? 8 : 16, per_row = group / LANES;
    for (int e = 0; e < group; e += 32) {
        const V *norm = norms[e / layout->block];
        const uint8_t *negative = layout->inverse.negative + e;
        const VI plane = words[group / 16 + e / 32]; /* read for 3 bits only */
        TQ_UNROLL
        for (int part = 0; part < 32; part += LANES) {
            V v[LANES];
            TQ_UNROLL
            for (int l = 0; l < LANES; l++) {
                const int i = part + l;
                const VI word = words[(e + i) / per_word];
                const V level = level_one(word, plane, bits, i % per_word, i, t);
                v[l] = v_mul(level, norm[negative[i]]);
            }
            butterflies(v, LANES);
            v_transpose(v);
            TQ_UNROLL
            for (int l = 0; l < LANES; l++) rows[l * per_row + (e + part) / LANES] = v[l];
            let_flow(flow, lines);
        }
    }
}

/* The other butterflies, along rows, and the factors behind them. */
TQ_INLINE void finish_rows(const V *rows, int group, enum tq_float type, const float *after,
                           uint8_t *out) {
    const int count = group / LANES;
    const size_t size = type == TQ_F32 ? 4 : 2;
    for (int l = 0; l < LANES; l++) {
        V v[TQ_MAX_GROUP / LANES];
        TQ_UNROLL
        for (int i = 0; i < count; i++) v[i] = rows[l * count + i];
        butterflies(v, count);
        TQ_UNROLL
        for (int i = 0; i < count; i++)
            v_narrow(out + (size_t)(l * group + i * LANES) * size,
                     v_mul(v[i], v_load(after + i * LANES)), type);
    }
}

static void finish_decode(const V *rows, int group, enum tq_float type, const float *after,
                          uint8_t *out) {
    if (group == 64) {
        if (type == TQ_F32) finish_rows(rows, 64, TQ_F32, after, out);
        if (type == TQ_F16) finish_rows(rows, 64, TQ_F16, after, out);
        if (type == TQ_BF16) finish_rows(rows, 64, TQ_BF16, after, out);
        return;
    }
    if (type == TQ_F32) finish_rows(rows, 128, TQ_F32, after, out);
    if (type == TQ_F16) finish_rows(rows, 128, TQ_F16, after, out);
    if (type == TQ_BF16) finish_rows(rows, 128, TQ_BF16, after, out);
}

static void decode_batch(const uint8_t *blocks, int count, uint8_t *out, enum tq_float type,
                         const tq_layout *layout, const tables *t, outflow *flow) {
    const int lines = LANES * LANES * (int)tq_float_size(type) / LINE;
    uint8_t codes[LANES][TQ_MAX_CODES];
    uint16_t halves[TQ_MAX_BLOCKS][LANES];
    VI words[WORDS];
    V norms[TQ_MAX_BLOCKS][2], rows[LANES * (TQ_MAX_GROUP / LANES)];
    for (int l = 0; l < LANES; l++) {
        /* Lanes without a vector repeat the last. */
        const uint8_t *from = blocks + (size_t)(l < count ? l : count - 1) * layout->group_bytes;
        tq_gather(codes[l], from, layout);
        for (int b = 0; b < layout->blocks; b++) halves[b][l] = tq_norm(from, b, layout);
    }
    for (int b = 0; b < layout->blocks; b++) {
        norms[b][0] = v_of_halves(halves[b]);
        norms[b][1] = v_negate(norms[b][0]);
    }
    words_of_rows(codes, layout->group * layout->bits / 32, words);
    if (layout->bits == 2) spread(words, 2, layout->group, norms, layout, t, rows, flow, lines);
    if (layout->bits == 3) spread(words, 3, layout->group, norms, layout, t, rows, flow, lines);
    if (layout->bits == 4) spread(words, 4, layout->group, norms, layout, t, rows, flow, lines);
    finish_decode(rows, layout->group, type, layout->inverse.after, out);
}

TQ_INLINE void rotated_rows(const uint8_t *blocks, int count, uint8_t *out, int bits,
                            enum tq_float type, const tq_layout *layout, const tables *t,
                            outflow *flow) {
    const size_t size = layout->block * tq_float_size(type);
    for (int b = 0; b < count * layout->blocks; b++) {
        rotated_block(blocks + layout->header, tq_norm(blocks, 0, layout), bits, layout->block,
                      type, t, out);
        blocks += layout->block_bytes;
        out += size;
        if (!flow->stream) let_flow(flow, (int)(size / LINE));
    }
}

static void rotated_batch(const uint8_t *blocks, int count, uint8_t *out, enum tq_float type,
                          const tq_layout *layout, const tables *t, outflow *flow) {
    if (layout->bits == 2) rotated_rows(blocks, count, out, 2, type, layout, t, flow);
    if (layout->bits == 3) rotated_rows(blocks, count, out, 3, type, layout, t, flow);
    if (layout->bits == 4) rotated_rows(blocks, count, out, 4, type, layout, t, flow);
}

static void decode(const uint8_t *blocks, size_t n, void *out, enum tq_float type, int rotated,
                   const tq_layout *layout) {
    const size_t size = layout->group * tq_float_size(type);
    V batches[2][TQ_MAX_GROUP]; /* LANES vectors each */
    /* No batch is under way yet, but the addresses are valid. */
    outflow flow = {.stream = n * size >= STREAM_BYTES,
                    .next = (uintptr_t)out,
                    .to = out,
                    .from = (const uint8_t *)batches};
    tables t;
    load_tables(&t, layout);
    for (size_t at = 0; at < n; at += LANES) {
        const int count = n - at < LANES ? (int)(n - at) : LANES;
        const uint8_t *from = blocks + at * layout->group_bytes;
        uint8_t *to = (uint8_t *)out + at * size;
        const int buffered = flow.stream || count < LANES;
        uint8_t *values = buffered ? (uint8_t *)batches[at / LANES % 2] : to;
        flow.next = (uintptr_t)to + LANES * size;
        if (rotated) rotated_batch(from, count, values, type, layout, &t, &flow);
        else decode_batch(from, count, values, type, layout, &t, &flow);
        end_flow(&flow);
        if (buffered) begin_flow(&flow, to, values, count * size);
    }
    end_flow(&flow);
    v_fence();
}
