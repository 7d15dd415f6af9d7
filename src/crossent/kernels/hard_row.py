"""One long row with one right class, and no option that spreads it. Letters as in rows.py.

In float32 for float32 scores: with no masses to take away, nothing cancels.
"""

import numpy as np

from crossent.kernels.compiler import device
from crossent.kernels.elementary import F64, add_exactly, exp_of_scaled, raised_exp
from crossent.kernels.halves import put, read
from crossent.kernels.intrinsics import magnitude
from crossent.kernels.rows import (
    LANES,
    TINY,
    edit,
    fetch_share,
    finish,
    largest,
    lowering,
    padded,
    room,
    take_limit_of,
)
from crossent.kernels.sums import sum_of


@device
def exponentiate(scores, m, work):
    """Store exp(scores - m), raised, in work, of even size. The two arrays may not overlap.

    Both halves in one loop: constants that registers lack room for serve two vectors at a time.
    """
    half = work.size // 2
    for j in range(half):
        e, f = raised_exp(read(scores[j]), m), raised_exp(read(scores[half + j]), m)
        work[j], work[half + j] = e, f


@device
def exponentiate_others(row, m, target, buffer, work, soon):
    """Store exp(row - m), raised, in work, 0 for the target, and return the sum."""
    others, lost, step = 0.0, 0.0, soon[-1]
    whole, end = row.size // LANES * LANES, padded(row.size)
    start = 0
    while start < end:
        size, before = min(step, end - start), max(0, min(step, whole - start))
        part = room(work, start, start + size)
        fetch_share(soon, start)
        exponentiate(row[start : start + before], m, part[:before])
        if before < size:
            exponentiate(edit(row[whole:], -1, LANES, buffer), m, part[before:])
        if start <= target < start + size:
            part[target - start] = 0.0
        others, lost = add_exactly(others, lost, sum_of(part) * lowering(work))
        start += step
    return others + lost


@device
def loss_below(row, m, target, buffer, work, soon):
    """Return loss, others, own of a row with maximum m; work keeps the others' exponentials."""
    score = read(row[target])
    others = exponentiate_others(row, m, target, buffer, work, soon)
    own = exp_of_scaled(score, F64(m), 1.0, work)
    return finish(F64(m) - F64(score), others, own), others, own


@device
def row_loss(row, target, space, soon):
    """Return loss, others, own of any row; one that holds +inf is replaced by its limit."""
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
    loss, others, own = row_loss(row, targets[i], space, soon)
    if gradient.size:
        share = factor / (others + own)
        scale_row(space[0], share * lowering(space[0]), gradient[0])
        put(gradient[0], targets[i], -others * share)
    return loss, 0.0
