/* The statistics in plain C11: eight float64 are an array, and every compiler knows what vectors
 * its platform has for a loop over them. */
#include <math.h>

#include "half.h"
#include "tq.h"

typedef struct {
    double v[8];
} D;

#define EACH(name, expression) \
    TQ_INLINE D name(D a, D b) { \
        for (int i = 0; i < 8; i++) a.v[i] = (expression); \
        return a; \
    }
EACH(d_add, a.v[i] + b.v[i])
EACH(d_sub, a.v[i] - b.v[i])
EACH(d_mul, a.v[i] * b.v[i])
EACH(d_larger, a.v[i] > b.v[i] ? a.v[i] : b.v[i])
#undef EACH

#define d_add_product(s, a, b) d_add(s, d_mul(a, b))

TQ_INLINE D d_set1(double x) {
    D v;
    for (int i = 0; i < 8; i++) v.v[i] = x;
    return v;
}

#define d_zero() d_set1(0)

TQ_INLINE D d_abs(D a) {
    for (int i = 0; i < 8; i++) a.v[i] = fabs(a.v[i]);
    return a;
}

TQ_INLINE D d_load(const double *from) {
    D v;
    for (int i = 0; i < 8; i++) v.v[i] = from[i];
    return v;
}

TQ_INLINE void d_store(double *to, D v) {
    for (int i = 0; i < 8; i++) to[i] = v.v[i];
}

TQ_INLINE D d_widen(const uint8_t *from, enum tq_float type) {
    uint16_t half[8];
    float values[8];
    D v;
    memcpy(type == TQ_F32 ? (void *)values : (void *)half, from, 8 * tq_float_size(type));
    if (type == TQ_F16)
        for (int i = 0; i < 8; i++) values[i] = tq_from_half(half[i]);
    if (type == TQ_BF16)
        for (int i = 0; i < 8; i++) values[i] = tq_from_bfloat(half[i]);
    for (int i = 0; i < 8; i++) v.v[i] = values[i];
    return v;
}

TQ_INLINE void d_narrow(float *to, D v) {
    for (int i = 0; i < 8; i++) to[i] = (float)v.v[i];
}

TQ_INLINE double d_sum(D v) {
    for (int half = 4; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v.v[i] += v.v[i + half];
    return v.v[0];
}

TQ_INLINE double d_max(D v) {
    for (int i = 1; i < 8; i++) v.v[0] = v.v[i] > v.v[0] ? v.v[i] : v.v[0];
    return v.v[0];
}

static void rotate(float *values, int group, const float *signs) {
    for (int e = 0; e < group; e++) values[e] *= signs[e];
    for (int stride = 1; stride < group; stride *= 2)
        for (int first = 0; first < group; first += 2 * stride)
            for (int e = first; e < first + stride; e++) {
                const float a = values[e], b = values[e + stride];
                values[e] = a + b;
                values[e + stride] = a - b;
            }
}

#include "stats.h"

const tq_stats tq_stats_portable = {errors, moments};
