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

/* The mean as RoPE turns it for one row. */
static void turn(const tq_turn *t, const float *cosine, const float *sine, const float *mean,
                 float *row) {
    const size_t n = t->pairs;
    if (t->interleaved) {
        for (size_t i = 0; i < n; i++) {
            const float a = mean[2 * i], b = mean[2 * i + 1];
            row[2 * i] = a * cosine[i] - b * sine[i];
            row[2 * i + 1] = b * cosine[i] + a * sine[i];
        }
    } else {
        const float *a = mean, *b = mean + n;
        for (size_t i = 0; i < n; i++) row[i] = a[i] * cosine[i] - b[i] * sine[i];
        for (size_t i = 0; i < n; i++) row[n + i] = b[i] * cosine[i] + a[i] * sine[i];
    }
    memcpy(row + 2 * n, mean + 2 * n, (t->dim - 2 * n) * sizeof *row);
}

static void take_mean(const tq_turn *t, const void *x, enum tq_float type, const float *mean,
                      float *out) {
    const uint8_t *from = x;
    float row[TQ_MAX_TURN], turned[TQ_MAX_TURN];
    for (size_t r = 0; r < t->rows; r++) {
        widen(from, type, t->dim, row);
        turn(t, t->cosine + r * t->pairs, t->sine + r * t->pairs, mean, turned);
        for (size_t i = 0; i < t->dim; i++) out[i] = row[i] - turned[i];
        from += t->dim * tq_float_size(type);
        out += t->dim;
    }
}

static void give_mean(const tq_turn *t, const float *x, enum tq_float type, const float *mean,
                      void *out) {
    uint8_t *to = out;
    float row[TQ_MAX_TURN], turned[TQ_MAX_TURN];
    for (size_t r = 0; r < t->rows; r++) {
        turn(t, t->cosine + r * t->pairs, t->sine + r * t->pairs, mean, turned);
        for (size_t i = 0; i < t->dim; i++) row[i] = x[i] + turned[i];
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
