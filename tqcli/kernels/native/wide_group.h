/* A group in rows of sixteen: length, rotation, the scale of least squares; a part of wide.h.
 * The order of operations is that of tqcli/kernels/leastsquares.py. */

WIDE_INLINE void rotate_rows(W *rows, int count) {
    WIDE_UNROLL
    for (int r = 0; r < count; r++) {
        rows[r] = w_butterfly(rows[r], 1);
        rows[r] = w_butterfly(rows[r], 2);
        rows[r] = w_butterfly(rows[r], 4);
        rows[r] = w_butterfly(rows[r], 8);
    }
    WIDE_UNROLL
    for (int stride = 1; stride < count; stride *= 2) WIDE_UNROLL
    for (int r = 0; r < count; r++)
        if (!(r & stride)) {
            const W a = rows[r], b = rows[r + stride];
            rows[r] = w_add(a, b);
            rows[r + stride] = w_sub(a, b);
        }
}

WIDE_INLINE W times_row(W v, const float *factors, int r) {
    return w_mul(v, w_load(factors + r * WIDTH));
}

/* One vector of length one, and what the butterflies make of it; returns its length. */
WIDE_INLINE float normalise(const uint8_t *x, enum tq_float type, int count, const float *first,
                            float *unit, W *spread) {
    const size_t step = WIDTH * tq_float_size(type);
    W total = w_zero();
    WIDE_UNROLL
    for (int r = 0; r < count; r++) {
        spread[r] = w_widen(x + (size_t)r * step, type);
        total = w_add(total, w_mul(spread[r], spread[r]));
    }
    const float length = sqrtf(w_fold(total));
    const int counts = length > TQ_TINY && length <= FLT_MAX;
    const W inverse = w_set1(counts ? 1.0f / length : 0.0f);
    WIDE_UNROLL
    for (int r = 0; r < count; r++) {
        const W v = counts ? w_mul(spread[r], inverse) : w_zero();
        w_store(unit + r * WIDTH, v);
        spread[r] = times_row(v, first, r);
    }
    rotate_rows(spread, count);
    return length;
}

/* products / squares where that is positive; what it takes away of the error goes to gain. */
WIDE_INLINE float best_ratio(float products, float squares, float *gain) {
    const float ratio = products > 0 ? products / squares : 0;
    *gain = products * ratio;
    return ratio;
}

WIDE_INLINE float plain_scale(const W *y, const float *values, int count, float length) {
    W products = w_zero(), squares = w_zero();
    float gain;
    WIDE_UNROLL
    for (int r = 0; r < count; r++) {
        const W v = w_load(values + r * WIDTH);
        products = w_add(products, w_mul(y[r], v));
        squares = w_add(squares, w_mul(v, v));
    }
    const float unit = count == 4 ? 0.125f : 0.08838834764831845f;
    return (length * unit) * best_ratio(w_fold(products), w_fold(squares), &gain);
}

WIDE_INLINE float weighted_scale(const float *unit, const float *values, int count, float length,
                                 const float *first, const float *second, const float *weights,
                                 float *gain) {
    W back[ROWS], products = w_zero(), squares = w_zero();
    WIDE_UNROLL
    for (int r = 0; r < count; r++) back[r] = times_row(w_load(values + r * WIDTH), second, r);
    rotate_rows(back, count);
    WIDE_UNROLL
    for (int r = 0; r < count; r++) {
        const W v = times_row(back[r], first, r), weighted = times_row(v, weights, r);
        products = w_add(products, times_row(weighted, unit, r));
        squares = w_add(squares, w_mul(weighted, v));
    }
    const float root = count == 4 ? 8.0f : 11.313708498984761f;
    return (length * best_ratio(w_fold(products), w_fold(squares), gain)) * root;
}

WIDE_INLINE uint16_t stored_scale(float scale) {
    const uint16_t half = tq_to_half(scale);
    return (half & 0x7fff) > 0x7c00 ? TQ_NAN_HALF : half;
}
