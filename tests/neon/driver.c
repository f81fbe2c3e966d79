/* Runs every kernel of this machine over the cases of write_cases.py: ends with 0 if all bytes and
 * floats are those of the specification. Meant for instruction sets that the developer's machine
 * lacks, under an emulator. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tq.h"

enum { GUARD = 64, CANARY = 0xa5 };

static void *read_exactly(FILE *file, size_t bytes) {
    void *data = malloc(bytes + 1);
    if (!data || fread(data, 1, bytes, file) != bytes) {
        fprintf(stderr, "the case file ends early\n");
        exit(2);
    }
    return data;
}

static int is_nan(const uint8_t *at, enum tq_float type) {
    uint32_t wide;
    uint16_t half;
    if (type == TQ_F32) {
        memcpy(&wide, at, 4);
        return (wide & 0x7fffffff) > 0x7f800000;
    }
    memcpy(&half, at, 2);
    return (half & 0x7fff) > (type == TQ_F16 ? 0x7c00 : 0x7f80);
}

/* The place of the first value that differs, or -1; a NaN equals any NaN. */
static long differ(const uint8_t *found, const uint8_t *expected, size_t values,
                   enum tq_float type) {
    const size_t size = tq_float_size(type);
    for (size_t i = 0; i < values; i++) {
        const uint8_t *a = found + i * size, *b = expected + i * size;
        if (memcmp(a, b, size) != 0 && !(is_nan(a, type) && is_nan(b, type))) return (long)i;
    }
    return -1;
}

/* An output between canaries. */
static uint8_t *fenced(size_t bytes) {
    uint8_t *all = malloc(bytes + 2 * GUARD);
    if (!all) exit(2);
    memset(all, CANARY, bytes + 2 * GUARD);
    return all + GUARD;
}

static int unfence(uint8_t *out, size_t bytes) {
    int touched = 0;
    for (size_t i = 0; i < GUARD; i++)
        touched |= out[i - GUARD] != CANARY || out[bytes + i] != CANARY;
    free(out - GUARD);
    return touched;
}

static int complain(const tq_kernel *kernel, const tq_layout *l, enum tq_float type, size_t n,
                    const char *what, long place) {
    fprintf(stderr,
            "%s %s: bits %d group %d block %d header %d type %d, %zu vectors: ", kernel->name, what,
            l->bits, l->group, l->block, l->header, (int)type, n);
    fprintf(stderr, place < 0 ? "wrote outside\n" : "differs at %ld\n", place);
    return 1;
}

typedef struct {
    tq_layout layout;
    enum tq_float type;
    size_t n;
    uint8_t *x, *blocks, *anything, *values, *rotated, *codes;
} test_case;

static int read_case(FILE *file, test_case *c) {
    int32_t numbers[8];
    if (fread(numbers, sizeof numbers, 1, file) != 1) return 0;
    memset(&c->layout, 0, sizeof c->layout);
    c->layout.bits = numbers[0];
    c->layout.group = numbers[1];
    c->layout.block = numbers[2];
    c->layout.header = numbers[3];
    c->layout.corrected = numbers[4];
    c->type = (enum tq_float)numbers[5];
    c->n = (size_t)numbers[6];
    void *floats = read_exactly(file, 4 * (size_t)numbers[7]);
    const char *wrong = tq_fill_layout(&c->layout, floats, (size_t)numbers[7]);
    free(floats);
    if (wrong) {
        fprintf(stderr, "%s\n", wrong);
        exit(2);
    }
    const size_t values = c->n * c->layout.group, bytes = c->n * c->layout.group_bytes;
    c->x = read_exactly(file, values * tq_float_size(c->type));
    c->blocks = read_exactly(file, bytes);
    c->anything = read_exactly(file, bytes);
    c->values = read_exactly(file, values * tq_float_size(c->type));
    c->rotated = read_exactly(file, values * tq_float_size(c->type));
    c->codes = read_exactly(file, values);
    return 1;
}

static int try_kernel(const tq_kernel *kernel, const test_case *c, size_t n) {
    const tq_layout *l = &c->layout;
    const size_t bytes = n * l->group_bytes, values = n * l->group;
    const size_t float_bytes = values * tq_float_size(c->type);
    int bad = 0;

    uint8_t *out = fenced(bytes);
    kernel->encode(c->x, c->type, n, out, l);
    for (size_t i = 0; i < bytes; i++)
        if (out[i] != c->blocks[i]) {
            bad |= complain(kernel, l, c->type, n, "encode", (long)i);
            break;
        }
    if (unfence(out, bytes)) bad |= complain(kernel, l, c->type, n, "encode", -1);

    for (int rotated = 0; rotated < 2; rotated++) {
        out = fenced(float_bytes);
        kernel->decode(c->anything, n, out, c->type, rotated, l);
        const long at = differ(out, rotated ? c->rotated : c->values, values, c->type);
        if (at >= 0) bad |= complain(kernel, l, c->type, n, rotated ? "rotated" : "decode", at);
        if (unfence(out, float_bytes)) bad |= complain(kernel, l, c->type, n, "decode", -1);
    }

    out = fenced(values);
    kernel->unpack(c->anything + l->header, (size_t)l->block_bytes, n * l->blocks, (size_t)l->block,
                   l->bits, out);
    for (size_t i = 0; i < values; i++)
        if (out[i] != c->codes[i]) {
            bad |= complain(kernel, l, c->type, n, "unpack", (long)i);
            break;
        }
    const size_t packed_bytes = n * l->blocks * l->code_bytes;
    uint8_t *packed = fenced(packed_bytes);
    kernel->pack(out, n * l->blocks, (size_t)l->block, l->bits, packed);
    for (size_t b = 0; b < n * l->blocks; b++)
        if (memcmp(packed + b * l->code_bytes, c->anything + b * l->block_bytes + l->header,
                   (size_t)l->code_bytes) != 0) {
            bad |= complain(kernel, l, c->type, n, "pack", (long)b);
            break;
        }
    if (unfence(packed, packed_bytes)) bad |= complain(kernel, l, c->type, n, "pack", -1);
    if (unfence(out, values)) bad |= complain(kernel, l, c->type, n, "unpack", -1);
    return bad;
}

int main(int argc, char **argv) {
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    const tq_kernel *const *list = tq_kernels();
    test_case c;
    int cases = 0, bad = 0;
    if (!file) {
        fprintf(stderr, "usage: driver CASES\n");
        return 2;
    }
    for (; read_case(file, &c); cases++) {
        for (int k = 0; list[k]; k++) {
            bad |= try_kernel(list[k], &c, c.n);
            for (size_t n = 0; n < 10; n++) bad |= try_kernel(list[k], &c, n);
        }
        free(c.x);
        free(c.blocks);
        free(c.anything);
        free(c.values);
        free(c.rotated);
        free(c.codes);
    }
    fclose(file);
    for (int k = 0; list[k]; k++)
        printf("%s: %d cases %s\n", list[k]->name, cases, bad ? "with differences" : "equal");
    return bad || cases == 0;
}
