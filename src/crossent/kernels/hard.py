"""Softmax cross-entropy of class indices: one right class per row, no option that spreads it.

Letters: N rows, C classes; m the row's maximum; `others` the sum of exp(s_j - m) over all classes
but the target, `own` the target's; `total` their sum. The target is summed apart so that neither
the loss of a confident right answer nor its gradient -others / total is a difference of nearly
equal numbers. `work` holds a row (or a tile of rows) of exponentials, small enough for the cache.

Kernels take arrays of exact types, check nothing and reduce nothing beyond `sums`. An empty array
stands for what is not wanted: row_weight (N,) then is 1; losses (N,), gradient (N, C) are skipped.
"""

from typing import Any

import numpy as np

from crossent.kernels.compiler import device, kernel
from crossent.kernels.elementary import F64, exp_of_difference, log1p
from crossent.kernels.intrinsics import borrowed, keep, maximum, reordered_add
from crossent.kernels.strips import TILE, take_limit

LANES = 64  # rows are padded to a multiple, so that no loop over them has a slow remainder
BLOCK = 2048  # partial sums are folded into float64 this often; in float32 more would cost ulps
FOLD = 32  # the same for the sums of short rows, which take one class at a time


@device
def largest(row: Any) -> Any:
    """Return the maximum, NaN if there is one."""
    m = type(row[0])(-np.inf)
    for j in range(row.size):
        m = maximum(m, row[j])
    return m


@device
def limit(work: Any) -> Any:
    """Replace a row that holds +inf by its limit and return the new maximum."""
    return work.dtype.type(0.0 if take_limit(work) == 1 else np.nan)


@device
def exponentiate(scores: Any, m: Any, work: Any) -> Any:
    """Store exp(scores - m) in work and return the sum; the two may not overlap."""
    total = work.dtype.type(0.0)
    for j in range(work.size):
        e = exp_of_difference(scores[j], m)
        work[j] = e
        total = reordered_add(total, e)
    return F64(total)


@device
def exponentiate_edited(scores: Any, m: Any, target: Any, buffer: Any, work: Any) -> Any:
    """Do the same for a block that holds the target, or that the row does not fill."""
    for j in range(scores.size):
        buffer[j] = scores[j]
    buffer[scores.size : work.size] = -np.inf
    if 0 <= target < scores.size:
        buffer[target] = -np.inf
    return exponentiate(buffer[: work.size], m, work)


@device
def exponentiate_others(row: Any, m: Any, target: Any, buffer: Any, work: Any) -> Any:
    """Store exp(row - m) in work, 0 for the target, and return the sum in float64."""
    others = 0.0
    for start in range(0, row.size, BLOCK):
        scores, part = row[start : start + BLOCK], work[start : start + BLOCK]
        if start <= target < start + BLOCK or scores.size < part.size:
            others += exponentiate_edited(scores, m, target - start, buffer, part)
        else:
            others += exponentiate(scores, m, part)
    return others


@device
def finish(gap: Any, others: Any, own: Any) -> Any:
    """Return the loss, -ln(own / (others + own)), where gap = m - score of the target >= 0."""
    return gap + log1p(others if gap == 0.0 else (others - 1.0) + own)


@device
def loss_below(row: Any, m: Any, target: Any, buffer: Any, work: Any) -> Any:
    """Return loss, others, own of a row with maximum m; work keeps the others' exponentials."""
    score = row[target]
    others = exponentiate_others(row, m, target, buffer, work)
    own = F64(exp_of_difference(score, m))
    return finish(F64(m) - F64(score), others, own), others, own


@device
def row_loss(row: Any, target: Any, buffer: Any, work: Any) -> Any:
    """Return loss, others, own of any row; one that holds +inf is replaced by its limit."""
    m = largest(row)
    if m != np.inf:
        return loss_below(row, m, target, buffer, work)
    replaced = row.copy()
    m = limit(replaced)
    return loss_below(replaced, m, target, buffer, work)


@device
def write(work: Any, factor: Any, out: Any) -> None:
    """Store factor * work in out."""
    for j in range(out.size):
        out[j] = work[j] * factor


@kernel
def hard_rows(
    logits: Any, targets: Any, row_weight: Any, scale: Any, losses: Any, gradient: Any, sums: Any
) -> None:
    """Add the weighted losses to sums[0]; store losses (unscaled) and gradient (times scale)."""
    logits, gradient = borrowed(logits), borrowed(gradient)
    padded = (logits.shape[1] + LANES - 1) // LANES * LANES
    scratch = np.empty(padded + BLOCK, logits.dtype)
    work, buffer = borrowed(scratch)[:padded], borrowed(scratch)[padded:]
    for i in range(logits.shape[0]):
        weight = row_weight[i] if row_weight.size else 1.0
        loss, others, own = 0.0, 0.0, 1.0
        if weight != 0.0:
            loss, others, own = row_loss(logits[i], targets[i], buffer, work)
            loss *= weight
        sums[0] += loss
        if losses.size:
            losses[i] = loss
        if gradient.size and weight != 0.0:
            factor = weight * scale / (others + own)
            write(work, logits.dtype.type(factor), gradient[i])
            gradient[i, targets[i]] = -others * factor
        elif gradient.size:
            gradient[i] = 0.0
    keep(scratch)


# Short rows -------------------------------------------------------------------------------------


@device
def load_tile(logits: Any, work: Any, m: Any) -> None:
    """Turn rows into columns of work, so that lane i of every vector is row i; maxima into m."""
    for i in range(logits.shape[0]):
        row = logits[i]
        for j in range(row.size):
            work[j, i] = row[j]
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
            flat[np.uint64(i) * classes + np.uint64(j)] = turned[i] * factor[i]


@kernel
def hard_tiles(
    logits: Any, targets: Any, row_weight: Any, scale: Any, losses: Any, gradient: Any, sums: Any
) -> None:
    """Do what `hard_rows` does, TILE rows at a time."""
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    tile, lanes = np.zeros((logits.shape[1] + 4, TILE), logits.dtype), np.zeros((3, TILE))
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
                part[i, own_class[i]] = -others[i] * total[i]
                if row_weight.size and row_weight[start + i] == 0.0:
                    part[i] = 0.0  # whatever the scores hold: 0 times NaN would be NaN
    keep(tile)
    keep(lanes)
