"""Softmax cross-entropy of short rows with one right class, a tile of rows at a time.

Letters as in rows.py. A tile is turned on the way in, so that lane i of every vector is row i and
no vector is left half empty by a row of three classes; log and exp then run down whole tiles, not
row by row.
"""

from typing import Any

import numpy as np

from crossent.kernels.compiler import device, kernel
from crossent.kernels.elementary import F64, exp_of_difference
from crossent.kernels.halves import put, read, scratch_like
from crossent.kernels.intrinsics import borrowed, keep, maximum
from crossent.kernels.rows import finish, limit
from crossent.kernels.strips import TILE

FOLD = 32  # classes whose partial sums are then folded into float64


@device
def load_tile(logits: Any, work: Any, m: Any) -> None:
    """Turn rows into columns of work, so that lane i of every vector is row i; maxima into m."""
    for i in range(logits.shape[0]):
        row = logits[i]
        for j in range(row.size):
            work[j, i] = read(row[j])
    m[:] = -np.inf
    for j in range(work.shape[0]):
        for i in range(m.size):
            m[i] = maximum(m[i], work[j, i])
    for i in range(logits.shape[0]):
        if m[i] == np.inf:
            m[i] = limit(work[:, i])


@device
def exponentiate_tile(work: Any, m: Any, partial: Any, others: Any) -> None:
    """Replace work by exp(work - m) and sum it over the classes, folded into float64."""
    others[:] = 0.0
    for start in range(0, work.shape[0], FOLD):
        partial[:] = 0.0
        for j in range(start, min(start + FOLD, work.shape[0])):
            turned = work[j]
            for i in range(partial.size):
                e = exp_of_difference(turned[i], m[i])
                turned[i] = e
                partial[i] += e
        for i in range(others.size):
            others[i] += F64(partial[i])


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
        own = F64(exp_of_difference(score[i], m[i]))
        losses[i] = finish(F64(m[i]) - F64(score[i]), others[i], own)
        total[i] = others[i] + own


@device
def write_tile(work: Any, factor: Any, flat: Any) -> None:
    """Turn columns of work back into rows of the gradient, each times its factor."""
    classes = np.uint64(work.shape[0])  # unsigned: a sign check on the index would stop vectors
    for j in range(work.shape[0]):
        turned = work[j]
        for i in range(flat.size // work.shape[0]):
            put(flat, np.uint64(i) * classes + np.uint64(j), turned[i] * factor[i])


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
        exponentiate_tile(work, m, partial, others)
        finish_tile(m, score, others, loss, total)
        for i in range(rows.shape[0]):
            weight = row_weight[start + i] if row_weight.size else 1.0
            total[i] = weight * scale / total[i]
            value = weight * loss[i] if weight != 0.0 else 0.0
            sums[0] += value
            if losses.size:
                losses[start + i] = value
        if gradient.size:
            for i in range(TILE):
                factor[i] = total[i]
            part = gradient[start : start + TILE]
            write_tile(work, factor, part.reshape(part.size))
            for i in range(rows.shape[0]):
                put(part[i], own_class[i], -others[i] * total[i])
                if row_weight.size and row_weight[start + i] == 0.0:
                    part[i] = 0  # whatever the scores hold: 0 times NaN would be NaN
    keep(tile)
    keep(lanes)
