/* A check of the operations on packed blocks without Python, for instruction sets that the machine
 * at hand has only in emulation. Every layout, width and tail is compared with a plain float64
 * evaluation; the vectors lie at the very end of their memory.
 *
 *     cc -DOPS=tq_attend_neon check_attend.c attend_neon.c && ./a.out
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attend.h"
#include "half.h"

enum { MAX_DIM = 256, MAX_N = 67, MAX_M = 9 };

static uint32_t state = 1;

static uint32_t next(void) { return state = state * 1664525u + 1013904223u; }
static float real(void) { return (float)(int32_t)next() * 0x1p-31f; }

/* One value of a vector in float64. */
static double value(const tq_packed *x, const uint8_t *vector, size_t d, const float *table) {
    const size_t block_bytes = (size_t)(x->header + x->block * x->bits / 8);
    const uint8_t *block = vector + d / (size_t)x->block * block_bytes;
    const uint8_t *codes = block + x->header;
    const size_t i = d % (size_t)x->block;
    int code = x->bits == 4 ? codes[i / 2] >> 4 * (i % 2) & 15 : codes[i / 4] >> 2 * (i % 4) & 3;
    if (x->bits == 3) code |= (codes[(size_t)x->block / 4 + i / 8] >> i % 8 & 1) << 2;
    return (double)table[code] * tq_from_half((uint16_t)(block[0] | block[1] << 8));
}

static int failures = 0, checks = 0;

static void check(const char *what, const tq_packed *x, double got, double exact, double allowed) {
    checks++;
    if (fabs(got - exact) <= allowed) return;
    if (failures++ < 10)
        printf("%s: bits %d block %d header %d dim %zu n %zu: %.9g, not %.9g\n", what, x->bits,
               x->block, x->header, x->dim, x->n, got, exact);
}

static void check_packed(const tq_packed *x, size_t m, void *scratch) {
    static float q[MAX_M * MAX_DIM], w[MAX_M * MAX_N], out[MAX_M * MAX_N], scales[MAX_M];
    static int8_t q8[MAX_M * MAX_DIM], table8[16];
    static double sums[MAX_M * MAX_DIM];
    float whole[16];
    for (size_t i = 0; i < m * x->dim; i++) {
        q[i] = real();
        q8[i] = (int8_t)((int)(next() >> 8) % 128 * (next() >> 31 ? 1 : -1));
    }
    for (size_t i = 0; i < m * x->n; i++) w[i] = real();
    for (size_t i = 0; i < m; i++) scales[i] = 1.5f + real();
    for (int i = 0; i < 16; i++) whole[i] = table8[i] = (int8_t)((int)(next() >> 8) % 255 - 127);
    const tq_queries floats = {.m = m, .values = q};
    const tq_queries bytes = {.m = m, .values8 = q8, .scales = scales, .centroids8 = table8};
    for (int int8 = 0; int8 < 2; int8++) {
        OPS.scores(x, int8 ? &bytes : &floats, out, x->n, scratch);
        for (size_t j = 0; j < m; j++)
            for (size_t i = 0; i < x->n; i++) {
                double exact = 0, qq = 0, kk = 0;
                for (size_t d = 0; d < x->dim; d++) {
                    const double k = value(x, x->bytes + i * x->vector_bytes, d,
                                           int8 ? whole : x->centroids);
                    const double query = int8 ? (double)q8[j * x->dim + d] * scales[j]
                                              : q[j * x->dim + d];
                    exact += k * query;
                    qq += query * query;
                    kk += k * k;
                }
                check(int8 ? "int8 score" : "score", x, out[j * x->n + i], exact,
                      1e-6 * sqrt(qq * kk));
            }
    }
    OPS.weighted_sum(x, w, x->n, m, sums, scratch);
    for (size_t j = 0; j < m; j++)
        for (size_t d = 0; d < x->dim; d++) {
            double exact = 0, magnitude = 0;
            for (size_t i = 0; i < x->n; i++) {
                const double v = value(x, x->bytes + i * x->vector_bytes, d, x->centroids);
                exact += w[j * x->n + i] * v;
                magnitude += fabs(w[j * x->n + i] * v);
            }
            check("weighted sum", x, sums[j * x->dim + d], exact, 5e-6 * magnitude);
        }
}

static void check_f16(size_t n, size_t dim, size_t m, void *scratch) {
    static uint16_t rows[MAX_N * MAX_DIM];
    static float q[MAX_M * MAX_DIM], w[MAX_M * MAX_N], out[MAX_M * MAX_N];
    static double sums[MAX_M * MAX_DIM];
    const tq_packed x = {.n = n, .dim = dim, .bits = 16};
    for (size_t i = 0; i < n * dim; i++) rows[i] = (uint16_t)(next() >> 16 & 0xbbff);
    for (size_t i = 0; i < m * dim; i++) q[i] = real();
    for (size_t i = 0; i < m * n; i++) w[i] = real();
    OPS.scores_f16(rows, n, dim, q, m, out, n, scratch);
    OPS.weighted_sum_f16(rows, n, dim, w, n, m, sums, scratch);
    for (size_t j = 0; j < m; j++) {
        for (size_t i = 0; i < n; i++) {
            double exact = 0, magnitude = 0;
            for (size_t d = 0; d < dim; d++) {
                const double product = (double)q[j * dim + d] * tq_from_half(rows[i * dim + d]);
                exact += product;
                magnitude += fabs(product);
            }
            check("float16 score", &x, out[j * n + i], exact, 2e-6 * magnitude);
        }
        for (size_t d = 0; d < dim; d++) {
            double exact = 0, magnitude = 0;
            for (size_t i = 0; i < n; i++) {
                const double product = (double)w[j * n + i] * tq_from_half(rows[i * dim + d]);
                exact += product;
                magnitude += fabs(product);
            }
            check("float16 sum", &x, sums[j * dim + d], exact, 5e-6 * magnitude);
        }
    }
}

/* n vectors of random codes; their last byte is the last of an allocation. */
static void check_layout(int bits, int group, int block, int header, size_t dim, size_t n, size_t m,
                         void *scratch) {
    float centroids[16];
    const size_t block_bytes = (size_t)(header + block * bits / 8);
    const size_t bytes = n * (dim / (size_t)block) * block_bytes;
    uint8_t *memory = malloc(bytes + 1), *blocks = memory + 1; /* an odd address as well */
    if (!memory) exit(2);
    for (size_t i = 0; i < bytes; i++) blocks[i] = (uint8_t)(next() >> 24);
    for (size_t i = 0; i < bytes; i += block_bytes) {
        const uint16_t norm = tq_to_half(1.0f + 8.0f * fabsf(real()));
        memcpy(blocks + i, &norm, 2);
    }
    for (int i = 0; i < 16; i++) centroids[i] = real();
    const tq_packed x = {blocks, n,     dim,    dim / (size_t)block * block_bytes,
                         bits,   block, header, centroids};
    (void)group;
    check_packed(&x, m, scratch);
    free(memory);
}

int main(void) {
    static const int shapes[][2] = {{128, 128}, {128, 64}, {128, 32}, {64, 64}, {64, 32}};
    static const size_t sizes[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 65, 67};
    uint8_t *memory = malloc(OPS.scratch(MAX_DIM) + 63);
    if (!memory) return 2;
    void *scratch = (void *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    size_t m = 1;
    for (int bits = 2; bits <= 4; bits++)
        for (int s = 0; s < 5; s++)
            for (int header = 2; header <= 4; header += 2)
                for (size_t dim = (size_t)shapes[s][0]; dim <= MAX_DIM; dim += (size_t)shapes[s][0])
                    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++, m = m % MAX_M + 1)
                        check_layout(bits, shapes[s][0], shapes[s][1], header, dim, sizes[i], m,
                                     scratch);
    for (size_t dim = 64; dim <= MAX_DIM; dim += 64)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++, m = m % MAX_M + 1)
            check_f16(sizes[i], dim, m, scratch);
    free(memory);
    printf("%d of %d values differ\n", failures, checks);
    return failures != 0;
}
