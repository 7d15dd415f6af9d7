"""One long row with one right class, and no option that spreads it. Letters as in rows.py.

In float32 for float32 scores: with no masses to take away, nothing cancels.
"""

import numpy as np

from crossent.kernels.compiler import device
from crossent.kernels.elementary import F64, add_exactly, anchor, exp_from, exp_of_scaled
from crossent.kernels.halves import put, read
from crossent.kernels.intrinsics import magnitude
from crossent.kernels.rows import (
    LANES,
    TINY,
    edit,
    fetch_share,
    finish,
    largest,
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
def exponentiate_others(row, m, target, buffer, work, soon):
    """Store exp(row - m), raised, in work, 0 for the target.

    Return their sum, and the factor that undoes the raising.
    """
    others, lost, step = 0.0, 0.0, soon[-1]
    around, lower = anchor(m)
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


@device
def loss_below(row, m, target, buffer, work, soon):
    """Return loss, others, own of a row with maximum m; work keeps the others' exponentials.

    And the factor that undoes the raising of these.
    """
    score = read(row[target])
    others, lower = exponentiate_others(row, m, target, buffer, work, soon)
    own = exp_of_scaled(score, F64(m), 1.0, work)
    return finish(F64(m) - F64(score), others, own), others, own, lower


@device
def row_loss(row, target, space, soon):
    """Do what `loss_below` does for any row; one that holds +inf is replaced by its limit."""
    work, buffer, replaced = space
    m = largest(row)
    if m != np.inf:
        return loss_below(row, m, target, buffer, work, soon)
    m = take_limit_of(row, replaced)
    return loss_below(replaced, m, target, buffer, work, soon)


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
    """Return the loss of row i; store its gradient times factor, if there is room for it."""
    loss, others, own, lower = row_loss(row, targets[i], space, soon)
    if gradient.size:
        share = factor / (others + own)
        scale_row(space[0], share * lower, gradient[0])
        put(gradient[0], targets[i], -others * share)
    return loss, 0.0
