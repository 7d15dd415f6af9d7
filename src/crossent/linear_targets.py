"""The targets of a linear head: indices, probabilities, or pairs of both, some rows at a time.

They are checked for scores that are not there yet, and never laid out for all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from crossent import checks
from crossent.checks import NO_ROW
from crossent.layout import Array, result_type
from crossent.linear_layer import BESIDE, Rows
from crossent.targets import index_targets, mass_targets, row_weights


class Targets(NamedTuple):
    """Checked targets: some rows of them, the rows' weights, and what the reductions divide by."""

    of: Callable[[Rows], Array]
    row_weight: Array
    weight: float
    samples: float
    bytes_per_score: int


def prepare(loss: Any, value: Any, shape: tuple[int, ...], dtype: Any, weights: Array) -> Targets:
    """Check targets of any kind for scores of a shape (..., V)."""
    each = checks.per_output("class_weight", loss.class_weight, shape[-1], "classes")
    if is_pair(value, len(shape)):
        return _top(value, shape, result_type(dtype), weights, each)
    array = checks.as_array("targets", value)
    if array.dtype.kind not in "iu" and array.ndim == len(shape):
        return _dense(array, shape, weights, each)
    indices = checks.targets(value, shape, len(shape) - 1)
    y, ignored, weight = index_targets(indices, shape[-1], loss.ignore_index, weights, each)
    y, weights, _ = row_weights(y, ignored, weights, NO_ROW)
    return Targets(lambda rows: y[rows], weights, weight, _samples(weights, len(y)), 0)


def is_pair(value: Any, ndim: int) -> bool:
    """Return whether targets are (indices, probabilities), not two rows of something else."""
    return isinstance(value, tuple) and len(value) == 2 and np.ndim(value[0]) == ndim


def _samples(weights: Array, rows: int) -> float:
    """Return what so many rows of these weights weigh; empty ones are 1."""
    return float(weights.sum()) if weights.size else float(rows)


def _dense(value: Array, shape: tuple[int, ...], weights: Array, each: Array) -> Targets:
    """Check probabilities, some rows at a time, as half types are widened."""
    wide = np.float32 if value.dtype.name in checks.HALF_TYPES else value.dtype
    checks.targets(np.broadcast_to(np.zeros((), wide), value.shape), shape, len(shape) - 1)
    y, step = value.reshape(-1, shape[-1]), max(1, BESIDE // (8 * shape[-1]))
    total = 0.0
    for start in range(0, len(y), step):
        rows = slice(start, start + step)
        try:
            total += mass_targets(y[rows].astype(wide, copy=False), weights[rows], each, 1)[1]
        except ValueError:
            raise checks.bad_probability(value, taking_part=_part(weights, shape)) from None
    samples = _samples(weights, len(y))
    copied = wide != value.dtype or (weights == 0).any() or not y.flags.c_contiguous
    return Targets(
        lambda rows: y[rows], weights, total, samples, np.dtype(wide).itemsize if copied else 0
    )


def _part(weights: Array, shape: tuple[int, ...]) -> Array:
    """Return which rows take part, to broadcast against scores of a shape."""
    return (
        np.expand_dims(weights.reshape(shape[:-1]) != 0, -1) if weights.size else np.ones(1, bool)
    )


def _top(
    value: tuple[Any, Any], shape: tuple[int, ...], dtype: Any, weights: Array, each: Array
) -> Targets:
    """Check pairs (indices, probabilities); rows of them are laid out beside the scores."""
    indices = checks.top_indices(value[0], shape)
    p = checks.top_probabilities(value[1], indices.shape, _part(weights, shape))
    k = indices.shape[-1]
    rows = math.prod(shape[:-1])  # which a reshape does not find where k is 0
    laid_out = LaidOut(indices.reshape(rows, k), p.reshape(rows, k), shape[-1], dtype)
    mass = (laid_out.p * each[laid_out.indices] if each.size else laid_out.p).sum(axis=1)
    mass = weights * np.where(weights != 0, mass, 0.0) if weights.size else mass
    samples = _samples(weights, len(mass))
    return Targets(laid_out, weights, float(mass.sum()), samples, np.dtype(dtype).itemsize)


class LaidOut:
    """Rows of k probabilities each, laid out over all classes in memory that is used again."""

    def __init__(self, indices: Array, p: Array, classes: int, dtype: Any) -> None:
        self.indices, self.p, self.classes, self.dtype = indices, p, classes, dtype
        self._memory = np.zeros((0, classes), dtype)
        self._filled: tuple[Array, Array] | None = None

    def __call__(self, rows: Rows) -> Array:
        """Return the probabilities of some rows, (n, V)."""
        indices, p = self.indices[rows], self.p[rows]
        if self._filled is not None:
            self._memory[self._filled] = 0
        if len(self._memory) < len(p):
            self._memory = np.zeros((len(p), self.classes), self.dtype)
        out, row = self._memory[: len(p)], np.arange(len(p))
        for j in range(p.shape[1]):
            out[row, indices[:, j]] += p[:, j]
        self._filled = (row[:, None], indices)
        out[self._filled] = np.minimum(out[self._filled], 1)  # rounding may exceed it
        return out
