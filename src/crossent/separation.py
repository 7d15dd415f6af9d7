"""Whether a loss without a penalty has no minimum, because rows can be told apart without error.

Then the weights can grow for ever and the loss still falls. Nobody should have to guess that from
large coefficients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from crossent.layer import Array, Block, Float64, Rows, scores_of


def separates(rows: Rows, weights: Float64, bias: Float64) -> bool:
    """Return whether every row is on its right side: for all classes, or for one sigmoid output."""
    right = np.ones(len(bias))
    for block in rows.blocks():
        right *= _right(block, scores_of(block.features, weights, bias)).all(axis=0)
    return bool(rows.ranks.minimum(right).any())


def _right(block: Block, scores: Array) -> Array:
    """Return (n, 1) or (n, J): whether a row is on its right side, or takes no part."""
    if block.targets.ndim == 2:
        right = (scores != 0) & ((scores > 0) == (block.targets == 1))
    else:
        own = np.take_along_axis(scores, block.targets[:, None], axis=1)
        right = ((scores >= own).sum(axis=1) == 1)[:, None]
    return np.asarray(right | ~_part(block).reshape(len(scores), -1))


def separating_columns(rows: Rows, outputs: int) -> Array:
    """Return the columns that alone tell some class from the rest.

    They do so if all values of the class lie on one side of all others; they may touch, as the
    class's weight can then still grow without ever doing harm.
    """
    ends = np.full((4, outputs, rows.columns), np.inf)
    for block in rows.blocks():
        for j in range(outputs):
            inside, outside = _sides(block, j)
            own = np.stack([*_ends(block.features, inside), *_ends(block.features, outside)])
            ends[:, j] = np.minimum(ends[:, j], own)
    low, high, rest_low, rest_high = rows.ranks.minimum(ends) * [[[1]], [[-1]], [[1]], [[-1]]]
    apart = (high <= rest_low) | (rest_high <= low)
    both = np.isfinite(low) & np.isfinite(rest_low)
    varies = np.minimum(low, rest_low) < np.maximum(high, rest_high)
    return np.flatnonzero((apart & both & varies).any(axis=0))


def _sides(block: Block, j: int) -> tuple[Array, Array]:
    """Return which rows are in a class or output, and which are not."""
    part = _part(block)
    inside = block.targets == j if block.targets.ndim == 1 else block.targets[:, j] == 1
    taking = part if part.ndim == 1 else part[:, j]
    return inside & taking, ~inside & taking


def _part(block: Block) -> Array:
    """Return whether rows (or outputs of rows) take part."""
    return np.ones(len(block.targets), bool) if block.weight is None else block.weight > 0


def _ends(features: Any, rows: Array) -> tuple[Array, Array]:
    """Return the least value of each column in some rows, and minus the greatest."""
    if not sparse.issparse(features):
        where = rows[:, None]
        low = np.min(features, axis=0, where=where, initial=np.inf)
        return low, -np.max(features, axis=0, where=where, initial=-np.inf)
    if not rows.any():
        return (np.full(features.shape[1], np.inf),) * 2
    some = features[rows]
    return some.min(axis=0).toarray().ravel(), -some.max(axis=0).toarray().ravel()
