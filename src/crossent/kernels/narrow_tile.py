"""One tile of rows of very few classes, with one right class each. See tile.py.

To find a row's right class, all classes are compared with it, in the loops that there are anyway:
for that few it takes less time than `hard_tile` takes to go from row to row. right holds them in
the scores' type, so that a comparison gets whole vectors.
"""

import numpy as np

from crossent.kernels.compiler import device
from crossent.kernels.elementary import F64, raised_exp
from crossent.kernels.hard_tile import take_near, weigh_tile
from crossent.kernels.intrinsics import select
from crossent.kernels.rows import TINY, fetch_share, finish, largest, limit, lowering
from crossent.kernels.tile import (
    FOLD,
    LINES,
    LOSS,
    OTHERS,
    PULL,
    leave_out,
    report,
)

SPACE = 6  # rows of scratch that a tile takes beside its own


@device
def take_scores(tile, right, m, score):
    """Store the rows' maxima and the scores of their right classes."""
    m[:] = -np.inf
    for j in range(tile.shape[0]):
        scores, x = tile[j], tile.dtype.type(j)
        for i in range(m.size):
            m[i] = select(scores[i] > m[i], scores[i], m[i])
            score[i] = select(right[i] == x, scores[i], score[i])


@device
def take_limits(tile, m):
    """Replace rows that hold +inf by their limit."""
    for i in range(m.size):
        if m[i] == np.inf:
            limit(tile[:, i])


@device
def take_exponentials(tile, right, m, partial, others, own, soon):
    """Replace the tile by exp(tile - m), raised; store the right classes', sum the others'."""
    classes = tile.shape[0]
    take_few(tile, 0, min(FOLD, classes), right, m, others, own, soon)
    for start in range(FOLD, classes, FOLD):
        take_few(tile, start, min(start + FOLD, classes), right, m, partial, own, soon)
        for i in range(m.size):
            others[i] += partial[i]


@device
def take_few(tile, start, stop, right, m, others, own, soon):
    """Do so for some classes."""
    zero = tile.dtype.type(0.0)
    others[:] = 0.0
    for j in range(start, stop):
        scores, x = tile[j], tile.dtype.type(j)
        fetch_share(soon, j * LINES)
        for i in range(m.size):
            e = raised_exp(scores[i], m[i])
            own[i] = select(right[i] == x, e, own[i])
            others[i] += select(right[i] == x, zero, e)
            scores[i] = e


@device
def finish_rows(m, score, own, raised, lower, others, loss, total):
    """Store losses, the others' sums and those of all exponentials, in a loop for each type."""
    near = own.dtype.type(lower)
    for i in range(m.size):
        own[i] *= near
        score[i] = finish(m[i] - score[i], raised[i] * near, own[i])
    for i in range(m.size):
        others[i] = raised[i] * lower
        total[i] = others[i] + own[i]
        loss[i] = select(others[i] < TINY, others[i], F64(score[i]))


@device
def put_slopes(tile, right, others, factor, lower):
    """Replace exponentials by the gradient: lowered, times factor, those of right classes too."""
    zero = tile.dtype.type(0.0)
    for j in range(tile.shape[0]):
        slopes, x = tile[j], tile.dtype.type(j)
        for i in range(others.size):
            slope = select(right[i] == x, zero - others[i], slopes[i])
            slopes[i] = slope * (factor[i] * lower)


def narrow_tile(
    tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon
):
    """Report the losses of a tile of scores; turn it into their gradient if that is wanted."""
    right, m, score, raised, own, near = space[0], space[1], space[2], space[3], space[4], space[5]
    others, factor = lanes[OTHERS : OTHERS + LINES], lanes[PULL : PULL + LINES]
    lower = lowering(tile)
    for i in range(count):
        right[i] = targets[i]
    take_scores(tile, right, m, score)
    if largest(m[:count]) == np.inf:
        take_limits(tile, m)
        take_scores(tile, right, m, score)
    take_exponentials(tile, right, m, near, raised, own, soon)
    finish_rows(m, score, own, raised, lower, others, lanes[LOSS : LOSS + LINES], factor)
    weigh_tile(row_weight, count, scale, lanes)
    report(count, 1, tile, lanes, losses)
    if gradient.size:
        if take_near(factor, lower, near, count):
            put_slopes(tile, right, raised, factor, lower)
        else:
            put_slopes(tile, right, raised, near, tile.dtype.type(1.0))
        leave_out(row_weight, tile)
