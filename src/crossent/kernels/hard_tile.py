"""One tile of rows with one right class each, and no option that spreads it. See tile.py."""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import F32, F64, I32, U64, exp_of_difference, raised_exp_of_scaled
from crossent.kernels.intrinsics import bits, fma, from_bits, magnitude, select
from crossent.kernels.rows import fetch_share, lowering, rest_of_total
from crossent.kernels.subnormal import MOST, RAISE, at_least_normal, lowered, may_be_subnormal
from crossent.kernels.tile import (
    LEAST,
    LINES,
    OTHERS,
    PULL,
    add,
    leave_out,
    report_losses,
    take_maxima,
)


@device
def take_targets(targets, tile, score):
    """Take the targets' scores out of the tile."""
    for i in range(targets.size):
        x, lane = U64(targets[i]), U64(i)  # unsigned: nothing to add to a negative index
        score[i] = tile[x, lane]
        tile[x, lane] = -np.inf


@device
def exponentiate_tile(tile, m, sharpness, partial, others, lost, soon):
    """Replace the tile by exp(sharpness (tile - m)), raised; sum over the classes.

    Two at a time, which costs half an ulp, and then exactly.
    """
    others[:] = 0.0
    lost[:] = 0.0
    odd = tile.shape[0] % 2
    if odd:
        fetch_share(soon, 0, LINES)
        exponentiate_one(tile[0], m, sharpness, others)
    for j in range(odd, tile.shape[0], 2):
        fetch_share(soon, j * LINES, LINES)
        fetch_share(soon, (j + 1) * LINES, LINES)
        exponentiate_two(tile[j], tile[j + 1], m, sharpness, partial)
        for i in range(others.size):
            others[i], lost[i] = add(others[i], lost[i], partial[i], tile)
    take_sums(others, lost, lowering(tile))


@device
def exponentiate_one(scores, m, sharpness, total):
    """Do so for one class."""
    for i in range(total.size):
        e = raised_exp_of_scaled(scores[i], m[i], sharpness)
        scores[i] = e
        total[i] = e


@device
def exponentiate_two(scores, more, m, sharpness, total):
    """Do so for two, in one loop: constants that registers lack room for serve two vectors."""
    for i in range(total.size):
        e = raised_exp_of_scaled(scores[i], m[i], sharpness)
        f = raised_exp_of_scaled(more[i], m[i], sharpness)
        scores[i], more[i] = e, f
        total[i] = e + f


@device
def take_sums(others, lost, lower):
    """Put together what was added up, and undo the raising of exponentials."""
    for i in range(others.size):
        others[i] = (others[i] + lost[i]) * lower


def own_exp(score, m):
    """Return exp(score - m), or the least normal number: it only counts beside 1."""
    raise AssertionError("kernels are compiled")


@device_overload(own_exp)
def _own_exp(score, m):
    if score == types.float64:
        return lambda score, m: exp_of_difference(score, m)
    least, lower = I32((1 + 64) << 23), F32(2.0**-64)

    def of_float32(score, m):
        raised = magnitude(raised_exp_of_scaled(score, m, None))  # NaN may have a sign
        return from_bits(max(bits(raised), least)) * lower

    return of_float32


@device
def finish_tile(m, score, own, narrow, others, total, share):
    """Store the sum of exponentials of every row; turn scores into gaps, and store shares.

    In loops of few steps, each for one type: float32 beside float64 gets half vectors.
    """
    for i in range(own.size):
        own[i] = own_exp(score[i], m[i])
    for i in range(own.size):
        total[i], narrow[i] = others[i] + own[i], at_least_normal(others[i])
    for i in range(own.size):
        score[i] = m[i] - score[i]
        share[i] = rest_of_total(score[i], narrow[i], own[i])


@device
def take_factors(row_weight, count, scale, total):
    """Turn sums of exponentials into what these are multiplied by.

    Return how many rows 0 times their exponentials is not 0 for: those of weight 0 with NaN.
    """
    spoilt = 0
    if not row_weight.size:  # all are 1
        for i in range(count):
            total[i] = scale / total[i]
    for i in range(row_weight.size):
        weight = row_weight[i]
        spoilt += (weight == 0.0) & (total[i] != total[i])
        total[i] = select(weight != 0.0, weight * scale / total[i], 0.0)
    return spoilt


@device
def put_targets(targets, others, factor, slope, tile):
    """Put the gradient in the targets' scores, -others * factor, into the tile."""
    for i in range(slope.size):
        slope[i] = 0.0 - others[i] * factor[i]  # not -0.0
    for i in range(targets.size):
        tile[U64(targets[i]), U64(i)] = slope[i]


@device
def take_near(factor, lower, near, rest, count):
    """Store factor * lower in the tile's type, and what that rounds away.

    Return how many are too small for it.
    """
    tiny = 0
    for i in range(count):
        exact = factor[i] * lower
        near[i] = exact
        rest[i] = select(magnitude(near[i]) < np.inf, exact - near[i], 0.0)
        tiny += 0.0 < magnitude(exact) < LEAST
    return tiny


def times(value, near, rest):
    """Return value * (near + rest), where a float64 near lacks nothing."""
    raise AssertionError("kernels are compiled")


@device_overload(times)
def _times(value, near, rest):
    if value == types.float64:
        return lambda value, near, rest: value * near
    return lambda value, near, rest: fma(value, near, value * rest)


@device
def scale_tile(tile, factor, near, rest, count):
    """Multiply by factor; where it is too small for the tile's type, in float64."""
    lower = lowering(tile)
    if take_near(factor, lower, near, rest, count):
        for j in range(tile.shape[0]):
            values = tile[j]
            for i in range(near.size):
                values[i] = values[i] * (factor[i] * lower)
    elif any_may_be_subnormal(tile, near, count):
        for i in range(count):
            near[i], rest[i] = near[i] * RAISE, rest[i] * RAISE
        for j in range(tile.shape[0]):
            values = tile[j]
            for i in range(near.size):
                values[i] = lowered(F32(times(values[i], near[i], rest[i])))
    else:
        for j in range(tile.shape[0]):
            values = tile[j]
            for i in range(near.size):
                values[i] = times(values[i], near[i], rest[i])


@device
def any_may_be_subnormal(tile, near, count):
    """Return whether a number in the tile times a factor may be, and all factors can be raised."""
    least, most = np.inf, 0.0
    for i in range(count):
        size = F64(magnitude(near[i]))
        least, most = min(least, select(size > 0.0, size, np.inf)), max(most, size)
    if not most < MOST:
        return False
    for j in range(tile.shape[0]):
        if may_be_subnormal(tile[j][:count], least):
            return True
    return False


def hard_tile(
    tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon
):
    """Report the losses of a tile of scores; turn it into their gradient if that is wanted."""
    near, share = space
    m, score, partial, narrow = near[0], near[1], near[2], near[3]
    others, factor = lanes[OTHERS : OTHERS + m.size], lanes[PULL : PULL + m.size]
    take_maxima(tile, count, m, partial)
    take_targets(targets, tile, score)
    exponentiate_tile(tile, m, None, partial, others, factor, soon)
    finish_tile(m, score, partial, narrow, others, factor, share)
    report_losses(score, share, others, 1.0, row_weight, count, tile, lanes, losses)
    if gradient.size:
        spoilt = take_factors(row_weight, count, scale, factor)
        scale_tile(tile, factor, partial, narrow, count)
        put_targets(targets, others, factor, score, tile)
        if spoilt:
            leave_out(row_weight, tile)
