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
from crossent.kernels.intrinsics import fma, reordered_add, select
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
from crossent.kernels.sums import sum_of

# What differences of scores are multiplied by, to be put right in the end. The largest float32 less
# the least one is beyond float32: half of it is not. Nor is a sum of as many as a block holds, made
# SMALLER. Where rows bring masses of their own, HALF does: a sum beyond float32 is the loss itself,
# and the less a product with a small mass is made, the more digits it keeps.
SMALLER = 2.0**-10
HALF = 0.5


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


def new_shares(targets, base, classes, like):
    """Return R of the rows whose target a class is, shares of the largest mass, and that mass.

    Shares are at most 1, in the type of an array like `like`. None where every row has its own.
    """
    raise AssertionError("kernels are compiled")


@device_overload(new_shares)
def _new_shares(targets, base, classes, like):
    if targets.ndim == 2:
        return lambda targets, base, classes, like: None
    if isinstance(base, types.Array):
        return lambda targets, base, classes, like: (
            sums_of_others(base),
            shares_of(base, like),
            base.max(),
        )
    return lambda targets, base, classes, like: (base * (classes - 1), 1.0, base)


@device
def sums_of_others(values):
    """Return for every value the sum of all others."""
    found, before, after = np.zeros(values.size), 0.0, 0.0
    for j in range(values.size):
        last = values.size - 1 - j
        found[j] += before
        found[last] += after
        before, after = before + values[j], after + values[last]
    return found


@device
def shares_of(values, like):
    """Return numbers >= 0 divided by the largest, which may be none of the type they get."""
    shares, top = np.zeros(values.size, like.dtype), values.max()
    for j in range(values.size):
        shares[j] = values[j] / top if top > 0.0 else 0.0
    return shares


def spread(targets, masses, x, shares):
    """Return R, and what the masses of the other classes are: shares, times a number.

    And what `add_gaps` is to scale differences by.
    """
    raise AssertionError("kernels are compiled")


@device_overload(spread)
def _spread(targets, masses, x, shares):
    if targets.ndim == 2:
        return lambda targets, masses, x, shares: (sum_but(masses, x), masses, 1.0, HALF)
    return lambda targets, masses, x, shares: (mass_at(shares[0], x), *shares[1:], SMALLER)


@device
def sum_but(values, x):
    """Return the sum of all values but one, which is not subtracted: little may be left."""
    total, lost = add_blocks(values[:x], 0.0, 0.0)
    total, lost = add_blocks(values[x + 1 :], total, lost)
    return total + lost


@device
def add_blocks(values, total, lost):
    """Return total and lost with the sum of some values."""
    for start in range(0, values.size, BLOCK):
        total, lost = add_exactly(total, lost, sum_of(values[start : start + BLOCK]))
    return total, lost


def add_gaps(scores, m, shares, scale):
    """Return the sum of shares scale (m - s).

    In the scores' type, unless shares are float64: no term is negative, so that does for a loss.
    """
    raise AssertionError("kernels are compiled")


@device_overload(add_gaps)
def _add_gaps(scores, m, shares, scale):
    own = types.float64 if scores.dtype == types.float64 else types.float32
    wide = types.float64 if types.float64 in (own, getattr(shares, "dtype", own)) else own

    def equal(scores, m, shares, scale):
        top, total = own(m * scale), own(0.0)
        for j in range(scores.size):
            total = reordered_add(total, fma(read(scores[j]), own(-scale), top))
        return F64(total)

    def each(scores, m, shares, scale):
        top, total, zero = own(m * scale), wide(0.0), wide(0.0)
        for j in range(scores.size):
            share, gap = wide(shares[j]), wide(fma(read(scores[j]), own(-scale), top))
            total = reordered_add(total, select(share != zero, share * gap, zero))  # 0 inf = 0
        return F64(total)

    return each if isinstance(shares, types.Array) else equal


@device
def add_up(row, m, excluded, sharpness, shares, scale, like, buffer, work, soon):
    """Store exponentials in work, 0 for the excluded class; return their sum and `add_gaps`'s.

    scale 0 stands for none.
    """
    others, gap, e_lost, d_lost, step = 0.0, 0.0, 0.0, 0.0, soon[-1]
    end = padded(row.size)
    for start in range(0, end, step):
        fetch_share(soon, start, min(step, row.size - start))
        size, filled = min(step, end - start), min(step, row.size - start)
        scores, part = row[start : start + filled], room(work, start, start + size)
        each = masses_between(shares, start, start + filled)
        if filled < size or start <= excluded < start + size:
            edited = edit(scores, excluded - start, size, buffer)
            e = exponentiate_scaled(edited, m, sharpness, like, part)
            if start <= excluded < start + size:
                edited[excluded - start] = m  # what costs nothing
            d = add_gaps(edited[:filled], m, each, scale) if scale else 0.0
        else:
            e = exponentiate_scaled(scores, m, sharpness, like, part)
            d = add_gaps(scores, m, each, scale) if scale else 0.0
        others, e_lost = add_exactly(others, e_lost, e)
        gap, d_lost = add_exactly(gap, d_lost, d)
    return others + e_lost, gap + d_lost


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
    work, buffer, replaced, capped, slope, spare, shares = space
    scores = prepare(row, softcap, replaced, capped, slope)
    m = largest(scores)
    x = excluded_class(targets, i, scores, m)
    masses = row_masses(targets, i, gain, base, spare)
    rest, each, top, scale = spread(targets, masses, x, shares)
    wanted = scale if top != 0.0 else 0.0
    others, gaps = add_up(scores, F64(m), x, sharpness, each, wanted, replaced, buffer, work, soon)
    rest_gap = gaps * top * sharpness / scale
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
