"""Whether a loss without a penalty has no minimum, because rows can be told apart without error.

Then the weights can grow for ever and the loss still falls. Nobody should have to guess that from
large coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from crossent.layer import Array, Block, Float64, scores_of


def separates(blocks: Sequence[Block], weights: Float64, bias: Float64) -> bool:
    """Return whether every row is on its right side: for all classes, or for one sigmoid output."""
    right = [
        _right(block, scores_of(block.features, weights, bias)).all(axis=0) for block in blocks
    ]
    return bool(np.all(right, axis=0).any())


def _right(block: Block, scores: Array) -> Array:
    """Return (n, 1) or (n, J): whether a row is on its right side, or takes no part."""
    if block.targets.ndim == 2:
        right = (scores != 0) & ((scores > 0) == (block.targets == 1))
    else:
        own = np.take_along_axis(scores, block.targets[:, None], axis=1)
        right = ((scores >= own).sum(axis=1) == 1)[:, None]
    return np.asarray(right | ~_part(block).reshape(len(scores), -1))


def separating_columns(block: Block, outputs: int) -> Array:
    """Return the columns that alone tell some class from the rest.

    They do so if all values of the class lie on one side of all others; they may touch, as the
    class's weight can then still grow without ever doing harm.
    """
    found = np.zeros(block.features.shape[1], bool)
    for inside, outside in _sides(block, outputs):
        if inside.any() and outside.any():
            low, high = _range(block.features, inside)
            rest_low, rest_high = _range(block.features, outside)
            apart = (high <= rest_low) | (rest_high <= low)
            found |= apart & (np.minimum(low, rest_low) < np.maximum(high, rest_high))
    return np.flatnonzero(found)


def _sides(block: Block, outputs: int) -> Iterator[tuple[Array, Array]]:
    """Yield for every class or output which rows are in it, and which are not."""
    part = _part(block)
    for j in range(outputs):
        inside = block.targets == j if block.targets.ndim == 1 else block.targets[:, j] == 1
        taking = part if part.ndim == 1 else part[:, j]
        yield inside & taking, ~inside & taking


def _part(block: Block) -> Array:
    """Return whether rows (or outputs of rows) take part."""
    return np.ones(len(block.targets), bool) if block.weight is None else block.weight > 0


def _range(features: Any, rows: Array) -> tuple[Array, Array]:
    """Return the least and the greatest value of each column in some rows."""
    if sparse.issparse(features):
        some = features[rows]
        return some.min(axis=0).toarray().ravel(), some.max(axis=0).toarray().ravel()
    where = rows[:, None]
    return (
        np.min(features, axis=0, where=where, initial=np.inf),
        np.max(features, axis=0, where=where, initial=-np.inf),
    )
