/* Attention straight from packed turbo blocks: the interface of one file per instruction set.
 *
 * Queries are already rotated, so that a dot product with the centroids is the score. Results may
 * differ between instruction sets in the last bits (each has its own order of summation), but
 * never with the position of a key, the number of keys or the number of threads. */
#ifndef TQ_ATTEND_H
#define TQ_ATTEND_H

#include <stddef.h>
#include <stdint.h>

#include "tq.h"

enum {
    TQ_KEY_TILE = 16,   /* keys whose sums are reduced together */
    TQ_VALUE_TILE = 64, /* values summed in float32 before they join the float64 sum */
    TQ_HEAD_TILE = 8,   /* queries that share one pass over the keys */
};

/* n packed vectors, one after the other, and how to read them. */
typedef struct {
    const uint8_t *bytes;
    size_t n;
    size_t dim;          /* values of a vector, a multiple of 64 */
    size_t vector_bytes; /* also the distance between vectors */
    int bits, block, header;
    const float *centroids; /* 2^bits */
} tq_packed;

/* The queries of one scores call: float32, or int8 with the int8 centroids they are meant for. */
typedef struct {
    size_t m;
    const float *values;   /* (m, dim); NULL: int8 */
    const int8_t *values8; /* (m, dim) */
    const float *scales;   /* (m,): what one unit of the int8 dot product is worth */
    const int8_t *centroids8;
} tq_queries;

typedef struct {
    /* Bytes of scratch, aligned to 64, that any operation below may use. */
    size_t (*scratch)(size_t dim);
    /* out[j * stride + i] = dot(query j, key i) */
    void (*scores)(const tq_packed *keys, const tq_queries *queries, float *out, size_t stride,
                   void *scratch);
    /* out[j * dim + d] = sum over i of weights[j * stride + i] * value i [d] */
    void (*weighted_sum)(const tq_packed *values, const float *weights, size_t stride, size_t m,
                         double *out, void *scratch);
    /* The same two over float16 vectors, what a cache without quantization costs. */
    void (*scores_f16)(const uint16_t *keys, size_t n, size_t dim, const float *queries, size_t m,
                       float *out, size_t stride, void *scratch);
    void (*weighted_sum_f16)(const uint16_t *values, size_t n, size_t dim, const float *weights,
                             size_t stride, size_t m, double *out, void *scratch);
} tq_attend_ops;

extern const tq_attend_ops tq_attend_portable, tq_attend_avx2, tq_attend_avx512, tq_attend_neon;

/* Whether this machine has what the files with -mavx512vbmi need; asked where avx512 may run. */
int tq_has_byte_permutes(void);

/* The operations that go with a kernel on this machine. */
const tq_attend_ops *tq_attend_of(const tq_kernel *kernel);

#endif
