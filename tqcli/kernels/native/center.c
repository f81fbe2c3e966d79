/* A mean that RoPE turned, in plain C; and which operations go with which kernel. */
#define HALVES_AT_ONCE 0
#define CENTER tq_center_portable

#include "center_rows.h"

const tq_center_ops *tq_center_of(const tq_kernel *kernel) {
    (void)kernel;
#ifdef TQ_HAVE_AVX512
    if (kernel == &tq_avx512) return &tq_center_avx512;
#endif
#ifdef TQ_HAVE_AVX2
    if (kernel == &tq_avx2) return &tq_center_avx2;
#endif
    return &tq_center_portable;
}
