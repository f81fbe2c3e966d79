/* The portable kernel: codes to bits and back, and its table. */
#include <string.h>

#include "portable.h"

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

void tq_unpack_portable(const uint8_t *packed, size_t stride, size_t n, size_t block, int bits,
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
    .encode = tq_encode_portable,
    .decode = tq_decode_portable,
    .pack = pack,
    .unpack = tq_unpack_portable,
    .stats = &tq_stats_portable,
};
