/* Filling in a trellis layout and a weighting, and which operations go with which kernel. */
#include "trellis.h"

#include <string.h>

static const char *complaint(const tq_trellis *layout, size_t entries, size_t floats) {
    if (layout->bits < 2 || layout->bits > 4) return "bits must be 2, 3 or 4";
    if (layout->group != 64 && layout->group != 128) return "group must be 64 or 128";
    if (entries != (size_t)(layout->bits == 4 ? 256 : 128)) return "a table of another length";
    if (floats != (size_t)(2 * layout->group + 1))
        return "floats must be both sign vectors and the scale";
    return NULL;
}

static void fill_factors(tq_factors *factors, int group, const float *first, const float *second,
                         float scale) {
    for (int e = 0; e < group; e++) {
        factors->before[e] = first[e];
        factors->after[e] = scale * second[e];
        factors->negative[e] = first[e] < 0;
    }
}

const char *tq_fill_trellis(tq_trellis *layout, const void *table, size_t entries,
                            const void *floats, size_t count) {
    const char *wrong = complaint(layout, entries, count);
    if (wrong) return wrong;
    const int group = layout->group, branches = 1 << layout->bits;
    float values[2 * TQ_MAX_GROUP + 1];
    memcpy(values, floats, count * sizeof(float)); /* they may be unaligned */
    layout->window = layout->bits == 4 ? 8 : 7;
    layout->states = 1 << (layout->window - layout->bits);
    layout->group_bytes = 2 + group * layout->bits / 8;
    memcpy(layout->table8, table, entries);
    for (size_t w = 0; w < entries; w++) {
        layout->table[w] = (float)layout->table8[w] * (1.0f / 32.0f);
        layout->into[w % (size_t)branches][w / (size_t)branches] = layout->table[w];
    }
    fill_factors(&layout->forward, group, values, values + group, values[2 * group]);
    fill_factors(&layout->inverse, group, values + group, values, values[2 * group]);
    return NULL;
}

void tq_view_weighting(tq_weighting *to, const float *floats, int group) {
    int reach = 0;
    to->weights = floats;
    to->costs = floats + group;
    to->feedback = floats + 2 * group;
    for (int t = 0; t < group; t++) {
        const float *row = to->feedback + t * group;
        for (int u = group; u > reach; u--)
            if (row[u - 1] != 0) reach = u;
        to->reach[t / TQ_TILE] = reach;
    }
}

const tq_trellis_ops *tq_trellis_of(const tq_kernel *kernel) {
    (void)kernel;
#ifdef TQ_HAVE_AVX512
    if (kernel == &tq_avx512) return tq_has_byte_permutes() ? &tq_trellis_avx512 : &tq_trellis_avx2;
#endif
#ifdef TQ_HAVE_AVX2
    if (kernel == &tq_avx2) return &tq_trellis_avx2;
#endif
    return &tq_trellis_portable;
}
