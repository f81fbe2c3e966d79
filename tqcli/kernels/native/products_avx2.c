/* Integer products, 8 columns a register. */
#include <immintrin.h>

#define VECTOR __m256i
#define LANES 8
#define WIDE 2
#define ROWS 5
#define ZERO() _mm256_setzero_si256()
#define LOAD(p) _mm256_loadu_si256((const void *)(p))
#define SPREAD(word) _mm256_set1_epi32(word)
#define STORE(p, v) _mm256_storeu_si256((void *)(p), v)
#define ADD_PRODUCTS(sums, x, y) _mm256_add_epi32(sums, _mm256_madd_epi16(x, y))

#include "products_rows.h"

const tq_products tq_products_avx2 = {PANEL, pack, run};
