/* Filling in a layout, and refusing one that kernels could not read: they index by its numbers. */
#include <string.h>

#include "tq.h"

static const char *complaint(const tq_layout *layout, size_t floats) {
    const int group = layout->group, block = layout->block;
    if (layout->bits < 2 || layout->bits > 4) return "bits must be 2, 3 or 4";
    if (group != 64 && group != 128) return "group must be 64 or 128";
    if (block != 32 && block != 64 && block != 128) return "block must be 32, 64 or 128";
    if (block > group) return "block must not be longer than group";
    if (layout->header != 2 && layout->header != 4) return "header must be 2 or 4";
    if (floats != (size_t)(2 * (1 << layout->bits) - 1 + 2 * group + 1))
        return "floats must be centroids, midpoints, both sign vectors and the scale";
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

const char *tq_fill_layout(tq_layout *layout, const void *floats, size_t count) {
    const char *wrong = complaint(layout, count);
    if (wrong) return wrong;
    const int levels = 1 << layout->bits, group = layout->group;
    float values[2 * TQ_MAX_LEVELS + 2 * TQ_MAX_GROUP];
    memcpy(values, floats, count * sizeof(float)); /* they may be unaligned */
    const float *midpoints = values + levels, *first = midpoints + levels - 1;
    const float *second = first + group, scale = second[group];
    layout->levels = levels;
    layout->code_bytes = layout->block * layout->bits / 8;
    layout->block_bytes = layout->header + layout->code_bytes;
    layout->blocks = group / layout->block;
    layout->group_bytes = layout->block_bytes * layout->blocks;
    for (int k = 0; k < TQ_MAX_LEVELS; k++) {
        layout->centroids[k] = k < levels ? values[k] : 0;
        layout->squares[k] = layout->centroids[k] * layout->centroids[k];
        layout->midpoints[k] = k < levels - 1 ? midpoints[k] : 0;
    }
    fill_factors(&layout->forward, group, first, second, scale);
    fill_factors(&layout->inverse, group, second, first, scale);
    return NULL;
}
