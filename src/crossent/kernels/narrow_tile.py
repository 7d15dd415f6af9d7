"""One tile of rows of very few classes, with one right class each. See tile.py.

To find a row's right class, all classes are compared with it, in the loops that there are anyway:
for that few it takes less time than `hard_tile` takes to go from row to row. right holds them in
the scores' type, so that a comparison gets whole vectors.
"""

import numpy as np

from crossent.kernels.compiler import device
from crossent.kernels.elementary import F64, add_exactly, raised_exp, two_sum
from crossent.kernels.intrinsics import fma, larger, magnitude, select
from crossent.kernels.rows import TINY, fetch_share, finish, largest, limit, lowering
from crossent.kernels.tile import (
    FOLD,
    LEAST,
    LINES,
    LOSS,
    PULL,
    PUSH,
    leave_out,
    report,
)

SPACE = 8  # rows of scratch that a tile takes beside its own


@device
def take_scores(tile, right, m, score):
    """Store the rows' maxima and the scores of their right classes."""
    zero = tile.dtype.type(0.0)
    m[:] = -np.inf
    score[:] = 0.0
    for j in range(tile.shape[0]):
        scores, x = tile[j], tile.dtype.type(j)
        for i in range(m.size):
            m[i] = larger(m[i], scores[i])
            score[i] += select(right[i] == x, scores[i], zero)


@device
def take_limits(tile, m):
    """Replace rows that hold +inf by their limit."""
    for i in range(m.size):
        if m[i] == np.inf:
            limit(tile[:, i])


@device
def take_exponentials(tile, right, m, partial, others, lost, own, soon):
    """Replace the tile by exp(tile - m), raised; store the right classes', sum the others'.

    A few are summed as they come, and then exactly.
    """
    classes = tile.shape[0]
    lost[:] = 0.0
    own[:] = 0.0
    take_few(tile, 0, min(FOLD, classes), right, m, others, own, soon)
    for start in range(FOLD, classes, FOLD):
        take_few(tile, start, min(start + FOLD, classes), right, m, partial, own, soon)
        for i in range(m.size):
            others[i], lost[i] = add_exactly(others[i], lost[i], partial[i])


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
            own[i] += select(right[i] == x, e, zero)
            others[i] += select(right[i] == x, zero, e)
            scores[i] = e


@device
def finish_rows(m, score, own, others, lost, lower, loss):
    """Store losses; add to own, exactly, what makes it the sum of all exponentials."""
    near = own.dtype.type(lower)
    for i in range(m.size):
        others[i], lost[i] = two_sum(others[i], lost[i])
        rest, alone = others[i] * near, own[i] * near
        score[i] = finish(m[i] - score[i], rest, alone)
        own[i], lost[i] = add_exactly(rest, lost[i] * near, alone)
    for i in range(m.size):
        rest = others[i] * lower
        loss[i] = select(rest < TINY, rest, F64(score[i]))


@device
def weigh_losses(row_weight, loss):
    """Multiply losses by weights, if there are any; 0 times what is not finite is 0."""
    for i in range(row_weight.size):
        loss[i] = select(row_weight[i] != 0.0, row_weight[i] * loss[i], 0.0)


@device
def take_factors(row_weight, scale, lower, total, lost, factor, rest):
    """Store scale * lower / (total + lost), weighed, as a factor and the rest that it lacks.

    Return whether that is too little for the type that it gets.
    """
    tiny = 0
    if not row_weight.size:
        for i in range(factor.size):
            factor[i], rest[i] = divide(scale * lower, total[i], lost[i], factor)
        return 0.0 < magnitude(scale * lower) < LEAST
    for i in range(row_weight.size):
        pull = row_weight[i] * scale * lower  # the smallest comes last
        factor[i], rest[i] = divide(pull, total[i], lost[i], factor)
        tiny += 0.0 < magnitude(pull) < LEAST
    return tiny > 0


@device
def divide(a, total, lost, like):
    """Return a / (total + lost) in the type of an array, and what it lacks of that."""
    kind = like.dtype.type
    near, total = kind(a), kind(total)
    quotient = near / total
    lacking = fma(-quotient, kind(lost), fma(-quotient, total, near)) + kind(a - near)
    return quotient, select(lacking == lacking, lacking / total, kind(0.0))  # inf - inf: nothing


@device
def put_slopes(tile, right, others, factor, rest):
    """Replace exponentials by the gradient: times factor + rest, those of right classes too."""
    zero = tile.dtype.type(0.0)
    for j in range(tile.shape[0]):
        slopes, x = tile[j], tile.dtype.type(j)
        for i in range(others.size):
            slope = select(right[i] == x, zero - others[i], slopes[i])
            slopes[i] = fma(type(factor[i])(slope), factor[i], slope * rest[i])


def narrow_tile(
    tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon
):
    """Report the losses of a tile of scores; turn it into their gradient if that is wanted."""
    right, m, score, others, own = space[0], space[1], space[2], space[3], space[4]
    lost, factor, rest = space[5], space[6], space[7]
    loss, lower = lanes[LOSS : LOSS + LINES], lowering(tile)
    for i in range(count):
        right[i] = targets[i]
    take_scores(tile, right, m, score)
    if largest(m[:count]) == np.inf:
        take_limits(tile, m)
        take_scores(tile, right, m, score)
    take_exponentials(tile, right, m, factor, others, lost, own, soon)
    finish_rows(m, score, own, others, lost, lower, loss)
    weigh_losses(row_weight, loss)
    report(count, 1, tile, lanes, losses)
    if gradient.size:
        if take_factors(row_weight, scale, lower, own, lost, factor, rest):
            wide, more = lanes[PULL : PULL + LINES], lanes[PUSH : PUSH + LINES]
            take_factors(row_weight, scale, lower, own, lost, wide, more)
            put_slopes(tile, right, others, wide, more)
        else:
            put_slopes(tile, right, others, factor, rest)
        leave_out(row_weight, tile)
