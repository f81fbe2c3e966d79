/* Integer products in plain C, as dot products that compilers know how to vectorise. */
#include "products.h"

enum { PANEL = 64, TOGETHER = 4 };

/* Columns one after the other; those that are missing are zero. */
static void pack(const int16_t *x, size_t depth, size_t columns, size_t width, int16_t *packed) {
    for (size_t c = 0; c < width; c++)
        for (size_t row = 0; row < depth; row++) packed[c * depth + row] = x[row * columns + c];
    memset(packed + width * depth, 0, (PANEL - width) * depth * sizeof *packed);
}

static void run(const int16_t *a, size_t rows, size_t depth, const int16_t *packed, size_t width,
                int32_t *out, size_t stride, tq_finish finish) {
    for (size_t row = 0; row < rows; row++, a += depth, out += stride) {
        int32_t sums[PANEL];
        for (size_t c = 0; c < width; c += TOGETHER) {
            const int16_t *x0 = packed + c * depth, *x1 = x0 + depth, *x2 = x1 + depth,
                          *x3 = x2 + depth;
            uint32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
            for (size_t i = 0; i < depth; i++) {
                s0 += (uint32_t)(a[i] * x0[i]);
                s1 += (uint32_t)(a[i] * x1[i]);
                s2 += (uint32_t)(a[i] * x2[i]);
                s3 += (uint32_t)(a[i] * x3[i]);
            }
            sums[c] = (int32_t)s0;
            sums[c + 1] = (int32_t)s1;
            sums[c + 2] = (int32_t)s2;
            sums[c + 3] = (int32_t)s3;
        }
        tq_finish_row(sums, width, out, finish.shifts ? finish.shifts[row] : 0, finish.add);
    }
}

const tq_products tq_products_portable = {PANEL, pack, run};
