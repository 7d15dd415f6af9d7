"""Softmax cross-entropy of short rows with one right class, a tile of rows at a time.

Letters as in rows.py. A tile is turned on the way in, so that lane i of every vector is row i and
no vector is left half empty by a row of three classes; log and exp then run down whole tiles, not
row by row.
"""

from typing import Any

import numpy as np

from crossent.kernels.compiler import device, kernel
from crossent.kernels.elementary import F64, add_exactly, exp_of_scaled, raised_exp
from crossent.kernels.halves import put, read, scratch_like
from crossent.kernels.intrinsics import borrowed, keep, magnitude, maximum
from crossent.kernels.rows import TINY, finish, limit, lowering, sum_of
from crossent.kernels.strips import TILE

FOLD = 4  # classes whose partial sum is then folded into float64: each addition costs half an ulp


@device
def load_tile(logits: Any, work: Any, m: Any) -> None:
    """Turn rows into columns of work; store their maxima in m."""
    turn(logits, work)
    take_maxima_of_tile(work, m, logits.shape[0])


@device
def turn(rows: Any, work: Any) -> None:
    """Turn rows into columns of work, so that lane i of every vector is row i."""
    for i in range(rows.shape[0]):
        row = rows[i]
        for j in range(row.size):
            work[j, i] = read(row[j])


@device
def take_maxima_of_tile(work: Any, m: Any, rows: Any) -> None:
    """Store the maxima of so many rows in m, NaN if there is one; +inf becomes its limit."""
    m[:] = -np.inf
    for j in range(work.shape[0]):
        for i in range(m.size):
            m[i] = maximum(m[i], work[j, i])
    for i in range(rows):
        if m[i] == np.inf:
            m[i] = limit(work[:, i])


@device
def exponentiate_tile(work: Any, m: Any, partial: Any, others: Any, lost: Any) -> None:
    """Replace work by exp(work - m), raised; sum it over the classes, a few and then exactly."""
    others[:] = 0.0
    lost[:] = 0.0
    for start in range(0, work.shape[0], FOLD):
        partial[:] = 0.0
        for j in range(start, min(start + FOLD, work.shape[0])):
            turned = work[j]
            for i in range(partial.size):
                e = raised_exp(turned[i], m[i])
                turned[i] = e
                partial[i] += e
        for i in range(others.size):
            others[i], lost[i] = add_exactly(others[i], lost[i], F64(partial[i]))
    for i in range(others.size):
        others[i] = (others[i] + lost[i]) * lowering(work)


@device
def take_targets(targets: Any, work: Any, score: Any) -> None:
    """Take the targets' scores out of work, into score."""
    for i in range(targets.size):
        score[i] = work[targets[i], i]
        work[targets[i], i] = -np.inf


@device
def finish_tile(m: Any, score: Any, others: Any, losses: Any, total: Any) -> None:
    """Store the loss and the sum of exponentials of every row."""
    for i in range(losses.size):
        own = exp_of_scaled(score[i], F64(m[i]), 1.0)
        losses[i] = finish(F64(m[i]) - F64(score[i]), others[i], own)
        total[i] = others[i] + own


@device
def scale_tile(work: Any, total: Any, factor: Any, flat: Any) -> None:
    """Write work times total; totals too small for work's type are kept in float64."""
    tiny = 0
    lower = lowering(work)
    for i in range(flat.size // work.shape[0]):
        factor[i] = total[i] * lower
        tiny += 0.0 < magnitude(total[i]) * lower < TINY
    if tiny:
        write_tile(work, total, lower, flat)
    else:
        write_tile(work, factor, work.dtype.type(1.0), flat)


@device
def write_tile(work: Any, factor: Any, lower: Any, flat: Any) -> None:
    """Turn columns of work back into rows of the gradient, each times its factor and lower."""
    classes = np.uint64(work.shape[0])  # unsigned: a sign check on the index would stop vectors
    for j in range(work.shape[0]):
        turned = work[j]
        for i in range(flat.size // work.shape[0]):
            put(flat, np.uint64(i) * classes + np.uint64(j), turned[i] * (factor[i] * lower))


@kernel
def hard_tiles(
    logits: Any, targets: Any, row_weight: Any, scale: Any, losses: Any, gradient: Any, sums: Any
) -> None:
    """Do what `hard_rows` does, TILE rows at a time."""
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    tile = scratch_like(logits, (logits.shape[1] + 4) * TILE).reshape(-1, TILE)
    lanes = np.zeros((3, TILE))
    tile[:] = 0.0
    work, rest = borrowed(tile)[4:], borrowed(tile)
    m, score, partial, factor = rest[0], rest[1], rest[2], rest[3]
    others, loss, total = borrowed(lanes)[0], borrowed(lanes)[1], borrowed(lanes)[2]
    for start in range(0, logits.shape[0], TILE):
        rows = logits[start : start + TILE]
        own_class = targets[start : start + TILE]
        load_tile(rows, work, m)
        take_targets(own_class, work, score)
        exponentiate_tile(work, m, partial, others, total)
        finish_tile(m, score, others, loss, total)
        for i in range(rows.shape[0]):
            weight = row_weight[start + i] if row_weight.size else 1.0
            total[i] = weight * scale / total[i]
            loss[i] = weight * loss[i] if weight != 0.0 else 0.0
            if losses.size:
                losses[start + i] = loss[i]
        sums[0], sums[2] = add_exactly(sums[0], sums[2], sum_of(loss[: rows.shape[0]]))
        if gradient.size:
            part = gradient[start : start + TILE]
            scale_tile(work, total, factor, part.reshape(part.size))
            for i in range(rows.shape[0]):
                put(part[i], own_class[i], -others[i] * total[i])
                if row_weight.size and row_weight[start + i] == 0.0:
                    part[i] = 0  # whatever the scores hold: 0 times NaN would be NaN
    keep(tile)
    keep(lanes)
