/* Between blocks and code rows.
 *
 * A code row holds the packed codes of one group as if it were a single block: the low bits of
 * all values, then (3 bits) their planes of bit 2. Kernels compute on rows; these functions cut
 * a row into the blocks of a layout and join blocks into a row.
 */
#ifndef TQ_BLOCKS_H
#define TQ_BLOCKS_H

#include <string.h>

#include "tq.h"

/* memcpy with the sizes that occur spelled out, so that each becomes a few moves. */
TQ_INLINE void tq_copy(uint8_t *to, const uint8_t *from, int bytes) {
    switch (bytes) {
    case 4: memcpy(to, from, 4); return;
    case 8: memcpy(to, from, 8); return;
    case 16: memcpy(to, from, 16); return;
    case 24: memcpy(to, from, 24); return;
    case 32: memcpy(to, from, 32); return;
    case 48: memcpy(to, from, 48); return;
    case 64: memcpy(to, from, 64); return;
    default: memcpy(to, from, (size_t)bytes); return;
    }
}

/* Write one group: the norm in front of each block, a zeroed rest of header, the codes. */
TQ_INLINE void tq_emit(uint8_t *blocks, const uint8_t *row, uint16_t norm,
                       const tq_layout *layout) {
    if ((norm & 0x7fff) > 0x7c00) norm = TQ_NAN_HALF;
    const uint8_t header[4] = {(uint8_t)norm, (uint8_t)(norm >> 8), 0, 0};
    if (layout->blocks == 1) {
        memcpy(blocks, header, 2);
        if (layout->header == 4) memcpy(blocks + 2, header + 2, 2);
        tq_copy(blocks + layout->header, row, layout->code_bytes);
        return;
    }
    const int low = layout->bits == 3 ? layout->block / 4 : layout->code_bytes;
    const int high = layout->code_bytes - low;
    const uint8_t *plane = row + layout->group / 4;
    for (int b = 0; b < layout->blocks; b++) {
        memcpy(blocks, header, 2);
        if (layout->header == 4) memcpy(blocks + 2, header + 2, 2);
        tq_copy(blocks + layout->header, row + b * low, low);
        if (high) tq_copy(blocks + layout->header + low, plane + b * high, high);
        blocks += layout->block_bytes;
    }
}

/* Read the codes of one group into a row. */
TQ_INLINE void tq_gather(uint8_t *row, const uint8_t *blocks, const tq_layout *layout) {
    if (layout->blocks == 1) {
        tq_copy(row, blocks + layout->header, layout->code_bytes);
        return;
    }
    const int low = layout->bits == 3 ? layout->block / 4 : layout->code_bytes;
    const int high = layout->code_bytes - low;
    uint8_t *plane = row + layout->group / 4;
    for (int b = 0; b < layout->blocks; b++) {
        tq_copy(row + b * low, blocks + layout->header, low);
        if (high) tq_copy(plane + b * high, blocks + layout->header + low, high);
        blocks += layout->block_bytes;
    }
}

/* The norm of block b of a group, as stored. */
TQ_INLINE uint16_t tq_norm(const uint8_t *blocks, int b, const tq_layout *layout) {
    const uint8_t *at = blocks + b * layout->block_bytes;
    return (uint16_t)(at[0] | at[1] << 8);
}

#endif
