/* Layout capsules: a TurboLayout of Python as the struct that kernels read. */
#include <string.h>

#include "binding.h"

#define CAPSULE "tqcli.kernels.layout"

static void free_layout(PyObject *capsule) { PyMem_Free(PyCapsule_GetPointer(capsule, CAPSULE)); }

const tq_layout *tq_layout_of(PyObject *capsule) { return PyCapsule_GetPointer(capsule, CAPSULE); }

/* Kernels index by these numbers, so nothing else may pass. */
static const char *complaint(const tq_layout *layout, Py_ssize_t floats) {
    const int group = layout->group, block = layout->block;
    if (layout->bits < 2 || layout->bits > 4) return "bits must be 2, 3 or 4";
    if (group != 64 && group != 128) return "group must be 64 or 128";
    if (block != 32 && block != 64 && block != 128) return "block must be 32, 64 or 128";
    if (block > group) return "block must not be longer than group";
    if (layout->header != 2 && layout->header != 4) return "header must be 2 or 4";
    if (floats != 2 * (1 << layout->bits) - 1 + 2 * group + 1)
        return "floats must be centroids, midpoints, both sign vectors and the scale";
    return NULL;
}

PyObject *tq_make_layout(PyObject *module, PyObject *args) {
    tq_layout layout;
    Py_buffer floats;
    (void)module;
    memset(&layout, 0, sizeof layout);
    if (!PyArg_ParseTuple(args, "iiiipy*:layout", &layout.bits, &layout.group, &layout.block,
                          &layout.header, &layout.corrected, &floats))
        return NULL;
    const char *wrong = complaint(&layout, floats.len / 4);
    tq_layout *kept = wrong ? NULL : PyMem_Malloc(sizeof *kept);
    if (!kept) {
        PyBuffer_Release(&floats);
        return wrong ? (PyErr_SetString(PyExc_ValueError, wrong), NULL) : PyErr_NoMemory();
    }
    layout.levels = 1 << layout.bits;
    layout.code_bytes = layout.block * layout.bits / 8;
    layout.block_bytes = layout.header + layout.code_bytes;
    layout.blocks = layout.group / layout.block;
    layout.group_bytes = layout.block_bytes * layout.blocks;
    float first[TQ_MAX_GROUP], second[TQ_MAX_GROUP], scale;
    const size_t group_size = layout.group * sizeof(float);
    const char *at = floats.buf;
    memcpy(layout.centroids, at, layout.levels * sizeof(float));
    at += layout.levels * sizeof(float);
    memcpy(layout.midpoints, at, (layout.levels - 1) * sizeof(float));
    at += (layout.levels - 1) * sizeof(float);
    memcpy(first, at, group_size);
    memcpy(second, at + group_size, group_size);
    memcpy(&scale, at + 2 * group_size, sizeof scale);
    PyBuffer_Release(&floats);
    for (int k = 0; k < layout.levels; k++)
        layout.squares[k] = layout.centroids[k] * layout.centroids[k];
    for (int e = 0; e < layout.group; e++) {
        layout.forward.before[e] = first[e];
        layout.forward.after[e] = scale * second[e];
        layout.forward.negative[e] = first[e] < 0;
        layout.inverse.before[e] = second[e];
        layout.inverse.after[e] = scale * first[e];
        layout.inverse.negative[e] = second[e] < 0;
    }
    *kept = layout;
    PyObject *capsule = PyCapsule_New(kept, CAPSULE, free_layout);
    if (!capsule) PyMem_Free(kept);
    return capsule;
}
