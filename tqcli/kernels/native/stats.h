/* The algorithm of the statistics: vectors beside what they decode to, and their rotated moments.
 *
 * A sum over the values of a vector is eight partial sums: value e joins number e mod 8, in the
 * order of e, and halves are added to halves at the end (0+4 1+5 2+6 3+7, then 0+2 1+3, then
 * 0+1). That is the order of the specification, whatever the registers of a machine hold. Products
 * of two float32 are exact in float64, so that a multiplication fused with its addition rounds as
 * the two apart do; a difference has more digits, and its square is rounded first.
 *
 * An instruction set defines, before it includes this file:
 *
 *   D                       eight float64
 *   d_zero d_set1 d_add d_sub d_mul d_abs d_load d_store
 *   d_add_product(s, a, b)  s + a * b, where the product is exact
 *   d_larger(a, b)          a > b ? a : b
 *   d_widen(p, type)        eight values of a float type; d_narrow(p, D) the reverse to float32
 *   d_sum d_max             of the eight
 *   rotate(values, group, signs)   signs and butterflies of a group, in place
 */
#include <math.h>
#include <string.h>

#include "tq.h"

#define WIDTH 8

/* The last values of a vector, fewer than eight, among zeros. */
TQ_INLINE D widen_rest(const uint8_t *from, enum tq_float type, size_t count) {
    uint8_t eight[WIDTH * sizeof(float)] = {0};
    memcpy(eight, from, count * tq_float_size(type));
    return d_widen(eight, type);
}

/* sums[e] += v[e] for the first `count`. */
TQ_INLINE void add_rest(double *sums, D v, size_t count) {
    double eight[WIDTH];
    d_store(eight, v);
    for (size_t e = 0; e < count; e++) sums[e] += eight[e];
}

typedef struct {
    D error, signal, dot, decoded, largest;
} partial_sums;

TQ_INLINE D add_eight(partial_sums *s, D a, D b) {
    const D difference = d_sub(b, a);
    s->error = d_add(s->error, d_mul(difference, difference));
    s->signal = d_add_product(s->signal, a, a);
    s->dot = d_add_product(s->dot, a, b);
    s->decoded = d_add_product(s->decoded, b, b);
    s->largest = d_larger(d_abs(difference), s->largest);
    return difference;
}

/* type and whether there are channels are constants where this is expanded. */
TQ_INLINE void errors_body(const uint8_t *x, enum tq_float type, const uint8_t *y, size_t n,
                           size_t dim, double *rows, double *channels, int with_channels) {
    const size_t size = tq_float_size(type), whole = dim / WIDTH * WIDTH, rest = dim - whole;
    for (; n > 0; n--, rows += TQ_ERROR_COLUMNS, x += dim * size, y += dim * sizeof(float)) {
        partial_sums s = {d_zero(), d_zero(), d_zero(), d_zero(), d_zero()};
        for (size_t e = 0; e < whole; e += WIDTH) {
            const D a = d_widen(x + e * size, type), b = d_widen(y + e * sizeof(float), TQ_F32);
            const D difference = add_eight(&s, a, b);
            if (with_channels) {
                double *key = channels + e, *error = channels + dim + e;
                d_store(key, d_add(d_load(key), a));
                d_store(error, d_add(d_load(error), difference));
            }
        }
        if (rest) {
            const D a = widen_rest(x + whole * size, type, rest);
            const D b = widen_rest(y + whole * sizeof(float), TQ_F32, rest);
            const D difference = add_eight(&s, a, b);
            if (with_channels) {
                add_rest(channels + whole, a, rest);
                add_rest(channels + dim + whole, difference, rest);
            }
        }
        rows[TQ_ERROR] = d_sum(s.error);
        rows[TQ_SIGNAL] = d_sum(s.signal);
        rows[TQ_DOT] = d_sum(s.dot);
        rows[TQ_DECODED] = d_sum(s.decoded);
        rows[TQ_LARGEST] = d_max(s.largest);
    }
}

static void errors(const void *x, enum tq_float type, const void *y, size_t n, size_t dim,
                   double *rows, double *channels) {
    if (channels) {
        if (type == TQ_F32) errors_body(x, TQ_F32, y, n, dim, rows, channels, 1);
        if (type == TQ_F16) errors_body(x, TQ_F16, y, n, dim, rows, channels, 1);
        if (type == TQ_BF16) errors_body(x, TQ_BF16, y, n, dim, rows, channels, 1);
        return;
    }
    if (type == TQ_F32) errors_body(x, TQ_F32, y, n, dim, rows, channels, 0);
    if (type == TQ_F16) errors_body(x, TQ_F16, y, n, dim, rows, channels, 0);
    if (type == TQ_BF16) errors_body(x, TQ_BF16, y, n, dim, rows, channels, 0);
}

/* 1 / length of a vector; 0 for one of zeros. */
TQ_INLINE double inverse_length(const uint8_t *x, enum tq_float type, size_t dim) {
    const size_t size = tq_float_size(type), whole = dim / WIDTH * WIDTH;
    D signal = d_zero();
    for (size_t e = 0; e < whole; e += WIDTH) {
        const D a = d_widen(x + e * size, type);
        signal = d_add_product(signal, a, a);
    }
    if (dim > whole) {
        const D a = widen_rest(x + whole * size, type, dim - whole);
        signal = d_add_product(signal, a, a);
    }
    const double length = sqrt(d_sum(signal));
    return length > 0 ? 1 / length : 0;
}

TQ_INLINE void moments_body(const uint8_t *x, enum tq_float type, size_t n, size_t dim, int group,
                            const float *signs, double *totals) {
    const size_t size = tq_float_size(type);
    for (; n > 0; n--, x += dim * size) {
        const D inverse = d_set1(inverse_length(x, type, dim));
        D second = d_zero(), fourth = d_zero();
        for (size_t first = 0; first < dim; first += (size_t)group) {
            _Alignas(64) float values[TQ_MAX_GROUP];
            for (size_t e = 0; e < (size_t)group; e += WIDTH) {
                const size_t at = first + e, left = at < dim ? dim - at : 0;
                D a = d_zero();
                if (left >= WIDTH) a = d_widen(x + at * size, type);
                else if (left) a = widen_rest(x + at * size, type, left);
                d_narrow(values + e, d_mul(a, inverse));
            }
            rotate(values, group, signs);
            for (size_t e = 0; e < (size_t)group; e += WIDTH) {
                const D v = d_widen((const uint8_t *)(values + e), TQ_F32), square = d_mul(v, v);
                second = d_add(second, square);
                fourth = d_add(fourth, d_mul(square, square));
            }
        }
        totals[TQ_SECOND] += d_sum(second);
        totals[TQ_FOURTH] += d_sum(fourth);
    }
}

static void moments(const void *x, enum tq_float type, size_t n, size_t dim, int group,
                    const float *signs, double *totals) {
    if (group == 64) {
        if (type == TQ_F32) moments_body(x, TQ_F32, n, dim, 64, signs, totals);
        if (type == TQ_F16) moments_body(x, TQ_F16, n, dim, 64, signs, totals);
        if (type == TQ_BF16) moments_body(x, TQ_BF16, n, dim, 64, signs, totals);
        return;
    }
    if (type == TQ_F32) moments_body(x, TQ_F32, n, dim, 128, signs, totals);
    if (type == TQ_F16) moments_body(x, TQ_F16, n, dim, 128, signs, totals);
    if (type == TQ_BF16) moments_body(x, TQ_BF16, n, dim, 128, signs, totals);
}
