/* The entry point of integer products: it checks what would read or write outside an array. */
#include <stdlib.h>

#include "binding.h"
#include "products.h"

enum { MAX_BUFFERS = 4 };

static PyObject *finish(Py_buffer *buffers, int count, PyObject *result) {
    for (int i = 0; i < count; i++)
        if (buffers[i].obj) PyBuffer_Release(&buffers[i]);
    return result;
}

static PyObject *fail(Py_buffer *buffers, const char *why) {
    PyErr_SetString(PyExc_ValueError, why);
    return finish(buffers, MAX_BUFFERS, NULL);
}

/* Whether a buffer holds rows x columns items of `size` bytes. */
static int holds(const Py_buffer *buffer, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t size) {
    if (rows == 0 || columns == 0) return buffer->len == 0;
    return buffer->len % (columns * size) == 0 && buffer->len / (columns * size) == rows;
}

/* multiply(kernel, rows, depth, columns, a, x, out, shifts or None, add) */
static PyObject *multiply(PyObject *module, PyObject *args) {
    Py_buffer b[MAX_BUFFERS] = {{0}}; /* a, x, out, shifts */
    Py_ssize_t rows, depth, columns;
    const Py_ssize_t most = (Py_ssize_t)1 << 24; /* of an axis: products of two do not overflow */
    int index, add;
    (void)module;
    if (!PyArg_ParseTuple(args, "innny*y*w*z*p:multiply", &index, &rows, &depth, &columns, &b[0],
                          &b[1], &b[2], &b[3], &add))
        return NULL;
    const tq_kernel *kernel = tq_kernel_at(index);
    if (!kernel) return finish(b, MAX_BUFFERS, NULL);
    if (rows < 0 || depth < 0 || columns < 0 || rows > most || depth > most || columns > most)
        return fail(b, "an axis below 0 or above 2^24");
    if (!holds(&b[0], rows, depth, 2) || !holds(&b[1], depth, columns, 2) ||
        !holds(&b[2], rows, columns, 4))
        return fail(b, "matrices of other shapes");
    const int8_t *shifts = b[3].buf;
    if (shifts && b[3].len != rows) return fail(b, "not one shift a row");
    for (Py_ssize_t i = 0; shifts && i < rows; i++)
        if (shifts[i] < -16 || shifts[i] > 31) return fail(b, "a shift beyond -16 to 31");
    if (tq_check_apart(&b[0], &b[2]) < 0 || tq_check_apart(&b[1], &b[2]) < 0)
        return finish(b, MAX_BUFFERS, NULL);
    const tq_products *products = tq_products_of(kernel);
    int16_t *packed = malloc(((size_t)depth + 2) * products->panel * sizeof *packed);
    if (!packed) return finish(b, MAX_BUFFERS, PyErr_NoMemory());
    PyThreadState *state = b[2].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
    tq_multiply(products, b[0].buf, (size_t)rows, (size_t)depth, b[1].buf, (size_t)columns,
                b[2].buf, (tq_finish){shifts, add}, packed);
    if (state) PyEval_RestoreThread(state);
    free(packed);
    return finish(b, MAX_BUFFERS, Py_NewRef(Py_None));
}

PyMethodDef tq_products_methods[] = {
    {"multiply", multiply, METH_VARARGS,
     "multiply(kernel, rows, depth, columns, a, x, out, shifts or None, add)"},
    {NULL, NULL, 0, NULL},
};
