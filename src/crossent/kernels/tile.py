"""A tile of short rows: lane i of every vector is row i, a step of a loop is a class.

Letters as in rows.py. log and exp run down whole tiles, not row by row, and no vector is left
half empty by a row of three classes.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import F64, I32, add_exactly, log1p
from crossent.kernels.intrinsics import larger, select
from crossent.kernels.rows import TINY, largest, limit
from crossent.kernels.sums import sum_of, sum_of_logarithms

LEAST = 2.0**-96  # a factor that float32 holds to 30 more bits than its own, with a rest
LINES = 224  # rows of a tile, in whole vectors, of which a loop may take four at a time
FEW_LINES = 32  # where there are no more rows than that
BESIDE = 16  # unused lanes: without them, a tile would crowd every other cache set
ROOM = 256  # what the shares of a tile take, in whole vectors
FEW = 16  # classes, up to which float64 has room for the product of all sums of a tile
SMALL = 2.0**-100  # from here on, what float32 takes from smaller shares does not count beside one

# What formulas read and write for each row of a tile lies in one array, in stretches that begin
# here: were they arrays of their own, the compiler could not tell that they do not overlap.

M, SCORE, REACHED, WEIGHT, OWN_MASS, PULL, PUSH, OWN_SLOPE = range(0, 8 * LINES, LINES)
OWN, LOG_REST = range(8 * LINES, 10 * LINES, LINES)
OTHERS, REST, GAP = range(10 * LINES, 13 * LINES, LINES)
TOTAL, LOST = 3 * LINES, 6 * LINES  # beyond a sum: that of all classes before, what rounding lost
LOSS, PENALTY, LOSS_SUM, LOSS_LOST = (k * LINES for k in (19, 20, 21, 23))  # sums: of both
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
    if holds_infinity(m[:count]):
        for i in range(count):
            if m[i] == np.inf:
                m[i] = limit(tile[:, i])
                reached[i] = np.inf


@device
def holds_infinity(maxima):
    """Return whether one of them is +inf; the greatest of them might pass over it beside NaN."""
    found = I32(0)
    for i in range(maxima.size):
        found = max(found, select(maxima[i] == np.inf, I32(1), I32(0)))
    return found > 0


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
def report_losses(gap, share, others, lower, row_weight, count, tile, lanes, losses):
    """Report losses gap + ln(1 + share), weighed; overwrite both.

    share is others * lower where the gap is 0, rounded.
    """
    if losses.size or row_weight.size or not report_product(gap, share, count, tile, lanes):
        loss = lanes[LOSS : LOSS + gap.size]
        put_losses(gap, share, others, lower, loss)
        weigh_losses(row_weight, loss)
        report(count, 1, tile, lanes, losses)


def report_product(gap, share, count, tile, lanes):
    """Report the sum of losses, by few logarithms of products; return whether that was possible.

    It is for float32, which leaves float64 room for them, unless all shares are too small.
    """
    raise AssertionError("kernels are compiled")


@device_overload(report_product)
def _report_product(gap, share, count, tile, lanes):
    def of_float32(gap, share, count, tile, lanes):
        if largest(share[:count]) < SMALL:
            return False
        total, step = sum_of(gap[:count]), ROOM if tile.shape[0] <= FEW else ROOM // 2
        for start in range(0, count, step):
            rows = min(step, count - start)
            total += sum_of_logarithms(share[start : start + step], rows)
        total = add_exactly(lanes[LOSS_SUM], lanes[LOSS_LOST], total)
        lanes[LOSS_SUM], lanes[LOSS_LOST] = total
        return True

    if tile.dtype == types.float32:
        return of_float32
    return lambda gap, share, count, tile, lanes: False


@device
def put_losses(gap, share, others, lower, loss):
    """Store the losses of a tile; ln(1 + x) = x, where that may not be a normal float32."""
    for i in range(gap.size):
        gap[i] += log1p(share[i])
    for i in range(gap.size):
        rest = others[i] * lower
        loss[i] = select(rest < TINY, rest, F64(gap[i]))


@device
def weigh_losses(row_weight, loss):
    """Multiply losses by weights, if there are any; 0 times what is not finite is 0."""
    for i in range(row_weight.size):
        loss[i] = select(row_weight[i] != 0.0, row_weight[i] * loss[i], 0.0)


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
