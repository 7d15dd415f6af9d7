"""One tile of rows with one right class each, and no option that spreads it. See tile.py."""

import numpy as np

from crossent.kernels.compiler import device
from crossent.kernels.elementary import F64, add_exactly, exp_of_scaled, raised_exp
from crossent.kernels.intrinsics import magnitude, select
from crossent.kernels.rows import TINY, fetch_share, finish, lowering
from crossent.kernels.tile import (
    LINES,
    LOSS,
    OTHERS,
    PULL,
    WEIGHT,
    leave_out,
    load_weights,
    report,
    take_maxima,
)

FOLD = 4  # classes whose partial sum is then folded into float64: each addition costs half an ulp


@device
def take_targets(targets, tile, score):
    """Take the targets' scores out of the tile."""
    for i in range(targets.size):
        score[i] = tile[targets[i], i]
        tile[targets[i], i] = -np.inf


@device
def exponentiate_tile(tile, m, partial, others, lost, soon):
    """Replace the tile by exp(tile - m), raised; sum over the classes, a few and then exactly."""
    others[:] = 0.0
    lost[:] = 0.0
    for start in range(0, tile.shape[0], FOLD):
        partial[:] = 0.0
        for j in range(start, min(start + FOLD, tile.shape[0])):
            scores = tile[j]
            fetch_share(soon, j * LINES)
            for i in range(partial.size):
                e = raised_exp(scores[i], m[i])
                scores[i] = e
                partial[i] += e
        for i in range(others.size):
            others[i], lost[i] = add_exactly(others[i], lost[i], F64(partial[i]))
    for i in range(others.size):
        others[i] = (others[i] + lost[i]) * lowering(tile)


@device
def finish_tile(m, score, others, loss, total):
    """Store the loss and the sum of exponentials of every row."""
    for i in range(loss.size):
        own = exp_of_scaled(score[i], F64(m[i]), 1.0, score)
        loss[i] = finish(F64(m[i]) - F64(score[i]), others[i], own)
        total[i] = others[i] + own


@device
def weigh_tile(count, scale, lanes):
    """Weigh the losses; turn sums of exponentials into what these are multiplied by.

    Return how many rows 0 times their exponentials is not 0 for: those of weight 0 with NaN.
    """
    spoilt = 0
    for i in range(count):
        weight, total = lanes[WEIGHT + i], lanes[PULL + i]
        spoilt += (weight == 0.0) & (total != total)
        lanes[LOSS + i] = select(weight != 0.0, weight * lanes[LOSS + i], 0.0)
        lanes[PULL + i] = select(weight != 0.0, weight * scale / total, 0.0)
    return spoilt


@device
def scale_tile(tile, factor, near, count):
    """Multiply by factor; where it is too small for the tile's type, in float64."""
    tiny, lower = 0, lowering(tile)
    for i in range(count):
        near[i] = factor[i] * lower
        tiny += 0.0 < magnitude(factor[i]) * lower < TINY
    if tiny:
        multiply(tile, factor, lower)
    else:
        multiply(tile, near, tile.dtype.type(1.0))


@device
def multiply(tile, factor, lower):
    """Multiply every row by its factor and by lower."""
    for j in range(tile.shape[0]):
        values = tile[j]
        for i in range(values.size):
            values[i] = values[i] * (factor[i] * lower)


def hard_tile(
    tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon
):
    """Report the losses of a tile of scores; turn it into their gradient if that is wanted."""
    m, score, partial = space[0], space[1], space[2]
    weight, others = lanes[WEIGHT : WEIGHT + LINES], lanes[OTHERS : OTHERS + LINES]
    loss, factor = lanes[LOSS : LOSS + LINES], lanes[PULL : PULL + LINES]
    take_maxima(tile, count, m, partial)
    take_targets(targets, tile, score)
    load_weights(row_weight, count, weight)
    exponentiate_tile(tile, m, partial, others, factor, soon)
    finish_tile(m, score, others, loss, factor)
    spoilt = weigh_tile(count, scale, lanes)
    report(count, 1, lanes, losses)
    if gradient.size:
        scale_tile(tile, factor, partial, count)
        for i in range(count):
            own = -lanes[OTHERS + i] * lanes[PULL + i]
            tile[targets[i], i] = select(weight[i] != 0.0, own, 0.0)  # not -0.0
        if spoilt:
            leave_out(weight, tile)
