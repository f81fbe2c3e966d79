/* Integer products, 16 columns a register, with the dot products of VNNI. */
#include <immintrin.h>

#define VECTOR __m512i
#define LANES 16
#define WIDE 4
#define ROWS 6
#define ZERO() _mm512_setzero_si512()
#define LOAD(p) _mm512_loadu_si512(p)
#define SPREAD(word) _mm512_set1_epi32(word)
#define STORE(p, v) _mm512_storeu_si512(p, v)
#define ADD_PRODUCTS(sums, x, y) _mm512_dpwssd_epi32(sums, x, y)

#include "products_rows.h"

const tq_products tq_products_avx512 = {PANEL, pack, run};
