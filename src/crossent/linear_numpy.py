"""The NumPy front end of the linear head: chunks of rows between matrix products.

`over_chunks` is the loop: the scores of some rows, what the caller makes of them (their loss, and
their gradient in the same memory), and the products that take the gradient back to features,
weight and bias. `Layer` holds the arrays and the products; it knows nothing of losses. `prepare`
checks a call once, and `Call.work` runs the loss's own kernel over a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from crossent import checks
from crossent import numpy as on_arrays
from crossent.kernels import head as kernels
from crossent.kernels.blas import multiply
from crossent.linear import GRADIENTS, Dropped, HeadGradients, LinearCrossEntropy
from crossent.numpy import NO_ROW, bits
from crossent.plain import hvp
from crossent.threads import sum_over_rows

Array = NDArray[Any]
Rows = slice | NDArray[np.int64]
Work = Callable[[slice, Array], Any]

BESIDE = 4 << 20  # bytes of features, or of widened weights, at a time: beside the budget
WORTH_PICKING = 16  # a filter pays where it keeps no more than one entry in so many
ROUNDING = 1 + 1e-5  # of a bound's own sums, which are float32 within blocks
HESSIAN_ARRAYS = 16  # float64 arrays like the scores that a Hessian product makes on its way


# The layer --------------------------------------------------------------------------------------


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
        self.dtype = np.dtype(on_arrays.result_type(features.dtype))
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
    sum_over_rows(lambda i, j, sums: kernels.convert(a[i:j], b[i:j]), *a.shape)
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

    def __init__(self, *arguments: Any, tolerance: float) -> None:
        super().__init__(*arguments)
        self.tolerance = tolerance
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
        _by_rows(kernels.weigh_entries, slope, (kept, total, top), self.tolerance)
        if kept.sum() * WORTH_PICKING > slope.size:
            super().take_back(chunk, x, slope)
            return
        self.squares_of_features += float(((total * self.longest) ** 2).sum())
        self.sum_of_weight += float((np.sqrt(total * top) * _lengths(x)).sum())
        starts = np.concatenate([[0], np.cumsum(kept)])
        classes = np.empty(starts[-1], np.int32)
        values = np.empty(starts[-1], slope.dtype)
        _by_rows(
            lambda g, tolerance, s: kernels.pick_entries(g, tolerance, s, classes, values),
            slope,
            (starts[:-1],),
            self.tolerance,
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


def _by_rows(kernel: Any, slope: Array, each: tuple[Array, ...], tolerance: float) -> None:
    """Run a kernel over rows of the gradient and of what belongs to them."""
    limit = slope.dtype.type(tolerance)
    sum_over_rows(
        lambda a, b, sums: kernel(slope[a:b], limit, *(array[a:b] for array in each)), *slope.shape
    )


def _lengths(array: Array) -> NDArray[np.float64]:
    """Return the Euclidean length of every row."""
    wide = array.astype(np.float64, copy=False)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", wide, wide)))


def _longest_row(weight: Array) -> float:
    """Return the greatest length of a row of the weight."""
    step = max(1, BESIDE // (8 * max(1, weight.shape[1])))
    parts = (weight[start : start + step] for start in range(0, len(weight), step))
    return max(float(_lengths(part).max()) for part in parts)


# A checked call ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A checked call: the layer's arrays, and what the loss needs of some rows.

    Attributes
    ----------
    features, weight, bias : arrays (N, D), (V, D), (V,) or None
    targets : callable
        Some rows of the targets as the loss takes them. What it returns may be overwritten by the
        next call.
    row_weight : array (N,) or empty
        Sample weights, 0 where a row is ignored; empty for ones.
    rows : slice or indices
        Which rows take part.
    rows_shape : tuple
        The shape of the rows before they were laid out as N.
    divisor : float
        What the sum is divided by; 0 if nothing is left to average.
    bytes_per_row : int
        What a row takes of the budget.
    """

    head: LinearCrossEntropy
    features: Array
    weight: Array
    bias: Array | None
    targets: Callable[[Rows], Array]
    row_weight: Array
    rows: Rows
    rows_shape: tuple[int, ...]
    divisor: float
    bytes_per_row: int

    def step(self, bytes_per_row: int | None = None) -> int:
        """Return how many rows go together."""
        rows = checks.budget_for_rows(self.head.budget, bytes_per_row or self.bytes_per_row)
        width = int(self.features.shape[1])
        return min(rows, max(1, BESIDE // (8 * max(1, width))))

    def layer(self, wanted: tuple[str, ...], scale: float = 1.0) -> Layer:
        """Return the layer that collects the gradients wanted."""
        arguments = (self.features, self.weight, self.bias, self.rows, self.step(), wanted)
        tolerance = self.head.filter_tolerance
        if tolerance is None or not {"features", "weight"} & set(wanted):
            return Layer(*arguments)
        return FilteredLayer(*arguments, tolerance=tolerance * abs(scale))

    def problem(self, rows: Rows, scores: Array) -> on_arrays.Problem:
        """Return the loss of some rows, ready to run."""
        weights = self.row_weight[rows] if self.row_weight.size else None
        return on_arrays.prepare(self.head.loss, scores, self.targets(rows), weights)

    def run(
        self, layer: Layer, scale: float, losses: Array | None, upstream: Array | None = None
    ) -> NDArray[np.float64]:
        """Return the sums over all rows; store their losses, and take their gradients back."""
        back = bool(layer.gradients)

        def work(chunk: slice, scores: Array) -> tuple[float, float]:
            rows = layer.select(chunk)
            each = None if losses is None else np.empty(len(scores))
            totals = self.problem(rows, scores).run(scale, each, scores if back else None)
            if losses is not None:
                losses[rows] = each
            if back and upstream is not None:
                scores *= upstream[rows][:, None].astype(scores.dtype)
            return totals

        return over_chunks(layer, work, back)


def prepare(
    head: LinearCrossEntropy,
    features: Any,
    weight: Any,
    targets: Any,
    bias: Any,
    sample_weight: Any,
    normalizer: Any,
) -> Call:
    """Check the arrays of a call."""
    x, w, b = checks.head(features, weight, bias)
    lead, classes = x.shape[:-1], len(w)
    weights = checks.sample_weight(sample_weight, lead)
    weights = NO_ROW if weights is None else np.ascontiguousarray(weights.reshape(-1))
    found = _targets(head.loss, targets, (*lead, classes), x.dtype, weights)
    call = Call(
        head,
        x.reshape(math.prod(lead), x.shape[-1]),
        w,
        b,
        found.of,
        found.row_weight,
        np.flatnonzero(found.row_weight) if (found.row_weight == 0).any() else slice(None),
        lead,
        on_arrays.divide_by(head.reduction, cast(Any, found), normalizer),
        classes * (np.dtype(on_arrays.result_type(x.dtype)).itemsize + found.bytes_per_score),
    )
    call.step()  # raises what is wrong with the budget
    return call


class Targets(NamedTuple):
    """Checked targets: some rows of them, the rows' weights, and what the reductions divide by."""

    of: Callable[[Rows], Array]
    row_weight: Array
    weight: float
    samples: float
    bytes_per_score: int


def _targets(loss: Any, value: Any, shape: tuple[int, ...], dtype: Any, weights: Array) -> Targets:
    """Check targets of any kind for scores of a shape (..., V)."""
    each = checks.per_output("class_weight", loss.class_weight, shape[-1], "classes")
    if is_pair(value, len(shape)):
        return _top(value, shape, on_arrays.result_type(dtype), weights, each)
    array = np.asarray(value)
    if array.dtype.kind not in "iu" and array.ndim == len(shape):
        return _dense(array, shape, weights, each)
    indices = checks.targets(value, shape, len(shape) - 1)
    y, ignored = on_arrays.index_targets(indices, shape[-1], loss.ignore_index)
    y, weights, mass = on_arrays.row_weights(y, ignored, weights, each)
    return _summed(lambda rows: y[rows], weights, mass, len(y))


def is_pair(value: Any, ndim: int) -> bool:
    """Return whether targets are (indices, probabilities), not two rows of something else."""
    return isinstance(value, tuple) and len(value) == 2 and np.ndim(value[0]) == ndim


def _summed(
    of: Callable[[Rows], Array], weights: Array, mass: Array, rows: int, bytes_per_score: int = 0
) -> Targets:
    """Return targets of so many rows of these weights and weighted masses; empty ones are 1."""
    weight, samples = (float(each.sum()) if each.size else float(rows) for each in (mass, weights))
    return Targets(of, weights, weight, samples, bytes_per_score)


def _dense(value: Array, shape: tuple[int, ...], weights: Array, each: Array) -> Targets:
    """Check probabilities, some rows at a time, as half types are widened."""
    wide = np.float32 if value.dtype.name in checks.HALF_TYPES else value.dtype
    checks.targets(np.broadcast_to(np.zeros((), wide), value.shape), shape, len(shape) - 1)
    y, step = value.reshape(-1, shape[-1]), max(1, BESIDE // (8 * shape[-1]))
    total = 0.0
    for start in range(0, len(y), step):
        rows = slice(start, start + step)
        try:
            total += on_arrays.mass_targets(
                y[rows].astype(wide, copy=False), weights[rows], each, 1
            )[1]
        except ValueError:
            raise checks.bad_probability(value, taking_part=_part(weights, shape)) from None
    samples = float(weights.sum()) if weights.size else float(len(y))
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
    laid_out = LaidOut(indices.reshape(-1, k), p.reshape(-1, k), shape[-1], dtype)
    mass = (laid_out.p * each[laid_out.indices] if each.size else laid_out.p).sum(axis=1)
    mass = weights * np.where(weights != 0, mass, 0.0) if weights.size else mass
    return _summed(laid_out, weights, mass, len(mass), np.dtype(dtype).itemsize)


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


# What the head asks for -------------------------------------------------------------------------


def value(
    head: LinearCrossEntropy,
    features: Any,
    weight: Any,
    targets: Any,
    bias: Any,
    sample_weight: Any,
    normalizer: Any,
) -> Any:
    """Return the reduced loss, or the losses for reduction "none"."""
    call = prepare(head, features, weight, targets, bias, sample_weight, normalizer)
    return evaluate(call, ())[0]


def value_and_grad(
    head: LinearCrossEntropy,
    features: Any,
    weight: Any,
    targets: Any,
    bias: Any,
    sample_weight: Any,
    normalizer: Any,
    wanted: tuple[str, ...],
) -> tuple[Any, HeadGradients]:
    """Return the reduced loss and the gradients wanted, rounded to the arguments' dtype."""
    call = prepare(head, features, weight, targets, bias, sample_weight, normalizer)
    wanted = tuple(name for name in wanted if name != "bias" or call.bias is not None)
    loss, layer = evaluate(call, wanted)
    shapes = {"features": (*call.rows_shape, call.features.shape[1])}
    found = {
        name: converted(gradient, call.features.dtype).reshape(shapes.get(name, gradient.shape))
        for name, gradient in layer.gradients.items()
    }
    dropped = layer.dropped if isinstance(layer, FilteredLayer) else None
    return loss, HeadGradients(**{name: found.get(name) for name in GRADIENTS}, dropped=dropped)


def evaluate(
    call: Call, wanted: tuple[str, ...], upstream: Array | None = None
) -> tuple[Any, Layer]:
    """Return the loss, and the layer with its gradients: in the type that is computed in.

    `upstream` multiplies each row's loss before it is differentiated.
    """
    scale = 1.0 / call.divisor if call.divisor else 0.0
    layer = call.layer(wanted, scale)
    dtype = layer.dtype.type
    if not call.divisor:  # nothing left to average
        return dtype(0), layer
    losses = np.zeros(len(call.features)) if call.head.reduction == "none" else None
    totals = call.run(layer, scale, losses, upstream)
    with np.errstate(over="ignore"):  # a loss beyond float32 is inf
        if losses is not None:
            return losses.astype(dtype).reshape(call.rows_shape)[()], layer
        return dtype(totals.sum() / call.divisor), layer


# A second derivative ----------------------------------------------------------------------------


class Directions(NamedTuple):
    """Changes of features, weight and bias, each of its argument's shape, or None for none."""

    features: Array | None
    weight: Array | None
    bias: Array | None


def second_derivative(
    call: Call, upstream: Array | float, directions: Directions, wanted: tuple[str, ...]
) -> tuple[dict[str, Array], NDArray[np.float64]]:
    """Return how the gradients change in the directions, and by how much each row's loss does.

    With A, B, c the directions, T = A W^T + X B^T + c is how the scores change, and Q = H T with
    the Hessian in the scores how their gradient G does. The derivative of <A, dX> + <B, dW> +
    <c, db> in X is Q W + G B, in W it is Q^T X + G^T A, in b the sum of Q; in what multiplies a
    row's loss from above it is <G, T>. Scores are computed again, some rows at a time.
    """
    scale = 1.0 / call.divisor if call.divisor else 0.0
    per_row = np.broadcast_to(np.asarray(upstream, np.float64), len(call.features))
    slopes, head = np.zeros(len(call.features)), call.head
    each_row = call.bytes_per_row + len(call.weight) * 8 * HESSIAN_ARRAYS
    step = call.step(each_row) if head.budget >= each_row else 1
    layer = Layer(call.features, call.weight, call.bias, call.rows, step, wanted)
    changes = np.empty((layer.step, len(call.weight)), layer.dtype)
    total = replace(head.loss, reduction="sum")

    def work(chunk: slice, scores: Array) -> NDArray[np.float64]:
        rows = layer.select(chunk)
        x, change = layer.features_of(chunk), changes[: len(scores)]
        _change_of_scores(layer, chunk, x, directions, change)
        weights = call.row_weight[rows] if call.row_weight.size else None
        bent = hvp(total, scores, call.targets(rows), change, weights, None)
        call.problem(rows, scores).run(scale, None, scores)
        slopes[rows] = np.einsum("ij,ij->i", scores, change, dtype=np.float64)
        above = per_row[rows][:, None].astype(layer.dtype)
        scores *= above
        bent *= above * scale
        layer.take_back(chunk, x, bent)
        _take_back_directions(layer, chunk, directions, scores)
        return np.zeros(2)

    if scale:
        over_chunks(layer, work, back=False)
    return layer.gradients, slopes


def _change_of_scores(
    layer: Layer, chunk: slice, x: Array, directions: Directions, out: Array
) -> None:
    """Store A W^T + X B^T + c in out."""
    out[...] = 0 if directions.bias is None else directions.bias
    if directions.features is not None:
        layer.add_scores(converted(directions.features[layer.select(chunk)], layer.dtype), out)
    if directions.weight is not None:
        layer.add_scores(x, out, directions.weight)


def _take_back_directions(layer: Layer, chunk: slice, directions: Directions, slope: Array) -> None:
    """Add G B to the features' gradient, and G^T A to the weight's."""
    found, rows = layer.gradients, layer.select(chunk)
    if "features" in found and directions.weight is not None:
        found["features"][rows] += layer.times_weight(slope, directions.weight)
    if "weight" in found and directions.features is not None:
        change = converted(directions.features[rows], layer.dtype)
        multiply(slope.T, change, found["weight"], add=True)


# Statistics -------------------------------------------------------------------------------------


class Statistics(NamedTuple):
    """What a head's scores say of each row; see `crossent.torch.head_statistics`."""

    loss: Any
    logsumexp: Any
    entropy: Any
    rank: Any


def statistics(call: Call) -> Statistics:
    """Return the losses, and of the scores logsumexp, entropy and rank of the target, per row."""
    n, loss = len(call.features), call.head.loss
    layer = call.layer(())
    losses, lse, entropy, rank = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n, np.int64)

    def work(chunk: slice, scores: Array) -> tuple[float, float]:
        rows = layer.select(chunk)
        problem = call.problem(rows, scores)
        y = problem.targets if problem.targets.ndim == 1 else problem.targets.argmax(axis=1)
        found = np.empty(len(y)), np.empty(len(y)), np.empty(len(y)), np.empty(len(y), np.int64)
        sum_over_rows(
            lambda a, b, sums: kernels.row_statistics(
                scores[a:b],
                y[a:b],
                loss.softcap or 0.0,
                1.0 / loss.temperature,
                *(array[a:b] for array in found[1:]),
            ),
            *scores.shape,
        )
        totals = problem.run(1.0, found[0], None)
        for to, array in zip((losses, lse, entropy, rank), found, strict=True):
            to[rows] = array
        return totals

    over_chunks(layer, work, back=False)
    each = (array.astype(layer.dtype) for array in (losses, lse, entropy))
    return Statistics(*(array.reshape(call.rows_shape) for array in (*each, rank)))
