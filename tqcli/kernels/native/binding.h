/* What the files that speak to Python share. Only the Limited API, so that one build serves every
 * CPython from 3.11 on; arrays arrive as buffers, so no NumPy header is needed. */
#ifndef TQ_BINDING_H
#define TQ_BINDING_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include "tq.h"

/* Work on fewer bytes than this is done before another thread could have used the GIL. */
#define TQ_GIL_BYTES (64 * 1024)

/* The kernel at a place of tq_kernels(), or NULL with an exception set. */
const tq_kernel *tq_kernel_at(int index);

/* The layout inside a capsule made by layout(...), or NULL with an exception set. */
const tq_layout *tq_layout_of(PyObject *capsule);

/* 0, or -1 with ValueError set when two buffers share memory. */
int tq_check_apart(const Py_buffer *input, const Py_buffer *output);

/* layout(bits, group, block, header, corrected, floats) -> capsule. */
PyObject *tq_make_layout(PyObject *module, PyObject *args);

extern PyMethodDef tq_center_methods[];
extern PyMethodDef tq_stats_methods[];
#ifdef TQ_HAVE_ATTEND
extern PyMethodDef tq_attend_methods[];
#endif
extern PyMethodDef tq_rans_methods[], tq_products_methods[];
extern PyMethodDef tq_trellis_methods[];

#endif
