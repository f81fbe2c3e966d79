/* Rows of a rANS stream, 8 lanes a register. */
#include <immintrin.h>

#include "rans.h"

#define EACH_BYTE 0x0101010101010101ull

/* Byte i: how many of the lanes below i are in the mask of 8 lanes. */
TQ_INLINE uint64_t ranks(unsigned mask) {
    const uint64_t bits = mask * EACH_BYTE & 0x8040201008040201ull; /* byte i keeps bit i */
    const uint64_t ones = (bits + 0x7f * EACH_BYTE) >> 7 & EACH_BYTE;
    return ones * (EACH_BYTE << 8); /* a product with ones sums the bytes below */
}

/* One symbol of 8 lanes. Lanes that fall below TQ_RANS_LOW take the next words, in lane order. */
TQ_INLINE __m256i step(__m256i *state, const uint32_t *lookup, const uint8_t **word) {
    const __m256i low12 = _mm256_set1_epi32(TQ_RANS_SLOTS - 1);
    const __m256i slot = _mm256_and_si256(*state, low12);
    const __m256i entry = _mm256_i32gather_epi32((const int *)lookup, slot, 4);
    const __m256i offset = _mm256_and_si256(_mm256_srli_epi32(entry, 12), low12);
    const __m256i x = _mm256_add_epi32(
        _mm256_mullo_epi32(_mm256_and_si256(entry, low12), _mm256_srli_epi32(*state, TQ_RANS_BITS)),
        offset);
    const __m256i taken = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
    const unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(taken));
    const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)ranks(mask)));
    const __m256i words = _mm256_permutevar8x32_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)*word)), order);
    const __m256i refilled = _mm256_or_si256(_mm256_slli_epi32(x, 16), words);
    *state = _mm256_blendv_epi8(x, refilled, taken);
    *word += 2 * _mm_popcnt_u32(mask);
    return _mm256_srai_epi32(entry, 24);
}

int tq_rans_row_avx2(tq_rans_reader *reader, const uint32_t *lookup, size_t width,
                     int16_t *symbols) {
    const __m256i escape = _mm256_set1_epi16(TQ_RANS_ESCAPE);
    const uint8_t *word = reader->word;
    __m256i state[4], escapes = _mm256_setzero_si256();
    TQ_UNROLL
    for (int i = 0; i < 4; i++)
        state[i] = _mm256_loadu_si256((const void *)(reader->state + 8 * i));
    size_t at = 0;
    for (; width - at >= TQ_RANS_LANES && reader->words_end - word >= 2 * TQ_RANS_LANES;
         at += TQ_RANS_LANES) {
        TQ_UNROLL
        for (int i = 0; i < 4; i += 2) {
            const __m256i a = step(&state[i], lookup, &word);
            const __m256i b = step(&state[i + 1], lookup, &word);
            /* Packing works in halves: put the quarters in order again. */
            const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
            _mm256_storeu_si256((void *)(symbols + at + 8 * i), both);
            escapes = _mm256_or_si256(escapes, _mm256_cmpeq_epi16(both, escape));
        }
    }
    TQ_UNROLL
    for (int i = 0; i < 4; i++) _mm256_storeu_si256((void *)(reader->state + 8 * i), state[i]);
    reader->word = word;
    const int escaped = !_mm256_testz_si256(escapes, escapes);
    if (at == width) return escaped;
    const int seen = tq_rans_row_portable(reader, lookup, width - at, symbols + at);
    return seen < 0 ? -1 : escaped | seen;
}
