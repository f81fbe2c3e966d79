/* The functions of the extension module that measure vectors. Like those of module.c they check
 * again what would otherwise read or write outside an array. */
#include "binding.h"

enum { MAX_BUFFERS = 4 };

/* What both calls hold. */
typedef struct {
    Py_buffer buffers[MAX_BUFFERS];
    int count;
    const tq_stats *stats;
    Py_ssize_t n; /* vectors */
} call;

static int fail(const char *why) {
    PyErr_SetString(PyExc_ValueError, why);
    return -1;
}

static PyObject *finish(call *c, int failed) {
    for (int i = 0; i < c->count; i++) PyBuffer_Release(&c->buffers[i]);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* Count the vectors in buffer 0; 0, or -1. */
static int start(call *c, int index, int type, Py_ssize_t dim) {
    const tq_kernel *kernel = tq_kernel_at(index);
    if (!kernel) return -1;
    if (type < TQ_F32 || type > TQ_BF16) return fail("no such float type");
    const Py_ssize_t size = (Py_ssize_t)tq_float_size(type), items = c->buffers[0].len / size;
    if (dim < 1 || c->buffers[0].len % size || items % dim)
        return fail("lengths: no whole number of vectors");
    c->stats = kernel->stats;
    c->n = items / dim;
    return 0;
}

/* Buffer `at` is to hold `count` rows of `width` items of `size` bytes; 0, or -1. */
static int check(const call *c, int at, Py_ssize_t count, Py_ssize_t width, Py_ssize_t size) {
    const Py_ssize_t items = c->buffers[at].len / size;
    if (c->buffers[at].len % size || items % width || items / width != count)
        return fail("lengths of the arrays do not agree");
    return 0;
}

/* An output: aligned to its items, and no memory of any other buffer. */
static int check_output(const call *c, int at, size_t size) {
    if ((uintptr_t)c->buffers[at].buf % size) return fail("memory is not aligned");
    for (int i = 0; i < c->count; i++)
        if (i != at && tq_check_apart(&c->buffers[i], &c->buffers[at]) < 0) return -1;
    return 0;
}

/* errors(kernel, x, type, decoded, dim, rows, channels): channels is empty where none are kept. */
static PyObject *errors(PyObject *module, PyObject *args) {
    call c = {.count = 4};
    int index, type;
    Py_ssize_t dim;
    (void)module;
    if (!PyArg_ParseTuple(args, "iy*iy*nw*w*:errors", &index, &c.buffers[0], &type, &c.buffers[1],
                          &dim, &c.buffers[2], &c.buffers[3]))
        return NULL;
    const int with_channels = c.buffers[3].len > 0;
    if (start(&c, index, type, dim) < 0 || check(&c, 1, c.n, dim, sizeof(float)) < 0 ||
        check(&c, 2, c.n, TQ_ERROR_COLUMNS, sizeof(double)) < 0 ||
        check_output(&c, 2, sizeof(double)) < 0 ||
        (with_channels &&
         (check(&c, 3, 2, dim, sizeof(double)) < 0 || check_output(&c, 3, sizeof(double)) < 0)))
        return finish(&c, 1);
    PyThreadState *state = c.buffers[0].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
    c.stats->errors(c.buffers[0].buf, type, c.buffers[1].buf, (size_t)c.n, (size_t)dim,
                    c.buffers[2].buf, with_channels ? c.buffers[3].buf : NULL);
    if (state) PyEval_RestoreThread(state);
    return finish(&c, 0);
}

/* summarize(rows, totals, keys): a key for each row. */
static PyObject *summarize(PyObject *module, PyObject *args) {
    call c = {.count = 3};
    (void)module;
    if (!PyArg_ParseTuple(args, "y*w*w*:summarize", &c.buffers[0], &c.buffers[1], &c.buffers[2]))
        return NULL;
    c.n = c.buffers[0].len / ((Py_ssize_t)sizeof(double) * TQ_ERROR_COLUMNS);
    if (check(&c, 0, c.n, TQ_ERROR_COLUMNS, sizeof(double)) < 0 ||
        check(&c, 1, 1, TQ_TOTAL_COLUMNS, sizeof(double)) < 0 ||
        check(&c, 2, c.n, 1, sizeof(uint32_t)) < 0 || check_output(&c, 1, sizeof(double)) < 0 ||
        check_output(&c, 2, sizeof(uint32_t)) < 0)
        return finish(&c, 1);
    if ((uintptr_t)c.buffers[0].buf % sizeof(double))
        return finish(&c, fail("memory is not aligned"));
    PyThreadState *state = c.buffers[0].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
    tq_summarize(c.buffers[0].buf, (size_t)c.n, c.buffers[1].buf, c.buffers[2].buf);
    if (state) PyEval_RestoreThread(state);
    return finish(&c, 0);
}

/* moments(kernel, x, type, dim, signs, totals): as many signs as a group has values. */
static PyObject *moments(PyObject *module, PyObject *args) {
    call c = {.count = 3};
    int index, type;
    Py_ssize_t dim;
    (void)module;
    if (!PyArg_ParseTuple(args, "iy*iny*w*:moments", &index, &c.buffers[0], &type, &dim,
                          &c.buffers[1], &c.buffers[2]))
        return NULL;
    const Py_ssize_t group = c.buffers[1].len / (Py_ssize_t)sizeof(float);
    if (start(&c, index, type, dim) < 0 || check(&c, 1, group, 1, sizeof(float)) < 0 ||
        check(&c, 2, 1, TQ_MOMENT_COLUMNS, sizeof(double)) < 0 ||
        check_output(&c, 2, sizeof(double)) < 0)
        return finish(&c, 1);
    if ((group != 64 && group != 128) || (uintptr_t)c.buffers[1].buf % sizeof(float))
        return finish(&c, fail("lengths: 64 or 128 aligned signs"));
    PyThreadState *state = c.buffers[0].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
    c.stats->moments(c.buffers[0].buf, type, (size_t)c.n, (size_t)dim, (int)group, c.buffers[1].buf,
                     c.buffers[2].buf);
    if (state) PyEval_RestoreThread(state);
    return finish(&c, 0);
}

PyMethodDef tq_stats_methods[] = {
    {"errors", errors, METH_VARARGS, "errors(kernel, x, type, decoded, dim, rows, channels)"},
    {"moments", moments, METH_VARARGS, "moments(kernel, x, type, dim, signs, totals)"},
    {"summarize", summarize, METH_VARARGS, "summarize(rows, totals, keys)"},
    {NULL, NULL, 0, NULL},
};
