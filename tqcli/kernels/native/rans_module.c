/* The entry points of rANS streams: they check what would read or write outside an array. */
#include <stdlib.h>

#include "binding.h"
#include "rans.h"

enum { MAX_BUFFERS = 4 };

static PyObject *finish(Py_buffer *buffers, int count, PyObject *result) {
    for (int i = 0; i < count; i++) PyBuffer_Release(&buffers[i]);
    return result;
}

static PyObject *fail(Py_buffer *buffers, int count, const char *why) {
    PyErr_SetString(PyExc_ValueError, why);
    return finish(buffers, count, NULL);
}

/* The number of tables in `buffer`, `bytes` each, if every row has one of them; else -1. */
static Py_ssize_t count_tables(const Py_buffer *buffer, size_t bytes, const Py_buffer *rows) {
    const Py_ssize_t count = buffer->len / (Py_ssize_t)bytes;
    if (buffer->len % (Py_ssize_t)bytes || count > TQ_RANS_SILENT) return -1;
    for (Py_ssize_t i = 0; i < rows->len; i++) {
        const int table = ((const uint8_t *)rows->buf)[i];
        if (table >= count && table != TQ_RANS_SILENT) return -1;
    }
    return count;
}

static int holds_rows(const Py_buffer *symbols, const Py_buffer *rows, Py_ssize_t width) {
    const Py_ssize_t size = (Py_ssize_t)sizeof(int16_t);
    if (width < 0 || symbols->len % size) return 0;
    if (width == 0 || rows->len == 0) return symbols->len == 0;
    const Py_ssize_t values = symbols->len / size;
    return values % width == 0 && values / width == rows->len && values <= UINT32_MAX;
}

/* rans_encode(frequencies, tables, width, symbols, out) -> bytes of out that were written. */
static PyObject *rans_encode(PyObject *module, PyObject *args) {
    Py_buffer b[MAX_BUFFERS]; /* frequencies, tables, symbols, out */
    Py_ssize_t width;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*ny*w*:rans_encode", &b[0], &b[1], &width, &b[2], &b[3]))
        return NULL;
    const Py_ssize_t count = count_tables(&b[0], TQ_RANS_SYMBOLS * sizeof(uint16_t), &b[1]);
    if (count < 0) return fail(b, 4, "no such table");
    if (!holds_rows(&b[2], &b[1], width)) return fail(b, 4, "symbols are no rows of this width");
    if (b[3].len < TQ_RANS_HEADER || (b[3].len - TQ_RANS_HEADER) / 2 < b[2].len)
        return fail(b, 4, "too little room for the stream");
    for (int i = 0; i < 3; i++)
        if (tq_check_apart(&b[i], &b[3]) < 0) return finish(b, 4, NULL);
    const uint16_t *frequencies = b[0].buf;
    for (Py_ssize_t i = 0; i < count; i++) /* an escape must always be possible */
        if (!frequencies[i * TQ_RANS_SYMBOLS]) return fail(b, 4, "a table without an escape");
    tq_rans_symbol *all = malloc((size_t)(count + 1) * TQ_RANS_SYMBOLS * sizeof *all);
    if (!all) return finish(b, 4, PyErr_NoMemory());
    PyThreadState *state = b[2].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
    tq_rans_prepare(frequencies, (size_t)count, all);
    const size_t bytes = tq_rans_encode(all, b[1].buf, (size_t)b[1].len, (size_t)width, b[2].buf,
                                        b[3].buf);
    if (state) PyEval_RestoreThread(state);
    free(all);
    return finish(b, 4, PyLong_FromSize_t(bytes));
}

/* rans_decode(kernel, lookups, tables, width, stream, symbols) -> None, or what is wrong. */
static PyObject *rans_decode(PyObject *module, PyObject *args) {
    Py_buffer b[MAX_BUFFERS]; /* lookups, tables, stream, symbols */
    Py_ssize_t width;
    int index;
    (void)module;
    if (!PyArg_ParseTuple(args, "iy*y*ny*w*:rans_decode", &index, &b[0], &b[1], &width, &b[2],
                          &b[3]))
        return NULL;
    const tq_kernel *kernel = tq_kernel_at(index);
    if (!kernel) return finish(b, 4, NULL);
    if (count_tables(&b[0], TQ_RANS_SLOTS * sizeof(uint32_t), &b[1]) < 0)
        return fail(b, 4, "no such table");
    if (!holds_rows(&b[3], &b[1], width)) return fail(b, 4, "symbols are no rows of this width");
    for (int i = 0; i < 3; i++)
        if (tq_check_apart(&b[i], &b[3]) < 0) return finish(b, 4, NULL);
    PyThreadState *state = b[3].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
    const char *wrong = tq_rans_decode(tq_rans_row_of(kernel), b[2].buf, (size_t)b[2].len, b[0].buf,
                                       b[1].buf, (size_t)b[1].len, (size_t)width, b[3].buf);
    if (state) PyEval_RestoreThread(state);
    return finish(b, 4, wrong ? PyUnicode_FromString(wrong) : Py_NewRef(Py_None));
}

PyMethodDef tq_rans_methods[] = {
    {"rans_encode", rans_encode, METH_VARARGS,
     "rans_encode(frequencies, tables, width, symbols, out) -> bytes written"},
    {"rans_decode", rans_decode, METH_VARARGS,
     "rans_decode(kernel, lookups, tables, width, stream, symbols) -> what is wrong, or None"},
    {NULL, NULL, 0, NULL},
};
