"""Products of a layer with a few rows at a time: what the loss of a linear head lies between.

`over_chunks` is the loop: the scores of some rows, what the caller makes of them (their loss, and
their gradient in the same memory), and the products that take the gradient back to features,
weight and bias. `Layer` holds the arrays and the products; it knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossent.kernels import head as kernels
from crossent.kernels.blas import multiply
from crossent.layout import Array, bits, result_type
from crossent.linear import Dropped
from crossent.threads import sum_over_parts, sum_over_rows

Rows = slice | NDArray[np.int64]
Work = Callable[[slice, Array], Any]

BESIDE = 4 << 20  # bytes of features, or of widened weights, at a time: beside the budget
WORTH_PICKING = 16  # a filter pays where it keeps no more than one entry in so many
ROUNDING = 1 + 1e-5  # of a bound's own sums, which are float32 within blocks


class Layer:
    """The scores X W^T + b of some rows at a time, and the gradients that come back.

    Parameters
    ----------
    features, weight, bias : arrays (N, D), (V, D), (V,) or None
        Of one floating type.
    rows : slice or indices
        Which rows take part.
    step : int
        How many of them go together.
    wanted : tuple
        Which gradients are collected: names of `GRADIENTS`.

    Attributes
    ----------
    gradients : dict
        What has come back so far, in the type that is computed in: float32 for half types.
    """

    def __init__(
        self,
        features: Array,
        weight: Array,
        bias: Array | None,
        rows: Rows,
        step: int,
        wanted: tuple[str, ...] = (),
    ) -> None:
        self.features, self.weight, self.rows = features, weight, rows
        self.dtype = np.dtype(result_type(features.dtype))
        self.bias = None if bias is None else bias.astype(self.dtype)
        self.count = len(range(*rows.indices(len(features))) if isinstance(rows, slice) else rows)
        self.step = max(1, min(step, self.count))
        empty = {
            "features": (features.shape, self.dtype),
            "weight": (weight.shape, self.dtype),
            "bias": (weight.shape[:1], np.dtype(np.float64)),
        }
        self.gradients = {name: np.zeros(*empty[name]) for name in wanted}

    def chunks(self) -> Iterator[slice]:
        """Return the stretches of the rows that take part, in order, as even as can be."""
        number = -(-self.count // self.step)
        cuts = [self.count * i // number for i in range(number)] + [self.count]
        return (slice(*ends) for ends in pairwise(cuts))

    def select(self, chunk: slice) -> Rows:
        """Return which rows a chunk stands for."""
        return chunk if isinstance(self.rows, slice) else self.rows[chunk]

    def features_of(self, chunk: slice) -> Array:
        """Return the chunk's features in the type that is computed in."""
        return converted(self.features[self.select(chunk)], self.dtype)

    def scores(self, x: Array, out: Array) -> None:
        """Store x W^T + b in out."""
        if self.bias is not None:
            out[...] = self.bias
        self.add_scores(x, out, add=self.bias is not None)

    def add_scores(
        self, x: Array, out: Array, weight: Array | None = None, add: bool = True
    ) -> None:
        """Add x W^T to out or store it there, W the layer's own weight or another."""
        for part, w in self._parts(self.weight if weight is None else weight):
            multiply(x, w.T, out[:, part], add)

    def times_weight(self, slope: Array, weight: Array | None = None) -> Array:
        """Return slope W, or with another weight than the layer's own."""
        out = np.zeros((len(slope), self.weight.shape[1]), self.dtype)
        for part, w in self._parts(self.weight if weight is None else weight):
            multiply(slope[:, part], w, out, add=True)
        return out

    def take_back(self, chunk: slice, x: Array, slope: Array) -> None:
        """Add to the gradients what the chunk's gradient in the scores brings."""
        found = self.gradients
        if "features" in found:
            found["features"][self.select(chunk)] = self.times_weight(slope)
        if "weight" in found:
            multiply(slope.T, x, found["weight"], add=True)
        self.take_back_bias(slope)

    def take_back_bias(self, slope: Array) -> None:
        """Add to the bias's gradient, if it is wanted."""
        if "bias" in self.gradients:
            found, ones = np.empty((1, slope.shape[1]), self.dtype), np.ones((1, len(slope)))
            multiply(ones.astype(self.dtype), slope, found)
            self.gradients["bias"] += found[0]

    def _parts(self, weight: Array) -> Iterator[tuple[slice, Array]]:
        """Return parts of a weight in the type that is computed in, few enough to widen."""
        if weight.dtype == self.dtype:
            yield slice(None), weight
            return
        step = max(1, BESIDE // (max(1, weight.shape[1]) * self.dtype.itemsize))
        for start in range(0, len(weight), step):
            yield slice(start, start + step), converted(weight[start : start + step], self.dtype)


def converted(array: Array, dtype: Any) -> Array:
    """Return the array in another floating type: itself, if it is of that already."""
    if array.dtype == dtype:
        return array
    source, out = np.ascontiguousarray(array), np.empty(array.shape, dtype)
    a, b = (bits(each.reshape(len(each), -1)) for each in (source, out))
    sum_over_parts(lambda a, b, sums: kernels.convert(a, b), a, b)
    return out


def over_chunks(layer: Layer, work: Work, back: bool = True) -> NDArray[np.float64]:
    """Return the sum of what `work` returns for all chunks of rows.

    work(chunk, scores) gets the scores of some rows and leaves in their memory the gradient that
    is taken `back`. Whoever computes a part of the classes only (one rank of several) exchanges
    maxima and sums of the rows inside `work`.
    """
    memory = np.empty((layer.step, len(layer.weight)), layer.dtype)
    total = np.zeros(2)
    for chunk in layer.chunks():
        x, scores = layer.features_of(chunk), memory[: chunk.stop - chunk.start]
        layer.scores(x, scores)
        total += work(chunk, scores)
        if back:
            layer.take_back(chunk, x, scores)
    return total


# A filter ---------------------------------------------------------------------------------------


class FilteredLayer(Layer):
    """A layer that leaves out of its products what lies in small entries of the gradient.

    Where few entries exceed the tolerance, the products with G are made of those alone, row by row
    and class by class, which takes as long as there are entries. The sum of what was left out of a
    row, e, and the greatest entry of it, m, bound the difference: it is at most e |W_j| for a row
    of dX, with the longest row of W, and sqrt(e m) |X_i| for what row i adds to dW.
    """

    def __init__(self, *arguments: Any, limits: Array) -> None:
        super().__init__(*arguments)
        self.limits = limits  # of each row's entries, which may be as large
        self.longest = _longest_row(self.weight)
        self.squares_of_features, self.sum_of_weight = 0.0, 0.0

    @property
    def dropped(self) -> Dropped:
        """Return the bounds on what was left out."""
        return Dropped(
            features=ROUNDING * float(np.sqrt(self.squares_of_features)),
            weight=ROUNDING * self.sum_of_weight,
        )

    def take_back(self, chunk: slice, x: Array, slope: Array) -> None:
        """Add what the entries above the tolerance bring, or all where they are too many."""
        kept, total, top = np.empty(len(x), np.int64), np.empty(len(x)), np.empty(len(x))
        limits = np.ascontiguousarray(self.limits[self.select(chunk)], slope.dtype)
        _by_rows(kernels.weigh_entries, slope, limits, kept, total, top)
        if kept.sum() * WORTH_PICKING > slope.size:
            super().take_back(chunk, x, slope)
            return
        self.squares_of_features += float(((total * self.longest) ** 2).sum())
        self.sum_of_weight += float((np.sqrt(total * top) * _lengths(x)).sum())
        starts = np.concatenate([[0], np.cumsum(kept)])
        classes = np.empty(starts[-1], np.int32)
        values = np.empty(starts[-1], slope.dtype)
        _by_rows(
            lambda g, own, first: kernels.pick_entries(g, own, first, classes, values),
            *(slope, limits, starts[:-1]),
        )
        self._take_back_entries(chunk, x, (starts, classes, values))
        self.take_back_bias(slope)

    def _take_back_entries(self, chunk: slice, x: Array, entries: tuple[Array, ...]) -> None:
        starts, classes, values = entries
        if "features" in self.gradients:
            out, weight = np.empty_like(x), bits(self.weight)
            sum_over_rows(
                lambda a, b, sums: kernels.times_weight(
                    starts[a : b + 1], classes, values, weight, out[a:b]
                ),
                len(x),
                len(values) // max(len(x), 1) * x.shape[1],
            )
            self.gradients["features"][self.select(chunk)] = out
        if "weight" in self.gradients:
            gradient = self.gradients["weight"]
            sum_over_rows(
                lambda a, b, sums: kernels.add_times_features(
                    starts, classes, values, x, a, b, gradient
                ),
                *gradient.shape,
            )


def _by_rows(kernel: Any, slope: Array, *each: Array) -> None:
    """Run a kernel over rows of the gradient and of what belongs to them."""
    sum_over_parts(lambda rows, *rest: kernel(rows, *rest[:-1]), slope, *each)


def _lengths(array: Array) -> NDArray[np.float64]:
    """Return the Euclidean length of every row."""
    wide = array.astype(np.float64, copy=False)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", wide, wide)))


def _longest_row(weight: Array) -> float:
    """Return the greatest length of a row of the weight."""
    step = max(1, BESIDE // (8 * max(1, weight.shape[1])))
    parts = (weight[start : start + step] for start in range(0, len(weight), step))
    return max(float(_lengths(part).max()) for part in parts)
