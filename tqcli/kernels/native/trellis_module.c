/* The functions of the extension module for trellis blocks and weighted encoders. Like those of
 * module.c they check again what would otherwise read or write outside an array. */
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
    const Py_ssize_t n =
        layout ? groups(&out, type, layout->group, &blocks, layout->group_bytes) : -1;
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

PyMethodDef tq_trellis_methods[] = {
    {"trellis_layout", make_layout, METH_VARARGS, "trellis_layout(bits, group, table, floats)"},
    {"trellis_encode", encode, METH_VARARGS,
     "trellis_encode(kernel, layout, weighting, x, type, blocks)"},
    {"trellis_decode", decode, METH_VARARGS,
     "trellis_decode(kernel, layout, blocks, type, out, rotated)"},
    {"weighted_encode", encode_turbo, METH_VARARGS,
     "weighted_encode(kernel, layout, weighting, x, type, blocks)"},
    {NULL, NULL, 0, NULL},
};
