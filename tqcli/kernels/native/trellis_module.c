/* The functions of the extension module for trellis blocks and weighted encoders. Like those of
 * module.c they check again what would otherwise read or write outside an array. */
#include <stdlib.h>
#include <string.h>

#include "binding.h"
#include "trellis.h"

#define CAPSULE "tqcli.kernels.trellis"

static void free_layout(PyObject *capsule) { PyMem_Free(PyCapsule_GetPointer(capsule, CAPSULE)); }

/* trellis_layout(bits, group, table, floats) -> capsule. */
static PyObject *make_layout(PyObject *module, PyObject *args) {
    tq_trellis *layout = PyMem_Calloc(1, sizeof *layout);
    Py_buffer table, floats;
    (void)module;
    if (!layout) return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "iiy*y*:trellis_layout", &layout->bits, &layout->group, &table,
                          &floats)) {
        PyMem_Free(layout);
        return NULL;
    }
    const char *wrong = tq_fill_trellis(layout, table.buf, (size_t)table.len, floats.buf,
                                        (size_t)floats.len / sizeof(float));
    PyBuffer_Release(&table);
    PyBuffer_Release(&floats);
    if (wrong) PyErr_SetString(PyExc_ValueError, wrong);
    PyObject *capsule = wrong ? NULL : PyCapsule_New(layout, CAPSULE, free_layout);
    if (!capsule) PyMem_Free(layout);
    return capsule;
}

static Py_ssize_t fail(const char *why) {
    PyErr_SetString(PyExc_ValueError, why);
    return -1;
}

/* The number of groups in `floats` (of a float type) and `blocks`, or -1. */
static Py_ssize_t groups(const Py_buffer *floats, int type, int group, const Py_buffer *blocks,
                         int group_bytes) {
    if (type < TQ_F32 || type > TQ_BF16) return fail("no such float type");
    const Py_ssize_t size = (Py_ssize_t)(group * tq_float_size(type));
    const Py_ssize_t n = floats->len / size;
    if (floats->len % size || blocks->len % group_bytes || blocks->len / group_bytes != n)
        return fail("lengths of input and output do not agree");
    return n;
}

/* A weighting from a buffer; an empty one leaves NULL. */
static int weigh(tq_weighting *to, const tq_weighting **used, const Py_buffer *floats, int group) {
    *used = NULL;
    if (floats->len == 0) return 0;
    if (floats->len != (Py_ssize_t)sizeof(float) * (2 + group) * group ||
        (uintptr_t)floats->buf % sizeof(float))
        return (int)fail("weighting is not (2 + group, group) floats");
    tq_view_weighting(to, floats->buf, group);
    *used = to;
    return 0;
}

/* trellis_encode(kernel, layout, weighting, x, type, blocks): weighting may be empty. */
static PyObject *encode(PyObject *module, PyObject *args) {
    int index, type;
    PyObject *capsule, *result = NULL;
    Py_buffer floats, x, blocks;
    tq_weighting weighting;
    const tq_weighting *used;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOy*y*iw*:trellis_encode", &index, &capsule, &floats, &x, &type,
                          &blocks))
        return NULL;
    const tq_kernel *kernel = tq_kernel_at(index);
    const tq_trellis *layout = kernel ? PyCapsule_GetPointer(capsule, CAPSULE) : NULL;
    if (layout && weigh(&weighting, &used, &floats, layout->group) == 0) {
        const Py_ssize_t n = groups(&x, type, layout->group, &blocks, layout->group_bytes);
        if (n >= 0 && tq_check_apart(&x, &blocks) == 0) {
            PyThreadState *state = x.len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
            tq_trellis_of(kernel)->encode(x.buf, type, (size_t)n, blocks.buf, layout, used);
            if (state) PyEval_RestoreThread(state);
            result = Py_NewRef(Py_None);
        }
    }
    PyBuffer_Release(&floats);
    PyBuffer_Release(&x);
    PyBuffer_Release(&blocks);
    return result;
}

/* weighted_encode(kernel, layout, weighting, x, type, blocks): turbo blocks. */
static PyObject *encode_turbo(PyObject *module, PyObject *args) {
    int index, type;
    PyObject *capsule, *result = NULL;
    Py_buffer floats, x, blocks;
    tq_weighting weighting;
    const tq_weighting *used = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOy*y*iw*:weighted_encode", &index, &capsule, &floats, &x, &type,
                          &blocks))
        return NULL;
    const tq_kernel *kernel = tq_kernel_at(index);
    const tq_layout *layout = kernel ? tq_layout_of(capsule) : NULL;
    if (layout && weigh(&weighting, &used, &floats, layout->group) == 0) {
        const Py_ssize_t n = used ? groups(&x, type, layout->group, &blocks, layout->group_bytes)
                                  : fail("weighting is empty");
        if (n >= 0 && tq_check_apart(&x, &blocks) == 0) {
            PyThreadState *state = x.len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
            tq_trellis_of(kernel)->encode_turbo(x.buf, type, (size_t)n, blocks.buf, layout, used);
            if (state) PyEval_RestoreThread(state);
            result = Py_NewRef(Py_None);
        }
    }
    PyBuffer_Release(&floats);
    PyBuffer_Release(&x);
    PyBuffer_Release(&blocks);
    return result;
}

/* trellis_decode(kernel, layout, blocks, type, out, rotated). */
static PyObject *decode(PyObject *module, PyObject *args) {
    int index, type, rotated;
    PyObject *capsule, *result = NULL;
    Py_buffer blocks, out;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOy*iw*p:trellis_decode", &index, &capsule, &blocks, &type, &out,
                          &rotated))
        return NULL;
    const tq_kernel *kernel = tq_kernel_at(index);
    const tq_trellis *layout = kernel ? PyCapsule_GetPointer(capsule, CAPSULE) : NULL;
    const Py_ssize_t n = layout ? groups(&out, type, layout->group, &blocks, layout->group_bytes)
                                : -1;
    if (n >= 0 && tq_check_apart(&blocks, &out) == 0) {
        PyThreadState *state = out.len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
        tq_trellis_of(kernel)->decode(blocks.buf, (size_t)n, out.buf, type, rotated, layout);
        if (state) PyEval_RestoreThread(state);
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&blocks);
    PyBuffer_Release(&out);
    return result;
}

/* Whether queries, keys and columns first... of out fit each other; the number of keys, or -1. */
static Py_ssize_t keys_of(const tq_trellis *layout, Py_ssize_t m, Py_ssize_t dim,
                          const Py_buffer *keys, const Py_buffer *out, Py_ssize_t first) {
    if (m < 1 || dim < 1 || dim % layout->group) return fail("dim is no multiple of group");
    const Py_ssize_t size = dim / layout->group * layout->group_bytes;
    const Py_ssize_t row = m * (Py_ssize_t)sizeof(float);
    if (keys->len % size || out->len % row) return fail("no whole number of vectors");
    if (first < 0 || first > out->len / row || out->len / row - first < keys->len / size)
        return fail("columns outside the array");
    return keys->len / size;
}

/* trellis_scores(kernel, layout, m, queries, scales, keys, out, first): out[:, first : first + n].
 * Scales are empty for float32 queries; with them, queries are int8. */
static PyObject *scores(PyObject *module, PyObject *args) {
    enum { QUERIES, SCALES, KEYS, OUT, BUFFERS };
    int index;
    Py_ssize_t m, first, n = -1;
    PyObject *capsule;
    Py_buffer b[BUFFERS];
    void *memory = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOny*y*y*w*n:trellis_scores", &index, &capsule, &m, &b[QUERIES],
                          &b[SCALES], &b[KEYS], &b[OUT], &first))
        return NULL;
    const tq_kernel *kernel = tq_kernel_at(index);
    const tq_trellis *layout = kernel ? PyCapsule_GetPointer(capsule, CAPSULE) : NULL;
    const int int8 = b[SCALES].len > 0;
    const Py_ssize_t width = int8 ? 1 : (Py_ssize_t)sizeof(float);
    const Py_ssize_t dim = m > 0 ? b[QUERIES].len / width / m : 0;
    if (layout) n = keys_of(layout, m, dim, &b[KEYS], &b[OUT], first);
    if (n >= 0 && (b[QUERIES].len != m * dim * width ||
                   (int8 && b[SCALES].len != m * (Py_ssize_t)sizeof(float))))
        n = fail("queries or scales of another length");
    for (int i = 0; i < OUT && n >= 0; i++)
        if (tq_check_apart(&b[i], &b[OUT]) < 0) n = -1;
    if (n >= 0) {
        const tq_trellis_ops *ops = tq_trellis_of(kernel);
        memory = malloc(ops->scratch((size_t)dim) + 63);
        if (!memory) PyErr_NoMemory();
    }
    if (memory) {
        const tq_queries queries = {
            .m = (size_t)m,
            .values = int8 ? NULL : b[QUERIES].buf,
            .values8 = b[QUERIES].buf,
            .scales = b[SCALES].buf,
        };
        void *scratch = (void *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
        const size_t stride = (size_t)b[OUT].len / sizeof(float) / (size_t)m;
        PyThreadState *state = b[KEYS].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
        tq_trellis_of(kernel)->scores(b[KEYS].buf, (size_t)n, (size_t)dim, &queries,
                                      (float *)b[OUT].buf + first, stride, layout, scratch);
        if (state) PyEval_RestoreThread(state);
    }
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&b[i]);
    free(memory);
    return memory ? Py_NewRef(Py_None) : NULL;
}

PyMethodDef tq_trellis_methods[] = {
    {"trellis_layout", make_layout, METH_VARARGS, "trellis_layout(bits, group, table, floats)"},
    {"trellis_encode", encode, METH_VARARGS,
     "trellis_encode(kernel, layout, weighting, x, type, blocks)"},
    {"trellis_decode", decode, METH_VARARGS,
     "trellis_decode(kernel, layout, blocks, type, out, rotated)"},
    {"trellis_scores", scores, METH_VARARGS,
     "trellis_scores(kernel, layout, m, queries, scales, keys, out, first)"},
    {"weighted_encode", encode_turbo, METH_VARARGS,
     "weighted_encode(kernel, layout, weighting, x, type, blocks)"},
    {NULL, NULL, 0, NULL},
};
