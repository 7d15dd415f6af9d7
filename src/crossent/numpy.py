"""The NumPy front end: check, run the kernel over the rows, reduce.

Every public method of a loss comes here with the loss itself, a frozen set of options. `prepare`
checks the arrays once and turns them into a `Problem`: plain two-dimensional arrays, the kernel
to run over them, and what the reductions divide by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from crossent import checks
from crossent.checks import NO_ROW
from crossent.kernels import sigmoid as sigmoid_kernels
from crossent.kernels.long_rows import long_rows
from crossent.kernels.short_rows import SHORT, short_rows
from crossent.kernels.softmax import softmax_rows
from crossent.kernels.turning import MOST
from crossent.kernels.two_term import two_term_rows
from crossent.layout import Array, as_outputs, as_rows, bits, result_type
from crossent.sums import LossSums
from crossent.targets import check_outputs, index_targets, mass_targets, row_weights
from crossent.threads import sum_over_parts

Kernel = Callable[..., object]
FLOAT32_MAX = float(np.finfo(np.float32).max)
MILD = 2.0**-50  # a sharpness from here on, and its inverse, leave room in float32


@dataclass
class Problem:
    """A checked call: two-dimensional arrays and what to do with them.

    Attributes
    ----------
    logits : array (N, C)
        Scores, classes or outputs last, contiguous, float32 or float64.
    kernel : callable
        kernel(scale, logits, targets, weights, losses, gradient, sums) for some of the rows.
    losses_shape : tuple
        Shape of the losses before they are reduced.
    flat_losses : bool
        Whether the kernel stores one loss per row (True) or one per output.
    weight : float
        What "mean" divides by.
    axis : int
        Where the classes were, counted from 0.
    given_targets : array (N,) or (N, C)
        Class indices, or probabilities.
    given_weights : array (N,), (N, 1), (N, C) or empty
        Sample weights; empty for ones.
    ignored_index : int or None
        The class index that stands for none, if it is among the targets.
    """

    logits: Array
    kernel: Kernel
    losses_shape: tuple[int, ...]
    flat_losses: bool
    weight: float
    axis: int
    given_targets: Array
    given_weights: Array
    ignored_index: int | None = None

    @cached_property
    def _settled(self) -> tuple[Array, Array, Array]:
        return row_weights(self.given_targets, self.ignored_index, self.given_weights, NO_ROW)

    @property
    def targets(self) -> Array:
        """Targets of which all indices are classes; float32 ones of a half type."""
        y = self._settled[0]
        return y.astype(np.float32) if y.dtype.itemsize == 2 else y

    @property
    def weights(self) -> Array:
        """Sample weights, 0 where a row is ignored; empty for ones."""
        return self._settled[1]

    @property
    def samples(self) -> float:
        """What "batchmean" divides by."""
        if not self.weights.size:
            return float(len(self.logits))
        return float(self.weights.sum()) * len(self.logits) / self.weights.size

    @property
    def ignored(self) -> int:
        """How many rows or outputs take no part."""
        if not self.weights.size:
            return 0
        weightless = self.weights.size - np.count_nonzero(self.weights)
        return int(weightless) * math.prod(self.losses_shape) // self.weights.size

    def run(self, scale: float, losses: Any, gradient: Any) -> tuple[float, float]:
        """Run the kernel over all rows and return its sums: losses and z-losses."""
        totals = sum_over_parts(
            partial(self.kernel, scale),
            bits(self.logits),
            bits(self.given_targets),
            self.given_weights,
            NO_ROW if losses is None else losses,
            bits(np.empty((0, 0), self.logits.dtype) if gradient is None else gradient),
            width=4,
        )
        loss, z_loss, lost, z_lost = totals.tolist()  # kernels keep what rounding loses apart
        return loss + lost, z_loss + z_lost


# What the losses ask for ------------------------------------------------------------------------


def value(loss: Any, logits: Any, targets: Any, sample_weight: Any, normalizer: Any) -> Any:
    """Return the reduced loss, or the losses for reduction "none"."""
    return _evaluate(loss, checks.logits(logits), targets, sample_weight, normalizer, None)


def value_and_grad(
    loss: Any,
    logits: Any,
    targets: Any,
    sample_weight: Any,
    normalizer: Any,
    out: Any,
    upstream: float = 1.0,
) -> tuple[Any, Array]:
    """Return the reduced loss and its gradient in the logits times `upstream`, rounded once."""
    logits = checks.logits(logits)
    if out is None:
        out = np.empty(logits.shape, logits.dtype)
    else:
        checks.out(out, logits)
    return _evaluate(loss, logits, targets, sample_weight, normalizer, out, upstream), out


def sums(loss: Any, logits: Any, targets: Any, sample_weight: Any) -> LossSums:
    """Return sums that merge with those of other samples."""
    logits = checks.logits(logits)
    problem = prepare(loss, logits, targets, sample_weight)
    totals = problem.run(1.0, None, None)
    rows, correct = _decisions(loss, problem)
    return LossSums(
        sum=totals[0],
        z_loss=totals[1],
        weight=problem.weight,
        samples=problem.samples,
        rows=rows,
        correct=correct,
        ignored=problem.ignored,
    )


def prepare(loss: Any, logits: Array, targets: Any, sample_weight: Any) -> Problem:
    """Check the arrays of a call and return what has to be computed."""
    if loss.activation_name == "softmax":
        return _softmax_problem(loss, logits, targets, sample_weight)
    return _sigmoid_problem(loss, logits, targets, sample_weight)


def _evaluate(
    loss: Any,
    logits: Array,
    targets: Any,
    sample_weight: Any,
    normalizer: Any,
    out: Array | None,
    upstream: float = 1.0,
) -> Any:
    problem = prepare(loss, logits, targets, sample_weight)
    divisor = divide_by(loss.reduction, problem, normalizer)
    dtype = result_type(logits.dtype)
    if divisor == 0:  # nothing left to average
        if out is not None:
            out[...] = 0
        return dtype(0)
    losses = _new_losses(problem) if loss.reduction == "none" else None
    gradient = None if out is None else _working_gradient(problem, out)
    totals = problem.run(upstream / divisor, losses, gradient)
    if out is not None:
        _store_gradient(problem, gradient, out)
    if losses is None:
        return _rounded((totals[0] + totals[1]) / divisor, dtype)
    with np.errstate(over="ignore"):  # a loss beyond float32 is inf
        return losses.astype(dtype).reshape(problem.losses_shape)[()]


def _rounded(value: float, dtype: Any) -> Any:
    """Return a loss in its type; beyond float32 it is inf, without a warning."""
    return dtype(math.inf if dtype is np.float32 and value > FLOAT32_MAX else value)


def _new_losses(problem: Problem) -> Array:
    return np.empty(len(problem.logits) if problem.flat_losses else problem.logits.shape)


def divide_by(reduction: str, problem: Problem, normalizer: Any) -> float:
    """Return what the sum is divided by: 1, the normalizer, or the weight of what took part."""
    given = checks.normalizer(normalizer, reduction)
    if given is not None:
        return given
    if reduction == "mean":
        return problem.weight
    return problem.samples if reduction == "batchmean" else 1.0


# The gradient's memory --------------------------------------------------------------------------


def _working_gradient(problem: Problem, out: Array) -> Array:
    """Return `out` itself as (N, C) where the kernels can write to it, else new memory."""
    last = problem.axis == out.ndim - 1
    if last and out.flags.c_contiguous and not _overwrites(problem, out):
        return out if out.ndim == 2 else out.reshape(problem.logits.shape)
    return np.empty(problem.logits.shape, problem.logits.dtype)


def _overwrites(problem: Problem, out: Array) -> bool:
    """Return whether writing a row of out may change what a later row is computed from."""
    logits, targets, weights = problem.logits, problem.given_targets, problem.given_weights
    if _share_memory(out, logits) and out.ctypes.data != logits.ctypes.data:
        return True
    return _share_memory(out, targets) or (weights.size > 0 and _share_memory(out, weights))


def _share_memory(a: Array, b: Array) -> bool:
    """Return whether two arrays may overlap; two that own their memory do not, at a glance."""
    if a.flags.owndata and b.flags.owndata:
        return a is b
    return np.may_share_memory(a, b)


def _store_gradient(problem: Problem, gradient: Any, out: Array) -> None:
    if gradient is out or gradient.base is not None:  # it lies in out
        return
    moved = out if out.ndim < 2 else np.moveaxis(out, problem.axis, -1)
    moved[...] = gradient.reshape(moved.shape)


# Softmax losses ---------------------------------------------------------------------------------


def _softmax_problem(loss: Any, logits: Array, targets: Any, sample_weight: Any) -> Problem:
    axis = checks.axis(loss.axis, logits.ndim)
    classes = logits.shape[axis]
    checks.classes(classes)
    shape = logits.shape
    row_shape = shape[:axis] + shape[axis + 1 :]
    targets = checks.targets(targets, shape, axis)
    weights = checks.sample_weight(sample_weight, row_shape)
    class_weight = checks.per_output("class_weight", loss.class_weight, classes, "classes")
    z = as_rows(logits, axis)
    weights = NO_ROW if weights is None else np.ascontiguousarray(weights.reshape(-1))
    ignored = None  # none of the targets is
    two_terms = loss.name == "softmax_binary_cross_entropy"
    if targets.dtype == checks.INT64:
        y, ignored, weight = index_targets(
            targets, classes, loss.ignore_index, weights, class_weight
        )
    else:
        y, weight = mass_targets(targets, weights, class_weight, axis)
        if two_terms:
            weight = float(weights.sum()) if weights.size else float(len(z))
    if two_terms:
        kernel = _two_term_kernel(loss.label_smoothing, ignored)
    elif y.ndim == 1 and loss.is_plain:
        kernel = _row_kernel(classes, ignored, class_weight, () if classes <= MOST else None)
    else:
        options = _mass_options(loss, y, class_weight, classes)
        kernel = _row_kernel(classes, ignored, NO_ROW, options)
    return Problem(z, kernel, row_shape, True, weight, axis, y, weights, ignored)


def _row_kernel(classes: int, ignored: int | None, class_weight: Array, options: Any) -> Kernel:
    kernel = short_rows if classes <= SHORT else long_rows

    def run(scale: float, z: Array, y: Array, weights: Array, *results: Array) -> None:
        # Only now and for these rows: arrays for all of them would be touched for the first time.
        targets, _, weight = row_weights(y, ignored, weights, class_weight)
        kernel(z, targets, weight, options, scale, *results)

    return run


def _mass_options(loss: Any, y: Array, class_weight: Array, classes: int) -> tuple[Any, ...]:
    """Return what makes masses gain * c + base of targets, and what else a kernel must know."""
    alpha = loss.label_smoothing
    gain: Any = None  # masses as they are
    base: Any = 0.0
    if class_weight.size or classes <= SHORT:
        each = class_weight if class_weight.size else np.ones(classes)
        gain, base = each * (1.0 - alpha), each * (alpha / classes)
    elif y.ndim == 1 or alpha:  # one number does for all
        gain, base = 1.0 - alpha, alpha / classes
    sharpness = 1.0 / loss.temperature
    if not alpha:  # less is left to compute: kernels know by None
        as_they_are = y.ndim == 2 and classes <= SHORT and not class_weight.size
        in_type = MILD < sharpness < 1.0 / MILD
        gain = None if as_they_are else gain
        base = None if y.ndim == 1 and loss.softcap is None and in_type else base
    return gain, base, loss.z_loss, loss.softcap, sharpness


def _two_term_kernel(alpha: float, ignored: int | None) -> Kernel:
    def run(scale: float, z: Array, y: Array, weights: Array, *results: Array) -> None:
        targets, weight, _ = row_weights(y, ignored, weights, NO_ROW)
        two_term_rows(z, targets, weight, alpha, scale, *results)

    return run


# Sigmoid losses ---------------------------------------------------------------------------------


def _sigmoid_problem(loss: Any, logits: Array, targets: Any, sample_weight: Any) -> Problem:
    targets = checks.binary_targets(targets, logits.shape)
    sample_shape = logits.shape[:-1] if logits.ndim > 1 else logits.shape
    weights = checks.sample_weight(sample_weight, sample_shape, logits.shape)
    outputs = logits.shape[-1] if logits.ndim > 1 else 1
    z = as_outputs(logits, outputs)
    counts = targets.dtype.kind in "iub"  # kernels take any other type as it is
    y = as_outputs(targets.astype(np.float32) if counts else targets, outputs)
    per_output = weights is not None and weights.shape == logits.shape
    rows = NO_ROW if weights is None else as_outputs(weights, outputs if per_output else 1)
    check_outputs(y, targets, weights)
    pos_weight: Any = None
    if loss.name == "binary_cross_entropy":
        pos_weight = checks.per_output("pos_weight", loss.pos_weight, outputs, "outputs")
        pos_weight = pos_weight if pos_weight.size else ()
    weight = (float(rows.sum()) / rows.shape[1] if rows.size else float(len(z))) * z.shape[1]
    kernel = _sigmoid_kernel(pos_weight, loss.label_smoothing)
    axis = max(logits.ndim - 1, 0)
    return Problem(z, kernel, logits.shape, False, weight, axis, y, rows)


def _sigmoid_kernel(pos_weight: Any, alpha: float) -> Kernel:
    def run(scale: float, z: Array, y: Array, *more: Array) -> None:
        *optional, sums = more
        weights, losses, gradient = [each if each.size else None for each in optional]
        sigmoid_kernels.sigmoid_rows(
            z, y, pos_weight, weights, alpha, scale, losses, gradient, sums
        )

    return run


# Activations and decisions ----------------------------------------------------------------------


def softmax(logits: Any, axis: int = -1) -> Array:
    """Return the softmax along the axis; dtype as given."""
    return _softmax_of(logits, axis, None, 1.0, logarithm=False)


def log_softmax(logits: Any, axis: int = -1) -> Array:
    """Return the logarithm of the softmax along the axis; dtype as given."""
    return _softmax_of(logits, axis, None, 1.0, logarithm=True)


def _softmax_of(
    logits: Any, axis: int, softcap: float | None, temperature: float, logarithm: bool
) -> Array:
    logits = checks.logits(logits)
    axis = checks.axis(axis, logits.ndim)
    checks.classes(logits.shape[axis])
    z = as_rows(logits, axis)
    p = np.empty(z.shape, z.dtype)
    if z.shape[1] > SHORT and softcap is None and temperature == 1.0:
        _soften_long_rows(z, logarithm, p)
    else:
        _softmax(z, softcap, temperature, logarithm, np.empty(len(z)), p)
    if axis == logits.ndim - 1:
        return p.reshape(logits.shape)
    shape = logits.shape[:axis] + logits.shape[axis + 1 :] + (logits.shape[axis],)
    return np.moveaxis(p.reshape(shape), -1, axis)


def logsumexp(logits: Any, axis: int = -1) -> Any:
    """Return ln sum exp along the axis; float32 for half types."""
    logits = checks.logits(logits)
    axis = checks.axis(axis, logits.ndim)
    checks.classes(logits.shape[axis])
    z = as_rows(logits, axis)
    lse = np.empty(len(z))
    _softmax(z, None, 1.0, False, lse, np.empty((0, 0), z.dtype))
    shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    return lse.astype(result_type(logits.dtype)).reshape(shape)[()]


def _soften_long_rows(z: Array, logarithm: bool, p: Array) -> None:
    def run(z: Array, p: Array, sums: Array) -> None:
        long_rows(z, NO_ROW, NO_ROW, logarithm, 1.0, NO_ROW, p, sums)

    sum_over_parts(run, bits(z), bits(p), width=4)


def _softmax(
    z: Array, softcap: float | None, temperature: float, logarithm: bool, lse: Array, p: Array
) -> None:
    sum_over_parts(
        lambda z, lse, p, sums: softmax_rows(z, softcap, temperature, logarithm, lse, p),
        *(bits(z), lse, bits(p)),
    )


def sigmoid(logits: Any) -> Any:
    """Return 1 / (1 + exp(-logits)), elementwise; dtype as given."""
    return _sigmoid_of(logits, logarithm=False)


def log_sigmoid(logits: Any) -> Any:
    """Return the logarithm of the sigmoid, elementwise; dtype as given."""
    return _sigmoid_of(logits, logarithm=True)


def _sigmoid_of(logits: Any, logarithm: bool) -> Any:
    logits = checks.logits(logits)
    z = as_outputs(logits, 1).reshape(-1)
    a = np.empty(z.shape, z.dtype)
    sum_over_parts(
        lambda z, a, sums: sigmoid_kernels.sigmoid_each(z, logarithm, a), bits(z), bits(a)
    )
    return a.reshape(logits.shape)[()]


def activation(loss: Any, logits: Any) -> Any:
    """Return the outputs that a loss sees."""
    if loss.activation_name == "softmax":
        return _softmax_of(logits, loss.axis, loss.softcap, loss.temperature, logarithm=False)
    return sigmoid(logits)


def predict(loss: Any, logits: Any) -> Any:
    """Return the class of the largest score, or 1 where a sigmoid output is above one half."""
    logits = checks.logits(logits)
    if loss.activation_name == "sigmoid":
        with np.errstate(invalid="ignore"):  # NaN is not above it; bfloat16 would warn
            return (logits > 0).astype(np.int64)[()]
    axis = checks.axis(loss.axis, logits.ndim)
    checks.classes(logits.shape[axis])
    return logits.argmax(axis=axis)


def one_hot(labels: Any, num_classes: int) -> Array:
    """Return rows with 1 at each label."""
    indices = checks.labels(labels, num_classes)
    rows = np.zeros((*indices.shape, num_classes))
    np.put_along_axis(rows, indices[..., None], 1.0, axis=-1)
    return rows


def _decisions(loss: Any, problem: Problem) -> tuple[int, int]:
    """Return how many decisions took part, and how many agree with the target."""
    if loss.activation_name == "softmax":
        decided = problem.logits.argmax(axis=1)
        truth = problem.targets if problem.targets.ndim == 1 else problem.targets.argmax(axis=1)
    else:
        with np.errstate(invalid="ignore"):  # bfloat16 warns of NaN
            decided, truth = problem.logits > 0, problem.targets > 0.5
    part = problem.weights != 0 if problem.weights.size else np.ones(1, bool)
    part = np.broadcast_to(part, decided.shape)
    return int(part.sum()), int(((decided == truth) & part).sum())
