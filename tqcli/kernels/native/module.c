/* The extension module tqcli.kernels._native: checks lengths, lets go of the GIL, calls a kernel.
 *
 * tqcli/kernels/__init__.py is the only caller and has checked types and shapes; what is checked
 * again here is what would otherwise read or write outside an array.
 */
#include "binding.h"

const tq_kernel *tq_kernel_at(int index) {
    const tq_kernel *const *list = tq_kernels();
    for (int i = 0; list[i] && index >= 0; i++)
        if (i == index) return list[i];
    PyErr_SetString(PyExc_ValueError, "no kernel at this place of kernels()");
    return NULL;
}

int tq_check_apart(const Py_buffer *input, const Py_buffer *output) {
    const uintptr_t a = (uintptr_t)input->buf, b = (uintptr_t)output->buf;
    if (a >= b + (size_t)output->len || b >= a + (size_t)input->len) return 0;
    PyErr_SetString(PyExc_ValueError, "input and output share memory");
    return -1;
}

/* The number of items in buffers that must hold `a` and `b` bytes an item, or -1. */
static Py_ssize_t items(const Py_buffer *left, Py_ssize_t a, const Py_buffer *right, Py_ssize_t b) {
    const Py_ssize_t n = left->len / a;
    if (left->len % a == 0 && right->len % b == 0 && right->len / b == n) return n;
    PyErr_SetString(PyExc_ValueError, "lengths of input and output do not agree");
    return -1;
}

static PyObject *finish(Py_buffer *input, Py_buffer *output, PyObject *result) {
    PyBuffer_Release(input);
    PyBuffer_Release(output);
    return result;
}

static PyObject *kernels(PyObject *module, PyObject *none) {
    const tq_kernel *const *list = tq_kernels();
    Py_ssize_t count = 0;
    (void)module;
    (void)none;
    while (list[count]) count++;
    PyObject *names = PyTuple_New(count);
    for (Py_ssize_t i = 0; names && i < count; i++) {
        PyObject *name = PyUnicode_FromString(list[i]->name);
        if (!name || PyTuple_SetItem(names, i, name) < 0) {
            Py_DECREF(names);
            return NULL;
        }
    }
    return names;
}

static PyObject *encode(PyObject *module, PyObject *args) {
    int index, type;
    PyObject *capsule, *result = NULL;
    Py_buffer x, blocks;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOy*iw*:encode", &index, &capsule, &x, &type, &blocks))
        return NULL;
    const tq_kernel *kernel = tq_kernel_at(index);
    const tq_layout *layout = kernel ? tq_layout_of(capsule) : NULL;
    if (!layout || type < TQ_F32 || type > TQ_BF16) {
        if (layout) PyErr_SetString(PyExc_ValueError, "no such float type");
        return finish(&x, &blocks, NULL);
    }
    const Py_ssize_t n = items(&x, (Py_ssize_t)(layout->group * tq_float_size(type)), &blocks,
                               layout->group_bytes);
    if (n >= 0 && tq_check_apart(&x, &blocks) == 0) {
        PyThreadState *state = x.len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
        kernel->encode(x.buf, type, (size_t)n, blocks.buf, layout);
        if (state) PyEval_RestoreThread(state);
        result = Py_NewRef(Py_None);
    }
    return finish(&x, &blocks, result);
}

static PyObject *decode(PyObject *module, PyObject *args) {
    int index, type, rotated;
    PyObject *capsule, *result = NULL;
    Py_buffer blocks, out;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOy*iw*p:decode", &index, &capsule, &blocks, &type, &out,
                          &rotated))
        return NULL;
    const tq_kernel *kernel = tq_kernel_at(index);
    const tq_layout *layout = kernel ? tq_layout_of(capsule) : NULL;
    if (!layout || type < TQ_F32 || type > TQ_BF16) {
        if (layout) PyErr_SetString(PyExc_ValueError, "no such float type");
        return finish(&blocks, &out, NULL);
    }
    const Py_ssize_t n = items(&blocks, layout->group_bytes, &out,
                               (Py_ssize_t)(layout->group * tq_float_size(type)));
    if (n >= 0 && tq_check_apart(&blocks, &out) == 0) {
        PyThreadState *state = out.len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
        kernel->decode(blocks.buf, (size_t)n, out.buf, type, rotated, layout);
        if (state) PyEval_RestoreThread(state);
        result = Py_NewRef(Py_None);
    }
    return finish(&blocks, &out, result);
}

static int bad_run(int bits, Py_ssize_t block) {
    if (bits >= 2 && bits <= 4 && block > 0 && block % 8 == 0) return 0;
    PyErr_SetString(PyExc_ValueError, "bits must be 2, 3 or 4, a run a multiple of 8 codes");
    return 1;
}

static PyObject *pack(PyObject *module, PyObject *args) {
    int index, bits;
    Py_ssize_t block;
    PyObject *result = NULL;
    Py_buffer codes, packed;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiny*w*:pack", &index, &bits, &block, &codes, &packed))
        return NULL;
    const tq_kernel *kernel = bad_run(bits, block) ? NULL : tq_kernel_at(index);
    if (!kernel) return finish(&codes, &packed, NULL);
    const Py_ssize_t n = items(&codes, block, &packed, block / 8 * bits);
    if (n >= 0 && tq_check_apart(&codes, &packed) == 0) {
        PyThreadState *state = codes.len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
        const unsigned seen = kernel->pack(codes.buf, (size_t)n, (size_t)block, bits, packed.buf);
        if (state) PyEval_RestoreThread(state);
        result = PyLong_FromUnsignedLong(seen);
    }
    return finish(&codes, &packed, result);
}

/* unpack(kernel, bits, block, header, packed, codes): `header` bytes in front of each run. */
static PyObject *unpack(PyObject *module, PyObject *args) {
    int index, bits, header;
    Py_ssize_t block;
    PyObject *result = NULL;
    Py_buffer packed, codes;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiniy*w*:unpack", &index, &bits, &block, &header, &packed, &codes))
        return NULL;
    const tq_kernel *kernel = bad_run(bits, block) ? NULL : tq_kernel_at(index);
    if (kernel && (header < 0 || header > 4)) {
        PyErr_SetString(PyExc_ValueError, "header must be 0 to 4 bytes");
        kernel = NULL;
    }
    if (!kernel) return finish(&packed, &codes, NULL);
    const Py_ssize_t stride = header + block / 8 * bits;
    const Py_ssize_t n = items(&packed, stride, &codes, block);
    if (n >= 0 && tq_check_apart(&packed, &codes) == 0) {
        PyThreadState *state = codes.len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
        if (n > 0)
            kernel->unpack((const uint8_t *)packed.buf + header, (size_t)stride, (size_t)n,
                           (size_t)block, bits, codes.buf);
        if (state) PyEval_RestoreThread(state);
        result = Py_NewRef(Py_None);
    }
    return finish(&packed, &codes, result);
}

static PyMethodDef methods[] = {
    {"kernels", kernels, METH_NOARGS, "Names of the kernels this machine can run, best first."},
    {"layout", tq_make_layout, METH_VARARGS, "A layout for the other functions."},
    {"encode", encode, METH_VARARGS, "encode(kernel, layout, x, type, blocks)"},
    {"decode", decode, METH_VARARGS, "decode(kernel, layout, blocks, type, out, rotated)"},
    {"pack", pack, METH_VARARGS, "pack(kernel, bits, block, codes, packed) -> or of all codes"},
    {"unpack", unpack, METH_VARARGS, "unpack(kernel, bits, block, header, packed, codes)"},
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *module) {
    if (PyModule_AddFunctions(module, tq_center_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, tq_stats_methods) < 0) return -1;
#ifdef TQ_HAVE_ATTEND
    if (PyModule_AddFunctions(module, tq_attend_methods) < 0) return -1;
#endif
    if (PyModule_AddFunctions(module, tq_rans_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, tq_products_methods) < 0) return -1;
    return PyModule_AddFunctions(module, tq_trellis_methods);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "Native kernels of the turbo family.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
