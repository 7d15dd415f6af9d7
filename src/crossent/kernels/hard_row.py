"""One long row with one right class, and no option that spreads it. Letters as in rows.py.

In float32 for float32 scores: with no masses to take away, nothing cancels.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import F64, add_exactly, anchor, exp_from, exp_of_scaled
from crossent.kernels.halves import put, read
from crossent.kernels.intrinsics import magnitude
from crossent.kernels.rows import (
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
        fetch_share(soon, start)
        exponentiate(row[start : start + before], around, part[:before])
        if before < size:
            exponentiate(edit(row[whole:], -1, LANES, buffer), around, part[before:])
        if start <= target < start + size:
            part[target - start] = 0.0
        others, lost = add_exactly(others, lost, sum_of(part))
        start += step
    return (others + lost) * lower, lower


def times(sharpness, x):
    """Return sharpness x."""
    raise AssertionError("kernels are compiled")


@device_overload(times)
def _times(sharpness, x):
    if isinstance(sharpness, types.NoneType):
        return lambda sharpness, x: x
    return lambda sharpness, x: sharpness * x


@device
def sums_below(row, m, target, sharpness, buffer, work, soon):
    """Return gap, others, own of a row with maximum m; work keeps the others' exponentials.

    And the factor that undoes the raising of these.
    """
    score, top = read(row[target]), F64(m)
    others, lower = exponentiate_others(row, m, target, sharpness, buffer, work, soon)
    own = exp_of_scaled(score, top, times(sharpness, 1.0), work)
    return times(sharpness, top - F64(score)), others, own, lower


@device
def row_sums(row, target, sharpness, space, soon):
    """Do what `sums_below` does for any row; one that holds +inf is replaced by its limit.

    Return the maximum, and whether that took place, too.
    """
    work, buffer, replaced = space
    m = largest(row)
    if m != np.inf:
        return m, False, sums_below(row, m, target, sharpness, buffer, work, soon)
    m = take_limit_of(row, replaced)
    return m, True, sums_below(replaced, m, target, sharpness, buffer, work, soon)


def hard_options(options, x):
    """Return the mass of target x, what multiplies the z-loss, and sharpness (None for 1)."""
    raise AssertionError("kernels are compiled")


@device_overload(hard_options)
def _hard_options(options, x):
    if isinstance(options, types.NoneType):
        return lambda options, x: (1.0, 0.0, None)
    return lambda options, x: (mass_at(options[0], x), options[2], options[4])


@device
def scale_row(work, factor, out):
    """Store factor * work in out; a factor too small for work's type is kept in float64."""
    if magnitude(factor) < TINY:
        write(work, factor, out)
    else:
        write(work, work.dtype.type(factor), out)


@device
def write(work, factor, out):
    """Store factor * work in out."""
    for j in range(out.size):
        put(out, j, work[j] * factor)


def hard_row(row, targets, i, options, factor, gradient, space, soon):
    """Return the loss and the z-loss of row i; store its gradient times factor if there is room."""
    x = targets[i]
    mass, z_loss, sharpness = hard_options(options, x)
    if mass == 0.0 and z_loss == 0.0:  # nothing to learn, whatever the scores hold
        gradient[:] = 0
        return 0.0, 0.0
    m, limited, (gap, others, own, lower) = row_sums(row, x, sharpness, space, soon)
    top, b = times(sharpness, F64(m)), times(sharpness, factor)
    log_rest = log_of_rest(gap, others, own)
    loss, penalty, a, own_slope = finish_masses(
        gap, mass, others, own, log_rest, 0.0, 0.0, top, z_loss
    )
    if limited and z_loss > 0.0 and m == 0.0:
        penalty = np.inf  # the limit hides how high the scores were
    if gradient.size:
        scale_row(space[0], a * b * lower, gradient[0])
        put(gradient[0], x, own_slope * b)
    return loss, penalty
