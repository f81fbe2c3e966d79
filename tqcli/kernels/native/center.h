/* Keys and a mean that RoPE turned; see center_rows.h. */
#ifndef TQ_CENTER_H
#define TQ_CENTER_H

#include "tq.h"

#define TQ_MAX_TURN 1024 /* values of a row that fit the scratch on the stack */

/* Rows of keys and how each is turned: rows x pairs cosines and sines. */
typedef struct {
    size_t rows, dim, pairs;
    int interleaved;
    const float *cosine, *sine;
} tq_turn;

typedef struct {
    /* out = x - R mean, float32. */
    void (*take_mean)(const tq_turn *t, const void *x, enum tq_float type, const float *mean,
                      float *out);
    /* out = x + R mean, of any float type. */
    void (*give_mean)(const tq_turn *t, const float *x, enum tq_float type, const float *mean,
                      void *out);
    /* Add to sums[dim] every row turned back, pairs first to last - 1 of it; whoever has the last
     * pairs adds the values that are not turned too. */
    void (*sum_keys)(const tq_turn *t, const void *x, enum tq_float type, size_t first, size_t last,
                     double *sums);
} tq_center_ops;

extern const tq_center_ops tq_center_portable, tq_center_avx2, tq_center_avx512;

/* The operations that go with a kernel. */
const tq_center_ops *tq_center_of(const tq_kernel *kernel);

#endif
