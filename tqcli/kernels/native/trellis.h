/* Trellis blocks, and encoders that weigh errors: the interface of one file per instruction set.
 *
 * Every kernel gives the bytes and floats of tqcli/kernels/trellis_reference.py and
 * beam_reference.py, for every input. */
#ifndef TQ_TRELLIS_H
#define TQ_TRELLIS_H

#include <stddef.h>
#include <stdint.h>

#include "attend.h"
#include "tq.h"

enum {
    WIDTH = 16,                  /* values, or paths, that are worked on at once */
    ROWS = TQ_MAX_GROUP / WIDTH, /* of values in a group */
    TQ_MAX_WINDOWS = 256,
    TQ_MAX_STATES = 32,
    TQ_TILE = 8,      /* values over which feedback reaches equally far */
    TQ_BEAMS = 2,     /* of a weighted turbo encoder */
    TQ_SURVIVORS = 8, /* of each */
};

#define TQ_FAR 1e30f /* cost of a state that the first value cannot come from */

/* A trellis layout as kernels read it; trellis.c fills and checks it. */
typedef struct {
    int bits, window, group, group_bytes;
    int states;                    /* 2^(window - bits) */
    int8_t table8[TQ_MAX_WINDOWS]; /* in 1/32 */
    float table[TQ_MAX_WINDOWS];   /* the same as floats */
    /* table[s * branches + j] at [j][s]: the values that lead into the states, branch by branch */
    float into[16][TQ_MAX_STATES];
    tq_factors forward, inverse;
} tq_trellis;

/* How errors are weighed: see tqcli/kernels/weighting.py. */
typedef struct {
    const float *weights;  /* (group,) of the values before the rotation */
    const float *costs;    /* (group,) */
    const float *feedback; /* (group, group) row t: what an error at t adds to later targets */
    /* By tiles of TQ_TILE values: targets from here on have not been touched by any error up to
     * the end of the tile, so that all paths still agree on them. */
    int reach[TQ_MAX_GROUP / TQ_TILE];
} tq_weighting;

/* View the floats (2 + group, group) of a Weighting; they stay the caller's. */
void tq_view_weighting(tq_weighting *to, const float *floats, int group);

/* Complete a layout whose bits and group are set, from its table, both sign vectors and the scale
 * of the rotation. Returns NULL, or what is wrong with them. */
const char *tq_fill_trellis(tq_trellis *layout, const void *table, size_t entries,
                            const void *floats, size_t count);

typedef struct {
    /* x: n groups of type; blocks: n * group_bytes. weighting may be NULL. */
    void (*encode)(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                   const tq_trellis *layout, const tq_weighting *weighting);
    /* The reverse; rotated stops before the inverse rotation. */
    void (*decode)(const uint8_t *blocks, size_t n, void *out, enum tq_float type, int rotated,
                   const tq_trellis *layout);
    /* Turbo blocks whose codes leave the least weighted error. */
    void (*encode_turbo)(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                         const tq_layout *layout, const tq_weighting *weighting);
    /* Bytes of scratch, aligned to 64, that scores may use for vectors of dim values. */
    size_t (*scratch)(size_t dim);
    /* out[j * stride + i] = dot(query j, key i) for n keys of dim / group blocks. */
    void (*scores)(const uint8_t *keys, size_t n, size_t dim, const tq_queries *queries, float *out,
                   size_t stride, const tq_trellis *layout, void *scratch);
} tq_trellis_ops;

size_t tq_trellis_scratch_avx512(size_t dim);
void tq_trellis_scores_avx512(const uint8_t *keys, size_t n, size_t dim, const tq_queries *queries,
                              float *out, size_t stride, const tq_trellis *layout, void *scratch);

extern const tq_trellis_ops tq_trellis_portable, tq_trellis_avx2, tq_trellis_avx512;

/* The operations that go with a kernel on this machine. */
const tq_trellis_ops *tq_trellis_of(const tq_kernel *kernel);

#endif
