/* Trellis blocks and weighted encoders for AVX2. */
#include "trellis.h"

#include "wide_avx2.h"

#include "outflow.h"

#include "wide.h"

#include "wide_attend.h"

#include "trellis_avx2_attend.h"

const tq_trellis_ops tq_trellis_avx2 = {
    .encode = encode_trellis,
    .decode = decode_trellis,
    .encode_turbo = encode_turbo,
    .scratch = scores_scratch,
    .scores = scores_avx2,
};
