/* Interleaved rANS: small integers to a stream of 16-bit words and back.
 *
 * The stream and its arithmetic are described in tqcli/kernels/rans_reference.py. Everything here
 * is integer arithmetic, so all instruction sets give the same bytes and the same symbols. */
#ifndef TQ_RANS_H
#define TQ_RANS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tq.h"

enum {
    TQ_RANS_LANES = 32,
    TQ_RANS_BITS = 12,
    TQ_RANS_SLOTS = 1 << TQ_RANS_BITS,
    TQ_RANS_SYMBOLS = 256, /* -128 (the escape) to 127 */
    TQ_RANS_SILENT = 255,  /* in place of a table: the row is zero, and not in the stream */
    TQ_RANS_HEADER = 8 + 4 * TQ_RANS_LANES,
};
#define TQ_RANS_LOW (1u << 16) /* states stay at or above this */
#define TQ_RANS_ESCAPE (-128)

/* A stream while it is read. Words and escapes end where the stream says they do. */
typedef struct {
    uint32_t state[TQ_RANS_LANES];
    const uint8_t *word, *words_end;
    const uint8_t *escape, *escapes_end;
} tq_rans_reader;

/* One row of `width` symbols, symbol i from lane i % 32, escapes left as TQ_RANS_ESCAPE. `lookup`
 * has an entry a slot: frequency, slot - start << 12, symbol << 24. Returns -1 when the words run
 * out, 1 when there was an escape, else 0. */
typedef int (*tq_rans_row)(tq_rans_reader *reader, const uint32_t *lookup, size_t width,
                           int16_t *symbols);

int tq_rans_row_portable(tq_rans_reader *reader, const uint32_t *lookup, size_t width,
                         int16_t *symbols);
int tq_rans_row_avx2(tq_rans_reader *reader, const uint32_t *lookup, size_t width,
                     int16_t *symbols);
int tq_rans_row_avx512(tq_rans_reader *reader, const uint32_t *lookup, size_t width,
                       int16_t *symbols);

/* The row function that goes with a kernel. */
tq_rans_row tq_rans_row_of(const tq_kernel *kernel);

/* NULL, or what is wrong with the stream. tables: one a row; lookups: one of 4096 entries a table,
 * and every table of a row is among them or TQ_RANS_SILENT. */
const char *tq_rans_decode(tq_rans_row decode_row, const uint8_t *stream, size_t bytes,
                           const uint32_t *lookups, const uint8_t *tables, size_t rows,
                           size_t width, int16_t *symbols);

/* What encoding needs of a symbol: 2^44 / frequency, rounded up. */
typedef struct {
    uint64_t reciprocal;
    uint32_t start, frequency;
} tq_rans_symbol;

/* Fills `count` tables of 256 symbols from their frequencies. */
void tq_rans_prepare(const uint16_t *frequencies, size_t count, tq_rans_symbol *out);

/* Bytes written to `out`, which has room for TQ_RANS_HEADER + 4 * rows * width. */
size_t tq_rans_encode(const tq_rans_symbol *all, const uint8_t *tables, size_t rows, size_t width,
                      const int16_t *symbols, uint8_t *out);

static inline uint32_t tq_read_u32(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline uint16_t tq_read_u16(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Lanes first..first+n-1 decode one symbol each; -1 when the words run out, else 1 with an escape
 * among them. The careful way, for the ends of rows and of the stream. */
static inline int tq_rans_few(tq_rans_reader *reader, const uint32_t *lookup, size_t n,
                              int16_t *symbols) {
    int escaped = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t entry = lookup[reader->state[i] & (TQ_RANS_SLOTS - 1)];
        uint32_t x = (entry & 4095) * (reader->state[i] >> TQ_RANS_BITS) + (entry >> 12 & 4095);
        if (x < TQ_RANS_LOW) {
            if (reader->word == reader->words_end) return -1;
            x = x << 16 | tq_read_u16(reader->word);
            reader->word += 2;
        }
        reader->state[i] = x;
        symbols[i] = (int8_t)(entry >> 24);
        escaped |= symbols[i] == TQ_RANS_ESCAPE;
    }
    return escaped;
}

#endif
