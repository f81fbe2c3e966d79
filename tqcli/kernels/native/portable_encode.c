/* The portable kernel's encoder. */
#include <math.h>
#include <string.h>

#include "blocks.h"
#include "half.h"
#include "portable.h"

#define WORDS (TQ_MAX_CODES / 4) /* of 32 bits in a code row */
#define TILE 4                   /* vectors that are transposed together */

/* One group of any float type as float32. */
static void widen(const void *from, enum tq_float type, int group, float *to) {
    uint16_t half[TQ_MAX_GROUP];
    memcpy(type == TQ_F32 ? (void *)to : (void *)half, from, group * tq_float_size(type));
    if (type == TQ_F16)
        for (int e = 0; e < group; e++) to[e] = tq_from_half(half[e]);
    if (type == TQ_BF16)
        for (int e = 0; e < group; e++) to[e] = tq_from_bfloat(half[e]);
}

/* Codes of LANES vectors, packed: 32 bits of a code row at a time, and the decoded squares.
 * The loop over levels is the inner one and of constant length, so that compilers unroll it and
 * keep everything about four or more vectors in registers. */
TQ_INLINE void quantize(columns_t y, int bits, const tq_layout *layout, float squares[LANES],
                        uint32_t words[WORDS][LANES]) {
    const int levels = 1 << bits, low = bits == 4 ? 4 : 2, planes = layout->group / 16;
    const uint32_t mask = bits == 4 ? 15 : 3, first = tq_bits_of(layout->squares[0]);
    float midpoints[TQ_MAX_LEVELS][LANES];
    uint32_t flips[TQ_MAX_LEVELS][LANES];
    for (int k = 0; k < levels - 1; k++)
        for (int l = 0; l < LANES; l++) {
            midpoints[k][l] = layout->midpoints[k];
            flips[k][l] = tq_bits_of(layout->squares[k]) ^ tq_bits_of(layout->squares[k + 1]);
        }
    for (int l = 0; l < LANES; l++) squares[l] = 0;
    memset(words, 0, WORDS * sizeof words[0]);
    for (int e = 0; e < layout->group; e++) {
        uint32_t *word = words[e * low / 32], *plane = words[planes + e / 32];
        const int shift = e * low % 32, place = e % 32;
        const float after = layout->forward.after[e];
        for (int l = 0; l < LANES; l++) {
            /* Levels are nested, so flipping the bits that differ between neighbours selects
             * the square of the level. */
            uint32_t code = 0, square = first;
            const float value = y[e][l] * after;
            for (int k = 0; k < levels - 1; k++) {
                const uint32_t above = 0u - (uint32_t)(value >= midpoints[k][l]);
                code -= above;
                square ^= above & flips[k][l];
            }
            squares[l] += tq_float_of(square);
            word[l] |= (code & mask) << shift;
            if (bits == 3) plane[l] |= (code >> 2) << place;
        }
    }
}

/* Fetch the vectors after the next ones; processors follow four rows at once badly. */
static void prefetch(uintptr_t from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64) tq_prefetch(from + at);
}

/* Vectors as columns, and the sums of their squares. Lanes at and after `count` repeat some. */
static void load(const uint8_t *x, enum tq_float type, int count, int group, columns_t columns,
                 float total[LANES]) {
    const size_t size = group * tq_float_size(type);
    float rows[TILE][TQ_MAX_GROUP] = {{0}};
    for (int l = 0; l < LANES; l += TILE) {
        float sum[TILE] = {0};
        for (int i = 0; i < TILE && l + i < count; i++)
            widen(x + (size_t)(l + i) * size, type, group, rows[i]);
        prefetch((uintptr_t)x + (size_t)(LANES + l) * size, TILE * size);
        for (int e = 0; e < group; e++)
            for (int i = 0; i < TILE; i++) {
                const float value = rows[i][e];
                columns[e][l + i] = value;
                sum[i] += value * value;
            }
        for (int i = 0; i < TILE; i++) total[l + i] = sum[i];
    }
}

/* Up to LANES groups; `count` of them are there. */
static void encode_batch(const uint8_t *x, enum tq_float type, int count, uint8_t *blocks,
                         const tq_layout *layout) {
    columns_t columns;
    float length[LANES], inverse[LANES], squares[LANES];
    uint32_t words[WORDS][LANES];
    load(x, type, count, layout->group, columns, length);
    for (int l = 0; l < LANES; l++) {
        length[l] = sqrtf(length[l]);
        inverse[l] = length[l] > TQ_TINY ? 1.0f / length[l] : 0.0f;
    }
    scale_columns(columns, layout->group, layout->forward.before, inverse);
    hadamard(columns, layout->group);
    if (layout->bits == 2) quantize(columns, 2, layout, squares, words);
    if (layout->bits == 3) quantize(columns, 3, layout, squares, words);
    if (layout->bits == 4) quantize(columns, 4, layout, squares, words);
    for (int l = 0; l < count; l++) {
        uint32_t codes[WORDS];
        const float decoded = sqrtf(squares[l]);
        const int divide = layout->corrected && decoded > TQ_TINY;
        for (int w = 0; w < WORDS; w++) codes[w] = words[w][l];
        tq_emit(blocks + (size_t)l * layout->group_bytes, (const uint8_t *)codes,
                tq_to_half(divide ? length[l] / decoded : length[l]), layout);
    }
}

void tq_encode_portable(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                        const tq_layout *layout) {
    const size_t size = layout->group * tq_float_size(type);
    for (size_t at = 0; at < n; at += LANES)
        encode_batch((const uint8_t *)x + at * size, type, n - at < LANES ? (int)(n - at) : LANES,
                     blocks + at * layout->group_bytes, layout);
}
