"""One tile of rows with target masses and every option, as in mass_row.py. See tile.py."""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import F64, U64, add_exactly, exp_of_scaled
from crossent.kernels.hard_tile import exponentiate_tile, scale_tile
from crossent.kernels.intrinsics import fma, select
from crossent.kernels.mass_row import cap
from crossent.kernels.rows import fetch_share, finish_masses, largest, log_of_rest
from crossent.kernels.tile import (
    GAP,
    LINES,
    LOG_REST,
    LOSS,
    LOST,
    OTHERS,
    OWN,
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

FOLD = 2  # classes summed in their own type and then exactly: each addition costs half an ulp
SMALLER = 0.125  # what differences of scores are multiplied by, so that FOLD add up to a float32
WIDE_FOLD = 8  # float64: sums that are made before they are added exactly


def cap_tile(tile, softcap, size, capped, slope):
    """Return the scores: capped, their derivative in slope, or as they are if softcap is None."""
    raise AssertionError("kernels are compiled")


@device_overload(cap_tile)
def _cap_tile(tile, softcap, size, capped, slope):
    def bounded(tile, softcap, size, capped, slope):
        for j in range(tile.shape[0]):
            cap(tile[j, :size], softcap, capped[j], slope[j])
        return capped

    if isinstance(softcap, types.NoneType):
        return lambda tile, softcap, size, capped, slope: tile
    return bounded


def take_excluded(targets, scores, m, winners, excluded):
    """Store every row's class to sum apart: the target, or for masses the first winner."""
    raise AssertionError("kernels are compiled")


@device_overload(take_excluded)
def _take_excluded(targets, scores, m, winners, excluded):
    def given(targets, scores, m, winners, excluded):
        for i in range(targets.size):
            excluded[i] = U64(targets[i])  # unsigned: nothing to add to a negative index

    def first(targets, scores, m, winners, excluded):
        # Upwards: going down, the compiler cannot tell that rows and winners do not overlap.
        last = winners.dtype.type(scores.shape[0] - 1)
        winners[:] = last  # where none is the winner: in a row with NaN
        for j in range(scores.shape[0]):
            row, number = scores[j], winners.dtype.type(j)
            for i in range(winners.size):
                found = select(row[i] == m[i], number, last)
                winners[i] = select(found < winners[i], found, winners[i])
        for i in range(winners.size):
            excluded[i] = U64(winners[i])

    return given if targets.ndim == 1 else first


def entry(gain, j):
    """Return the gain of class j, None if there is none."""
    raise AssertionError("kernels are compiled")


@device_overload(entry)
def _entry(gain, j):
    if isinstance(gain, types.NoneType):
        return lambda gain, j: None
    return lambda gain, j: gain[j]


def mass_of(targets, i, j, gain, base):
    """Return row i's mass of class j, gain * c + base; an index does not count its target here."""
    raise AssertionError("kernels are compiled")


@device_overload(mass_of)
def _mass_of(targets, i, j, gain, base):
    if targets.ndim == 1:
        return lambda targets, i, j, gain, base: base
    if isinstance(gain, types.NoneType):
        return lambda targets, i, j, gain, base: F64(targets[j, i])
    return lambda targets, i, j, gain, base: gain * F64(targets[j, i]) + base


def own_mass_of(targets, i, x, gain, base):
    """Return row i's mass of class x, the one summed apart."""
    raise AssertionError("kernels are compiled")


@device_overload(own_mass_of)
def _own_mass_of(targets, i, x, gain, base):
    if isinstance(base, types.NoneType):
        return lambda targets, i, x, gain, base: gain[x]
    if targets.ndim == 1:
        return lambda targets, i, x, gain, base: gain[x] + base[x]
    return lambda targets, i, x, gain, base: mass_of(targets, i, x, entry(gain, x), base[x])


@device
def look_at_excluded(scores, m, targets, gain, base, excluded, count, lanes):
    """Store the rows' maxima, and the scores and masses of their excluded classes."""
    for i in range(m.size):
        lanes[M + i] = m[i]
    for i in range(count):
        x = excluded[i]
        lanes[SCORE + i] = scores[x, U64(i)]
        lanes[OWN_MASS + i] = own_mass_of(targets, i, x, gain, base)


def add_masses(scores, m, targets, gain, base, excluded, spare, lanes):
    """Add up REST, the masses t of all but the excluded class, and GAP, their t (m - s)."""
    raise AssertionError("kernels are compiled")


@device_overload(add_masses)
def _add_masses(scores, m, targets, gain, base, excluded, spare, lanes):
    def of_classes(scores, m, targets, gain, base, excluded, spare, lanes):
        if not base.any():
            return
        rests, shares, partial = spare
        top = largest(base)
        for i in range(targets.size):
            x = excluded[i]
            lanes[REST + i] = rests[x]
            scores[x, U64(i)] = m[i]  # what costs nothing
        for start in range(0, scores.shape[0], FOLD):
            partial[:] = 0.0
            for j in range(start, min(start + FOLD, scores.shape[0])):
                add_gaps(scores[j], m, shares[j], partial)
            for i in range(partial.size):
                lanes[GAP + i] += top * partial[i] / SMALLER
            put_by(start // FOLD, scores, GAP, GAP + m.size, lanes)
        take_totals(scores, GAP, GAP + m.size, lanes)

    def as_they_are(scores, m, targets, gain, base, excluded, spare, lanes):
        partial = spare[-1]
        for i in range(excluded.size):
            targets[excluded[i], U64(i)] = 0.0
        for start in range(0, scores.shape[0], FOLD):
            partial[:] = 0.0
            for j in range(start, min(start + FOLD, scores.shape[0])):
                add_costs(scores[j], m, targets[j], partial)
                add_up(targets[j], m.size, lanes)
                put_by(j, scores, REST, REST + m.size, lanes)
            for i in range(partial.size):
                lanes[GAP + i] += partial[i] / SMALLER
            put_by(start // FOLD, scores, GAP, GAP + m.size, lanes)
        take_totals(scores, REST, GAP + LINES, lanes)

    def of_rows(scores, m, targets, gain, base, excluded, spare, lanes):
        for j in range(scores.shape[0]):
            add_each(scores[j], targets, j, gain[j], base[j], excluded, lanes)
            put_by(j, scores, REST, GAP + LINES, lanes)
        take_totals(scores, REST, GAP + LINES, lanes)

    if isinstance(base, types.NoneType):
        return lambda scores, m, targets, gain, base, excluded, spare, lanes: None
    if targets.ndim == 1:
        return of_classes
    return as_they_are if isinstance(gain, types.NoneType) else of_rows


@device
def add_gaps(scores, m, share, partial):
    """Add share * (m - s) of a class, SMALLER; no share costs nothing: 0 * inf = 0."""
    if share != 0.0:
        for i in range(partial.size):
            partial[i] += share * smaller_gap(m[i], scores[i])


@device
def smaller_gap(m, s):
    """Return m - s, SMALLER."""
    kind = type(s)
    return fma(s, kind(-SMALLER), m * kind(SMALLER))


@device
def add_costs(scores, m, masses, partial):
    """Add c (m - s) of a class, SMALLER, in the scores' type."""
    zero = partial.dtype.type(0.0)
    for i in range(partial.size):
        c = partial.dtype.type(masses[i])
        partial[i] += select(c != zero, c * smaller_gap(m[i], scores[i]), zero)  # 0 * inf = 0


@device
def add_up(masses, size, lanes):
    """Add the masses of a class to REST."""
    for i in range(size):
        lanes[REST + i] += masses[i]


@device
def add_each(scores, targets, j, gain, base, excluded, lanes):
    """Add the masses t of class j and t (m - s), where it is not the excluded class."""
    for i in range(excluded.size):
        t = select(excluded[i] == j, 0.0, mass_of(targets, i, j, gain, base))
        lanes[REST + i] += t
        cost = t * (lanes[M + i] - F64(scores[i]))
        lanes[GAP + i] += select(t != 0.0, cost, 0.0)  # 0 * inf = 0


def add_others(scores, base, sharpness, like, near, work, lanes, soon):
    """Store exponentials, and their sums in OTHERS."""
    raise AssertionError("kernels are compiled")


@device_overload(add_others)
def _add_others(scores, base, sharpness, like, near, work, lanes, soon):
    def in_their_type(scores, base, sharpness, like, near, work, lanes, soon):
        others, lost = lanes[OTHERS : OTHERS + near.shape[1]], lanes[PULL : PULL + near.shape[1]]
        exponentiate_tile(scores, near[0], sharpness, near[2], others, lost, soon)

    if isinstance(base, types.NoneType):
        return in_their_type
    return lambda scores, base, sharpness, like, near, work, lanes, soon: add_in_float64(
        scores, sharpness, like, near.shape[1], work, lanes, soon
    )


@device
def add_in_float64(scores, sharpness, like, size, work, lanes, soon):
    """Store exponentials in work, and their sums in OTHERS."""
    for j in range(scores.shape[0]):
        fetch_share(soon, j * LINES, LINES)
        values, e = scores[j], work[j]
        for i in range(size):
            e[i] = exp_of_scaled(values[i], lanes[M + i], sharpness, like)
            lanes[OTHERS + i] += e[i]
        put_by(j, like, OTHERS, OTHERS + size, lanes)
    take_totals(like, OTHERS, OTHERS + size, lanes)


@device
def put_by(step, like, start, stop, lanes):
    """Add, now and then, new sums to those of all steps before, exactly; in float64 it matters."""
    if like.itemsize == 8 and step % WIDE_FOLD == WIDE_FOLD - 1:
        for k in range(start, stop):
            total, lost = add_exactly(lanes[k + TOTAL], lanes[k + LOST], lanes[k])
            lanes[k + TOTAL], lanes[k + LOST], lanes[k] = total, lost, 0.0


@device
def take_totals(like, start, stop, lanes):
    """Add the last new sums to those put by."""
    if like.itemsize == 8:
        for k in range(start, stop):
            total, lost = add_exactly(lanes[k + TOTAL], lanes[k + LOST], lanes[k])
            lanes[k] = total + lost


@device
def finish_mass_tile(count, sharpness, z_loss, scale, like, lanes):
    """Turn sums into losses and z-losses, and the factors PULL of p, PUSH of t, OWN_SLOPE.

    Return how many rows have no gradient.
    """
    without = 0
    for i in range(count):  # in loops of few steps, as many as there are registers for
        lanes[OWN + i] = exp_of_scaled(lanes[SCORE + i], lanes[M + i], sharpness, like)
    for i in range(count):
        gap = lanes[M + i] - lanes[SCORE + i]
        lanes[LOG_REST + i] = log_of_rest(gap, lanes[OTHERS + i], lanes[OWN + i])
    for i in range(count):
        rest, own_mass = lanes[REST + i], lanes[OWN_MASS + i]
        loss, penalty, pull, slope = finish_masses(
            sharpness * (lanes[M + i] - lanes[SCORE + i]),
            own_mass,
            lanes[OTHERS + i],
            lanes[OWN + i],
            lanes[LOG_REST + i],
            rest,
            sharpness * lanes[GAP + i],
            sharpness * lanes[M + i],
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


def write_gradients(work, targets, gain, base, slope, near, count, lanes, tile):
    """Store the gradient of all classes but the excluded ones."""
    raise AssertionError("kernels are compiled")


@device_overload(write_gradients)
def _write_gradients(work, targets, gain, base, slope, near, count, lanes, tile):
    def without_mass(work, targets, gain, base, slope, near, count, lanes, tile):
        scale_tile(tile, lanes[PULL : PULL + near.shape[1]], near[2], near[3], count)

    def with_mass(work, targets, gain, base, slope, near, count, lanes, tile):
        for j in range(tile.shape[0]):
            mass = entry(gain, j), base[j]
            write_gradient(work[j], targets, j, *mass, slope, near.shape[1], lanes, tile[j])

    return without_mass if isinstance(base, types.NoneType) else with_mass


@device
def write_gradient(work, targets, j, gain, base, slope, size, lanes, out):
    """Store PULL * work - PUSH * mass for class j, times the derivative of a softcap."""
    for i in range(size):
        mass = mass_of(targets, i, j, gain, base)
        value = lanes[PULL + i] * work[i] - lanes[PUSH + i] * mass
        out[i] = value * derivative(slope, i, j)


@device
def put_excluded(excluded, count, slope, lanes, out):
    """Store the gradient of the excluded classes."""
    for i in range(count):
        x, lane = excluded[i], U64(i)
        out[x, lane] = lanes[OWN_SLOPE + i] * derivative(slope, i, x)


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
    near, work, excluded, capped, slope, spare = space
    m, winners, weight = near[0], near[1], lanes[WEIGHT : WEIGHT + near.shape[1]]
    scores = cap_tile(tile, softcap, m.size, capped, slope)
    lanes[OTHERS : LOSS if scores.itemsize == 8 else OTHERS + TOTAL] = 0.0
    take_maxima(scores, count, m, lanes[REACHED : REACHED + m.size])
    load_weights(row_weight, count, weight)
    take_excluded(targets, scores, m, winners, excluded)
    look_at_excluded(scores, m, targets, gain, base, excluded, count, lanes)
    add_masses(scores, m, targets, gain, base, excluded, spare, lanes)
    for i in range(count):
        scores[excluded[i], U64(i)] = -np.inf
    add_others(scores, base, sharpness, tile, near, work, lanes, soon)
    without = finish_mass_tile(count, sharpness, z_loss, scale, tile, lanes)
    report(count, 2, tile, lanes, losses)
    if gradient.size:
        write_gradients(work, targets, gain, base, slope, near, count, lanes, tile)
        put_excluded(excluded, count, slope, lanes, tile)
        if without:
            leave_out(weight, tile)
