/* What the kernels share: the block layout, and the table of functions that a kernel fills in.
 *
 * Every kernel gives the bytes and floats of tqcli/kernels/reference.py, for every input. The files
 * are compiled without fast-math and without contraction; each instruction set has its own file,
 * and only that file is compiled for it.
 */
#ifndef TQ_H
#define TQ_H

#include <stddef.h>
#include <stdint.h>
#if defined(_M_X64)
#include <xmmintrin.h>
#endif

#define TQ_MAX_GROUP 128
#define TQ_MAX_LEVELS 16
#define TQ_MAX_BLOCKS 4    /* blocks of 32 in a group of 128 */
#define TQ_MAX_CODES 64    /* bytes of packed codes of a group: 128 values of 4 bits */
#define TQ_TINY 1e-10f     /* at or below this length a vector counts as zero */
#define TQ_NAN_HALF 0x7e00 /* the one NaN that blocks hold */

/* MSVC has the keyword only under this name. */
#if defined(_MSC_VER)
#define TQ_INLINE static __forceinline
#elif defined(__GNUC__)
#define TQ_INLINE static inline __attribute__((always_inline))
#else
#define TQ_INLINE static inline
#endif

#if defined(__clang__)
#define TQ_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define TQ_UNROLL _Pragma("GCC unroll 32")
#else
#define TQ_UNROLL
#endif

/* Ask for the cache line at an address. It is a number and no pointer: what is asked for early may
 * lie past its array, where C has no pointers. */
TQ_INLINE void tq_prefetch(uintptr_t address) {
#if defined(__GNUC__)
    __builtin_prefetch((const void *)address);
#elif defined(_M_X64)
    _mm_prefetch((const char *)address, _MM_HINT_T0);
#else
    (void)address;
#endif
}

enum tq_float { TQ_F32, TQ_F16, TQ_BF16 };

static inline size_t tq_float_size(enum tq_float type) { return type == TQ_F32 ? 4 : 2; }

/* One direction of the rotation: multiply, butterflies, multiply. */
typedef struct {
    float before[TQ_MAX_GROUP];     /* +1 or -1 */
    float after[TQ_MAX_GROUP];      /* sign * 1/sqrt(group) */
    uint8_t negative[TQ_MAX_GROUP]; /* 1 where before is -1 */
} tq_factors;

/* A turbo layout as kernels read it; layout.c fills and checks it. */
typedef struct {
    int bits, group, block, header, corrected;
    int levels;                     /* 2^bits */
    int code_bytes;                 /* packed codes of one block */
    int block_bytes;                /* header + code_bytes */
    int blocks;                     /* blocks of one group */
    int group_bytes;                /* block_bytes * blocks */
    float centroids[TQ_MAX_LEVELS]; /* ascending; the rest is 0 */
    float squares[TQ_MAX_LEVELS];   /* centroid * centroid, rounded once */
    float midpoints[TQ_MAX_LEVELS]; /* levels - 1 of them, ascending */
    tq_factors forward, inverse;
} tq_layout;

/* Complete a layout whose bits, group, block, header and corrected are set, from `count` floats:
 * centroids, midpoints, signs before and after the rotation's butterflies, its scale. Returns
 * NULL, or what is wrong with them. */
const char *tq_fill_layout(tq_layout *layout, const void *floats, size_t count);

/* Columns of the statistics of one vector. */
enum { TQ_ERROR, TQ_SIGNAL, TQ_DOT, TQ_DECODED, TQ_LARGEST, TQ_ERROR_COLUMNS };
enum { TQ_SECOND, TQ_FOURTH, TQ_MOMENT_COLUMNS };

/* Statistics of vectors; in a file of their own for each instruction set, by stats.h. */
typedef struct {
    /* n vectors of dim values beside what they decode to (float32): a row of each in `rows`,
     * (n, TQ_ERROR_COLUMNS). Unless channels is NULL, the vectors and their errors are added to
     * its two rows, (2, dim), one vector after the other. */
    void (*errors)(const void *x, enum tq_float type, const void *decoded, size_t n, size_t dim,
                   double *rows, double *channels);
    /* The sums of squares and of fourth powers of n unit vectors after signs and butterflies in
     * groups of 64 or 128 are added to `totals`, (TQ_MOMENT_COLUMNS), one vector after the other.
     */
    void (*moments)(const void *x, enum tq_float type, size_t n, size_t dim, int group,
                    const float *signs, double *totals);
} tq_stats;

/* Columns of the totals of rows: what is added from row to row, then what is the largest or the
 * smallest. A distance is 1 less the cosine. */
enum {
    TQ_TOTAL_ERROR,
    TQ_TOTAL_SIGNAL,
    TQ_DISTANCE,
    TQ_DISTANCE_SQUARE,
    TQ_LARGEST_ERROR,
    TQ_NEAREST,
    TQ_FARTHEST,
    TQ_TOTAL_COLUMNS
};

/* Add n rows of errors to totals, and say where the distance of each is counted; see
 * tqcli/kernels/stats_reference.py. */
void tq_summarize(const double *rows, size_t n, double *totals, uint32_t *keys);

/* One kernel: the functions of one instruction set. Pointers may be unaligned; lengths are
 * checked before, and no byte outside the arrays is read or written. */
typedef struct {
    const char *name;
    /* x: n groups of type; blocks: n * group_bytes. */
    void (*encode)(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                   const tq_layout *layout);
    /* The reverse; rotated stops before the inverse rotation. */
    void (*decode)(const uint8_t *blocks, size_t n, void *out, enum tq_float type, int rotated,
                   const tq_layout *layout);
    /* n runs of `block` codes (a multiple of 8) to block * bits / 8 bytes each. Returns the
     * bitwise or of all codes, by which the caller sees one that is too large. */
    unsigned (*pack)(const uint8_t *codes, size_t n, size_t block, int bits, uint8_t *packed);
    /* The reverse; runs of packed bytes begin `stride` bytes apart. */
    void (*unpack)(const uint8_t *packed, size_t stride, size_t n, size_t block, int bits,
                   uint8_t *codes);
    const tq_stats *stats;
} tq_kernel;

extern const tq_kernel tq_portable, tq_avx2, tq_avx512, tq_neon;
extern const tq_stats tq_stats_portable, tq_stats_avx2, tq_stats_avx512, tq_stats_neon;

/* Kernels that are compiled in and that this machine and its system can run, best first. The
 * list ends with NULL; portable is always in it. */
const tq_kernel *const *tq_kernels(void);

#endif
