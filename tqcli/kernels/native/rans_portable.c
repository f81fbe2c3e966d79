/* Rows of a rANS stream in plain C. */
#include "rans.h"

int tq_rans_row_portable(tq_rans_reader *reader, const uint32_t *lookup, size_t width,
                         int16_t *symbols) {
    int escaped = 0;
    size_t at = 0;
    /* Every lane may take a word: as long as there are so many, none is asked for one by one. */
    for (; width - at >= TQ_RANS_LANES && reader->words_end - reader->word >= 2 * TQ_RANS_LANES;
         at += TQ_RANS_LANES) {
        const uint8_t *word = reader->word;
        for (int i = 0; i < TQ_RANS_LANES; i++) {
            const uint32_t entry = lookup[reader->state[i] & (TQ_RANS_SLOTS - 1)];
            const uint32_t x = (entry & 4095) * (reader->state[i] >> TQ_RANS_BITS) +
                               (entry >> 12 & 4095);
            const uint32_t refilled = x << 16 | tq_read_u16(word);
            const int taken = x < TQ_RANS_LOW;
            reader->state[i] = taken ? refilled : x;
            word += taken ? 2 : 0;
            const int symbol = (int8_t)(entry >> 24);
            symbols[at + i] = (int16_t)symbol;
            escaped |= symbol == TQ_RANS_ESCAPE;
        }
        reader->word = word;
    }
    for (size_t n; at < width; at += n) {
        n = width - at < TQ_RANS_LANES ? width - at : TQ_RANS_LANES;
        const int seen = tq_rans_few(reader, lookup, n, symbols + at);
        if (seen < 0) return -1;
        escaped |= seen;
    }
    return escaped;
}
