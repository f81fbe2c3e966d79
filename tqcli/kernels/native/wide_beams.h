/* Weighted turbo codes by two beams of eight survivors; a part of wide.h. The lower half of the
 * lanes is one beam, the upper half the other. */

/* Factors of the targets of the beams: beam_reference.GAINS. */
static const float beam_gains[TQ_BEAMS] = {0.98f, 1.06f};

typedef float paths_t[TQ_MAX_GROUP * WIDTH];
typedef int32_t survivors_t[TQ_MAX_GROUP * WIDTH];

/* Survivors after each value, (group, 16), of a pair of vectors: parent | code << 4; the keys of
 * the last ones go to `last`. */
WIDE_INLINE void beam_search(const float (*y)[TQ_BEAMS][TQ_MAX_GROUP], int group, int levels,
                             const tq_layout *layout, const tq_weighting *weighting, paths_t *moved,
                             survivors_t *survivors, int32_t (*last)[WIDTH]) {
    float above[WIDTH] = {0};
    memcpy(above, layout->centroids + 1, (size_t)(levels - 1) * sizeof(float));
    const W table = w_load(layout->centroids), next = w_load(above);
    const I slots = i_left(i_and(i_lanes(), i_set1(7)), 1);
    W cost[PAIR];
    float start[WIDTH];
    w_store(start, w_set1(TQ_FAR));
    start[0] = start[WIDTH / 2] = 0;
    for (int i = 0; i < PAIR; i++) {
        cost[i] = w_load(start);
        for (int t = 0; t < group; t++)
            w_store(moved[i] + t * WIDTH, w_halves(y[i][0][t], y[i][1][t]));
    }
    for (int t = 0; t < group; t++) {
        const W weight = w_set1(weighting->costs[t]);
        W error[PAIR];
        I parent[PAIR];
        WIDE_UNROLL
        for (int i = 0; i < PAIR; i++) {
            const W target = w_load(moved[i] + t * WIDTH);
            const I low = w_count(target, layout->centroids + 1, levels - 2);
            const W e = w_sub(target, w_look_up(table, low));
            const W f = w_sub(target, w_look_up(next, low));
            const I lower = w_key(w_add(cost[i], w_mul(weight, w_mul(e, e))), slots);
            const I upper = w_key(w_add(cost[i], w_mul(weight, w_mul(f, f))),
                                  i_add(slots, i_set1(1)));
            const I best = i_least(i_sort_halves(lower), i_reverse_halves(i_sort_halves(upper)));
            parent[i] = i_right(i_and(best, i_set1(15)), 1);
            const I code = i_add(i_pick(low, parent[i]), i_and(best, i_set1(1)));
            cost[i] = i_as_float(best);
            i_store(survivors[i] + t * WIDTH, i_or(parent[i], i_left(code, 4)));
            i_store(last[i], best);
            error[i] = w_sub(w_halves(y[i][0][t], y[i][1][t]), w_look_up(table, code));
        }
        const float *feedback = weighting->feedback + t * group;
        const int reach = weighting->reach[t / TQ_TILE];
        for (int u = t / TQ_TILE * TQ_TILE; u < reach; u++) WIDE_UNROLL
        for (int i = 0; i < PAIR; i++) {
            float *row = moved[i] + u * WIDTH;
            w_store(row,
                    w_add(w_pick(w_load(row), parent[i]), w_mul(w_set1(feedback[u]), error[i])));
        }
    }
}

/* Codes of the best survivor of a beam, and their centroids. */
WIDE_INLINE void trace_beam(const int32_t *survivors, const int32_t *last, int group,
                            const tq_layout *layout, uint8_t *codes, float *values) {
    int at = 0;
    for (int s = 1; s < TQ_SURVIVORS; s++)
        if (last[s] < last[at]) at = s;
    for (int t = group - 1; t >= 0; t--) {
        const int32_t survivor = survivors[t * WIDTH + at];
        codes[t] = (uint8_t)(survivor >> 4);
        values[t] = layout->centroids[survivor >> 4];
        at = survivor & 7;
    }
}

WIDE_INLINE void beam_groups(const uint8_t *x, enum tq_float type, size_t n, uint8_t *blocks,
                             int group, int levels, const tq_layout *layout,
                             const tq_weighting *weighting) {
    const int count = group / WIDTH;
    const float *first = layout->forward.before, *second = layout->inverse.before;
    const float unit_scale = group == 64 ? 0.125f : 0.08838834764831845f;
    uint8_t codes[TQ_BEAMS][TQ_MAX_GROUP], row[TQ_MAX_CODES];
    float unit[PAIR][TQ_MAX_GROUP], y[PAIR][TQ_BEAMS][TQ_MAX_GROUP], values[TQ_MAX_GROUP];
    float length[PAIR];
    _Alignas(64) paths_t moved[PAIR];
    _Alignas(64) survivors_t survivors[PAIR];
    int32_t last[PAIR][WIDTH];
    memset(y, 0, sizeof y);
    for (size_t at = 0; at < n; at += PAIR) {
        const int some = n - at < PAIR ? (int)(n - at) : PAIR;
        for (int i = 0; i < some; i++) {
            W spread[ROWS];
            length[i] = normalise(x, type, count, first, unit[i], spread);
            x += (size_t)group * tq_float_size(type);
            for (int b = 0; b < TQ_BEAMS; b++) {
                const W factor = w_set1(unit_scale * beam_gains[b]);
                WIDE_UNROLL
                for (int r = 0; r < count; r++)
                    w_store(y[i][b] + r * WIDTH,
                            w_mul(spread[r], w_mul(factor, w_load(second + r * WIDTH))));
            }
        }
        beam_search(y, group, levels, layout, weighting, moved, survivors, last);
        for (int i = 0; i < some; i++) {
            float scale[TQ_BEAMS], gain[TQ_BEAMS];
            for (int b = 0; b < TQ_BEAMS; b++) {
                const int half = b * WIDTH / TQ_BEAMS;
                trace_beam(survivors[i] + half, last[i] + half, group, layout, codes[b], values);
                scale[b] = weighted_scale(unit[i], values, count, length[i], first, second,
                                          weighting->weights, &gain[b]);
            }
            const int chosen = gain[1] > gain[0];
            tq_portable.pack(codes[chosen], 1, (size_t)group, layout->bits, row);
            tq_emit(blocks, row, tq_to_half(scale[chosen]), layout);
            blocks += layout->group_bytes;
        }
    }
}

static void encode_turbo(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                         const tq_layout *layout, const tq_weighting *weighting) {
    if (layout->group == 64) {
        if (layout->bits == 2) beam_groups(x, type, n, blocks, 64, 4, layout, weighting);
        if (layout->bits == 3) beam_groups(x, type, n, blocks, 64, 8, layout, weighting);
        if (layout->bits == 4) beam_groups(x, type, n, blocks, 64, 16, layout, weighting);
    } else {
        if (layout->bits == 2) beam_groups(x, type, n, blocks, 128, 4, layout, weighting);
        if (layout->bits == 3) beam_groups(x, type, n, blocks, 128, 8, layout, weighting);
        if (layout->bits == 4) beam_groups(x, type, n, blocks, 128, 16, layout, weighting);
    }
}
