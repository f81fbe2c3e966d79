/* The loop over rows of an integer product, for registers of one instruction set.
 *
 * The including file defines VECTOR (int32 lanes), LANES, WIDE (registers of a panel), ROWS (rows
 * whose sums stay in registers together), ZERO(), LOAD(p), SPREAD(word), STORE(p, v), and
 * ADD_PRODUCTS(sums, x, y): in each lane, the two products of its 16-bit halves are added. */
#include "products.h"

enum { PANEL = LANES * WIDE };

/* In pairs of rows: word c of pair p, two int16, is x[2p][c], x[2p + 1][c]. */
static void pack(const int16_t *x, size_t depth, size_t columns, size_t width, int16_t *pairs) {
    for (size_t row = 0; row < depth; row += 2, x += 2 * columns, pairs += 2 * PANEL) {
        const int16_t *below = row + 1 < depth ? x + columns : NULL;
        for (size_t c = 0; c < width; c++) {
            pairs[2 * c] = x[c];
            pairs[2 * c + 1] = below ? below[c] : 0;
        }
        memset(pairs + 2 * width, 0, (PANEL - width) * 2 * sizeof *pairs);
    }
}

/* Two neighbours of a row of a as one word; the second of an odd depth is 0. */
TQ_INLINE int32_t row_pair(const int16_t *a, size_t at, size_t depth) {
    uint32_t word = (uint16_t)a[at];
    if (at + 1 < depth) memcpy(&word, a + at, sizeof word);
    return (int32_t)word;
}

/* `count` rows: a constant where it is called. */
TQ_INLINE void multiply_rows(size_t count, const int16_t *a, size_t depth, const int16_t *pairs,
                             size_t width, int32_t *out, size_t stride, const int8_t *shifts,
                             int add) {
    VECTOR sums[ROWS][WIDE];
    TQ_UNROLL
    for (size_t r = 0; r < count; r++) {
        TQ_UNROLL
        for (size_t w = 0; w < WIDE; w++) sums[r][w] = ZERO();
    }
    for (size_t at = 0; at < depth; at += 2, pairs += 2 * PANEL) {
        VECTOR x[WIDE];
        TQ_UNROLL
        for (size_t w = 0; w < WIDE; w++) x[w] = LOAD(pairs + 2 * LANES * w);
        TQ_UNROLL
        for (size_t r = 0; r < count; r++) {
            const VECTOR pair = SPREAD(row_pair(a + r * depth, at, depth));
            TQ_UNROLL
            for (size_t w = 0; w < WIDE; w++) sums[r][w] = ADD_PRODUCTS(sums[r][w], x[w], pair);
        }
    }
    TQ_UNROLL
    for (size_t r = 0; r < count; r++) {
        int32_t row[PANEL];
        TQ_UNROLL
        for (size_t w = 0; w < WIDE; w++) STORE(row + LANES * w, sums[r][w]);
        tq_finish_row(row, width, out + r * stride, shifts ? shifts[r] : 0, add);
    }
}

static void run(const int16_t *a, size_t rows, size_t depth, const int16_t *pairs, size_t width,
                int32_t *out, size_t stride, tq_finish finish) {
    const int8_t *shifts = finish.shifts;
    while (rows) {
        const size_t some = rows < ROWS ? 1 : ROWS;
        if (some == ROWS)
            multiply_rows(ROWS, a, depth, pairs, width, out, stride, shifts, finish.add);
        else multiply_rows(1, a, depth, pairs, width, out, stride, shifts, finish.add);
        rows -= some;
        a += some * depth;
        out += some * stride;
        if (shifts) shifts += some;
    }
}
