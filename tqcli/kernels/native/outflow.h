/* How decoders write their rows; for instruction sets that define v_load and v_stream. */
#ifndef TQ_OUTFLOW_H
#define TQ_OUTFLOW_H

#include <string.h>

#include "tq.h"

#define LINE 64 /* bytes of a cache line */
/* Outputs of this size do not stay in a cache: write past it. */
#ifndef STREAM_BYTES
#define STREAM_BYTES ((size_t)16 << 20)
#endif

/* Where decoded rows go. Outputs too large for a cache are written past it, a batch later: the
 * stores of one batch then run beside the arithmetic of the next, and each begins on a cache line
 * (arrays of NumPy begin 16 bytes behind one). Other outputs are written at once. */
typedef struct {
    int stream;
    uintptr_t next;      /* output of the batch after this one, to be prefetched */
    uint8_t *to;         /* a batch on its way out: where its rest goes, */
    const uint8_t *from; /* where that is, */
    size_t left;         /* and how many bytes it has */
} outflow;

TQ_INLINE void pass_on(outflow *flow, size_t bytes) {
    memcpy(flow->to, flow->from, bytes);
    flow->to += bytes;
    flow->from += bytes;
    flow->left -= bytes;
}

static void begin_flow(outflow *flow, uint8_t *to, const uint8_t *from, size_t bytes) {
    const size_t head = (size_t)(-(uintptr_t)to & (LINE - 1));
    flow->to = to;
    flow->from = from;
    flow->left = bytes;
    pass_on(flow, head < bytes ? head : bytes);
}

/* Let `lines` cache lines go out, or fetch as many that will be written. */
TQ_INLINE void let_flow(outflow *flow, int lines) {
    if (!flow->stream) {
        for (int i = 0; i < lines; i++) tq_prefetch(flow->next + (uintptr_t)i * LINE);
        flow->next += (uintptr_t)lines * LINE;
        return;
    }
    for (; lines > 0 && flow->left >= LINE; lines--) {
        TQ_UNROLL
        for (int i = 0; i < LINE; i += LANES * 4)
            v_stream((float *)(void *)(flow->to + i),
                     v_load((const float *)(const void *)(flow->from + i)));
        flow->to += LINE;
        flow->from += LINE;
        flow->left -= LINE;
    }
}

static void end_flow(outflow *flow) {
    let_flow(flow, (int)(flow->left / LINE));
    pass_on(flow, flow->left);
}

#endif
