/* Encoding in lanes; a part of lanes.h. */

/* Columns whose butterflies are done in registers first; the rest follows at this stride. */
#define FIRST 16
/* How far ahead of the loads to prefetch, in batches of LANES vectors. */
#define AHEAD 2

/* LANES vectors of `group` values as columns; returns the sums of their squares. */
TQ_INLINE V load_columns(const uint8_t *x, enum tq_float type, int group, V *columns) {
    const size_t size = type == TQ_F32 ? 4 : 2;
    V total = v_zero();
    for (int e = 0; e < group; e += LANES) {
        V v[LANES];
        TQ_UNROLL
        for (int l = 0; l < LANES; l++) {
            const uint8_t *at = x + (size_t)(l * group + e) * size;
            v[l] = v_widen(at, type);
        }
        v_transpose(v);
        TQ_UNROLL
        for (int l = 0; l < LANES; l++) {
            columns[e + l] = v[l];
            total = v_add(total, v_mul(v[l], v[l]));
        }
    }
    return total;
}

static V load_batch(const uint8_t *x, enum tq_float type, int group, V *columns) {
    if (group == 64) {
        if (type == TQ_F32) return load_columns(x, TQ_F32, 64, columns);
        if (type == TQ_F16) return load_columns(x, TQ_F16, 64, columns);
        return load_columns(x, TQ_BF16, 64, columns);
    }
    if (type == TQ_F32) return load_columns(x, TQ_F32, 128, columns);
    if (type == TQ_F16) return load_columns(x, TQ_F16, 128, columns);
    return load_columns(x, TQ_BF16, 128, columns);
}

/* Columns times inverse length, rotated. Here and below the input to come is fetched as the work
 * goes on, half of it by each: one cache line to two columns, `step` bytes apart. */
TQ_INLINE void rotate(V *columns, int group, V inverse, const tq_factors *factors, uintptr_t ahead,
                      int step) {
    const V scale[2] = {inverse, v_negate(inverse)};
    for (int e = 0; e < group; e += FIRST) {
        V v[FIRST];
        TQ_UNROLL
        for (int i = 0; i < FIRST; i++)
            v[i] = v_mul(columns[e + i], scale[factors->negative[e + i]]);
        butterflies(v, FIRST);
        TQ_UNROLL
        for (int i = 0; i < FIRST; i++) {
            columns[e + i] = v[i];
            if (i % 2) tq_prefetch(ahead + (uintptr_t)((e + i) / 2 * step));
        }
    }
    for (int e = 0; e < FIRST; e++) {
        V v[TQ_MAX_GROUP / FIRST];
        const int count = group / FIRST;
        TQ_UNROLL
        for (int i = 0; i < count; i++) v[i] = columns[e + i * FIRST];
        butterflies(v, count);
        TQ_UNROLL
        for (int i = 0; i < count; i++) {
            const int at = e + i * FIRST;
            columns[at] = v_mul(v[i], v_set1(factors->after[at]));
        }
    }
}

/* Codes of the columns as rows of packed words; returns the sums of the centroids' squares. */
TQ_INLINE V quantize(const V *columns, int bits, int group, const tables *t, VI *words,
                     uintptr_t ahead, int step) {
    const int per_word = bits == 4 ? 8 : 16;
    V total = v_zero();
    for (int e = 0; e < group; e += 32) {
        VI plane = v_as_int(v_zero());
        for (int part = 0; part < 32; part += per_word) {
            VI word = v_as_int(v_zero());
            TQ_UNROLL
            for (int i = 0; i < per_word; i++) {
                total = v_add(total, quantize_one(columns[e + part + i], bits, i, part + i, t,
                                                  &word, &plane));
                if (i % 2) tq_prefetch(ahead + (uintptr_t)((e + part + i) / 2 * step));
            }
            words[(e + part) / per_word] = word;
        }
        if (bits == 3) words[group / 16 + e / 32] = plane;
    }
    return total;
}

static V quantize_batch(const V *columns, const tq_layout *layout, const tables *t, VI *words,
                        uintptr_t ahead, int step) {
    if (layout->bits == 2) return quantize(columns, 2, layout->group, t, words, ahead, step);
    if (layout->bits == 3) return quantize(columns, 3, layout->group, t, words, ahead, step);
    return quantize(columns, 4, layout->group, t, words, ahead, step);
}

/* Words in columns to code rows, one a lane. */
TQ_INLINE void rows_of_words(const VI *words, int count, uint8_t rows[LANES][TQ_MAX_CODES]) {
    for (int w = 0; w < count; w += LANES) {
        V v[LANES];
        TQ_UNROLL
        for (int i = 0; i < LANES; i++) v[i] = v_as_float(words[w + i]);
        v_transpose(v);
        TQ_UNROLL
        for (int l = 0; l < LANES; l++) v_store((float *)(void *)(rows[l] + 4 * w), v[l]);
    }
}

/* Blocks of `count` vectors whose columns and sums of squares are there. */
static void finish_batch(V *columns, V total, int count, uint8_t *blocks, const tq_layout *layout,
                         const tables *t, VI *words, uintptr_t ahead, int step) {
    uint8_t rows[LANES][TQ_MAX_CODES];
    uint16_t norms[LANES];
    const V length = v_sqrt(total);
    const V inverse = v_above_tiny(length, v_div(v_set1(1.0f), length), v_zero());
    if (layout->group == 64) rotate(columns, 64, inverse, &layout->forward, ahead, step);
    else rotate(columns, 128, inverse, &layout->forward, ahead, step);
    const V decoded = v_sqrt(quantize_batch(columns, layout, t, words,
                                            ahead + (uintptr_t)(layout->group / 2 * step), step));
    const V norm = v_above_tiny(decoded, v_div(length, decoded), length);
    v_halves(layout->corrected ? norm : length, norms);
    rows_of_words(words, layout->group * layout->bits / 32, rows);
    for (int l = 0; l < count; l++)
        tq_emit(blocks + (size_t)l * layout->group_bytes, rows[l], norms[l], layout);
}

static void encode(const void *x, enum tq_float type, size_t n, uint8_t *blocks,
                   const tq_layout *layout) {
    const size_t size = layout->group * tq_float_size(type), full = n / LANES * LANES;
    const uint8_t *from = x;
    V columns[2][TQ_MAX_GROUP], total[2];
    VI words[WORDS];
    tables t;
    for (int w = 0; w < WORDS; w++) words[w] = v_as_int(v_zero());
    load_tables(&t, layout);
    /* The next batch is loaded before the last is finished: its chain of additions then has
     * other work to hide behind. */
    for (size_t at = 0; at < full; at += LANES) {
        const int now = (int)(at / LANES & 1);
        total[now] = load_batch(from + at * size, type, layout->group, columns[now]);
        if (at)
            finish_batch(columns[!now], total[!now], LANES,
                         blocks + (at - LANES) * layout->group_bytes, layout, &t, words,
                         (uintptr_t)from + (at + AHEAD * LANES) * size,
                         (int)size * LANES / layout->group);
    }
    if (full) {
        const int last = (int)(full / LANES - 1) & 1;
        finish_batch(columns[last], total[last], LANES,
                     blocks + (full - LANES) * layout->group_bytes, layout, &t, words,
                     (uintptr_t)from, 0);
    }
    if (n > full) { /* the rest among zeros */
        uint8_t padded[LANES * TQ_MAX_GROUP * 4] = {0};
        memcpy(padded, from + full * size, (n - full) * size);
        total[0] = load_batch(padded, type, layout->group, columns[0]);
        finish_batch(columns[0], total[0], (int)(n - full), blocks + full * layout->group_bytes,
                     layout, &t, words, (uintptr_t)from, 0);
    }
}
