/* The kernel for every machine: plain C11 whose inner loops run over vectors, not over elements.
 *
 * LANES vectors stand in the columns of one array, so each loop over a row of it does one step of
 * LANES independent vectors. Sums keep their order, and any compiler can use the vector unit that
 * the platform guarantees.
 */
#include <math.h>
#include <string.h>

#include "blocks.h"
#include "half.h"
#include "tq.h"

#define LANES 16

typedef float columns_t[TQ_MAX_GROUP][LANES];

/* One group of any float type as float32. */
static void widen(const void *from, enum tq_float type, int group, float *to) {
    uint16_t half[TQ_MAX_GROUP];
    memcpy(type == TQ_F32 ? (void *)to : (void *)half, from, group * tq_float_size(type));
    if (type == TQ_F16)
        for (int e = 0; e < group; e++) to[e] = tq_from_half(half[e]);
    if (type == TQ_BF16)
        for (int e = 0; e < group; e++) to[e] = tq_from_bfloat(half[e]);
}

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

/* Butterflies of strides s and 2s in one pass over the array. */
static void butterflies4(columns_t columns, int group, int s) {
    for (int base = 0; base < group; base += 4 * s)
        for (int e = base; e < base + s; e++) {
            float *a = columns[e], *b = columns[e + s];
            float *c = columns[e + 2 * s], *d = columns[e + 3 * s];
            for (int l = 0; l < LANES; l++) {
                const float ab = a[l] + b[l], a_b = a[l] - b[l];
                const float cd = c[l] + d[l], c_d = c[l] - d[l];
                a[l] = ab + cd;
                b[l] = a_b + c_d;
                c[l] = ab - cd;
                d[l] = a_b - c_d;
            }
        }
}

/* The last stage of a group of 128, stride 64. */
static void butterflies_last(columns_t columns) {
    for (int e = 0; e < 64; e++) {
        float *a = columns[e], *b = columns[e + 64];
        for (int l = 0; l < LANES; l++) {
            const float sum = a[l] + b[l], difference = a[l] - b[l];
            a[l] = sum;
            b[l] = difference;
        }
    }
}

static void hadamard(columns_t columns, int group) {
    butterflies4(columns, group, 1);
    butterflies4(columns, group, 4);
    butterflies4(columns, group, 16);
    if (group == 128) butterflies_last(columns);
}

/* Codes of LANES vectors, packed: 32 bits of a code row at a time, and the decoded squares.
 * The loop over levels is the inner one and of constant length, so that compilers unroll it and
 * keep everything about four or more vectors in registers. */
TQ_INLINE void quantize(columns_t y, int bits, const tq_layout *layout, float squares[LANES],
                        uint32_t words[16][LANES]) {
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
    memset(words, 0, 16 * sizeof words[0]);
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
static void prefetch(const uint8_t *from, size_t bytes) {
#if defined(__GNUC__)
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at);
#else
    (void)from;
    (void)bytes;
#endif
}

/* Up to LANES groups; `count` of them are there, the other lanes repeat some. */
static void encode_batch(const uint8_t *x, enum tq_float type, int count, uint8_t *blocks,
                         const tq_layout *layout) {
    const int group = layout->group;
    columns_t columns;
    float total[LANES] = {0}, squares[LANES], rows[4][TQ_MAX_GROUP] = {{0}};
    uint32_t words[16][LANES];
    const size_t size = group * tq_float_size(type);
    for (int l = 0; l < LANES; l += 4) {
        for (int i = 0; i < 4 && l + i < count; i++)
            widen(x + (size_t)(l + i) * size, type, group, rows[i]);
        prefetch(x + (size_t)(LANES + l) * size, 4 * size);
        for (int e = 0; e < group; e++)
            for (int i = 0; i < 4; i++) columns[e][l + i] = rows[i][e];
    }
    for (int e = 0; e < group; e++)
        for (int l = 0; l < LANES; l++) total[l] += columns[e][l] * columns[e][l];
    float length[LANES], inverse[LANES];
    for (int l = 0; l < LANES; l++) {
        length[l] = sqrtf(total[l]);
        inverse[l] = length[l] > TQ_TINY ? 1.0f / length[l] : 0.0f;
    }
    for (int e = 0; e < group; e++)
        for (int l = 0; l < LANES; l++) columns[e][l] *= inverse[l] * layout->forward.before[e];
    hadamard(columns, group);
    if (layout->bits == 2) quantize(columns, 2, layout, squares, words);
    if (layout->bits == 3) quantize(columns, 3, layout, squares, words);
    if (layout->bits == 4) quantize(columns, 4, layout, squares, words);
    for (int l = 0; l < count; l++) {
        uint32_t codes[16];
        const float decoded = sqrtf(squares[l]);
        const int divide = layout->corrected && decoded > TQ_TINY;
        for (int w = 0; w < 16; w++) codes[w] = words[w][l];
        tq_emit(blocks + (size_t)l * layout->group_bytes, (const uint8_t *)codes,
                tq_to_half(divide ? length[l] / decoded : length[l]), layout);
    }
}

static void encode(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                   const tq_layout *layout) {
    const size_t size = layout->group * tq_float_size(type);
    for (size_t at = 0; at < n; at += LANES)
        encode_batch((const uint8_t *)x + at * size, type, n - at < LANES ? (int)(n - at) : LANES,
                     blocks + at * layout->group_bytes, layout);
}

/* Eight codes, one in each byte (the first lowest), from the bits at place i of a run. */
TQ_INLINE uint64_t eight_codes(const uint8_t *packed, size_t block, size_t i, int bits) {
    if (bits == 4) {
        uint64_t x = 0;
        for (int j = 0; j < 4; j++) x |= (uint64_t)packed[i / 2 + j] << 16 * j;
        return (x | x << 4) & 0x0f0f0f0f0f0f0f0full;
    }
    uint64_t x = packed[i / 4] | (uint64_t)packed[i / 4 + 1] << 32;
    x = (x | x << 12) & 0x000f000f000f000full;
    x = (x | x << 6) & 0x0303030303030303ull;
    if (bits == 2) return x;
    /* Bit j of the plane alone in byte j; adding 127 carries it to the top of its byte. */
    uint64_t high = packed[block / 4 + i / 8] * 0x0101010101010101ull & 0x8040201008040201ull;
    high += 0x7f7f7f7f7f7f7f7full;
    return x | (high >> 5 & 0x0404040404040404ull);
}

TQ_INLINE void unpack_run(const uint8_t *packed, size_t block, int bits, uint8_t *codes) {
    for (size_t i = 0; i < block; i += 8) {
        const uint64_t eight = eight_codes(packed, block, i, bits);
        memcpy(codes + i, &eight, 8);
    }
}

/* One row of codes to bytes; constant sizes for the compiler. */
static void unpack_row(const uint8_t *row, const tq_layout *layout, uint8_t *codes) {
    switch (layout->bits) {
    case 2: unpack_run(row, layout->group, 2, codes); return;
    case 3: unpack_run(row, layout->group, 3, codes); return;
    default: unpack_run(row, layout->group, 4, codes); return;
    }
}

static void decode_batch(const uint8_t *blocks, int count, uint8_t *out, enum tq_float type,
                         const tq_layout *layout) {
    const int group = layout->group;
    columns_t columns;
    float norm[TQ_MAX_BLOCKS][LANES] = {{0}}, row[TQ_MAX_GROUP];
    memset(columns, 0, sizeof columns);
    for (int l = 0; l < count; l++) {
        const uint8_t *from = blocks + (size_t)l * layout->group_bytes;
        uint8_t packed[TQ_MAX_CODES], codes[TQ_MAX_GROUP];
        tq_gather(packed, from, layout);
        unpack_row(packed, layout, codes);
        for (int e = 0; e < group; e++) columns[e][l] = layout->centroids[codes[e]];
        for (int b = 0; b < layout->blocks; b++)
            norm[b][l] = tq_from_half(tq_norm(from, b, layout));
    }
    for (int e = 0; e < group; e++) {
        const float *scale = norm[e / layout->block];
        for (int l = 0; l < LANES; l++) columns[e][l] *= scale[l] * layout->inverse.before[e];
    }
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
    uint8_t packed[TQ_MAX_CODES], codes[TQ_MAX_GROUP];
    for (size_t g = 0; g < n; g++) {
        tq_gather(packed, blocks, layout);
        unpack_row(packed, layout, codes);
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

static void decode(const uint8_t *blocks, size_t n, void *out, enum tq_float type, int rotated,
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

TQ_INLINE unsigned pack_run(const uint8_t *codes, size_t block, int bits, uint8_t *packed) {
    unsigned seen = 0;
    for (size_t i = 0; i < block; i++) seen |= codes[i];
    if (bits == 4) {
        for (size_t i = 0; i < block / 2; i++)
            packed[i] = (uint8_t)((codes[2 * i] & 15) | codes[2 * i + 1] << 4);
        return seen;
    }
    for (size_t i = 0; i < block / 4; i++) {
        const uint8_t *c = codes + 4 * i;
        packed[i] = (uint8_t)((c[0] & 3) | (c[1] & 3) << 2 | (c[2] & 3) << 4 | c[3] << 6);
    }
    for (size_t i = 0; bits == 3 && i < block / 8; i++) {
        unsigned plane = 0;
        for (int j = 0; j < 8; j++) plane |= (codes[8 * i + j] >> 2 & 1u) << j;
        packed[block / 4 + i] = (uint8_t)plane;
    }
    return seen;
}

static unsigned pack(const uint8_t *codes, size_t n, size_t block, int bits, uint8_t *packed) {
    unsigned seen = 0;
    for (size_t run = 0; run < n; run++) {
        if (bits == 2) seen |= pack_run(codes, block, 2, packed);
        if (bits == 3) seen |= pack_run(codes, block, 3, packed);
        if (bits == 4) seen |= pack_run(codes, block, 4, packed);
        codes += block;
        packed += block * bits / 8;
    }
    return seen;
}

static void unpack(const uint8_t *packed, size_t stride, size_t n, size_t block, int bits,
                   uint8_t *codes) {
    for (size_t run = 0; run < n; run++) {
        if (bits == 2) unpack_run(packed, block, 2, codes);
        if (bits == 3) unpack_run(packed, block, 3, codes);
        if (bits == 4) unpack_run(packed, block, 4, codes);
        packed += stride;
        codes += block;
    }
}

const tq_kernel tq_portable = {
    .name = "portable",
    .encode = encode,
    .decode = decode,
    .pack = pack,
    .unpack = unpack,
};
