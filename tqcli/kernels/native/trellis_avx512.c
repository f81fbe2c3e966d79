/* Trellis blocks and weighted encoders for AVX-512 with VBMI. */
#include "trellis.h"

#include "wide_avx512.h"

#include "outflow.h"

#include "wide.h"

const tq_trellis_ops tq_trellis_avx512 = {
    .encode = encode_trellis,
    .decode = decode_trellis,
    .encode_turbo = encode_turbo,
    .scratch = tq_trellis_scratch_avx512,
    .scores = tq_trellis_scores_avx512,
};
