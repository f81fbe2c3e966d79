/* The functions of the extension module around a mean that RoPE turned. Like those of module.c
 * they check again what would otherwise read or write outside an array. */
#include "center.h"

#include "binding.h"

enum { COSINE, SINE, X, OTHER, OUT, MAX_BUFFERS };

typedef struct {
    Py_buffer buffers[MAX_BUFFERS];
    int count, kernel, type;
    const tq_center_ops *ops;
    tq_turn turn;
} call;

static int fail(const char *why) {
    PyErr_SetString(PyExc_ValueError, why);
    return -1;
}

/* Whether buffer `at` holds rows x columns items of `size` bytes. */
static int holds(const call *c, int at, size_t rows, size_t columns, size_t size) {
    const size_t bytes = (size_t)c->buffers[at].len, row = columns * size;
    if ((uintptr_t)c->buffers[at].buf % size) return fail("an array is not aligned");
    if (row ? bytes % row == 0 && bytes / row == rows : bytes == 0) return 0;
    return fail("lengths of rows, tables and sums do not agree");
}

/* `size` is that of one value of x. */
static int check(call *c, Py_ssize_t dim, Py_ssize_t pairs, size_t size) {
    tq_turn *t = &c->turn;
    const tq_kernel *kernel = tq_kernel_at(c->kernel);
    if (!kernel) return -1;
    c->ops = tq_center_of(kernel);
    if (c->type < TQ_F32 || c->type > TQ_BF16) return fail("no such float type");
    if (dim < 1 || dim > TQ_MAX_TURN || pairs < 0 || pairs > dim / 2)
        return fail("a row has 1 to 1024 values and at most half as many pairs");
    t->dim = (size_t)dim;
    t->pairs = (size_t)pairs;
    t->rows = (size_t)c->buffers[X].len / (t->dim * size);
    t->cosine = c->buffers[COSINE].buf;
    t->sine = c->buffers[SINE].buf;
    if (holds(c, COSINE, t->rows, t->pairs, sizeof(float)) < 0 ||
        holds(c, SINE, t->rows, t->pairs, sizeof(float)) < 0)
        return -1;
    return holds(c, X, t->rows, t->dim, size);
}

static PyThreadState *let_go(const call *c) {
    return c->buffers[X].len > TQ_GIL_BYTES ? PyEval_SaveThread() : NULL;
}

static PyObject *finish(call *c, int failed) {
    for (int i = 0; i < c->count; i++) PyBuffer_Release(&c->buffers[i]);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* take_mean and give_mean: (kernel, dim, pairs, interleaved, cosine, sine, x, type, mean, out). */
static PyObject *shift(PyObject *args, int give) {
    call c = {.count = MAX_BUFFERS};
    Py_ssize_t dim, pairs;
    Py_buffer *b = c.buffers;
    if (!PyArg_ParseTuple(args, "innpy*y*y*iy*w*", &c.kernel, &dim, &pairs, &c.turn.interleaved,
                          &b[COSINE], &b[SINE], &b[X], &c.type, &b[OTHER], &b[OUT]))
        return NULL;
    const size_t typed = c.type == TQ_F32 ? 4 : 2;
    if (check(&c, dim, pairs, give ? sizeof(float) : typed) < 0 ||
        holds(&c, OTHER, 1, c.turn.dim, sizeof(float)) < 0 ||
        holds(&c, OUT, c.turn.rows, c.turn.dim, give ? typed : sizeof(float)) < 0)
        return finish(&c, 1);
    for (int i = 0; i < OUT; i++)
        if (tq_check_apart(&b[i], &b[OUT]) < 0) return finish(&c, 1);
    PyThreadState *state = let_go(&c);
    if (give) c.ops->give_mean(&c.turn, b[X].buf, c.type, b[OTHER].buf, b[OUT].buf);
    else c.ops->take_mean(&c.turn, b[X].buf, c.type, b[OTHER].buf, b[OUT].buf);
    if (state) PyEval_RestoreThread(state);
    return finish(&c, 0);
}

static PyObject *take_mean(PyObject *module, PyObject *args) {
    (void)module;
    return shift(args, 0);
}

static PyObject *give_mean(PyObject *module, PyObject *args) {
    (void)module;
    return shift(args, 1);
}

/* sum_keys(kernel, dim, pairs, interleaved, cosine, sine, x, type, sums, first, last). */
static PyObject *sum_keys(PyObject *module, PyObject *args) {
    call c = {.count = OUT};
    Py_ssize_t dim, pairs, first, last;
    Py_buffer *b = c.buffers;
    (void)module;
    if (!PyArg_ParseTuple(args, "innpy*y*y*iw*nn:sum_keys", &c.kernel, &dim, &pairs,
                          &c.turn.interleaved, &b[COSINE], &b[SINE], &b[X], &c.type, &b[OTHER],
                          &first, &last))
        return NULL;
    if (check(&c, dim, pairs, c.type == TQ_F32 ? 4 : 2) < 0 ||
        holds(&c, OTHER, 1, c.turn.dim, sizeof(double)) < 0)
        return finish(&c, 1);
    if (first < 0 || first > last || last > pairs) return finish(&c, fail("pairs outside the row"));
    for (int i = 0; i < OTHER; i++)
        if (tq_check_apart(&b[i], &b[OTHER]) < 0) return finish(&c, 1);
    PyThreadState *state = let_go(&c);
    c.ops->sum_keys(&c.turn, b[X].buf, c.type, (size_t)first, (size_t)last, b[OTHER].buf);
    if (state) PyEval_RestoreThread(state);
    return finish(&c, 0);
}

PyMethodDef tq_center_methods[] = {
    {"take_mean", take_mean, METH_VARARGS,
     "take_mean(kernel, dim, pairs, interleaved, cosine, sine, x, type, mean, out)"},
    {"give_mean", give_mean, METH_VARARGS,
     "give_mean(kernel, dim, pairs, interleaved, cosine, sine, x, type, mean, out)"},
    {"sum_keys", sum_keys, METH_VARARGS,
     "sum_keys(kernel, dim, pairs, interleaved, cosine, sine, x, type, sums, first, last)"},
    {NULL, NULL, 0, NULL},
};
