/* Which operations on packed blocks go with which kernel.
 *
 * Those of the avx512 kernel need more than it does (VBMI, VNNI, GFNI: Ice Lake, Zen 4 and later);
 * where they are missing, that kernel attends with AVX2. */
#include "attend.h"

#ifdef TQ_HAVE_AVX512

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

#define VBMI (1u << 1)
#define GFNI (1u << 8)
#define VNNI (1u << 11)

/* Only asked once the avx512 kernel itself may run, so the registers are known to be saved. Asked
 * once, since under a hypervisor CPUID takes tens of microseconds; callers hold the GIL. */
int tq_has_byte_permutes(void) {
    static enum { UNKNOWN, NO, YES } answer = UNKNOWN;
    if (answer == UNKNOWN) {
#if defined(_MSC_VER)
        int r[4];
        __cpuidex(r, 7, 0);
        const unsigned c = (unsigned)r[2];
#else
        unsigned a, b, c = 0, d;
        __get_cpuid_count(7, 0, &a, &b, &c, &d);
#endif
        const unsigned wanted = VBMI | GFNI | VNNI;
        answer = (c & wanted) == wanted ? YES : NO;
    }
    return answer == YES;
}

#endif

const tq_attend_ops *tq_attend_of(const tq_kernel *kernel) {
    (void)kernel;
#ifdef TQ_HAVE_AVX512
    if (kernel == &tq_avx512) return tq_has_byte_permutes() ? &tq_attend_avx512 : &tq_attend_avx2;
#endif
#ifdef TQ_HAVE_AVX2
    if (kernel == &tq_avx2) return &tq_attend_avx2;
#endif
#ifdef TQ_HAVE_NEON
    if (kernel == &tq_neon) return &tq_attend_neon;
#endif
    return &tq_attend_portable;
}
