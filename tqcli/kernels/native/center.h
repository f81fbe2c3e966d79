/* Keys and a mean that RoPE turned; see center.c. */
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

/* out = x - R mean, float32. */
void tq_take_mean(const tq_turn *t, const void *x, enum tq_float type, const float *mean,
                  float *out);

/* out = x + R mean, of any float type. */
void tq_give_mean(const tq_turn *t, const float *x, enum tq_float type, const float *mean,
                  void *out);

/* Add to sums[dim] every row turned back, pairs first to last - 1 of it; whoever has the last
 * pairs adds the values that are not turned too. */
void tq_sum_keys(const tq_turn *t, const void *x, enum tq_float type, size_t first, size_t last,
                 double *sums);

#endif
