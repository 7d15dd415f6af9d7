"""One tile of rows with target masses and every option, as in mass_row.py. See tile.py."""

from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import F64, add_exactly, exp_of_scaled
from crossent.kernels.intrinsics import select
from crossent.kernels.mass_row import cap, finish_masses
from crossent.kernels.rows import fetch_share
from crossent.kernels.tile import (
    GAP,
    LINES,
    LOSS,
    LOSS_SUM,
    LOST,
    OTHERS,
    OWN_MASS,
    OWN_SLOPE,
    PENALTY,
    PULL,
    PUSH,
    REACHED,
    REST,
    SCORE,
    TOTAL,
    WEIGHT,
    M,
    leave_out,
    load_weights,
    report,
    take_maxima,
)

WIDE_FOLD = 8  # float64: classes whose sum is then added exactly


def cap_tile(tile, softcap, capped, slope):
    """Return the scores: capped, their derivative in slope, or as they are if softcap is None."""
    raise AssertionError("kernels are compiled")


@device_overload(cap_tile)
def _cap_tile(tile, softcap, capped, slope):
    def bounded(tile, softcap, capped, slope):
        for j in range(tile.shape[0]):
            cap(tile[j], softcap, capped[j], slope[j])
        return capped

    if isinstance(softcap, types.NoneType):
        return lambda tile, softcap, capped, slope: tile
    return bounded


def take_excluded(targets, scores, m, winners, excluded):
    """Store every row's class to sum apart: the target, or for masses the first winner."""
    raise AssertionError("kernels are compiled")


@device_overload(take_excluded)
def _take_excluded(targets, scores, m, winners, excluded):
    def given(targets, scores, m, winners, excluded):
        for i in range(targets.size):
            excluded[i] = targets[i]

    def first(targets, scores, m, winners, excluded):
        last = scores.shape[0] - 1
        winners[:] = last  # where none is the winner: in a row with NaN
        for k in range(scores.shape[0]):
            row, number = scores[last - k], winners.dtype.type(last - k)
            for i in range(winners.size):
                winners[i] = select(row[i] == m[i], number, winners[i])
        for i in range(winners.size):
            excluded[i] = winners[i]

    return given if targets.ndim == 1 else first


def mass_of(targets, i, j, gain, base):
    """Return row i's mass of class j, gain * c + base; an index does not count its target here."""
    raise AssertionError("kernels are compiled")


@device_overload(mass_of)
def _mass_of(targets, i, j, gain, base):
    if targets.ndim == 1:
        return lambda targets, i, j, gain, base: base
    return lambda targets, i, j, gain, base: gain * F64(targets[j, i]) + base


def own_mass_of(targets, i, j, gain, base):
    """Return row i's mass of class j, the one summed apart."""
    raise AssertionError("kernels are compiled")


@device_overload(own_mass_of)
def _own_mass_of(targets, i, j, gain, base):
    if targets.ndim == 1:
        return lambda targets, i, j, gain, base: gain + base
    return lambda targets, i, j, gain, base: mass_of(targets, i, j, gain, base)


@device
def add_up_tile(scores, targets, gain, base, spread, sharpness, excluded, like, work, lanes, soon):
    """Store exponentials in work; add up OTHERS, REST and GAP over all but the excluded class."""
    lanes[OTHERS:LOSS_SUM] = 0.0
    for j in range(scores.shape[0]):
        fetch_share(soon, j * LINES)
        add_others(scores[j], sharpness, j, excluded, like, work[j], lanes)
        if spread:
            add_masses(scores[j], targets, j, gain[j], base[j], excluded, lanes)
        if like.itemsize == 8 and j % WIDE_FOLD == WIDE_FOLD - 1:
            put_by(lanes)
    if like.itemsize == 8:
        put_by(lanes)
        for k in range(OTHERS, OTHERS + TOTAL):
            lanes[k] = lanes[k + TOTAL] + lanes[k + LOST]


@device
def put_by(lanes):
    """Add the sums of a few classes to those of all before them, exactly."""
    for k in range(OTHERS, OTHERS + TOTAL):
        total, lost = add_exactly(lanes[k + TOTAL], lanes[k + LOST], lanes[k])
        lanes[k + TOTAL], lanes[k + LOST], lanes[k] = total, lost, 0.0


@device
def add_others(scores, sharpness, j, excluded, like, work, lanes):
    """Store the exponentials of class j, and add them where it is not the excluded class."""
    for i in range(work.size):
        e = exp_of_scaled(scores[i], lanes[M + i], sharpness, like)
        work[i] = e
        lanes[OTHERS + i] += select(excluded[i] == j, 0.0, e)


@device
def add_masses(scores, targets, j, gain, base, excluded, lanes):
    """Add the masses t of class j and t (m - s), where it is not the excluded class."""
    for i in range(excluded.size):
        t = select(excluded[i] == j, 0.0, mass_of(targets, i, j, gain, base))
        lanes[REST + i] += t
        cost = t * (lanes[M + i] - F64(scores[i]))
        lanes[GAP + i] += select(t != 0.0, cost, 0.0)  # 0 * inf = 0


@device
def finish_mass_tile(count, sharpness, z_loss, scale, like, lanes):
    """Turn sums into losses and z-losses, and the factors PULL of p, PUSH of t, OWN_SLOPE.

    Return how many rows have no gradient.
    """
    without = 0
    for i in range(count):
        m, score, own_mass = lanes[M + i], lanes[SCORE + i], lanes[OWN_MASS + i]
        others, rest, gap = lanes[OTHERS + i], lanes[REST + i], lanes[GAP + i]
        own = exp_of_scaled(score, m, sharpness, like)
        loss, penalty, pull, slope = finish_masses(
            sharpness * (m - score),
            own_mass,
            others,
            own,
            rest,
            sharpness * gap,
            sharpness * m,
            z_loss,
        )
        learns = select(rest + own_mass == 0.0, z_loss != 0.0, True)  # whatever the scores hold
        w = select(learns, lanes[WEIGHT + i], 0.0)
        penalty = select(z_loss != 0.0, penalty + lanes[REACHED + i], 0.0)
        lanes[LOSS + i] = select(w != 0.0, w * loss, 0.0)
        lanes[PENALTY + i] = select(w != 0.0, w * penalty, 0.0)
        b = w * scale * sharpness
        lanes[PULL + i] = pull * b
        lanes[PUSH + i] = b
        lanes[OWN_SLOPE + i] = slope * b
        lanes[WEIGHT + i] = w
        without += w == 0.0
    return without


@device
def write_gradient(work, targets, j, gain, base, slope, lanes, out):
    """Store PULL * work - PUSH * mass for class j, times the derivative of a softcap."""
    for i in range(out.size):
        mass = mass_of(targets, i, j, gain, base)
        value = lanes[PULL + i] * work[i] - lanes[PUSH + i] * mass
        out[i] = value * derivative(slope, i, j)


def derivative(slope, i, j):
    """Return the derivative of a softcap at row i's class j, 1 if there is none."""
    raise AssertionError("kernels are compiled")


@device_overload(derivative)
def _derivative(slope, i, j):
    if isinstance(slope, types.NoneType):
        return lambda slope, i, j: 1.0
    return lambda slope, i, j: slope[j, i]


def mass_tile(
    tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon
):
    """Report the losses of a tile of scores; turn it into their gradient if that is wanted."""
    gain, base, z_loss, softcap, sharpness = options
    near, work, excluded, capped, slope = space
    m, winners, weight = near[0], near[1], lanes[WEIGHT : WEIGHT + LINES]
    scores = cap_tile(tile, softcap, capped, slope)
    take_maxima(scores, count, m, lanes[REACHED : REACHED + LINES])
    load_weights(row_weight, count, weight)
    take_excluded(targets, scores, m, winners, excluded)
    for i in range(LINES):
        lanes[M + i] = m[i]
    for i in range(count):
        x = excluded[i]
        lanes[SCORE + i] = scores[x, i]
        lanes[OWN_MASS + i] = own_mass_of(targets, i, x, gain[x], base[x])
    spread = targets.ndim == 2 or base.any()  # else only the excluded class has mass
    add_up_tile(scores, targets, gain, base, spread, sharpness, excluded, tile, work, lanes, soon)
    without = finish_mass_tile(count, sharpness, z_loss, scale, tile, lanes)
    report(count, 2, lanes, losses)
    if gradient.size:
        for j in range(tile.shape[0]):
            write_gradient(work[j], targets, j, gain[j], base[j], slope, lanes, tile[j])
        for i in range(count):
            tile[excluded[i], i] = lanes[OWN_SLOPE + i] * derivative(slope, i, excluded[i])
        if without:
            leave_out(weight, tile)
