/* rANS streams: which row function runs, what a stream must be, and the encoder. */
#include "rans.h"

tq_rans_row tq_rans_row_of(const tq_kernel *kernel) {
    (void)kernel;
#ifdef TQ_HAVE_AVX512
    if (kernel == &tq_avx512) return tq_rans_row_avx512;
#endif
#ifdef TQ_HAVE_AVX2
    if (kernel == &tq_avx2) return tq_rans_row_avx2;
#endif
    return tq_rans_row_portable;
}

static int fill_escapes(tq_rans_reader *reader, size_t width, int16_t *symbols) {
    for (size_t i = 0; i < width; i++) {
        if (symbols[i] != TQ_RANS_ESCAPE) continue;
        if (reader->escape == reader->escapes_end) return -1;
        symbols[i] = (int16_t)tq_read_u16(reader->escape);
        reader->escape += 2;
    }
    return 0;
}

const char *tq_rans_decode(tq_rans_row decode_row, const uint8_t *stream, size_t bytes,
                           const uint32_t *lookups, const uint8_t *tables, size_t rows,
                           size_t width, int16_t *symbols) {
    tq_rans_reader reader;
    if (bytes < TQ_RANS_HEADER) return "shorter than its header";
    const uint64_t words = tq_read_u32(stream), escapes = tq_read_u32(stream + 4);
    if ((words + escapes) * 2 != bytes - TQ_RANS_HEADER) return "another length than it says";
    memcpy(reader.state, stream + 8, sizeof reader.state);
    reader.word = stream + TQ_RANS_HEADER;
    reader.words_end = reader.escape = reader.word + words * 2;
    reader.escapes_end = stream + bytes;
    for (size_t row = 0; row < rows; row++, symbols += width) {
        if (tables[row] == TQ_RANS_SILENT) {
            memset(symbols, 0, width * sizeof *symbols);
            continue;
        }
        const uint32_t *lookup = lookups + (size_t)tables[row] * TQ_RANS_SLOTS;
        const int seen = decode_row(&reader, lookup, width, symbols);
        if (seen < 0) return "it ends before its symbols do";
        if (seen && fill_escapes(&reader, width, symbols) < 0) return "an escape has no value";
    }
    for (int i = 0; i < TQ_RANS_LANES; i++)
        if (reader.state[i] != TQ_RANS_LOW) return "it does not end as it began";
    if (reader.word != reader.words_end || reader.escape != reader.escapes_end)
        return "something is left over";
    return NULL;
}

void tq_rans_prepare(const uint16_t *frequencies, size_t count, tq_rans_symbol *out) {
    const uint64_t one = (uint64_t)1 << 44;
    for (size_t t = 0; t < count; t++) {
        uint32_t start = 0;
        for (int i = 0; i < TQ_RANS_SYMBOLS; i++, frequencies++, out++) {
            const uint32_t f = *frequencies;
            out->reciprocal = f ? (one + f - 1) / f : 0;
            out->start = start;
            out->frequency = f;
            start += f;
        }
    }
}

static void write_u16(uint8_t *p, uint32_t value) {
    const uint16_t x = (uint16_t)value;
    memcpy(p, &x, sizeof x);
}

/* Symbols are coded last to first. Before a symbol of frequency f, a state of f << 20 or more
 * gives a word away, so that x / f stays below 2^20 and the product with the reciprocal is exact:
 * the reciprocal is too large by less than 1, and x * f < 2^44. */
size_t tq_rans_encode(const tq_rans_symbol *all, const uint8_t *tables, size_t rows, size_t width,
                      const int16_t *symbols, uint8_t *out) {
    const size_t count = rows * width;
    uint8_t *const words_end = out + TQ_RANS_HEADER + 2 * count, *word = words_end;
    uint8_t *const escapes_end = words_end + 2 * count, *escape = escapes_end;
    uint32_t state[TQ_RANS_LANES];
    for (int i = 0; i < TQ_RANS_LANES; i++) state[i] = TQ_RANS_LOW;
    for (size_t row = rows; row-- > 0;) {
        if (tables[row] == TQ_RANS_SILENT) continue;
        const int16_t *values = symbols + row * width;
        const tq_rans_symbol *table = all + (size_t)tables[row] * TQ_RANS_SYMBOLS + 128;
        for (size_t i = width; i-- > 0;) {
            const int value = values[i];
            const tq_rans_symbol *symbol = table + TQ_RANS_ESCAPE;
            if (value > TQ_RANS_ESCAPE && value < 128 && table[value].frequency) {
                symbol = table + value;
            } else {
                escape -= 2;
                write_u16(escape, (uint32_t)value);
            }
            uint32_t x = state[i % TQ_RANS_LANES];
            const int full = x >> 20 >= symbol->frequency;
            write_u16(word - 2, x);
            word -= full ? 2 : 0;
            x = full ? x >> 16 : x;
            const uint32_t quotient = (uint32_t)(x * symbol->reciprocal >> 44);
            state[i % TQ_RANS_LANES] = x + symbol->start +
                                       quotient * (TQ_RANS_SLOTS - symbol->frequency);
        }
    }
    const uint32_t counts[2] = {(uint32_t)((words_end - word) / 2),
                                (uint32_t)((escapes_end - escape) / 2)};
    const size_t word_bytes = 2 * (size_t)counts[0], escape_bytes = 2 * (size_t)counts[1];
    memcpy(out, counts, sizeof counts);
    memcpy(out + sizeof counts, state, sizeof state);
    memmove(out + TQ_RANS_HEADER, word, word_bytes);
    memmove(out + TQ_RANS_HEADER + word_bytes, escape, escape_bytes);
    return TQ_RANS_HEADER + word_bytes + escape_bytes;
}
