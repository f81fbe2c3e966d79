/* Sixteen values of one vector in plain C: loops that compilers turn into what vectors the
 * platform has. See wide.h. */
#include <stdint.h>
#include <string.h>

#include "half.h"

#define WIDE_INLINE static
#define WIDE_UNROLL

typedef struct {
    float v[16];
} W;
typedef struct {
    int32_t v[16];
} I;

#define EACH(type, expression) \
    type result; \
    for (int l = 0; l < 16; l++) result.v[l] = expression; \
    return result

TQ_INLINE W w_load(const float *from) { EACH(W, from[l]); }
TQ_INLINE W w_set1(float x) { EACH(W, x); }
TQ_INLINE W w_zero(void) { EACH(W, 0); }
TQ_INLINE W w_add(W a, W b) { EACH(W, a.v[l] + b.v[l]); }
TQ_INLINE W w_sub(W a, W b) { EACH(W, a.v[l] - b.v[l]); }
TQ_INLINE W w_mul(W a, W b) { EACH(W, a.v[l] * b.v[l]); }
TQ_INLINE I i_load(const int32_t *from) { EACH(I, from[l]); }
TQ_INLINE I i_set1(int32_t x) { EACH(I, x); }
TQ_INLINE I i_add(I a, I b) { EACH(I, a.v[l] + b.v[l]); }
TQ_INLINE I i_and(I a, I b) { EACH(I, a.v[l] & b.v[l]); }
TQ_INLINE I i_or(I a, I b) { EACH(I, a.v[l] | b.v[l]); }
TQ_INLINE I i_least(I a, I b) { EACH(I, a.v[l] < b.v[l] ? a.v[l] : b.v[l]); }
TQ_INLINE I i_left(I a, int n) { EACH(I, (int32_t)((uint32_t)a.v[l] << n)); }
TQ_INLINE I i_right(I a, int n) { EACH(I, (int32_t)((uint32_t)a.v[l] >> n)); }
TQ_INLINE W w_halves(float low, float high) { EACH(W, l < 8 ? low : high); }
TQ_INLINE I i_lanes(void) { EACH(I, l); }

TQ_INLINE W i_as_float(I a) {
    W result;
    memcpy(&result, &a, sizeof result);
    return result;
}

TQ_INLINE void w_store(float *to, W w) { memcpy(to, w.v, sizeof w.v); }
TQ_INLINE void i_store(int32_t *to, I i) { memcpy(to, i.v, sizeof i.v); }

TQ_INLINE W w_widen(const uint8_t *from, enum tq_float type) {
    W result = {{0}};
    uint16_t half[16];
    memcpy(type == TQ_F32 ? (void *)result.v : (void *)half, from, 16 * tq_float_size(type));
    if (type == TQ_F16)
        for (int l = 0; l < 16; l++) result.v[l] = tq_from_half(half[l]);
    if (type == TQ_BF16)
        for (int l = 0; l < 16; l++) result.v[l] = tq_from_bfloat(half[l]);
    return result;
}

TQ_INLINE void w_narrow(uint8_t *to, W w, enum tq_float type) {
    uint16_t half[16];
    if (type == TQ_F16)
        for (int l = 0; l < 16; l++) half[l] = tq_to_half(w.v[l]);
    if (type == TQ_BF16)
        for (int l = 0; l < 16; l++) half[l] = tq_to_bfloat(w.v[l]);
    memcpy(to, type == TQ_F32 ? (const void *)w.v : (const void *)half, 16 * tq_float_size(type));
}

TQ_INLINE W w_butterfly(W w, int stride) {
    EACH(W, l & stride ? w.v[l ^ stride] - w.v[l] : w.v[l] + w.v[l ^ stride]);
}

TQ_INLINE float w_fold(W w) {
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; l++) w.v[l] += w.v[l + half];
    return w.v[0];
}

TQ_INLINE I w_key(W cost, I slot) {
    I bits;
    memcpy(&bits, &cost, sizeof bits);
    EACH(I, (bits.v[l] & ~15) | slot.v[l]);
}

TQ_INLINE I w_count(W w, const float *levels, int count) {
    I found = i_set1(0);
    for (int k = 0; k < count; k++)
        for (int l = 0; l < 16; l++) found.v[l] += w.v[l] >= levels[k];
    return found;
}

TQ_INLINE W w_look_up(W levels, I code) { EACH(W, levels.v[code.v[l]]); }

#include "wide_scalar.h"

TQ_INLINE W w_window_value(const w_table *t, I window, int bits) {
    (void)bits;
    EACH(W, t->values[window.v[l]]);
}

TQ_INLINE void w_predecessors(const W *from, int bits, W *to) {
    for (int j = 0; j < 1 << bits; j++)
        for (int l = 0; l < 16; l++)
            to[j].v[l] = bits == 4   ? from[0].v[j]
                         : bits == 3 ? from[0].v[l % 2 * 8 + j]
                                     : from[l % 8 / 4].v[l % 4 * 4 + j];
}

TQ_INLINE W w_inherit(const W *from, I state, int bits) {
    (void)bits;
    EACH(W, from[state.v[l] / 16].v[state.v[l] % 16]);
}

TQ_INLINE W w_pick(W w, I lane) { EACH(W, w.v[(l & 8) | lane.v[l]]); }
TQ_INLINE I i_pick(I i, I lane) { EACH(I, i.v[(l & 8) | lane.v[l]]); }
TQ_INLINE I i_reverse_halves(I i) { EACH(I, i.v[l ^ 7]); }

/* One step of a sorting network within eights; runs of `run` lanes go up and down by turns. */
TQ_INLINE I order(I i, int stride, int run) {
    EACH(I, (i.v[l] < i.v[l ^ stride]) == (!(l & stride) == !(l & run & 7)) ? i.v[l]
                                                                            : i.v[l ^ stride]);
}

TQ_INLINE I i_sort_halves(I i) {
    for (int run = 2; run <= 8; run *= 2)
        for (int stride = run / 2; stride > 0; stride /= 2) i = order(i, stride, run);
    return i;
}
