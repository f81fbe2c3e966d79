/* Products of matrices of 16-bit integers, exact modulo 2^32: sums wrap as unsigned integers do, so
 * every instruction set and every order of summation gives the same. */
#ifndef TQ_PRODUCTS_H
#define TQ_PRODUCTS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tq.h"

/* What is done with a row of sums: shifted right and rounded, half up (a negative shift: left), and
 * added to what stands in the output, or not. */
typedef struct {
    const int8_t *shifts; /* one a row, -16 to 31; NULL: none */
    int add;
} tq_finish;

/* A kernel multiplies a panel: `width` columns of x, at most `panel`, brought into its own order
 * first. */
typedef struct {
    size_t panel;
    /* x: depth rows of `columns`, of which the first `width` are taken. packed: room for
     * panel * (depth rounded up to even) values. */
    void (*pack)(const int16_t *x, size_t depth, size_t columns, size_t width, int16_t *packed);
    /* out[r][c] for `rows` rows of a, which are `depth` long, `stride` apart in out */
    void (*run)(const int16_t *a, size_t rows, size_t depth, const int16_t *packed, size_t width,
                int32_t *out, size_t stride, tq_finish finish);
} tq_products;

extern const tq_products tq_products_portable, tq_products_avx2, tq_products_avx512;

/* The products that go with a kernel on this machine. */
const tq_products *tq_products_of(const tq_kernel *kernel);

/* out (rows x columns) = a (rows x depth) times x (depth x columns). packed: room for a panel. */
void tq_multiply(const tq_products *products, const int16_t *a, size_t rows, size_t depth,
                 const int16_t *x, size_t columns, int32_t *out, tq_finish finish, int16_t *packed);

/* Arithmetic modulo 2^32, shifts of the sign included. */
static inline int32_t tq_shift(int32_t sum, int shift) {
    if (shift < 0) return (int32_t)((uint32_t)sum << -shift);
    if (shift == 0) return sum;
    return (sum >> shift) + (sum >> (shift - 1) & 1);
}

static inline void tq_finish_row(const int32_t *sums, size_t width, int32_t *out, int shift,
                                 int add) {
    for (size_t c = 0; c < width; c++) {
        const uint32_t before = add ? (uint32_t)out[c] : 0;
        out[c] = (int32_t)(before + (uint32_t)tq_shift(sums[c], shift));
    }
}

#endif
