"""A tile of short rows: lane i of every vector is row i, a step of a loop is a class.

Letters as in rows.py. log and exp run down whole tiles, not row by row, and no vector is left
half empty by a row of three classes.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import add_exactly
from crossent.kernels.intrinsics import larger, select
from crossent.kernels.rows import largest, limit

FOLD = 2  # classes summed in their own type and then exactly: each addition costs half an ulp
LEAST = 2.0**-96  # a factor that float32 holds to 30 more bits than its own, with a rest
LINES = 240  # whole vectors, but no power of two: columns of one would crowd a few cache sets

# What formulas read and write for each row of a tile lies in one array, in stretches that begin
# here: were they arrays of their own, the compiler could not tell that they do not overlap.

M, SCORE, REACHED, WEIGHT, OWN_MASS, LOSS, PENALTY, PULL, PUSH, OWN_SLOPE = range(
    0, 10 * LINES, LINES
)
OWN, LOG_REST = range(10 * LINES, 12 * LINES, LINES)
OTHERS, REST, GAP = range(12 * LINES, 15 * LINES, LINES)
TOTAL, LOST = 3 * LINES, 6 * LINES  # beyond a sum: that of all classes before, what rounding lost
LOSS_SUM, LOSS_LOST = 21 * LINES, 23 * LINES  # two each: losses, z-losses
STRETCHES = 25


@device
def take_maxima(tile, count, m, reached):
    """Store the rows' maxima; replace rows that hold +inf by their limit, and mark them."""
    m[:] = -np.inf
    reached[:] = 0.0
    for j in range(tile.shape[0]):
        scores = tile[j]
        for i in range(m.size):
            m[i] = larger(m[i], scores[i])
    if largest(m[:count]) == np.inf:
        for i in range(count):
            if m[i] == np.inf:
                m[i] = limit(tile[:, i])
                reached[i] = np.inf


@device
def load_weights(row_weight, count, weight):
    """Store the weights of the rows, 1 if there are none."""
    if row_weight.size:
        for i in range(count):
            weight[i] = row_weight[i]
    else:
        weight[:] = 1.0


def add(total, lost, x, tile):
    """Return total + x, and lost with what that rounds away; of a float32 tile that is nothing."""
    raise AssertionError("kernels are compiled")


@device_overload(add)
def _add(total, lost, x, tile):
    if tile.dtype == types.float32:
        return lambda total, lost, x, tile: (total + x, lost)
    return lambda total, lost, x, tile: add_exactly(total, lost, x)


@device
def report(count, terms, tile, lanes, losses):
    """Add LOSS, with two terms PENALTY too, to each lane's sums; store the losses."""
    for k in range(0, terms * (PENALTY - LOSS), PENALTY - LOSS):
        for i in range(count):
            total, lost = lanes[LOSS_SUM + k + i], lanes[LOSS_LOST + k + i]
            total, lost = add(total, lost, lanes[LOSS + k + i], tile)
            lanes[LOSS_SUM + k + i], lanes[LOSS_LOST + k + i] = total, lost
    for i in range(losses.size):
        losses[i] = lanes[LOSS + i] + lanes[PENALTY + i]


@device
def add_lanes(count, lanes, sums):
    """Add the lanes' losses to sums[0], z-losses to sums[1], what rounding loses to the others."""
    for i in range(count):
        for k in range(2):
            place = k * (PENALTY - LOSS) + i
            total, lost = lanes[LOSS_SUM + place], lanes[LOSS_LOST + place]
            sums[k], sums[k + 2] = add_exactly(sums[k], sums[k + 2] + lost, total)


@device
def leave_out(weight, tile):
    """Let rows of weight 0 have no gradient, whatever their scores hold: 0 times NaN is NaN."""
    for j in range(tile.shape[0]):
        values = tile[j]
        for i in range(weight.size):
            values[i] = select(weight[i] != 0.0, values[i], tile.dtype.type(0.0))
