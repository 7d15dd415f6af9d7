"""One tile of rows of very few classes, with one right class each. See tile.py.

To find a row's right class, all classes are compared with it, in the loops that there are anyway:
for that few it takes less time than `hard_tile` takes to go from row to row. right holds them in
the scores' type, so that a comparison gets whole vectors.
"""

import numpy as np

from crossent.kernels.compiler import device
from crossent.kernels.elementary import I32, add_exactly, raised_exp, raised_exp_of_gap, two_sum
from crossent.kernels.intrinsics import fma, larger, magnitude, select
from crossent.kernels.rows import fetch_share, limit, lowering, rest_of_total
from crossent.kernels.tile import (
    LEAST,
    LINES,
    PULL,
    PUSH,
    holds_infinity,
    leave_out,
    report_losses,
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
def take_exponentials(tile, right, m, others, lost, own, soon):
    """Replace the tile by exp(tile - m), raised; store the right classes' and sum the others'.

    Two at a time, which costs half an ulp, and then exactly.
    """
    others[:] = 0.0
    lost[:] = 0.0
    own[:] = 0.0
    odd = tile.shape[0] % 2
    if odd:
        fetch_share(soon, 0, LINES)
        take_one(tile[0], right, m, others, own)
    for j in range(odd, tile.shape[0], 2):
        fetch_share(soon, j * LINES, LINES)
        fetch_share(soon, (j + 1) * LINES, LINES)
        take_two(tile[j], tile[j + 1], j, right, m, others, lost, own)


@device
def take_one(scores, right, m, others, own):
    """Do so for the first class."""
    zero = scores.dtype.type(0.0)
    for i in range(others.size):
        e = raised_exp(scores[i], m[i])
        hit = right[i] == zero
        own[i], others[i] = select(hit, e, zero), select(hit, zero, e)
        scores[i] = e


@device
def take_two(scores, more, j, right, m, others, lost, own):
    """Do so for classes j and j + 1."""
    zero, x, y = scores.dtype.type(0.0), scores.dtype.type(j), scores.dtype.type(j + 1)
    for i in range(others.size):
        e, f = raised_exp(scores[i], m[i]), raised_exp(more[i], m[i])
        first, second = right[i] == x, right[i] == y
        own[i] = select(first, e, select(second, f, own[i]))
        partial = select(first, zero, e) + select(second, zero, f)
        others[i], lost[i] = add_exactly(others[i], lost[i], partial)
        scores[i], more[i] = e, f


@device
def take_classes(tile, right, count, m, others, lost, own, gap, soon):
    """Do so for all classes; store gaps between the maxima and the scores of right classes, too."""
    take_scores(tile, right, m, gap)
    if holds_infinity(m[:count]):
        take_limits(tile, m)
        take_scores(tile, right, m, gap)
    take_exponentials(tile, right, m, others, lost, own, soon)
    for i in range(m.size):
        gap[i] = m[i] - gap[i]


@device
def take_pairs(tile, right, raised, others, lost, own, gap, soon):
    """Do so for two classes alone, with one exponential, of their difference; raised is that of 0.

    Store gaps between the maxima and the scores of right classes, too.
    """
    zero, one = tile.dtype.type(0.0), tile.dtype.type(raised)
    scores, more = tile[0], tile[1]
    fetch_share(soon, 0, LINES)
    fetch_share(soon, LINES, LINES)
    for i in range(gap.size):
        first = right[i] == zero
        other, mine = select(first, more[i], scores[i]), select(first, scores[i], more[i])
        e, above = raised_exp_of_gap(other, mine)
        up = above >= zero
        others[i], own[i] = select(up, one, e), select(up, e, one)
        gap[i], lost[i] = select(up, above, zero), zero
        scores[i] = more[i] = others[i]


@device
def finish_rows(gap, own, others, lost, lower, share):
    """Store the shares that losses take logarithms of; turn own, exactly, into sums of all."""
    near = own.dtype.type(lower)
    for i in range(gap.size):
        others[i], lost[i] = two_sum(others[i], lost[i])
        rest, alone = others[i] * near, own[i] * near
        share[i] = rest_of_total(gap[i], rest, alone)
        own[i], lost[i] = add_exactly(rest, lost[i] * near, alone)


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
    near, share = space
    right, m, gap, others, own = near[0], near[1], near[2], near[3], near[4]
    lost, factor, rest, lower = near[5], near[6], near[7], lowering(tile)
    for i in range(count):
        right[i] = I32(targets[i])  # of integers of 64 bits no vector is turned into floats
    if tile.shape[0] == 2:
        take_pairs(tile, right, 1.0 / lower, others, lost, own, gap, soon)
    else:
        take_classes(tile, right, count, m, others, lost, own, gap, soon)
    finish_rows(gap, own, others, lost, lower, share)
    report_losses(gap, share, others, lower, row_weight, count, tile, lanes, losses)
    if gradient.size:
        if take_factors(row_weight, scale, lower, own, lost, factor, rest):
            wide, more = lanes[PULL : PULL + m.size], lanes[PUSH : PUSH + m.size]
            take_factors(row_weight, scale, lower, own, lost, wide, more)
            put_slopes(tile, right, others, wide, more)
        else:
            put_slopes(tile, right, others, factor, rest)
        leave_out(row_weight, tile)
