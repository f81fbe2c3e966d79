/* Encoders and decoders that work on one vector at a time, sixteen values (or paths) at once.
 *
 * An instruction set defines, before it includes this file, W (16 floats) and I (16 int32 with
 * the same lanes) and on them:
 *
 *   w_load w_store w_set1 w_zero w_add w_sub w_mul; i_load i_store i_set1 i_add i_and i_or
 *   i_least(a, b)         the lesser, lane by lane; i_left, i_right: shifts
 *   w_widen, w_narrow     16 values of a float type
 *   w_halves(a, b)        a in the lower eight lanes, b in the upper; i_lanes(): 0, 1 ... 15
 *   w_butterfly(v, s)     a + b and a - b of lanes that lie s apart
 *   w_fold(v)             the sum of all lanes: halves are added, then their halves ...
 *   w_key(cost, slot)     the bits of the cost with the lowest four replaced
 *   w_count(v, levels, n) how many of n levels each lane reaches
 *   w_look_up(levels, i)  levels[i] of up to 16
 *   w_load_table, w_window_value       the trellis table
 *   w_predecessors(from, bits, to)     by branch, the state from which it leads into each state
 *   w_inherit(from, state, bits)       from[state], of one or (2 bits) two registers
 *   w_pick, i_pick, i_sort_halves, i_reverse_halves    within halves of eight lanes
 *   w_unpack(codes, bits, count, table, out)           values of a block in 1/32, in rows
 *
 * and WIDE_INLINE and WIDE_UNROLL: TQ_INLINE and TQ_UNROLL, or what keeps the code small where
 * nothing is gained by constants. */
#include <float.h>
#include <math.h>

#include "blocks.h"
#include "half.h"
#include "trellis.h"

#include "wide_group.h"

#include "wide_trellis.h"

#include "wide_beams.h"
#include "wide_decode.h"
