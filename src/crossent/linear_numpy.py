"""The NumPy front end of the linear head: check a call, run its loss between the layer's products.

`prepare` checks a call once, and `Call.run` lets the loss's own kernel do its work on one chunk of
rows after the other; linear_layer.py has the loop and the products, linear_targets.py the targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from crossent import checks, linear_targets
from crossent import numpy as on_arrays
from crossent.checks import NO_ROW
from crossent.kernels import head as kernels
from crossent.kernels.blas import multiply
from crossent.layout import Array, result_type
from crossent.linear import GRADIENTS, HeadGradients, LinearCrossEntropy
from crossent.linear_layer import BESIDE, FilteredLayer, Layer, Rows, converted, over_chunks
from crossent.plain import hvp
from crossent.threads import sum_over_parts

HESSIAN_ARRAYS = 16  # float64 arrays like the scores that a Hessian product makes on its way


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

    def layer(
        self, wanted: tuple[str, ...], scale: float = 1.0, upstream: Array | None = None
    ) -> Layer:
        """Return the layer that collects the gradients wanted, of losses times scale and upstream.

        A filter asks how large an entry is before either: both are part of what is left out.
        """
        arguments = (self.features, self.weight, self.bias, self.rows, self.step(), wanted)
        tolerance = self.head.filter_tolerance
        if tolerance is None or not {"features", "weight"} & set(wanted):
            return Layer(*arguments)
        above = np.float64(1.0) if upstream is None else np.abs(upstream.astype(np.float64))
        with np.errstate(over="ignore"):  # a limit beyond float32 is inf
            limits = (tolerance * abs(scale) * above).astype(result_type(self.features.dtype))
        return FilteredLayer(*arguments, limits=np.broadcast_to(limits, len(self.features)))

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
    found = linear_targets.prepare(head.loss, targets, (*lead, classes), x.dtype, weights)
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
        classes * (np.dtype(result_type(x.dtype)).itemsize + found.bytes_per_score),
    )
    call.step()  # raises what is wrong with the budget
    return call


# What the head asks for -------------------------------------------------------------------------


def value(head: LinearCrossEntropy, *arguments: Any) -> Any:
    """Return the reduced loss, or the losses for "none"; arguments are those of `prepare`."""
    return evaluate(prepare(head, *arguments), ())[0]


def value_and_grad(
    head: LinearCrossEntropy, *arguments: Any, wanted: tuple[str, ...]
) -> tuple[Any, HeadGradients]:
    """Return the reduced loss and the gradients wanted, rounded to the arguments' dtype."""
    call = prepare(head, *arguments)
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
    layer = call.layer(wanted, scale, upstream)
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
        options = loss.softcap or 0.0, 1.0 / loss.temperature
        sum_over_parts(
            lambda s, y, *rest: kernels.row_statistics(s, y, *options, *rest[:-1]),
            *(scores, y, *found[1:]),
        )
        totals = problem.run(1.0, found[0], None)
        for to, array in zip((losses, lse, entropy, rank), found, strict=True):
            to[rows] = array
        return totals

    over_chunks(layer, work, back=False)
    each = (array.astype(layer.dtype) for array in (losses, lse, entropy))
    return Statistics(*(array.reshape(call.rows_shape) for array in (*each, rank)))
