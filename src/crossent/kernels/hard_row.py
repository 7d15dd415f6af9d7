"""One long row with one right class, and no option that spreads it. Letters as in rows.py.

In float32 for float32 scores: with no masses to take away, nothing cancels.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import F32, F64, add_exactly, anchor, exp_from, exp_of_scaled
from crossent.kernels.halves import put, read
from crossent.kernels.intrinsics import magnitude
from crossent.kernels.rows import (
    BLOCK,
    LANES,
    TINY,
    edit,
    fetch_share,
    finish_masses,
    largest,
    log_of_rest,
    mass_at,
    padded,
    room,
    take_limit_of,
)
from crossent.kernels.subnormal import RAISE, lowered, may_be_subnormal
from crossent.kernels.sums import sum_of


@device
def exponentiate(scores, around, work):
    """Store exp(scores - m), raised, in work, of even size. The two arrays may not overlap.

    Both halves in one loop: constants that registers lack room for serve two vectors at a time.
    """
    half = work.size // 2
    for j in range(half):
        e, f = exp_from(read(scores[j]), around), exp_from(read(scores[half + j]), around)
        work[j], work[half + j] = e, f


@device
def exponentiate_others(row, m, target, sharpness, buffer, work, soon):
    """Store exp(sharpness (row - m)), raised, in work, 0 for the target.

    Return their sum, and the factor that undoes the raising.
    """
    others, lost, step = 0.0, 0.0, soon[-1]
    around, lower = anchor(m, sharpness)
    whole, end = row.size // LANES * LANES, padded(row.size)
    start = 0
    while start < end:
        size, before = min(step, end - start), max(0, min(step, whole - start))
        part = room(work, start, start + size)
        fetch_share(soon, start, min(step, row.size - start))
        exponentiate(row[start : start + before], around, part[:before])
        if before < size:
            exponentiate(edit(row[whole:], -1, LANES, buffer), around, part[before:])
        if start <= target < start + size:
            part[target - start] = 0.0
        others, lost = add_exactly(others, lost, sum_of(part))
        start += step
    return (others + lost) * lower, lower


@device
def row_sums(row, target, sharpness, space, soon):
    """Return a row's maximum, its target's score, and what `exponentiate_others` finds.

    One that holds +inf is replaced by its limit; return whether it was, too.
    """
    work, buffer, replaced = space
    m = largest(row)
    if m != np.inf:
        found = exponentiate_others(row, m, target, sharpness, buffer, work, soon)
        return m, read(row[target]), found, False
    m = take_limit_of(row, replaced)
    found = exponentiate_others(replaced, m, target, sharpness, buffer, work, soon)
    return m, replaced[target], found, True


def hard_options(options, x):
    """Return the mass of target x, what multiplies the z-loss, sharpness, and that again.

    The second time None stands for 1, to compute less where there are many scores.
    """
    raise AssertionError("kernels are compiled")


@device_overload(hard_options)
def _hard_options(options, x):
    if isinstance(options, types.NoneType):
        return lambda options, x: (1.0, 0.0, 1.0, None)
    return lambda options, x: (mass_at(options[0], x), options[2], options[4], options[4])


@device
def scale_row(work, factor, out):
    """Store factor * work in out; a factor too small for work's type is kept in float64."""
    if magnitude(factor) < TINY:
        write(work, factor, out)
        return
    near = work.dtype.type(factor)
    for start in range(0, out.size, BLOCK):
        part, to = work[start : min(start + BLOCK, out.size)], out[start : start + BLOCK]
        if may_be_subnormal(part, factor):
            write_lowered(part, near * RAISE, to)
        else:
            write(part, near, to)


@device
def write(work, factor, out):
    """Store factor * work in out."""
    for j in range(out.size):
        put(out, j, work[j] * factor)


@device
def write_lowered(work, factor, out):
    """Store factor * work in out, where the factor is raised."""
    for j in range(out.size):
        put(out, j, lowered(F32(work[j] * factor)))


def hard_row(row, targets, i, options, factor, gradient, space, soon):
    """Return the loss and the z-loss of row i; store its gradient times factor if there is room."""
    x = targets[i]
    mass, z_loss, sharpness, for_many = hard_options(options, x)
    if mass == 0.0 and z_loss == 0.0:  # nothing to learn, whatever the scores hold
        gradient[:] = 0
        return 0.0, 0.0
    m, score, (others, lower), limited = row_sums(row, x, for_many, space, soon)
    gap = sharpness * (F64(m) - F64(score))
    own = exp_of_scaled(score, F64(m), sharpness, space[0])
    log_rest = log_of_rest(gap, others, own)
    loss, penalty, a, own_slope = finish_masses(
        gap, mass, others, own, log_rest, 0.0, 0.0, sharpness * F64(m), z_loss
    )
    if limited and z_loss > 0.0 and m == 0.0:
        penalty = np.inf  # the limit hides how high the scores were
    if gradient.size:
        b = factor * sharpness
        scale_row(space[0], a * b * lower, gradient[0])
        put(gradient[0], x, own_slope * b)
    return loss, penalty
