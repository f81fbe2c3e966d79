/* The statistics of the NEON and the portable kernel against stored results of the specification:
 * `stats CASES`, see write_cases.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tq.h"

static void *read_exactly(FILE *file, size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory || fread(memory, 1, bytes, file) != bytes) {
        fprintf(stderr, "the file of cases is cut short\n");
        exit(2);
    }
    return memory;
}

static int differs(const char *name, const char *what, const int32_t *numbers, const double *found,
                   const double *expected, size_t count) {
    if (memcmp(found, expected, count * sizeof(double)) == 0) return 0;
    fprintf(stderr, "%s %s: dim %d type %d differs\n", name, what, numbers[0], numbers[2]);
    return 1;
}

int main(int argc, char **argv) {
    const tq_stats *const kernels[] = {&tq_stats_neon, &tq_stats_portable};
    const char *const names[] = {"neon", "portable"};
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    int32_t numbers[4];
    int cases = 0, bad = 0;
    if (!file) {
        fprintf(stderr, "usage: stats CASES\n");
        return 2;
    }
    for (; fread(numbers, sizeof numbers, 1, file) == 1; cases++) {
        const size_t dim = (size_t)numbers[0], n = (size_t)numbers[3];
        const enum tq_float type = (enum tq_float)numbers[2];
        uint8_t *x = read_exactly(file, n * dim * tq_float_size(type));
        float *decoded = read_exactly(file, n * dim * sizeof(float));
        float *signs = read_exactly(file, (size_t)numbers[1] * sizeof(float));
        double *rows = read_exactly(file, n * TQ_ERROR_COLUMNS * sizeof(double));
        double *channels = read_exactly(file, 2 * dim * sizeof(double));
        double *moments = read_exactly(file, TQ_MOMENT_COLUMNS * sizeof(double));
        double *found = calloc(n * TQ_ERROR_COLUMNS + 2 * dim, sizeof(double));
        for (int k = 0; found && k < 2; k++) {
            double *sums = found + n * TQ_ERROR_COLUMNS, both[TQ_MOMENT_COLUMNS] = {0};
            memset(sums, 0, 2 * dim * sizeof(double));
            kernels[k]->errors(x, type, decoded, n, dim, found, sums);
            kernels[k]->moments(x, type, n, dim, numbers[1], signs, both);
            bad |= differs(names[k], "rows", numbers, found, rows, n * TQ_ERROR_COLUMNS);
            bad |= differs(names[k], "channels", numbers, sums, channels, 2 * dim);
            bad |= differs(names[k], "moments", numbers, both, moments, TQ_MOMENT_COLUMNS);
        }
        free(x);
        free(decoded);
        free(signs);
        free(rows);
        free(channels);
        free(moments);
        free(found);
    }
    fclose(file);
    printf("statistics: %d cases %s\n", cases, bad ? "with differences" : "equal");
    return bad || cases == 0;
}
