/* Integer products: which kernel runs, and the panels it is given. */
#include "products.h"

#include "attend.h"

const tq_products *tq_products_of(const tq_kernel *kernel) {
    (void)kernel;
#ifdef TQ_HAVE_AVX512
    if (kernel == &tq_avx512)
        return tq_attend_of(kernel) == &tq_attend_avx512 ? &tq_products_avx512 : &tq_products_avx2;
#endif
#ifdef TQ_HAVE_AVX2
    if (kernel == &tq_avx2) return &tq_products_avx2;
#endif
    return &tq_products_portable;
}

void tq_multiply(const tq_products *products, const int16_t *a, size_t rows, size_t depth,
                 const int16_t *x, size_t columns, int32_t *out, tq_finish finish,
                 int16_t *packed) {
    for (size_t at = 0; at < columns; at += products->panel) {
        const size_t width = columns - at < products->panel ? columns - at : products->panel;
        products->pack(x + at, depth, columns, width, packed);
        products->run(a, rows, depth, packed, width, out + at, columns, finish);
    }
}
