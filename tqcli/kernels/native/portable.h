/* The kernel for every machine: plain C11 whose inner loops run over vectors, not over elements.
 *
 * LANES vectors stand in the columns of one array, so each loop over a row of it does one step of
 * LANES independent vectors. Sums keep their order, and any compiler can use the vector unit that
 * the platform guarantees.
 */
#ifndef TQ_PORTABLE_H
#define TQ_PORTABLE_H

#include "tq.h"

#define LANES 16

typedef float columns_t[TQ_MAX_GROUP][LANES];

void tq_encode_portable(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                        const tq_layout *layout);
void tq_decode_portable(const uint8_t *blocks, size_t n, void *out, enum tq_float type, int rotated,
                        const tq_layout *layout);
void tq_unpack_portable(const uint8_t *packed, size_t stride, size_t n, size_t block, int bits,
                        uint8_t *codes);

/* columns[e][l] *= signs[e] * lanes[l] */
static inline void scale_columns(columns_t columns, int group, const float *signs,
                                 const float *lanes) {
    for (int e = 0; e < group; e++) {
        float *row = columns[e];
        const float sign = signs[e];
        for (int l = 0; l < LANES; l++) row[l] *= lanes[l] * sign;
    }
}

/* Butterflies of strides s and 2s in one pass over the array. */
static inline void butterflies4(columns_t columns, int group, int s) {
    for (int base = 0; base < group; base += 4 * s)
        for (int e = base; e < base + s; e++) {
            float *a = columns[e], *b = columns[e + s];
            float *c = columns[e + 2 * s], *d = columns[e + 3 * s];
            for (int l = 0; l < LANES; l++) {
                const float ab = a[l] + b[l], a_b = a[l] - b[l];
                const float cd = c[l] + d[l], c_d = c[l] - d[l];
                a[l] = ab + cd;
                b[l] = a_b + c_d;
                c[l] = ab - cd;
                d[l] = a_b - c_d;
            }
        }
}

/* The last stage of a group of 128, stride 64. */
static inline void butterflies_last(columns_t columns) {
    for (int e = 0; e < 64; e++) {
        float *a = columns[e], *b = columns[e + 64];
        for (int l = 0; l < LANES; l++) {
            const float sum = a[l] + b[l], difference = a[l] - b[l];
            a[l] = sum;
            b[l] = difference;
        }
    }
}

static inline void hadamard(columns_t columns, int group) {
    butterflies4(columns, group, 1);
    butterflies4(columns, group, 4);
    butterflies4(columns, group, 16);
    if (group == 128) butterflies_last(columns);
}

#endif
