/* Viterbi's search over a trellis; a part of wide.h. States stand in lanes. */

enum {
    TRACED = 4, /* vectors whose paths are followed back together: each is a chain of loads */
    PAIR = 2,   /* vectors that are searched together: each value waits for the one before */
};

typedef float moved_t[TQ_MAX_GROUP * TQ_MAX_STATES];
typedef int32_t keys_t[TQ_MAX_GROUP * TQ_MAX_STATES];

/* Keys of all states after each value, (group, states), of a pair of vectors. With a weighting,
 * `moved` holds every state's targets (group, states) and y the targets without feedback. */
WIDE_INLINE void search(const float (*y)[TQ_MAX_GROUP], int group, int bits,
                        float (*into)[TQ_MAX_STATES], const w_table *table,
                        const tq_weighting *weighting, moved_t *moved, keys_t *keys) {
    const int branches = 1 << bits, parts = bits == 2 ? 2 : 1, states = WIDTH * parts;
    W cost[PAIR][2];
    float start[WIDTH];
    w_store(start, w_set1(TQ_FAR));
    start[0] = 0;
    for (int i = 0; i < PAIR; i++) {
        cost[i][0] = w_load(start);
        cost[i][1] = w_set1(TQ_FAR);
    }
    for (int t = 0; t < group; t++) {
        const W weight = w_set1(weighting ? weighting->costs[t] : 1.0f);
        W error[PAIR][2];
        I came[PAIR][2];
        WIDE_UNROLL
        for (int i = 0; i < PAIR; i++) {
            const W target = w_set1(y[i][t]);
            W before[16], from[16];
            w_predecessors(cost[i], bits, before);
            if (weighting) {
                W own[2];
                for (int p = 0; p < parts; p++) own[p] = w_load(moved[i] + t * states + p * WIDTH);
                w_predecessors(own, bits, from);
            }
            WIDE_UNROLL
            for (int p = 0; p < parts; p++) {
                I best = i_set1(INT32_MAX);
                WIDE_UNROLL
                for (int j = 0; j < branches; j++) {
                    const W e = w_sub(weighting ? from[j] : target, w_load(into[j] + p * WIDTH));
                    const W squared = w_mul(e, e);
                    const W added = weighting ? w_mul(weight, squared) : squared;
                    best = i_least(best, w_key(w_add(before[j], added), i_set1(j)));
                }
                cost[i][p] = i_as_float(best);
                i_store(keys[i] + t * states + p * WIDTH, best);
                if (weighting) {
                    const I state = i_add(i_lanes(), i_set1(p * WIDTH));
                    const I window = i_or(i_left(state, bits), i_and(best, i_set1(branches - 1)));
                    came[i][p] = i_and(window, i_set1(states - 1));
                    error[i][p] = w_sub(target, w_window_value(table, window, bits));
                }
            }
        }
        if (!weighting) continue;
        /* Targets of the tile that are past are moved as well, so that the loop keeps its length
         * over a tile. */
        const float *feedback = weighting->feedback + t * group;
        const int reach = weighting->reach[t / TQ_TILE];
        for (int u = t / TQ_TILE * TQ_TILE; u < reach; u++) {
            const W more = w_set1(feedback[u]);
            WIDE_UNROLL
            for (int i = 0; i < PAIR; i++) {
                float *row = moved[i] + u * states;
                W own[2];
                for (int p = 0; p < parts; p++) own[p] = w_load(row + p * WIDTH);
                for (int p = 0; p < parts; p++)
                    w_store(row + p * WIDTH,
                            w_add(w_inherit(own, came[i][p], bits), w_mul(more, error[i][p])));
            }
        }
    }
}

/* Follow the best paths of `count` vectors back to their windows and values. */
WIDE_INLINE void trace(keys_t *keys, int count, int group, int bits, const tq_trellis *layout,
                       uint8_t (*windows)[TQ_MAX_GROUP], float (*values)[TQ_MAX_GROUP]) {
    const int states = bits == 2 ? 32 : 16;
    int state[TRACED];
    for (int i = 0; i < count; i++) {
        const int32_t *last = keys[i] + (group - 1) * states;
        state[i] = 0;
        for (int s = 1; s < states; s++)
            if (last[s] < last[state[i]]) state[i] = s;
    }
    for (int t = group - 1; t >= 0; t--)
        for (int i = 0; i < count; i++) {
            const int window = state[i] << bits | (keys[i][t * states + state[i]] & 15);
            windows[i][t] = (uint8_t)window;
            values[i][t] = layout->table[window];
            state[i] = window & (states - 1);
        }
}

/* The symbols of a window each as one stream of bits, lowest first. */
WIDE_INLINE void pack_symbols(const uint8_t *windows, int group, int bits, uint8_t *stream) {
    const int shift = bits == 2 ? 5 : 4;
    for (int t = 0; t < group; t += 8) {
        uint32_t word = 0;
        for (int i = 0; i < 8; i++) word |= (uint32_t)(windows[t + i] >> shift) << (i * bits);
        memcpy(stream, &word, (size_t)bits);
        stream += bits;
    }
}

/* Factors of the targets of a weighted search: trellis_reference.GAINS. */
WIDE_INLINE float target_gain(int bits, int weighted) {
    return weighted && bits == 3 ? 1.1f : 1.0f;
}

WIDE_INLINE void trellis_groups(const uint8_t *x, enum tq_float type, size_t n, uint8_t *blocks,
                                int group, int bits, const tq_trellis *layout,
                                const tq_weighting *weighting) {
    const int count = group / WIDTH, states = bits == 2 ? 32 : 16;
    const float *first = layout->forward.before, *second = layout->inverse.before;
    const w_table table = w_load_table(layout);
    const W gain = w_set1(target_gain(bits, weighting != NULL));
    _Alignas(64) keys_t keys[TRACED];
    _Alignas(64) moved_t moved[PAIR];
    _Alignas(64) float into[16][TQ_MAX_STATES];
    uint8_t windows[TRACED][TQ_MAX_GROUP];
    float unit[TRACED][TQ_MAX_GROUP], y[TRACED][TQ_MAX_GROUP], values[TRACED][TQ_MAX_GROUP];
    float length[TRACED];
    memcpy(into, layout->into, sizeof into);
    memset(y, 0, sizeof y);
    for (size_t at = 0; at < n; at += TRACED) {
        const int some = n - at < TRACED ? (int)(n - at) : TRACED;
        for (int i = 0; i < some; i++) {
            W spread[ROWS];
            length[i] = normalise(x, type, count, first, unit[i], spread);
            x += (size_t)group * tq_float_size(type);
            WIDE_UNROLL
            for (int r = 0; r < count; r++)
                w_store(y[i] + r * WIDTH,
                        w_mul(spread[r], w_mul(gain, w_load(second + r * WIDTH))));
        }
        for (int i = 0; i < some; i += PAIR) {
            for (int t = 0; weighting && t < group * PAIR; t++)
                for (int s = 0; s < states; s += WIDTH)
                    w_store(moved[t % PAIR] + t / PAIR * states + s,
                            w_set1(y[i + t % PAIR][t / PAIR]));
            search(y + i, group, bits, into, &table, weighting, moved, keys + i);
        }
        trace(keys, some, group, bits, layout, windows, values);
        for (int i = 0; i < some; i++) {
            float scale, taken;
            if (weighting) {
                scale = weighted_scale(unit[i], values[i], count, length[i], first, second,
                                       weighting->weights, &taken);
            } else {
                W rows[ROWS];
                WIDE_UNROLL
                for (int r = 0; r < count; r++) rows[r] = w_load(y[i] + r * WIDTH);
                scale = plain_scale(rows, values[i], count, length[i]);
            }
            const uint16_t half = stored_scale(scale);
            blocks[0] = (uint8_t)half;
            blocks[1] = (uint8_t)(half >> 8);
            pack_symbols(windows[i], group, bits, blocks + 2);
            blocks += layout->group_bytes;
        }
    }
}

#define TRELLIS_GROUPS(group, bits) \
    do { \
        if (weighting) trellis_groups(x, type, n, blocks, group, bits, layout, weighting); \
        else trellis_groups(x, type, n, blocks, group, bits, layout, NULL); \
    } while (0)

static void encode_trellis(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                           const tq_trellis *layout, const tq_weighting *weighting) {
    if (layout->group == 64) {
        if (layout->bits == 2) TRELLIS_GROUPS(64, 2);
        if (layout->bits == 3) TRELLIS_GROUPS(64, 3);
        if (layout->bits == 4) TRELLIS_GROUPS(64, 4);
    } else {
        if (layout->bits == 2) TRELLIS_GROUPS(128, 2);
        if (layout->bits == 3) TRELLIS_GROUPS(128, 3);
        if (layout->bits == 4) TRELLIS_GROUPS(128, 4);
    }
}
