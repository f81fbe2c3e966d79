/* The portable kernel's decoder. */
#include <string.h>

#include "blocks.h"
#include "half.h"
#include "portable.h"

/* One group of float32 as any float type. */
static void narrow(const float *from, enum tq_float type, int group, void *to) {
    uint16_t half[TQ_MAX_GROUP];
    if (type == TQ_F16)
        for (int e = 0; e < group; e++) half[e] = tq_to_half(from[e]);
    if (type == TQ_BF16)
        for (int e = 0; e < group; e++) half[e] = tq_to_bfloat(from[e]);
    memcpy(to, type == TQ_F32 ? (const void *)from : (const void *)half,
           group * tq_float_size(type));
}

/* The codes of one group as bytes. */
static void read_codes(const uint8_t *blocks, const tq_layout *layout, uint8_t *codes) {
    tq_unpack_portable(blocks + layout->header, (size_t)layout->block_bytes, (size_t)layout->blocks,
                       (size_t)layout->block, layout->bits, codes);
}

static void decode_batch(const uint8_t *blocks, int count, uint8_t *out, enum tq_float type,
                         const tq_layout *layout) {
    const int group = layout->group;
    columns_t columns;
    float norm[TQ_MAX_BLOCKS][LANES] = {{0}}, row[TQ_MAX_GROUP];
    memset(columns, 0, sizeof columns);
    for (int l = 0; l < count; l++) {
        const uint8_t *from = blocks + (size_t)l * layout->group_bytes;
        uint8_t codes[TQ_MAX_GROUP];
        read_codes(from, layout, codes);
        for (int e = 0; e < group; e++) columns[e][l] = layout->centroids[codes[e]];
        for (int b = 0; b < layout->blocks; b++)
            norm[b][l] = tq_from_half(tq_norm(from, b, layout));
    }
    for (int b = 0; b < layout->blocks; b++)
        scale_columns(columns + b * layout->block, layout->block,
                      layout->inverse.before + b * layout->block, norm[b]);
    hadamard(columns, group);
    for (int e = 0; e < group; e++)
        for (int l = 0; l < LANES; l++) columns[e][l] *= layout->inverse.after[e];
    for (int l = 0; l < count; l++) {
        for (int e = 0; e < group; e++) row[e] = columns[e][l];
        narrow(row, type, group, out + (size_t)l * group * tq_float_size(type));
    }
}

/* Without the inverse rotation a value is one of 2^bits products of its block. */
static void decode_rotated(const uint8_t *blocks, size_t n, uint8_t *out, enum tq_float type,
                           const tq_layout *layout) {
    const size_t size = tq_float_size(type);
    uint8_t codes[TQ_MAX_GROUP];
    for (size_t g = 0; g < n; g++) {
        read_codes(blocks, layout, codes);
        for (int b = 0; b < layout->blocks; b++) {
            float product[TQ_MAX_LEVELS], row[TQ_MAX_GROUP];
            const float norm = tq_from_half(tq_norm(blocks, b, layout));
            for (int k = 0; k < layout->levels; k++) product[k] = layout->centroids[k] * norm;
            for (int e = 0; e < layout->block; e++) row[e] = product[codes[b * layout->block + e]];
            narrow(row, type, layout->block, out);
            out += layout->block * size;
        }
        blocks += layout->group_bytes;
    }
}

void tq_decode_portable(const uint8_t *blocks, size_t n, void *out, enum tq_float type, int rotated,
                        const tq_layout *layout) {
    const size_t size = layout->group * tq_float_size(type);
    if (rotated) {
        decode_rotated(blocks, n, out, type, layout);
        return;
    }
    for (size_t at = 0; at < n; at += LANES)
        decode_batch(blocks + at * layout->group_bytes, n - at < LANES ? (int)(n - at) : LANES,
                     (uint8_t *)out + at * size, type, layout);
}
