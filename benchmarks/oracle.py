"""The truth, to 60 digits: losses, gradients and Hessian products in mpmath, formulas as on paper.

Nothing here is arranged against cancellation: the working precision is 60 digits beyond what the
scores can cancel, so the plain formula is right as it stands. No line is shared with the package.

`truth` takes what a loss takes, as nested lists or arrays, and answers in mpf. `ulps` measures
computed numbers against it. A row with one score of +inf is replaced by its limit; a row that has
no limit (NaN, two of +inf, only -inf) gives NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mpmath import mp, mpf

DIGITS = 60
STEP = mpf(10) ** -40  # of the central difference that a Hessian product is taken by
SIGMOID = ("binary_cross_entropy", "quadratic_cost")
FORMATS = {  # digits of the significand, exponent of the smallest subnormal, largest number
    "float64": (53, -1074, mpf(2) ** 1024 * (1 - mpf(2) ** -53)),
    "float32": (24, -149, mpf(2) ** 128 * (1 - mpf(2) ** -24)),
    "float16": (11, -24, mpf(65504)),
    "bfloat16": (8, -133, mpf(2) ** 128 * (1 - mpf(2) ** -8)),
}


@dataclass(frozen=True)
class Truth:
    """What a loss must answer, each an object array of mpf.

    Attributes
    ----------
    value : mpf, or array of the losses' shape for reduction "none"
        The reduced loss.
    gradient : array, shape of the logits
        Its derivative in the logits (for "none", of the sum).
    larger_term : array, shape of the logits
        The gradient is a difference of two numbers >= 0; this is the larger of them.
    larger_value : as value
        The value where no term cancels: for the quadratic cost the square of its larger term.
    product : array, shape of the logits, or None
        Hessian times vector, if a vector was given.
    """

    value: Any
    gradient: Any
    larger_term: Any
    larger_value: Any
    product: Any = None


# One row: its losses, the derivative of their sum, and the larger term of that -------------------
#
# Classes with equal score and target are computed once; n says how many there are of each.


def softmax(s: list[Any], n: list[int]) -> list[Any]:
    top = max(s)
    e = [mp.exp(x - top) for x in s]
    total = add(e, n)
    return [x / total for x in e]


def add(values: Any, n: list[int]) -> Any:
    return mp.fsum(x * k for x, k in zip(values, n, strict=True))


def x_log_y(x: Any, y: Any) -> Any:
    return mpf(0) if x == 0 else x * mp.log(y)


def x_over_y(x: Any, y: Any) -> Any:
    return mpf(0) if x == 0 else x / y if y else mp.inf


def cross_entropy(s: list[Any], t: list[Any], n: list[int], z_loss: Any) -> tuple[Any, ...]:
    p = softmax(s, n)
    lse = mp.log(add(map(mp.exp, s), n))
    pull = add(t, n) + 2 * z_loss * lse
    loss = z_loss * lse**2 - add(map(x_log_y, t, p), n)
    pairs = list(zip(p, t, strict=True))
    larger = [max(abs(pull * pj), tj) for pj, tj in pairs]
    return loss, [pull * pj - tj for pj, tj in pairs], larger


def two_term(s: list[Any], c: list[Any], n: list[int]) -> tuple[Any, ...]:
    p = softmax(s, n)
    if sum(n) == 2 and 1 in p:  # the limit: ln(1 - p) of one class is ln p of the other
        return cross_entropy(s, [1 + 2 * cj - sum(c) for cj in c], n, mpf(0))
    pairs = list(zip(p, c, strict=True))
    loss = -add((x_log_y(cj, pj) + x_log_y(1 - cj, 1 - pj) for pj, cj in pairs), n)
    odds = [x_over_y((1 - cj) * pj, 1 - pj) for pj, cj in pairs]  # u = odds - c
    up, down = add(odds, n), add(c, n)
    triples = [(ok, pk, ck) for ok, (pk, ck) in zip(odds, pairs, strict=True)]
    gradient = [ok - ck - pk * (up - down) for ok, pk, ck in triples]
    return loss, gradient, [max(ok + pk * down, ck + pk * up) for ok, pk, ck in triples]


def binary(z: Any, positive: Any, negative: Any) -> tuple[Any, ...]:
    up, down = 1 / (1 + mp.exp(-z)), 1 / (1 + mp.exp(z))
    loss = -(x_log_y(positive, up) + x_log_y(negative, down))
    return loss, loss, negative * up - positive * down, max(negative * up, positive * down)


def quadratic(z: Any, y: Any) -> tuple[Any, ...]:
    up, down = 1 / (1 + mp.exp(-z)), 1 / (1 + mp.exp(z))
    error, larger = (1 - y) * up - y * down, max((1 - y) * up, y * down)  # error = up - y
    return error**2 / 2, larger**2 / 2, error * up * down, larger * up * down


# A row of logits, with the options ---------------------------------------------------------------


def limit(row: list[Any], n: list[int]) -> list[Any]:
    """Return the row, its limit if one score is +inf, or NaN where there is no limit."""
    infinite = [x == mp.inf for x in row]
    several = sum(k for k, is_infinite in zip(n, infinite, strict=True) if is_infinite) > 1
    if any(map(mp.isnan, row)) or several or all(x == -mp.inf for x in row):
        return [mp.nan] * len(row)
    return [mpf(0) if alone else -mp.inf for alone in infinite] if any(infinite) else row


def softmax_row(
    name: str, options: dict[str, Any], z: list[Any], c: list[Any], n: list[int], size: int
) -> tuple[list[Any], ...]:
    alpha, temperature = mpf(options.get("label_smoothing", 0)), mpf(options.get("temperature", 1))
    softcap = options.get("softcap")
    capped = z if softcap is None else [softcap * mp.tanh(x / softcap) for x in z]
    slope = [mpf(1)] * len(z) if softcap is None else [mp.sech(x / softcap) ** 2 for x in z]
    scores = limit([x / temperature for x in capped], n)
    if any(map(mp.isnan, scores)):
        return scores, scores, scores, scores
    t = [(1 - alpha) * cj + alpha / size for cj, _ in c]
    if name == "softmax_binary_cross_entropy":
        loss, gradient, larger = two_term(scores, t, n)
    else:
        t = [w * tj for tj, (_, w) in zip(t, c, strict=True)]
        loss, gradient, larger = cross_entropy(scores, t, n, mpf(options.get("z_loss", 0)))
    slope = [d / temperature for d in slope]
    gradient, larger = (
        [g * d for g, d in zip(part, slope, strict=True)] for part in (gradient, larger)
    )
    return [loss] * len(z), [loss] * len(z), gradient, larger


def sigmoid_row(
    name: str, options: dict[str, Any], z: list[Any], c: list[Any], n: list[int], size: int
) -> tuple[list[Any], ...]:
    alpha = mpf(options.get("label_smoothing", 0))
    outputs = []
    for x, (y, w) in zip(z, c, strict=True):
        smooth = (1 - alpha) * y + alpha / 2
        is_quadratic = name == "quadratic_cost"
        outputs.append(quadratic(x, y) if is_quadratic else binary(x, w * smooth, 1 - smooth))
    return tuple(map(list, zip(*outputs, strict=True)))


def whole_row(row: Any, name: str, options: dict[str, Any], z: Any, c: Any, weight: Any) -> Any:
    """Return what `row` answers, having asked it once for all classes that are alike."""
    alike: dict[tuple[int, ...], int] = {}  # `exactly` makes equal numbers one object
    kind = [alike.setdefault(tuple(map(id, x)), len(alike)) for x in zip(z, c, weight, strict=True)]
    first = dict(zip(reversed(kind), range(len(kind) - 1, -1, -1), strict=True))
    picked = [first[k] for k in range(len(alike))]
    counts = np.bincount(kind, minlength=len(alike)).tolist()
    masses = [(c[i], weight[i]) for i in picked]
    parts = row(name, options, [z[i] for i in picked], masses, counts, len(kind))
    return [[part[k] for k in kind] for part in parts]


# A whole call ------------------------------------------------------------------------------------


def exactly(values: Any) -> Any:
    """Return an object array of mpf: the numbers given, not the decimals they were written as."""
    given = np.asarray(values, np.float64)
    each = {x: mpf(x) for x in given.reshape(-1).tolist()}
    result = np.empty(given.size, object)
    result[:] = [each.get(x, mp.nan) for x in given.reshape(-1).tolist()]
    return result.reshape(given.shape)


def working_digits(logits: Any) -> int:
    sizes = np.abs(np.asarray(logits, np.float64))
    reach = float(sizes[np.isfinite(sizes)].max(initial=0.0))
    return DIGITS + 10 + int(2 * min(reach, 4000.0) / math.log(10))


def truth(
    name: str,
    options: dict[str, Any],
    logits: Any,
    targets: Any,
    sample_weight: Any = None,
    normalizer: float | None = None,
    vector: Any = None,
) -> Truth:
    """Return the true loss, gradient and, for a vector, Hessian product of a call."""
    rest = (targets, sample_weight, normalizer)
    digits = working_digits(logits)
    with mp.workdps(digits if vector is None else 3 * digits):
        z = exactly(logits)
        here = evaluate(name, options, z, *rest)
        if vector is None:
            return here
        step = exactly(vector) * STEP
        points = (np.asarray(z + sign * step, object) for sign in (1, -1))
        up, down = (evaluate(name, options, point, *rest) for point in points)
        return replace(here, product=(up.gradient - down.gradient) / (2 * STEP))


def evaluate(
    name: str, options: dict[str, Any], z: Any, targets: Any, sample_weight: Any, normalizer: Any
) -> Truth:
    sigmoid = name in SIGMOID
    layout = Layout(z.shape, (-1 if sigmoid else options.get("axis", -1)), sigmoid)
    rows, (c, weight) = layout.rows(z), target_rows(options, targets, layout)
    if sample_weight is not None:
        weight = weight * exactly(sample_weight).reshape(layout.count, -1 if layout.count else 1)
    factor = "pos_weight" if sigmoid else "class_weight"
    of_class = np.broadcast_to(exactly(options.get(factor) or [1.0]), layout.classes)
    parts = [
        whole_row(sigmoid_row if sigmoid else softmax_row, name, options, a, b, of_class)
        for a, b in zip(rows, c, strict=True)
    ]
    losses, larger_losses, gradient, larger = (
        weigh(weight, stack([part[k] for part in parts], rows.shape)) for k in range(4)
    )
    divisor = divide_by(name, options, c * of_class, weight, normalizer)
    if not sigmoid:  # one loss per row
        losses, larger_losses = losses[:, :1], larger_losses[:, :1]
    return Truth(
        reduce(losses, options, divisor, layout),
        layout.back(divide(gradient, divisor)),
        layout.back(divide(larger, divisor)),
        reduce(larger_losses, options, divisor, layout),
    )


@dataclass(frozen=True)
class Layout:
    """How scores of a shape stand as rows (N, C), and back."""

    shape: tuple[int, ...]
    axis: int
    sigmoid: bool

    @property
    def single(self) -> bool:
        return self.sigmoid and len(self.shape) < 2  # samples of one output

    @property
    def classes(self) -> int:
        return 1 if self.single else self.shape[self.axis]

    @property
    def lead(self) -> tuple[int, ...]:
        return self.shape if self.single else tuple(np.delete(self.shape, self.axis).tolist())

    @property
    def count(self) -> int:
        return math.prod(self.lead)

    def rows(self, array: Any) -> Any:
        moved = array if self.single else np.moveaxis(array, self.axis, -1)
        return moved.reshape(self.count, self.classes)

    def back(self, rows: Any) -> Any:
        if self.single:
            return rows.reshape(self.shape)
        return np.moveaxis(rows.reshape((*self.lead, self.classes)), -1, self.axis)


def target_rows(options: dict[str, Any], targets: Any, layout: Layout) -> tuple[Any, Any]:
    """Return target probabilities (N, C), and weights (N, 1) that are 0 for ignored rows."""
    given = np.asarray(targets)
    weight = exactly(np.ones((layout.count, 1)))
    if layout.sigmoid or given.dtype.kind not in "iu":
        return layout.rows(exactly(given)), weight
    one_hot = np.zeros((layout.count, layout.classes))
    for i, label in enumerate(given.reshape(-1).tolist()):
        if label == options.get("ignore_index", -100):
            weight[i] = mpf(0)
        else:
            one_hot[i, label] = 1.0
    return exactly(one_hot), weight


def stack(parts: list[Any], shape: tuple[int, ...]) -> Any:
    result = np.empty(shape, object)
    for i, part in enumerate(parts):
        result[i] = part
    return result


def weigh(weight: Any, values: Any) -> Any:
    """Return weight * values, 0 where the weight is 0, whatever the value."""
    product = np.empty(values.size, object)
    pairs = zip(np.broadcast_to(weight, values.shape).flat, values.flat, strict=True)
    product[:] = [x if w == 1 else mpf(0) if w == 0 else w * x for w, x in pairs]
    return product.reshape(values.shape)


def divide(values: Any, divisor: Any) -> Any:
    return values if divisor == 1 else values / divisor if divisor else values * 0


def reduce(losses: Any, options: dict[str, Any], divisor: Any, layout: Layout) -> Any:
    if options.get("reduction", "mean") == "none":
        return losses.reshape(layout.shape if layout.sigmoid else layout.lead)
    return divide(mp.fsum(losses.flat), divisor)


def divide_by(name: str, options: dict[str, Any], mass: Any, weight: Any, normalizer: Any) -> Any:
    reduction = options.get("reduction", "mean")
    if reduction in ("none", "sum"):
        return mpf(1)
    if normalizer is not None:
        return mpf(normalizer)
    weights = np.broadcast_to(weight, mass.shape)
    if reduction == "batchmean" or name == "softmax_binary_cross_entropy":
        return mp.fsum(weights.flat) / max(mass.shape[1], 1)
    return mp.fsum((weights if name in SIGMOID else weights * mass).flat)


# Units in the last place -------------------------------------------------------------------------


def ulps(computed: Any, true: Any, unit: Any = None) -> Any:
    """Return |computed - true| / spacing(true) of every number, in the type of `computed`.

    The spacing of a type at x is the distance between its neighbours there; below its smallest
    normal number it is that of its subnormals. `unit` names other numbers whose spacing counts.
    A computed infinity is right (0) where the truth lies beyond the type, and NaN where it is NaN.
    """
    computed = np.asarray(computed)
    true = np.broadcast_to(np.asarray(true, object), computed.shape)
    unit = true if unit is None else np.broadcast_to(np.asarray(unit, object), computed.shape)
    form = FORMATS[computed.dtype.name]
    numbers = list(zip(computed.astype(np.float64).flat, true.flat, unit.flat, strict=True))
    alike = {(x, id(t), id(u)): (x, t, u) for x, t, u in numbers}
    each = {key: one_ulps(*number, form) for key, number in alike.items()}
    found = [each[x, id(t), id(u)] for x, t, u in numbers]
    return np.array(found).reshape(computed.shape)


def one_ulps(computed: float, true: Any, unit: Any, form: tuple[int, int, Any]) -> float:
    digits, least, greatest = form
    if mp.isnan(true):
        return 0.0 if math.isnan(computed) else math.inf
    if not math.isfinite(computed):
        beyond = abs(true) > greatest * (1 + mpf(2) ** (-digits - 1))
        return 0.0 if beyond and (computed > 0) == (true > 0) else math.inf
    if not mp.isfinite(true):
        return math.inf
    exponent = least
    if unit != 0 and mp.isfinite(unit):
        _, _, power, bits = mpf(unit)._mpf_
        exponent = max(power + bits - digits, least)
    with mp.workdps(DIGITS):
        return float(mp.ldexp(abs(mpf(computed) - true), -exponent))
