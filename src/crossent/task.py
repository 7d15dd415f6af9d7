"""What a classifier learns from: rows with classes, looked at once and cut as a loss takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils.validation import assert_all_finite

import crossent
from crossent import checks
from crossent.curvature import Coordinates, Memory, centre, coordinates_for, moments
from crossent.layer import Array, Block, Float64, Rows, blocks_of, nbytes_of, outputs_of

RARE = 1e-6  # the least frequency that a class is supposed to have, before anything is learnt


class Coded(NamedTuple):
    """Some rows: features, positions in the classes or an indicator matrix, weights or None."""

    features: Any
    codes: Array
    weight: Float64 | None


@dataclass(frozen=True)
class Each:
    """What a function makes of each item, anew every time that one asks."""

    items: Iterable[Any]
    function: Callable[..., Any]

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            yield self.function(*item)


@dataclass(frozen=True)
class Blocks:
    """Makes of coded rows the blocks that a loss takes."""

    loss: str
    outputs: int
    per_class: Float64 | None

    def __call__(self, features: Any, codes: Array, weight: Float64 | None) -> list[Block]:
        """Cut some rows into blocks, with what their classes weigh."""
        if self.per_class is not None:
            own = self.per_class[codes]
            weight = own if weight is None else weight * own
        targets = self._targets(codes, features.dtype)
        return blocks_of(features, targets, weight, self.outputs)

    def _targets(self, codes: Array, dtype: Any) -> Array:
        """Return class indices (n,) for softmax, 0 and 1 of shape (n, J) for sigmoid."""
        if codes.ndim == 2:
            return codes.astype(dtype)
        if self.loss != "sigmoid":
            return codes
        if self.outputs == 1:
            return codes[:, None].astype(dtype)
        return np.equal.outer(codes, np.arange(self.outputs)).astype(dtype)


@dataclass(frozen=True)
class Survey:
    """What one look at rows tells; add up those of several batches.

    Attributes
    ----------
    count, columns, dtype, sparse, nbytes
        Of the features.
    totals : (2, J) array
        The weight of the rows of each class or output, and of all rows.
    """

    count: int
    columns: int
    dtype: Any
    sparse: bool
    nbytes: int
    totals: Float64

    def __add__(self, other: Survey) -> Survey:
        if other.columns != self.columns:
            raise ValueError(
                f"a batch has {other.columns} features; those before have {self.columns}"
            )
        return Survey(
            self.count + other.count,
            self.columns,
            np.result_type(self.dtype, other.dtype),
            self.sparse or other.sparse,
            self.nbytes + other.nbytes,
            self.totals + other.totals,
        )


def survey_of(batches: Iterable[Coded], classes: int) -> Survey | None:
    """Return what all batches together tell, None if there are no rows."""
    found = None
    for features, codes, weight in batches:
        assert_all_finite(features.data if sparse.issparse(features) else features, input_name="X")
        if sparse.issparse(features):
            checks.sparse_rows(features)
        totals = _totals(codes, weight, classes)
        count, columns = features.shape
        kind = (features.dtype, sparse.issparse(features), nbytes_of(features))
        own = Survey(count, columns, *kind, totals)
        found = own if found is None else found + own
    return found


def _totals(codes: Array, weight: Float64 | None, classes: int) -> Float64:
    """Return the weight of the rows of each class or output, and of all rows: (2, J)."""
    if codes.ndim == 1:
        each = np.bincount(codes, weight, classes).astype(np.float64)
        return np.stack([each, np.full(classes, each.sum())])
    if weight is None:
        return np.stack([codes.sum(axis=0), np.full(classes, len(codes))]).astype(np.float64)
    whole = np.broadcast_to(weight.T, codes.T.shape).T
    return np.stack([(whole * codes).sum(axis=0), whole.sum(axis=0)])


@dataclass(frozen=True)
class Task:
    """Rows to learn from, as a loss takes them.

    Attributes
    ----------
    totals : (2, J) array
        The weight of the rows of each class or output, and of all rows.
    """

    loss: Any
    rows: Rows
    totals: Float64

    @property
    def total(self) -> float:
        """Return what a mean over the rows divides by."""
        return float(self.totals[1].mean())

    def new_memory(self, standardize: bool) -> Memory:
        """Return the memory of no rows yet, with the unit in which each weight is penalised."""
        scale = np.ones(1)
        if standardize:
            _, variance = moments(self.rows)
            scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        return Memory(centre(self.rows), scale, np.zeros((1, 1)))

    def coordinates(self, origin: Float64, precision: Float64, held: float = 0.0) -> Coordinates:
        """Return coordinates for the search."""
        p = outputs_of(self.loss, np.zeros((1, self.totals.shape[1])))
        return coordinates_for(self.rows, origin, float((p * (1 - p)).mean()), precision, held)

    def start(self) -> Float64:
        """Return scores that give every class or output its frequency."""
        share = self.totals[0] / np.maximum(self.totals[1], 1e-300)
        if isinstance(self.loss, crossent.BinaryCrossEntropy):
            share = share.clip(RARE, 1 - RARE)
            return np.asarray(np.log(share / (1 - share)))
        return np.asarray(np.log(np.maximum(share, RARE)))
