/* The functions of the extension module that attend to packed blocks. Like those of module.c they
 * check again what would otherwise read or write outside an array. */
#include <stdlib.h>

#include "attend.h"
#include "binding.h"

enum { MAX_BUFFERS = 5 };
/* Scratch is some hundred bytes a value at most. */
#define MAX_DIM (PTRDIFF_MAX / 1024)

/* What every call holds: its buffers, its kernel, and memory to work in. */
typedef struct {
    Py_buffer buffers[MAX_BUFFERS];
    int count;
    const tq_attend_ops *ops;
    const tq_layout *layout;
    void *memory, *scratch;
} call;

static int fail(const char *why) {
    PyErr_SetString(PyExc_ValueError, why);
    return -1;
}

/* Numbers of a caller are never multiplied before a buffer bounds their product. */

/* The length of buffer `at` in items of `size` bytes, m rows of them; or -1. */
static Py_ssize_t columns(const call *c, int at, Py_ssize_t m, Py_ssize_t size) {
    const Py_buffer *buffer = &c->buffers[at];
    const Py_ssize_t items = buffer->len / size;
    if (m < 1 || buffer->len % size || items % m)
        return fail("a length is no multiple of the rows");
    if ((uintptr_t)buffer->buf % (size_t)size) return fail("an array is not aligned");
    return items / m;
}

static int start(call *c, int index, PyObject *capsule, Py_ssize_t dim) {
    const tq_kernel *kernel = tq_kernel_at(index);
    if (!kernel) return -1;
    c->ops = tq_attend_of(kernel);
    if (capsule) {
        c->layout = tq_layout_of(capsule);
        if (!c->layout) return -1;
        if (dim % c->layout->group) return fail("dim is no multiple of group");
    } else if (dim % 64) {
        return fail("dim is no multiple of 64");
    }
    if (dim < 1 || dim > MAX_DIM) return fail("no vector has this many values");
    c->memory = malloc(c->ops->scratch((size_t)dim) + 63);
    if (!c->memory) {
        PyErr_NoMemory();
        return -1;
    }
    c->scratch = (void *)(((uintptr_t)c->memory + 63) & ~(uintptr_t)63);
    return 0;
}

static PyObject *finish(call *c, int failed) {
    for (int i = 0; i < c->count; i++) PyBuffer_Release(&c->buffers[i]);
    free(c->memory);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* The vectors in buffer `at`; count_vectors says how many. */
static tq_packed packed(const call *c, int at, size_t dim) {
    const tq_layout *layout = c->layout;
    const tq_packed x = {
        .bytes = c->buffers[at].buf,
        .n = 0,
        .dim = dim,
        .vector_bytes = dim / (size_t)layout->group * (size_t)layout->group_bytes,
        .bits = layout->bits,
        .block = layout->block,
        .header = layout->header,
        .centroids = layout->centroids,
    };
    return x;
}

static int count_vectors(const call *c, int at, size_t vector_bytes, size_t *n) {
    const size_t bytes = (size_t)c->buffers[at].len;
    *n = bytes / vector_bytes;
    return bytes % vector_bytes ? fail("no whole number of vectors") : 0;
}

/* Columns first..first+n-1 of an array of m rows are written; it must have them. */
static int check_columns(const call *c, int at, Py_ssize_t m, Py_ssize_t first, size_t n) {
    const Py_ssize_t stride = columns(c, at, m, sizeof(float));
    if (stride < 0) return -1;
    if (first < 0 || first > stride || (size_t)(stride - first) < n)
        return fail("columns outside the array");
    return 0;
}

static int check_apart(const call *c, int output) {
    for (int i = 0; i < c->count; i++)
        if (i != output && tq_check_apart(&c->buffers[i], &c->buffers[output]) < 0) return -1;
    return 0;
}

static PyThreadState *let_go(const call *c, int at) {
    return c->buffers[at].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
}

static void take_back(PyThreadState *state) {
    if (state) PyEval_RestoreThread(state);
}

/* scores(kernel, layout, m, queries, blocks, out, first): out[:, first : first + n]. */
static PyObject *scores(PyObject *module, PyObject *args) {
    call c = {.count = 3};
    int index;
    Py_ssize_t m, first;
    PyObject *capsule;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOny*y*w*n:scores", &index, &capsule, &m, &c.buffers[0],
                          &c.buffers[1], &c.buffers[2], &first))
        return NULL;
    const Py_ssize_t dim = columns(&c, 0, m, sizeof(float));
    if (dim < 0 || start(&c, index, capsule, dim) < 0) return finish(&c, 1);
    tq_packed keys = packed(&c, 1, (size_t)dim);
    if (count_vectors(&c, 1, keys.vector_bytes, &keys.n) < 0 ||
        check_columns(&c, 2, m, first, keys.n) < 0 || check_apart(&c, 2) < 0)
        return finish(&c, 1);
    const tq_queries queries = {.m = (size_t)m, .values = c.buffers[0].buf};
    const size_t stride = (size_t)c.buffers[2].len / sizeof(float) / (size_t)m;
    PyThreadState *state = let_go(&c, 1);
    c.ops->scores(&keys, &queries, (float *)c.buffers[2].buf + first, stride, c.scratch);
    take_back(state);
    return finish(&c, 0);
}

/* scores_int8(kernel, layout, m, queries, scales, centroids, blocks, out, first). */
static PyObject *scores_int8(PyObject *module, PyObject *args) {
    call c = {.count = 5};
    int index;
    Py_ssize_t m, first;
    PyObject *capsule;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOny*y*y*y*w*n:scores_int8", &index, &capsule, &m, &c.buffers[0],
                          &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], &first))
        return NULL;
    const Py_ssize_t dim = columns(&c, 0, m, 1);
    if (dim < 0 || start(&c, index, capsule, dim) < 0) return finish(&c, 1);
    if (columns(&c, 1, m, sizeof(float)) != 1 || c.buffers[2].len != c.layout->levels)
        return finish(&c, fail("scales or centroids of another length"));
    tq_packed keys = packed(&c, 3, (size_t)dim);
    if (count_vectors(&c, 3, keys.vector_bytes, &keys.n) < 0 ||
        check_columns(&c, 4, m, first, keys.n) < 0 || check_apart(&c, 4) < 0)
        return finish(&c, 1);
    const tq_queries queries = {
        .m = (size_t)m,
        .values8 = c.buffers[0].buf,
        .scales = c.buffers[1].buf,
        .centroids8 = c.buffers[2].buf,
    };
    const size_t stride = (size_t)c.buffers[4].len / sizeof(float) / (size_t)m;
    PyThreadState *state = let_go(&c, 3);
    c.ops->scores(&keys, &queries, (float *)c.buffers[4].buf + first, stride, c.scratch);
    take_back(state);
    return finish(&c, 0);
}

/* Sums run over slabs of a fixed number of vectors, so that they do not depend on how slabs are
 * dealt to threads: out is float64 (slabs, m, dim), one slab after the other. Checks that weights
 * and out fit n vectors from `first` on. */
static int check_slabs(const call *c, int weights, int out, Py_ssize_t m, Py_ssize_t dim,
                       Py_ssize_t slab, Py_ssize_t first, size_t n) {
    if (slab < 1) return fail("a slab of no vectors");
    if (check_columns(c, weights, m, first, n) < 0 || check_apart(c, out) < 0) return -1;
    const size_t slabs = n / (size_t)slab + (n % (size_t)slab != 0);
    const Py_ssize_t row = columns(c, out, m, sizeof(double)); /* sums of one query, all slabs */
    if (row < 0) return -1;
    if (row % dim || (size_t)(row / dim) != slabs) return fail("out is not one sum a slab");
    return 0;
}

/* weighted_sum(kernel, layout, m, dim, slab, weights, first, blocks, out): the weights of these
 * vectors are weights[:, first : first + n]. */
static PyObject *weighted_sum(PyObject *module, PyObject *args) {
    call c = {.count = 3};
    int index;
    Py_ssize_t m, dim, slab, first;
    PyObject *capsule;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOnnny*ny*w*:weighted_sum", &index, &capsule, &m, &dim, &slab,
                          &c.buffers[0], &first, &c.buffers[1], &c.buffers[2]))
        return NULL;
    if (start(&c, index, capsule, dim) < 0) return finish(&c, 1);
    tq_packed x = packed(&c, 1, (size_t)dim);
    size_t n;
    if (count_vectors(&c, 1, x.vector_bytes, &n) < 0 ||
        check_slabs(&c, 0, 2, m, dim, slab, first, n) < 0)
        return finish(&c, 1);
    const size_t stride = (size_t)c.buffers[0].len / sizeof(float) / (size_t)m;
    const float *weights = (const float *)c.buffers[0].buf + first;
    double *out = c.buffers[2].buf;
    PyThreadState *state = let_go(&c, 1);
    for (size_t at = 0; at < n; at += (size_t)slab) {
        x.n = n - at < (size_t)slab ? n - at : (size_t)slab;
        c.ops->weighted_sum(&x, weights + at, stride, (size_t)m, out, c.scratch);
        x.bytes += x.n * x.vector_bytes;
        out += m * dim;
    }
    take_back(state);
    return finish(&c, 0);
}

/* scores_f16(kernel, m, queries, keys, out, first): as scores, over float16 keys. */
static PyObject *scores_f16(PyObject *module, PyObject *args) {
    call c = {.count = 3};
    int index;
    Py_ssize_t m, first;
    size_t n;
    (void)module;
    if (!PyArg_ParseTuple(args, "iny*y*w*n:scores_f16", &index, &m, &c.buffers[0], &c.buffers[1],
                          &c.buffers[2], &first))
        return NULL;
    const Py_ssize_t dim = columns(&c, 0, m, sizeof(float));
    if (dim < 0 || start(&c, index, NULL, dim) < 0 || columns(&c, 1, 1, 2) < 0 ||
        count_vectors(&c, 1, (size_t)dim * 2, &n) < 0 || check_columns(&c, 2, m, first, n) < 0 ||
        check_apart(&c, 2) < 0)
        return finish(&c, 1);
    const size_t stride = (size_t)c.buffers[2].len / sizeof(float) / (size_t)m;
    PyThreadState *state = let_go(&c, 1);
    c.ops->scores_f16(c.buffers[1].buf, n, (size_t)dim, c.buffers[0].buf, (size_t)m,
                      (float *)c.buffers[2].buf + first, stride, c.scratch);
    take_back(state);
    return finish(&c, 0);
}

/* weighted_sum_f16(kernel, m, dim, slab, weights, first, values, out). */
static PyObject *weighted_sum_f16(PyObject *module, PyObject *args) {
    call c = {.count = 3};
    int index;
    Py_ssize_t m, dim, slab, first;
    size_t n;
    (void)module;
    if (!PyArg_ParseTuple(args, "innny*ny*w*:weighted_sum_f16", &index, &m, &dim, &slab,
                          &c.buffers[0], &first, &c.buffers[1], &c.buffers[2]))
        return NULL;
    if (start(&c, index, NULL, dim) < 0 || columns(&c, 1, 1, 2) < 0 ||
        count_vectors(&c, 1, (size_t)dim * 2, &n) < 0 ||
        check_slabs(&c, 0, 2, m, dim, slab, first, n) < 0)
        return finish(&c, 1);
    const size_t stride = (size_t)c.buffers[0].len / sizeof(float) / (size_t)m;
    const float *weights = (const float *)c.buffers[0].buf + first;
    const uint16_t *values = c.buffers[1].buf;
    double *out = c.buffers[2].buf;
    PyThreadState *state = let_go(&c, 1);
    for (size_t at = 0, some; at < n; at += some, out += m * dim) {
        some = n - at < (size_t)slab ? n - at : (size_t)slab;
        c.ops->weighted_sum_f16(values + at * (size_t)dim, some, (size_t)dim, weights + at, stride,
                                (size_t)m, out, c.scratch);
    }
    take_back(state);
    return finish(&c, 0);
}

PyMethodDef tq_attend_methods[] = {
    {"scores", scores, METH_VARARGS, "scores(kernel, layout, m, queries, blocks, out, first)"},
    {"scores_int8", scores_int8, METH_VARARGS,
     "scores_int8(kernel, layout, m, queries, scales, centroids, blocks, out, first)"},
    {"weighted_sum", weighted_sum, METH_VARARGS,
     "weighted_sum(kernel, layout, m, dim, slab, weights, first, blocks, out)"},
    {"scores_f16", scores_f16, METH_VARARGS, "scores_f16(kernel, m, queries, keys, out, first)"},
    {"weighted_sum_f16", weighted_sum_f16, METH_VARARGS,
     "weighted_sum_f16(kernel, m, dim, slab, weights, first, values, out)"},
    {NULL, NULL, 0, NULL},
};
