/* Butterflies over registers, for files that define V, v_add and v_sub: (a, b) -> (a + b, a - b) at
 * strides 1, 2, 4 ... registers. */
#ifndef TQ_BUTTERFLIES_H
#define TQ_BUTTERFLIES_H

#include "tq.h"

TQ_INLINE void stage(V *v, int count, int stride) {
    TQ_UNROLL
    for (int i = 0; i < count; i++)
        if (!(i & stride)) {
            const V a = v[i], b = v[i + stride];
            v[i] = v_add(a, b);
            v[i + stride] = v_sub(a, b);
        }
}

/* Spelled out, since a loop over the strides would send the registers to memory. */
TQ_INLINE void butterflies(V *v, int count) {
    if (count > 1) stage(v, count, 1);
    if (count > 2) stage(v, count, 2);
    if (count > 4) stage(v, count, 4);
    if (count > 8) stage(v, count, 8);
    if (count > 16) stage(v, count, 16);
}

#endif
