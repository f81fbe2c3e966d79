/* The algorithm of the kernels that are written with vector instructions.
 *
 * LANES vectors are worked on at once, one in each lane: a register holds element e of all of
 * them (a *column*). Sums over a vector then run over registers in index order, which is the
 * order of the specification, and need nothing across lanes. Squares are summed while columns are
 * made by transposing LANES x LANES tiles; butterflies run over registers; a code is found by
 * binary search over the midpoints, which works for any ascending table.
 *
 * An instruction set defines, before it includes this file:
 *
 *   LANES                 vectors worked on at once
 *   V, VI                 registers of LANES floats, of LANES 32-bit integers
 *   v_load v_store v_set1 v_zero v_add v_sub v_mul v_div v_sqrt v_negate
 *   v_transpose(V *)      LANES registers, in place
 *   v_as_int v_as_float   the same bits
 *   v_above_tiny(a, b, c) b where a > TQ_TINY, else c
 *   v_halves(V, uint16_t *) and v_of_halves(const uint16_t *)   float16, to nearest even
 *   v_widen(p, type)      LANES values of a float type; v_narrow(p, v, type) the reverse
 *   tables, load_tables   what quantize_one and level_one look levels up in
 *   quantize_one          the code of one column: adds its bits and its square
 *   level_one             the reverse: centroids of one column
 *   rotated_block         decoding without the rotation, one block at a time
 */
#include <string.h>

#include "blocks.h"
#include "tq.h"

/* Columns whose butterflies are done in registers first; the rest follows at this stride. */
#define FIRST 16
/* Words of 32 bits in a code row. */
#define WORDS (TQ_MAX_CODES / 4)
/* How far ahead of the loads to prefetch, in batches of LANES vectors. */
#ifndef AHEAD
#define AHEAD 2
#endif
#define LINE 64 /* bytes of a cache line */
/* Outputs of this size do not stay in a cache: write past it. */
#ifndef STREAM_BYTES
#define STREAM_BYTES ((size_t)16 << 20)
#endif

TQ_INLINE void stage(V *v, int count, int stride) {
    TQ_UNROLL
    for (int i = 0; i < count; i++)
        if (!(i & stride)) {
            const V a = v[i], b = v[i + stride];
            v[i] = v_add(a, b);
            v[i + stride] = v_sub(a, b);
        }
}

/* Butterflies of strides 1, 2, 4 ... over `count` registers; spelled out, since a loop over the
 * strides would send the registers to memory. */
TQ_INLINE void butterflies(V *v, int count) {
    if (count > 1) stage(v, count, 1);
    if (count > 2) stage(v, count, 2);
    if (count > 4) stage(v, count, 4);
    if (count > 8) stage(v, count, 8);
    if (count > 16) stage(v, count, 16);
}

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

/* Columns times inverse length, rotated. */
TQ_INLINE void rotate(V *columns, int group, V inverse, const tq_factors *factors,
                      const uint8_t *ahead, int step) {
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
            if (i % 2) v_prefetch(ahead + (e + i) / 2 * step);
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
                     const uint8_t *ahead, int step) {
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
                if (i % 2) v_prefetch(ahead + (e + part + i) / 2 * step);
            }
            words[(e + part) / per_word] = word;
        }
        if (bits == 3) words[group / 16 + e / 32] = plane;
    }
    return total;
}

static V quantize_batch(const V *columns, const tq_layout *layout, const tables *t, VI *words,
                        const uint8_t *ahead, int step) {
    if (layout->bits == 2) return quantize(columns, 2, layout->group, t, words, ahead, step);
    if (layout->bits == 3) return quantize(columns, 3, layout->group, t, words, ahead, step);
    return quantize(columns, 4, layout->group, t, words, ahead, step);
}

/* Words in columns to code rows, one a lane, and back. */
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

TQ_INLINE void words_of_rows(uint8_t rows[LANES][TQ_MAX_CODES], int count, VI *words) {
    for (int w = 0; w < count; w += LANES) {
        V v[LANES];
        TQ_UNROLL
        for (int l = 0; l < LANES; l++) v[l] = v_load((const float *)(void *)(rows[l] + 4 * w));
        v_transpose(v);
        TQ_UNROLL
        for (int i = 0; i < LANES; i++) words[w + i] = v_as_int(v[i]);
    }
}

/* Blocks of `count` vectors whose columns and sums of squares are there. */
static void finish_batch(V *columns, V total, int count, uint8_t *blocks, const tq_layout *layout,
                         const tables *t, VI *words, const uint8_t *ahead, int step) {
    uint8_t rows[LANES][TQ_MAX_CODES];
    uint16_t norms[LANES];
    const V length = v_sqrt(total);
    const V inverse = v_above_tiny(length, v_div(v_set1(1.0f), length), v_zero());
    if (layout->group == 64) rotate(columns, 64, inverse, &layout->forward, ahead, step);
    else rotate(columns, 128, inverse, &layout->forward, ahead, step);
    const V decoded = v_sqrt(quantize_batch(columns, layout, t, words,
                                            ahead + layout->group / 2 * step, step));
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
                         from + (at + AHEAD * LANES) * size, (int)size * LANES / layout->group);
    }
    if (full) {
        const int last = (int)(full / LANES - 1) & 1;
        finish_batch(columns[last], total[last], LANES,
                     blocks + (full - LANES) * layout->group_bytes, layout, &t, words,
                         from, 0);
    }
    if (n > full) { /* the rest among zeros */
        uint8_t padded[LANES * TQ_MAX_GROUP * 4] = {0};
        memcpy(padded, from + full * size, (n - full) * size);
        total[0] = load_batch(padded, type, layout->group, columns[0]);
        finish_batch(columns[0], total[0], (int)(n - full), blocks + full * layout->group_bytes,
                     layout, &t, words,
                         from, 0);
    }
}

/* Where decoded rows go. Outputs too large for a cache are written past it, a batch later: the
 * stores of one batch then run beside the arithmetic of the next, and each begins on a cache line
 * (arrays of NumPy begin 16 bytes behind one). Other outputs are written at once. */
typedef struct {
    int stream;
    uint8_t *next;         /* output of the batch after this one, to be prefetched */
    uint8_t *to;           /* a batch on its way out: where its rest goes, */
    const uint8_t *from;   /* where that is, */
    size_t left;           /* and how many bytes it has */
} outflow;

TQ_INLINE void pass_on(outflow *flow, size_t bytes) {
    memcpy(flow->to, flow->from, bytes);
    flow->to += bytes;
    flow->from += bytes;
    flow->left -= bytes;
}

static void begin_flow(outflow *flow, uint8_t *to, const uint8_t *from, size_t bytes) {
    const size_t head = (size_t)(-(uintptr_t)to & (LINE - 1));
    flow->to = to;
    flow->from = from;
    flow->left = bytes;
    pass_on(flow, head < bytes ? head : bytes);
}

/* Let `lines` cache lines go out, or fetch as many that will be written. */
TQ_INLINE void let_flow(outflow *flow, int lines) {
    if (!flow->stream) {
        for (int i = 0; i < lines; i++) v_prefetch(flow->next + i * LINE);
        flow->next += lines * LINE;
        return;
    }
    for (; lines > 0 && flow->left >= LINE; lines--) {
        TQ_UNROLL
        for (int i = 0; i < LINE; i += LANES * 4)
            v_stream((float *)(void *)(flow->to + i),
                     v_load((const float *)(const void *)(flow->from + i)));
        flow->to += LINE;
        flow->from += LINE;
        flow->left -= LINE;
    }
}

static void end_flow(outflow *flow) {
    let_flow(flow, (int)(flow->left / LINE));
    pass_on(flow, flow->left);
}

/* Rotated columns from words: centroid times norm, and the butterflies below LANES. What comes
 * out is transposed: rows of `group` floats. */
TQ_INLINE void spread(const VI *words, int bits, int group, const V (*norms)[2],
                      const tq_layout *layout, const tables *t, V *rows, outflow *flow, int lines) {
    const int per_word = bits == 4 ? 8 : 16, per_row = group / LANES;
    for (int e = 0; e < group; e += 32) {
        const V *norm = norms[e / layout->block];
        const uint8_t *negative = layout->inverse.negative + e;
        const VI plane = words[group / 16 + e / 32]; /* read for 3 bits only */
        TQ_UNROLL
        for (int part = 0; part < 32; part += LANES) {
            V v[LANES];
            TQ_UNROLL
            for (int l = 0; l < LANES; l++) {
                const int i = part + l;
                const V level = level_one(words[(e + i) / per_word], plane, bits, i % per_word, i, t);
                v[l] = v_mul(level, norm[negative[i]]);
            }
            butterflies(v, LANES);
            v_transpose(v);
            TQ_UNROLL
            for (int l = 0; l < LANES; l++) rows[l * per_row + (e + part) / LANES] = v[l];
            let_flow(flow, lines);
        }
    }
}

/* The other butterflies, along rows, and the factors behind them. */
TQ_INLINE void finish_rows(const V *rows, int group, enum tq_float type, const float *after,
                           uint8_t *out) {
    const int count = group / LANES;
    const size_t size = type == TQ_F32 ? 4 : 2;
    for (int l = 0; l < LANES; l++) {
        V v[TQ_MAX_GROUP / LANES];
        TQ_UNROLL
        for (int i = 0; i < count; i++) v[i] = rows[l * count + i];
        butterflies(v, count);
        TQ_UNROLL
        for (int i = 0; i < count; i++)
            v_narrow(out + (size_t)(l * group + i * LANES) * size,
                     v_mul(v[i], v_load(after + i * LANES)), type);
    }
}

static void finish_decode(const V *rows, int group, enum tq_float type, const float *after,
                          uint8_t *out) {
    if (group == 64) {
        if (type == TQ_F32) finish_rows(rows, 64, TQ_F32, after, out);
        if (type == TQ_F16) finish_rows(rows, 64, TQ_F16, after, out);
        if (type == TQ_BF16) finish_rows(rows, 64, TQ_BF16, after, out);
        return;
    }
    if (type == TQ_F32) finish_rows(rows, 128, TQ_F32, after, out);
    if (type == TQ_F16) finish_rows(rows, 128, TQ_F16, after, out);
    if (type == TQ_BF16) finish_rows(rows, 128, TQ_BF16, after, out);
}

static void decode_batch(const uint8_t *blocks, int count, uint8_t *out, enum tq_float type,
                         const tq_layout *layout, const tables *t, outflow *flow) {
    const int lines = LANES * LANES * (int)tq_float_size(type) / LINE;
    uint8_t codes[LANES][TQ_MAX_CODES];
    uint16_t halves[TQ_MAX_BLOCKS][LANES];
    VI words[WORDS];
    V norms[TQ_MAX_BLOCKS][2], rows[LANES * (TQ_MAX_GROUP / LANES)];
    for (int l = 0; l < LANES; l++) {
        /* Lanes without a vector repeat the last. */
        const uint8_t *from = blocks + (size_t)(l < count ? l : count - 1) * layout->group_bytes;
        tq_gather(codes[l], from, layout);
        for (int b = 0; b < layout->blocks; b++) halves[b][l] = tq_norm(from, b, layout);
    }
    for (int b = 0; b < layout->blocks; b++) {
        norms[b][0] = v_of_halves(halves[b]);
        norms[b][1] = v_negate(norms[b][0]);
    }
    words_of_rows(codes, layout->group * layout->bits / 32, words);
    if (layout->bits == 2) spread(words, 2, layout->group, norms, layout, t, rows, flow, lines);
    if (layout->bits == 3) spread(words, 3, layout->group, norms, layout, t, rows, flow, lines);
    if (layout->bits == 4) spread(words, 4, layout->group, norms, layout, t, rows, flow, lines);
    finish_decode(rows, layout->group, type, layout->inverse.after, out);
}

TQ_INLINE void rotated_rows(const uint8_t *blocks, int count, uint8_t *out, int bits,
                            enum tq_float type, const tq_layout *layout, const tables *t,
                            outflow *flow) {
    const size_t size = layout->block * tq_float_size(type);
    for (int b = 0; b < count * layout->blocks; b++) {
        rotated_block(blocks + layout->header, tq_norm(blocks, 0, layout), bits, layout->block,
                      type, t, out);
        blocks += layout->block_bytes;
        out += size;
        if (!flow->stream) let_flow(flow, (int)(size / LINE));
    }
}

static void rotated_batch(const uint8_t *blocks, int count, uint8_t *out, enum tq_float type,
                          const tq_layout *layout, const tables *t, outflow *flow) {
    if (layout->bits == 2) rotated_rows(blocks, count, out, 2, type, layout, t, flow);
    if (layout->bits == 3) rotated_rows(blocks, count, out, 3, type, layout, t, flow);
    if (layout->bits == 4) rotated_rows(blocks, count, out, 4, type, layout, t, flow);
}

static void decode(const uint8_t *blocks, size_t n, void *out, enum tq_float type, int rotated,
                   const tq_layout *layout) {
    const size_t size = layout->group * tq_float_size(type);
    V batches[2][TQ_MAX_GROUP]; /* LANES vectors each */
    outflow flow = {.stream = n * size >= STREAM_BYTES};
    tables t;
    load_tables(&t, layout);
    for (size_t at = 0; at < n; at += LANES) {
        const int count = n - at < LANES ? (int)(n - at) : LANES;
        const uint8_t *from = blocks + at * layout->group_bytes;
        uint8_t *to = (uint8_t *)out + at * size;
        const int buffered = flow.stream || count < LANES;
        uint8_t *values = buffered ? (uint8_t *)batches[at / LANES % 2] : to;
        flow.next = to + LANES * size;
        if (rotated) rotated_batch(from, count, values, type, layout, &t, &flow);
        else decode_batch(from, count, values, type, layout, &t, &flow);
        end_flow(&flow);
        if (buffered) begin_flow(&flow, to, values, count * size);
    }
    end_flow(&flow);
    v_fence();
}
