/* Which kernels this machine can run.
 *
 * A kernel that needs an instruction set is listed when the processor has it *and* the operating
 * system saves its registers (XCR0): on a system that does not, the first instruction would be a
 * fault. The build says which kernels exist (TQ_HAVE_*), never the compiler's own macros.
 */
#include "tq.h"

#if defined(TQ_HAVE_AVX2) || defined(TQ_HAVE_AVX512)

#if defined(_MSC_VER)
#include <intrin.h>
static void cpuid(unsigned leaf, unsigned r[4]) { __cpuidex((int *)r, (int)leaf, 0); }
static unsigned long long xcr0(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static void cpuid(unsigned leaf, unsigned r[4]) {
    r[0] = r[1] = r[2] = r[3] = 0;
    __get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]);
}
static unsigned long long xcr0(void) {
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}
#endif

#define BIT(word, n) ((word) >> (n) & 1u)

/* Bits of XCR0: the system saves SSE and AVX registers; and those of AVX-512 as well. */
#define STATE_AVX 0x06u
#define STATE_AVX512 0xe6u

enum { EAX, EBX, ECX, EDX };

/* 0: neither; 1: AVX2, FMA, F16C, POPCNT, BMI1 and BMI2; 2: AVX-512 F, DQ, BW and VL as well. */
static int x86_level(void) {
    unsigned r[4];
    cpuid(0, r);
    if (r[EAX] < 7) return 0;
    cpuid(1, r);
    const int osxsave = BIT(r[ECX], 27), avx = BIT(r[ECX], 28);
    const int fma = BIT(r[ECX], 12), f16c = BIT(r[ECX], 29), popcnt = BIT(r[ECX], 23);
    if (!osxsave || !avx || !fma || !f16c || !popcnt) return 0;
    const unsigned long long state = xcr0();
    if ((state & STATE_AVX) != STATE_AVX) return 0;
    cpuid(7, r);
    if (!BIT(r[EBX], 5) || !BIT(r[EBX], 3) || !BIT(r[EBX], 8)) return 0; /* AVX2, BMI1, BMI2 */
    const int f = BIT(r[EBX], 16), dq = BIT(r[EBX], 17);
    const int bw = BIT(r[EBX], 30), vl = BIT(r[EBX], 31);
    return f && dq && bw && vl && (state & STATE_AVX512) == STATE_AVX512 ? 2 : 1;
}

#endif

const tq_kernel *const *tq_kernels(void) {
    static const tq_kernel *list[4]; /* filled by the first call; callers hold the GIL */
    int count = 0;
    if (list[0]) return list;
#if defined(TQ_HAVE_AVX2) || defined(TQ_HAVE_AVX512)
    const int level = x86_level();
#endif
#ifdef TQ_HAVE_AVX512
    if (level >= 2) list[count++] = &tq_avx512;
#endif
#ifdef TQ_HAVE_AVX2
    if (level >= 1) list[count++] = &tq_avx2;
#endif
#ifdef TQ_HAVE_NEON
    list[count++] = &tq_neon; /* part of every AArch64 */
#endif
    list[count] = &tq_portable;
    return list;
}
