/* Layout capsules: a TurboLayout of Python as the struct that kernels read. */
#include <string.h>

#include "binding.h"

#define CAPSULE "tqcli.kernels.layout"

static void free_layout(PyObject *capsule) { PyMem_Free(PyCapsule_GetPointer(capsule, CAPSULE)); }

const tq_layout *tq_layout_of(PyObject *capsule) { return PyCapsule_GetPointer(capsule, CAPSULE); }

PyObject *tq_make_layout(PyObject *module, PyObject *args) {
    tq_layout *layout = PyMem_Calloc(1, sizeof *layout);
    Py_buffer floats;
    (void)module;
    if (!layout) return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "iiiipy*:layout", &layout->bits, &layout->group, &layout->block,
                          &layout->header, &layout->corrected, &floats)) {
        PyMem_Free(layout);
        return NULL;
    }
    const char *wrong = tq_fill_layout(layout, floats.buf, (size_t)floats.len / sizeof(float));
    PyBuffer_Release(&floats);
    if (wrong) PyErr_SetString(PyExc_ValueError, wrong);
    PyObject *capsule = wrong ? NULL : PyCapsule_New(layout, CAPSULE, free_layout);
    if (!capsule) PyMem_Free(layout);
    return capsule;
}
