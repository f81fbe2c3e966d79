/* Codes to bits and back, eight at a time, with the bit gather and scatter of BMI2. */
#include <immintrin.h>
#include <string.h>

#include "tq.h"

#define LOW_PAIRS 0x0303030303030303ull
#define THIRD_BITS 0x0404040404040404ull
#define NIBBLES 0x0f0f0f0f0f0f0f0full

TQ_INLINE uint64_t load8(const uint8_t *from) {
    uint64_t word;
    memcpy(&word, from, 8);
    return word;
}

TQ_INLINE uint64_t pack_runs(const uint8_t *codes, size_t n, size_t block, int bits,
                             uint8_t *packed) {
    uint64_t seen = 0;
    for (size_t run = 0; run < n; run++) {
        for (size_t i = 0; i < block; i += 8) {
            const uint64_t eight = load8(codes + i);
            seen |= eight;
            if (bits == 4) {
                const uint32_t low = (uint32_t)_pext_u64(eight, NIBBLES);
                memcpy(packed + i / 2, &low, 4);
            } else {
                const uint16_t low = (uint16_t)_pext_u64(eight, LOW_PAIRS);
                memcpy(packed + i / 4, &low, 2);
                if (bits == 3) packed[block / 4 + i / 8] = (uint8_t)_pext_u64(eight, THIRD_BITS);
            }
        }
        codes += block;
        packed += block / 8 * bits;
    }
    return seen;
}

static unsigned pack(const uint8_t *codes, size_t n, size_t block, int bits, uint8_t *packed) {
    uint64_t seen = bits == 2   ? pack_runs(codes, n, block, 2, packed)
                    : bits == 3 ? pack_runs(codes, n, block, 3, packed)
                                : pack_runs(codes, n, block, 4, packed);
    seen |= seen >> 32;
    seen |= seen >> 16;
    return (unsigned)((seen | seen >> 8) & 0xff);
}

TQ_INLINE void unpack_runs(const uint8_t *packed, size_t stride, size_t n, size_t block, int bits,
                           uint8_t *codes) {
    for (size_t run = 0; run < n; run++) {
        for (size_t i = 0; i < block; i += 8) {
            uint64_t eight;
            if (bits == 4) {
                uint32_t low;
                memcpy(&low, packed + i / 2, 4);
                eight = _pdep_u64(low, NIBBLES);
            } else {
                uint16_t low;
                memcpy(&low, packed + i / 4, 2);
                eight = _pdep_u64(low, LOW_PAIRS);
                if (bits == 3) eight |= _pdep_u64(packed[block / 4 + i / 8], THIRD_BITS);
            }
            memcpy(codes + i, &eight, 8);
        }
        packed += stride;
        codes += block;
    }
}

static void unpack(const uint8_t *packed, size_t stride, size_t n, size_t block, int bits,
                   uint8_t *codes) {
    if (bits == 2) unpack_runs(packed, stride, n, block, 2, codes);
    if (bits == 3) unpack_runs(packed, stride, n, block, 3, codes);
    if (bits == 4) unpack_runs(packed, stride, n, block, 4, codes);
}
