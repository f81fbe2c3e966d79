/* From rows of statistics to totals: the same on every machine, since there is one row a vector. */
#include <math.h>
#include <string.h>

#include "tq.h"

/* 1 - cosine; vectors of zeros point alike, and one of zeros points nowhere. */
static double distance_of(const double *row) {
    const double length = sqrt(row[TQ_SIGNAL] * row[TQ_DECODED]);
    if (row[TQ_SIGNAL] == 0 && row[TQ_DECODED] == 0) return 0;
    return 1 - (length > 0 ? row[TQ_DOT] / length : 0);
}

/* The upper half of a distance's bits, cut to the digits that count: steps of 2^-20 from 2^-8 on,
 * of 2^-12 of the power of two below. */
static uint32_t key_of(double distance) {
    const double within = distance > 0 ? (distance < 2 ? distance : 2) : 0;
    uint64_t bits;
    memcpy(&bits, &within, sizeof bits);
    const int exponent = (int)(bits >> 52) - 1023;
    const int digits = exponent < -8 ? 12 : exponent > 0 ? 20 : exponent + 20;
    return (uint32_t)(bits >> 32) & ~0u << (20 - digits);
}

void tq_summarize(const double *rows, size_t n, double *totals, uint32_t *keys) {
    for (size_t i = 0; i < n; i++, rows += TQ_ERROR_COLUMNS) {
        const double distance = distance_of(rows), largest = rows[TQ_LARGEST];
        totals[TQ_TOTAL_ERROR] += rows[TQ_ERROR];
        totals[TQ_TOTAL_SIGNAL] += rows[TQ_SIGNAL];
        totals[TQ_DISTANCE] += distance;
        totals[TQ_DISTANCE_SQUARE] += distance * distance;
        if (largest > totals[TQ_LARGEST_ERROR]) totals[TQ_LARGEST_ERROR] = largest;
        if (distance < totals[TQ_NEAREST]) totals[TQ_NEAREST] = distance;
        if (distance > totals[TQ_FARTHEST]) totals[TQ_FARTHEST] = distance;
        keys[i] = key_of(distance);
    }
}
