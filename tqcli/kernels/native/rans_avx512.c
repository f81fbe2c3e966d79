/* Rows of a rANS stream, 16 lanes a register. */
#include <immintrin.h>

#include "rans.h"

/* One symbol of 16 lanes. Lanes that fall below TQ_RANS_LOW take the next words, in lane order. */
TQ_INLINE __m256i step(__m512i *state, const uint32_t *lookup, const uint8_t **word) {
    const __m512i low12 = _mm512_set1_epi32(TQ_RANS_SLOTS - 1);
    const __m512i entry = _mm512_i32gather_epi32(_mm512_and_si512(*state, low12), lookup, 4);
    const __m512i offset = _mm512_and_si512(_mm512_srli_epi32(entry, 12), low12);
    const __m512i x = _mm512_add_epi32(
        _mm512_mullo_epi32(_mm512_and_si512(entry, low12), _mm512_srli_epi32(*state, TQ_RANS_BITS)),
        offset);
    const __mmask16 taken = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32((int)TQ_RANS_LOW));
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)*word));
    *state = _mm512_mask_or_epi32(x, taken, _mm512_slli_epi32(x, 16),
                                  _mm512_maskz_expand_epi32(taken, words));
    *word += 2 * _mm_popcnt_u32(taken);
    return _mm512_cvtepi32_epi16(_mm512_srai_epi32(entry, 24));
}

int tq_rans_row_avx512(tq_rans_reader *reader, const uint32_t *lookup, size_t width,
                       int16_t *symbols) {
    const __m256i escape = _mm256_set1_epi16(TQ_RANS_ESCAPE);
    const uint8_t *word = reader->word;
    __m512i low = _mm512_loadu_si512(reader->state), high = _mm512_loadu_si512(reader->state + 16);
    __m256i escapes = _mm256_setzero_si256();
    size_t at = 0;
    for (; width - at >= TQ_RANS_LANES && reader->words_end - word >= 2 * TQ_RANS_LANES;
         at += TQ_RANS_LANES) {
        const __m256i a = step(&low, lookup, &word), b = step(&high, lookup, &word);
        _mm256_storeu_si256((void *)(symbols + at), a);
        _mm256_storeu_si256((void *)(symbols + at + 16), b);
        escapes = _mm256_or_si256(
            escapes, _mm256_or_si256(_mm256_cmpeq_epi16(a, escape), _mm256_cmpeq_epi16(b, escape)));
    }
    _mm512_storeu_si512(reader->state, low);
    _mm512_storeu_si512(reader->state + 16, high);
    reader->word = word;
    const int escaped = !_mm256_testz_si256(escapes, escapes);
    if (at == width) return escaped;
    const int seen = tq_rans_row_portable(reader, lookup, width - at, symbols + at);
    return seen < 0 ? -1 : escaped | seen;
}
