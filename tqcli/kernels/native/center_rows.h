/* Keys and a mean that RoPE turned: taken away, added back, summed before RoPE.
 *
 * One row is one key. Pair i of it is turned by the angle whose cosine and sine stand in a row of
 * two tables; pairs are (i, i + pairs) or (2i, 2i + 1), and values beyond them are not turned.
 * Every float operation is rounded by itself and in the order written, so that NumPy gives the
 * same bits; the loops run over values, so the compiler finds the vector unit of the instruction
 * set that it is told to use. A file that includes this one defines HALVES_AT_ONCE, how many
 * float16 widen_halves and narrow_halves convert at once (0: none), and CENTER, its table's name.
 */
#include "center.h"

#include "half.h"

/* A row of any float type as float32. */
static void widen(const void *from, enum tq_float type, size_t count, float *to) {
    const uint16_t *half = from;
    size_t i = 0;
    if (type == TQ_F32) memcpy(to, from, count * sizeof *to);
    if (type == TQ_F16) {
#if HALVES_AT_ONCE
        for (; i + HALVES_AT_ONCE <= count; i += HALVES_AT_ONCE) widen_halves(half + i, to + i);
#endif
        for (; i < count; i++) to[i] = tq_from_half(half[i]);
    }
    if (type == TQ_BF16)
        for (; i < count; i++) to[i] = tq_from_bfloat(half[i]);
}

static void narrow(const float *from, enum tq_float type, size_t count, void *to) {
    uint16_t *half = to;
    size_t i = 0;
    if (type == TQ_F32) memcpy(to, from, count * sizeof *from);
    if (type == TQ_F16) {
#if HALVES_AT_ONCE
        for (; i + HALVES_AT_ONCE <= count; i += HALVES_AT_ONCE) narrow_halves(from + i, half + i);
#endif
        for (; i < count; i++) half[i] = tq_to_half(from[i]);
    }
    if (type == TQ_BF16)
        for (; i < count; i++) half[i] = tq_to_bfloat(from[i]);
}

/* x + or - the mean as RoPE turns it for one row, in place; `give` is known where this is inlined.
 */
TQ_INLINE void shift(const tq_turn *t, size_t r, const float *mean, int give, float *x) {
    const float *cosine = t->cosine + r * t->pairs, *sine = t->sine + r * t->pairs;
    const size_t n = t->pairs;
    if (t->interleaved) {
        for (size_t i = 0; i < n; i++) {
            const float a = mean[2 * i], b = mean[2 * i + 1];
            const float first = a * cosine[i] - b * sine[i], second = b * cosine[i] + a * sine[i];
            x[2 * i] = give ? x[2 * i] + first : x[2 * i] - first;
            x[2 * i + 1] = give ? x[2 * i + 1] + second : x[2 * i + 1] - second;
        }
    } else {
        float *y = x + n;
        for (size_t i = 0; i < n; i++) {
            const float a = mean[i], b = mean[n + i];
            const float first = a * cosine[i] - b * sine[i], second = b * cosine[i] + a * sine[i];
            x[i] = give ? x[i] + first : x[i] - first;
            y[i] = give ? y[i] + second : y[i] - second;
        }
    }
    for (size_t i = 2 * n; i < t->dim; i++) x[i] = give ? x[i] + mean[i] : x[i] - mean[i];
}

static void take_mean(const tq_turn *t, const void *x, enum tq_float type, const float *mean,
                      float *out) {
    const uint8_t *from = x;
    for (size_t r = 0; r < t->rows; r++) {
        widen(from, type, t->dim, out);
        shift(t, r, mean, 0, out);
        from += t->dim * tq_float_size(type);
        out += t->dim;
    }
}

static void give_mean(const tq_turn *t, const float *x, enum tq_float type, const float *mean,
                      void *out) {
    uint8_t *to = out;
    float row[TQ_MAX_TURN];
    for (size_t r = 0; r < t->rows; r++) {
        memcpy(row, x, t->dim * sizeof *row);
        shift(t, r, mean, 1, row);
        narrow(row, type, t->dim, to);
        x += t->dim;
        to += t->dim * tq_float_size(type);
    }
}

/* Each of the two products is exact in float64, their sum is rounded once, and the total again. */
static void sum_keys(const tq_turn *t, const void *x, enum tq_float type, size_t first, size_t last,
                     double *sums) {
    const size_t step = t->interleaved ? 2 : 1, apart = t->interleaved ? 1 : t->pairs;
    const uint8_t *from = x;
    float row[TQ_MAX_TURN];
    for (size_t r = 0; r < t->rows; r++, from += t->dim * tq_float_size(type)) {
        const float *cosine = t->cosine + r * t->pairs, *sine = t->sine + r * t->pairs;
        widen(from, type, t->dim, row);
        for (size_t i = first; i < last; i++) {
            const double a = row[step * i], b = row[step * i + apart];
            sums[step * i] += a * cosine[i] + b * sine[i];
            sums[step * i + apart] += b * cosine[i] - a * sine[i];
        }
        if (last == t->pairs)
            for (size_t i = 2 * t->pairs; i < t->dim; i++) sums[i] += row[i];
    }
}

const tq_center_ops CENTER = {.take_mean = take_mean, .give_mean = give_mean, .sum_keys = sum_keys};
