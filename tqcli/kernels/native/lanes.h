/* The algorithm of the kernels that are written with vector instructions.
 *
 * LANES vectors are worked on at once, one in each lane: a register holds element e of all of
 * them (a *column*). Sums over a vector then run over registers in index order, which is the
 * order of the specification, and need nothing across lanes. Squares are summed while columns are
 * made by transposing LANES x LANES tiles; butterflies run over registers; a code is found by
 * binary search over the midpoints, which works for any ascending table.
 *
 * An instruction set defines, before it includes this file:
 *
 *   LANES                 vectors worked on at once
 *   V, VI                 registers of LANES floats, of LANES 32-bit integers
 *   v_load v_store v_set1 v_zero v_add v_sub v_mul v_div v_sqrt v_negate
 *   v_stream v_fence      stores past the cache, to an aligned address, and what orders them
 *   v_transpose(V *)      LANES registers, in place
 *   v_as_int v_as_float   the same bits
 *   v_above_tiny(a, b, c) b where a > TQ_TINY, else c
 *   v_halves(V, uint16_t *) and v_of_halves(const uint16_t *)   float16, to nearest even
 *   v_widen(p, type)      LANES values of a float type; v_narrow(p, v, type) the reverse
 *   tables, load_tables   what quantize_one and level_one look levels up in
 *   quantize_one          the code of one column: adds its bits and its square
 *   level_one             the reverse: centroids of one column
 *   rotated_block         decoding without the rotation, one block at a time
 */
#include <string.h>

#include "blocks.h"
#include "butterflies.h"
#include "tq.h"

/* Words of 32 bits in a code row. */
#define WORDS (TQ_MAX_CODES / 4)

#include "lanes_decode.h"
#include "lanes_encode.h"
