/* Decoding trellis blocks; a part of wide.h. */

enum { BATCH = 16 }; /* vectors between two looks at the output */

WIDE_INLINE void decode_group(const uint8_t *block, int group, int bits, enum tq_float type,
                              int rotated, const tq_trellis *layout, const w_table *table,
                              uint8_t *out) {
    const int count = group / WIDTH;
    const size_t step = WIDTH * tq_float_size(type);
    /* A 32nd of the scale times a whole number: exact, like the product that it stands for. */
    const float stored = tq_from_half((uint16_t)(block[0] | block[1] << 8));
    const W scale = w_set1(stored * (1.0f / 32.0f));
    W rows[ROWS];
    w_unpack(block + 2, bits, count, table, rows);
    WIDE_UNROLL
    for (int r = 0; r < count; r++) {
        rows[r] = w_mul(rows[r], scale);
        if (!rotated) rows[r] = times_row(rows[r], layout->inverse.before, r);
    }
    if (!rotated) {
        rotate_rows(rows, count);
        WIDE_UNROLL
        for (int r = 0; r < count; r++) rows[r] = times_row(rows[r], layout->inverse.after, r);
    }
    WIDE_UNROLL
    for (int r = 0; r < count; r++) w_narrow(out + (size_t)r * step, rows[r], type);
}

#ifdef TQ_OUTFLOW_H
#define LINES(type) (TQ_MAX_GROUP * (int)tq_float_size(type) / LINE)
#endif

WIDE_INLINE void decode_groups(const uint8_t *blocks, size_t n, uint8_t *out, enum tq_float type,
                               int group, int bits, int rotated, const tq_trellis *layout) {
    const size_t size = (size_t)group * tq_float_size(type);
    const w_table table = w_load_table(layout);
#ifdef TQ_OUTFLOW_H
    float batches[2][BATCH * TQ_MAX_GROUP];
    outflow flow = {.stream = n * size >= STREAM_BYTES,
                    .next = (uintptr_t)out,
                    .to = out,
                    .from = (const uint8_t *)batches};
    for (size_t at = 0; at < n; at += BATCH) {
        const int some = n - at < BATCH ? (int)(n - at) : BATCH;
        uint8_t *to = flow.stream ? (uint8_t *)batches[at / BATCH % 2] : out;
        flow.next = (uintptr_t)out + BATCH * size;
        for (int i = 0; i < some; i++) {
            decode_group(blocks, group, bits, type, rotated, layout, &table, to + (size_t)i * size);
            blocks += layout->group_bytes;
            let_flow(&flow, (int)(size / LINE));
        }
        end_flow(&flow);
        if (flow.stream) begin_flow(&flow, out, to, (size_t)some * size);
        out += (size_t)some * size;
    }
    end_flow(&flow);
    v_fence();
#else
    for (size_t at = 0; at < n; at++) {
        decode_group(blocks, group, bits, type, rotated, layout, &table, out);
        blocks += layout->group_bytes;
        out += size;
    }
#endif
}

#define DECODE_GROUPS(group, bits) \
    do { \
        if (rotated && type == TQ_F32) \
            decode_groups(blocks, n, out, TQ_F32, group, bits, 1, layout); \
        else if (type == TQ_F32) decode_groups(blocks, n, out, TQ_F32, group, bits, 0, layout); \
        else decode_groups(blocks, n, out, type, group, bits, rotated, layout); \
    } while (0)

static void decode_trellis(const uint8_t *blocks, size_t n, void *out, enum tq_float type,
                           int rotated, const tq_trellis *layout) {
    if (layout->group == 64) {
        if (layout->bits == 2) DECODE_GROUPS(64, 2);
        if (layout->bits == 3) DECODE_GROUPS(64, 3);
        if (layout->bits == 4) DECODE_GROUPS(64, 4);
    } else {
        if (layout->bits == 2) DECODE_GROUPS(128, 2);
        if (layout->bits == 3) DECODE_GROUPS(128, 3);
        if (layout->bits == 4) DECODE_GROUPS(128, 4);
    }
}
