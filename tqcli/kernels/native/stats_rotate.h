/* The rotation of the statistics in registers: V holds LANES float32, v_inside does the butterflies
 * of the strides 1, 2 ... LANES / 2 within one. */
#include "butterflies.h"
#include "tq.h"

/* Signs and butterflies, in place. */
TQ_INLINE void rotate(float *values, int group, const float *signs) {
    V v[TQ_MAX_GROUP / LANES];
    const int count = group / LANES;
    TQ_UNROLL
    for (int i = 0; i < count; i++)
        v[i] = v_inside(v_mul(v_load(values + i * LANES), v_load(signs + i * LANES)));
    butterflies(v, count);
    TQ_UNROLL
    for (int i = 0; i < count; i++) v_store(values + i * LANES, v[i]);
}
