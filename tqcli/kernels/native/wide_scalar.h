/* The trellis table, looked up one value at a time; a part of wide_portable.h. */
#include <string.h>

#include "trellis.h"

typedef struct {
    const float *values;
    float whole[TQ_MAX_WINDOWS]; /* in 1/32 */
} w_table;

static w_table w_load_table(const tq_trellis *layout) {
    w_table t = {.values = layout->table};
    for (int w = 0; w < TQ_MAX_WINDOWS; w++) t.whole[w] = layout->table8[w];
    return t;
}

TQ_INLINE uint64_t read_bytes(const uint8_t *from, int count) {
    uint32_t low;
    uint16_t high = 0;
    memcpy(&low, from, 4);
    if (count == 6) memcpy(&high, from + 4, 2);
    return (uint64_t)high << 32 | low;
}

/* The windows of a run of values lie in one word: their symbols behind the state before. */
TQ_INLINE void unpack_runs(const uint8_t *codes, int bits, int run, int count, const w_table *t,
                           float *values) {
    const int before = bits == 2 ? 5 : 4, entries = bits == 4 ? 256 : 128;
    uint64_t state = 0;
    for (int v = 0; v < count * WIDTH; v += run) {
        const uint64_t word = read_bytes(codes, run * bits / 8) << before | state;
        TQ_UNROLL
        for (int i = 0; i < run; i++) values[v + i] = t->whole[word >> i * bits & (entries - 1)];
        state = word >> run * bits;
        codes += run * bits / 8;
    }
}

TQ_INLINE void w_unpack(const uint8_t *codes, int bits, int count, const w_table *t, W *out) {
    float values[TQ_MAX_GROUP];
    if (bits == 2) unpack_runs(codes, 2, 16, count, t, values);
    if (bits == 3) unpack_runs(codes, 3, 16, count, t, values);
    if (bits == 4) unpack_runs(codes, 4, 8, count, t, values);
    for (int r = 0; r < count; r++) out[r] = w_load(values + r * WIDTH);
}
