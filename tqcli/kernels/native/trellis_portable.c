/* Trellis blocks and weighted encoders for every machine. */
#include "trellis.h"

#include "wide_portable.h"

#include "wide.h"

#include "wide_attend.h"

const tq_trellis_ops tq_trellis_portable = {
    .encode = encode_trellis,
    .decode = decode_trellis,
    .encode_turbo = encode_turbo,
    .scratch = scores_scratch,
    .scores = scores_trellis,
};
