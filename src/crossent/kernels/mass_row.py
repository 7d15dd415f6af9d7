"""One long row with target masses and every option. Letters as in rows.py.

With target masses t, R = sum of t_j and D = sum of t_j (m - s_j) over j != x, and
lse = logsumexp(s), every term of the loss is >= 0:

    loss = t_x (lse - s_x) + R (lse - m) + D
    gradient_j = (R + t_x) p_j - t_j,   gradient_x = R p_x - t_x others / total

Masses are gain * c + base of class indices or masses c; gain and base are one number or one per
class, gain None for masses taken as they are. They are computed in float64, because then the
gradient is a difference of given numbers.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import (
    F64,
    I32,
    add_exactly,
    begin_tanh,
    exp_of_scaled,
    tanh_of,
)
from crossent.kernels.halves import put, read
from crossent.kernels.intrinsics import reordered_add, select
from crossent.kernels.rows import (
    BLOCK,
    edit,
    fetch_share,
    finish_masses,
    largest,
    limit,
    log_of_rest,
    mass_at,
    padded,
    room,
    take_limit_of,
)


def any_mass(masses):
    """Return whether a class has any."""
    raise AssertionError("kernels are compiled")


@device_overload(any_mass)
def _any_mass(masses):
    if isinstance(masses, types.Array):
        return lambda masses: masses.any()
    return lambda masses: masses != 0.0


def masses_between(masses, start, stop):
    """Return the masses of a stretch of classes."""
    raise AssertionError("kernels are compiled")


@device_overload(masses_between)
def _masses_between(masses, start, stop):
    if isinstance(masses, types.Array):
        return lambda masses, start, stop: masses[start:stop]
    return lambda masses, start, stop: masses


def row_masses(targets, i, gain, base, spare):
    """Return the masses of a row's classes, gain * c + base; a target index adds its own."""
    raise AssertionError("kernels are compiled")


@device_overload(row_masses)
def _row_masses(targets, i, gain, base, spare):
    if targets.ndim == 1:
        return lambda targets, i, gain, base, spare: base
    if isinstance(gain, types.NoneType):
        return lambda targets, i, gain, base, spare: targets[i]

    def probabilities(targets, i, gain, base, spare):
        c = targets[i]
        for j in range(c.size):
            spare[j] = mass_at(gain, j) * c[j] + mass_at(base, j)
        return spare

    return probabilities


def own_mass(targets, gain, masses, x):
    """Return the mass of the class that is summed apart."""
    raise AssertionError("kernels are compiled")


@device_overload(own_mass)
def _own_mass(targets, gain, masses, x):
    if targets.ndim == 1:
        return lambda targets, gain, masses, x: mass_at(masses, x) + mass_at(gain, x)
    return lambda targets, gain, masses, x: mass_at(masses, x)


def prepare(row, softcap, replaced, capped, slope):
    """Return the row's scores before temperature: capped, or as they are but for +inf's limit."""
    raise AssertionError("kernels are compiled")


@device_overload(prepare)
def _prepare(row, softcap, replaced, capped, slope):
    def as_they_are(row, softcap, replaced, capped, slope):
        if largest(row) != np.inf:
            return row
        take_limit_of(row, replaced)
        return replaced

    def widened(row, softcap, replaced, capped, slope):
        for j in range(row.size):
            replaced[j] = read(row[j])
        if largest(replaced) == np.inf:
            limit(replaced)
        return replaced

    def bounded(row, softcap, replaced, capped, slope):
        cap(row, softcap, capped, slope)
        return capped

    if not isinstance(softcap, types.NoneType):
        return bounded
    return widened if isinstance(row.dtype, types.Integer) else as_they_are


@device
def cap(row, softcap, scores, slope):
    """Store softcap tanh(row / softcap) in scores and its derivative in slope."""
    for j in range(row.size):
        slope[j], scores[j] = begin_tanh(F64(read(row[j])), -2.0 / softcap)
    for j in range(row.size):  # apart: the processor does not look far enough ahead for both
        value, slope[j] = tanh_of(F64(read(row[j])), slope[j], scores[j])
        scores[j] = softcap * value


def excluded_class(targets, i, row, m):
    """Return the class to sum apart: the target, or for masses the winner."""
    raise AssertionError("kernels are compiled")


@device_overload(excluded_class)
def _excluded_class(targets, i, row, m):
    if targets.ndim == 1:
        return lambda targets, i, row, m: targets[i]
    return lambda targets, i, row, m: winner(row, m)


@device
def winner(row, m):
    """Return the first class whose score is m (the last if none is: a row with NaN)."""
    for start in range(0, row.size, BLOCK):
        block = row[start : start + BLOCK]
        place = position(block, m)
        if place < block.size:
            return start + place
    return row.size - 1


@device
def position(block, m):
    """Return where m stands first, the block's size if nowhere; all are looked at, in vectors."""
    first = I32(block.size)
    for j in range(block.size):
        first = min(first, select(read(block[j]) == m, I32(j), I32(block.size)))
    return first


@device
def exponentiate_scaled(scores, m, sharpness, like, work):
    """Store exp(sharpness (scores - m)) in work; return its sum."""
    total = 0.0
    for j in range(work.size):
        e = exp_of_scaled(read(scores[j]), m, sharpness, like)
        work[j] = e
        total = reordered_add(total, e)
    return total


def add_masses(scores, m, masses):
    """Return R and D of a stretch of classes."""
    raise AssertionError("kernels are compiled")


@device_overload(add_masses)
def _add_masses(scores, m, masses):
    return add_each if isinstance(masses, types.Array) else add_equal


def add_equal(scores, m, masses):
    """Do what `add_masses` does for one mass, not 0, of every class."""
    kind = type(read(scores[0]))  # where no term is negative, that is good enough for a loss
    top, gap = kind(m), kind(0.0)
    for j in range(scores.size):
        gap = reordered_add(gap, top - read(scores[j]))
    return masses * scores.size, masses * gap


def add_each(scores, m, masses):
    """Do what `add_masses` does for a mass of each class."""
    rest, gap = 0.0, 0.0
    for j in range(scores.size):
        t = mass_at(masses, j)
        rest = reordered_add(rest, t)
        gap = reordered_add(gap, select(t != 0.0, t * (m - F64(read(scores[j]))), 0.0))  # 0 inf = 0
    return rest, gap


@device
def edit_masses(masses, excluded, filled, buffer):
    """Return a copy of a block's masses, 0 at the excluded class and beyond the end."""
    for j in range(filled):
        buffer[j] = masses[j]
    buffer[filled:] = 0.0
    if 0 <= excluded < filled:
        buffer[excluded] = 0.0
    return buffer


def add_masses_but(excluded, scores, m, masses, filled, buffer):
    """Do what `add_masses` does for what `edit` copied, where the excluded class has no mass."""
    raise AssertionError("kernels are compiled")


@device_overload(add_masses_but)
def _add_masses_but(excluded, scores, m, masses, filled, buffer):
    def each(excluded, scores, m, masses, filled, buffer):
        edited = edit_masses(masses, excluded, filled, buffer[: scores.size])
        return add_masses(scores, m, edited)

    def equal(excluded, scores, m, masses, filled, buffer):
        classes = filled
        scores[filled:] = m  # what costs nothing
        if 0 <= excluded < filled:
            scores[excluded] = m
            classes -= 1
        _, gap = add_masses(scores, m, masses)
        return masses * classes, gap

    return each if isinstance(masses, types.Array) else equal


@device
def add_up(row, m, excluded, sharpness, masses, spread, like, buffer, spare, work, soon):
    """Store exponentials in work, 0 for the excluded class; return others, R and D.

    R and D are 0 unless masses are spread beyond the excluded class.
    """
    others, rest, gap, step = 0.0, 0.0, 0.0, soon[-1]
    r, d = 0.0, 0.0
    e_lost, r_lost, d_lost = 0.0, 0.0, 0.0
    end = padded(row.size)
    for start in range(0, end, step):
        fetch_share(soon, start)
        size, filled = min(step, end - start), min(step, row.size - start)
        scores, part = row[start : start + filled], room(work, start, start + size)
        block = masses_between(masses, start, start + filled)
        if filled < size or start <= excluded < start + size:
            edited = edit(scores, excluded - start, size, buffer)
            e = exponentiate_scaled(edited, m, sharpness, like, part)
            if spread:
                r, d = add_masses_but(excluded - start, edited, m, block, filled, spare)
        else:
            e = exponentiate_scaled(scores, m, sharpness, like, part)
            if spread:
                r, d = add_masses(scores, m, block)
        others, e_lost = add_exactly(others, e_lost, e)
        rest, r_lost = add_exactly(rest, r_lost, r)
        gap, d_lost = add_exactly(gap, d_lost, d)
    return others + e_lost, rest + r_lost, (gap + d_lost) * sharpness


@device
def write_masses(work, a, b, masses, out):
    """Store a * work - b * masses in out."""
    for j in range(out.size):
        put(out, j, a * work[j] - b * mass_at(masses, j))


@device
def write_capped(work, a, b, masses, slope, out):
    """Store (a * work - b * masses) * slope in out."""
    for j in range(out.size):
        put(out, j, (a * work[j] - b * mass_at(masses, j)) * slope[j])


def mass_row(row, targets, i, options, factor, gradient, space, soon):
    """Return the loss and the z-loss of row i; store its gradient times factor if there is room."""
    gain, base, z_loss, softcap, sharpness = options
    work, buffer, replaced, capped, slope, spare, mass_buffer = space
    scores = prepare(row, softcap, replaced, capped, slope)
    m = largest(scores)
    x = excluded_class(targets, i, scores, m)
    masses = row_masses(targets, i, gain, base, spare)
    spread = targets.ndim == 2 or any_mass(base)
    others, rest, rest_gap = add_up(
        scores, F64(m), x, sharpness, masses, spread, replaced, buffer, mass_buffer, work, soon
    )
    score, mass = read(scores[x]), own_mass(targets, gain, masses, x)
    own = exp_of_scaled(score, F64(m), sharpness, replaced)
    gap = sharpness * (F64(m) - F64(score))
    if rest + mass == 0.0 and z_loss == 0.0:  # nothing to learn, whatever the scores hold
        gradient[:] = 0
        return 0.0, 0.0
    log_rest = log_of_rest(gap, others, own)
    loss, penalty, a, own_slope = finish_masses(
        gap, mass, others, own, log_rest, rest, rest_gap, sharpness * F64(m), z_loss
    )
    if z_loss > 0.0 and softcap is None and m == 0.0 and largest(row) == np.inf:
        penalty = np.inf  # the limit hides how high the scores were
    if gradient.size:
        b = factor * sharpness
        if softcap is None:
            write_masses(work, a * b, b, masses, gradient[0])
            put(gradient[0], x, own_slope * b)
        else:
            write_capped(work, a * b, b, masses, slope, gradient[0])
            put(gradient[0], x, own_slope * b * slope[x])
    return loss, penalty
