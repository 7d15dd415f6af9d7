"""Any combination of options, shapes and types against reference.py, the formulas as on paper.

The reference guards no tail, so scores stay within [-4.5, 4.5]; test_accuracy.py holds the tails.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import crossent
from cases import REDUCTIONS
from crossent import reference

TOLERANCE = {
    "float32": {"rtol": 2e-6, "atol": 1e-7},
    "float64": {"rtol": 1e-11, "atol": 1e-13},
}
EXAMPLES = settings(max_examples=200)


@dataclass(frozen=True)
class Call:
    """Arguments of a loss, classes last."""

    logits: Any
    targets: Any
    weight: Any
    normalizer: float | None
    dtype: str

    def __repr__(self) -> str:
        """Say what hypothesis drew; the numbers are in the blob it prints."""
        weight = None if self.weight is None else self.weight.shape
        targets = (self.targets.shape, self.targets.dtype.name)
        return f"Call({self.logits.shape} {self.dtype}, {targets}, {weight}, {self.normalizer})"


def maybe(strategy: st.SearchStrategy[Any], otherwise: Any = None) -> st.SearchStrategy[Any]:
    return st.just(otherwise) | strategy


def some(**options: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return some of the options, with one of their values; often none."""
    values = {name: st.sampled_from(given) for name, given in options.items()}
    return st.just({}) | st.fixed_dictionaries({}, optional=values)


@st.composite
def calls(draw: st.DrawFn, sigmoid: bool) -> Call:
    """Return arguments: hypothesis draws what is special, a seeded generator the numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(sorted(TOLERANCE)))
    lead = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=2)))
    classes = draw(st.sampled_from([1, 2, 3, 5, 40, 300]))
    spread = draw(st.sampled_from([0.0, 1.0, 4.0]))
    z = np.clip(rng.normal(size=(*lead, classes)) * spread, -4.5, 4.5).astype(dtype)
    if draw(st.booleans()):
        z = np.round(z)  # ties
    kind = draw(st.sampled_from(["hard", "soft"]))
    if sigmoid:
        targets = rng.integers(2, size=z.shape) if kind == "hard" else rng.random(z.shape)
    elif kind == "hard":
        targets = rng.integers(classes, size=lead)
        targets[rng.random(lead) < draw(st.sampled_from([0.0, 0.3]))] = -100
    else:
        targets = rng.random(z.shape) / classes  # need not sum to 1
    if kind == "soft":
        targets = targets.astype(dtype)  # other pairs of types: test_semantics.py
    shape = z.shape if sigmoid and draw(st.booleans()) else lead
    weight = maybe(st.just(rng.choice([0.0, 0.5, 1.0, 3.0], shape)))
    return Call(z, targets, draw(weight), draw(maybe(st.sampled_from([0.5, 7.0]))), dtype)


def expect(call: Call, losses: Any, gradient: Any, mass: Any, reduction: str) -> tuple[Any, Any]:
    """Return value and gradient: losses (rows, or outputs) weighted and divided as design says."""
    weight = np.ones(losses.shape) if call.weight is None else call.weight
    weight = weight[..., None] if weight.ndim < losses.ndim else weight
    weight = np.broadcast_to(weight, losses.shape) * (mass >= 0)  # ignored: no mass at all
    per_class = weight if gradient.shape == weight.shape else weight[..., None]
    batch = weight.sum() / (losses.shape[-1] if gradient.shape == losses.shape else 1)
    divisor = {"mean": (weight * mass).sum(), "batchmean": batch}.get(reduction, 1.0)
    if reduction in ("mean", "batchmean") and call.normalizer is not None:
        divisor = call.normalizer
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1.0 / divisor if divisor else 0.0
    if reduction == "none":
        return weight * losses, per_class * gradient
    return (weight * losses).sum() * scale, per_class * gradient * scale


def compare(loss: Any, call: Call, expected: tuple[Any, Any]) -> None:
    axis = getattr(loss, "axis", -1)
    z = np.moveaxis(call.logits, -1, axis)
    softmax = loss.activation_name == "softmax"
    targets = call.targets
    if softmax and targets.dtype.kind == "f":
        targets = np.moveaxis(targets, -1, axis)
    normalizer = call.normalizer if loss.reduction in ("mean", "batchmean") else None
    out = np.full(z.shape, np.nan, z.dtype)
    value, gradient = loss.value_and_grad(z, targets, call.weight, normalizer, out=out)
    tolerance = TOLERANCE[call.dtype]
    size = max(1.0, float(np.abs(expected[1]).max(initial=0)))
    np.testing.assert_allclose(value, expected[0], **tolerance)
    np.testing.assert_allclose(
        np.moveaxis(gradient, axis, -1) / size, expected[1] / size, **tolerance
    )
    np.testing.assert_array_equal(loss(z, targets, call.weight, normalizer), value)
    if loss.reduction == "mean" and normalizer is None:
        sums = loss.sums(z, targets, call.weight)
        np.testing.assert_allclose(sums.mean, expected[0], **tolerance)


def one_hot(call: Call) -> tuple[Any, Any]:
    """Return probabilities of the targets, and which rows are not ignored."""
    if call.targets.dtype.kind == "f":
        return call.targets.astype(np.float64), np.ones(call.targets.shape[:-1], bool)
    keep = call.targets != -100
    c = np.eye(call.logits.shape[-1])[np.where(keep, call.targets, 0)]
    return c * keep[..., None], keep


@EXAMPLES
@given(
    call=calls(sigmoid=False),
    options=some(
        label_smoothing=[0.1, 1.0],
        z_loss=[0.01],
        softcap=[3.0, 50.0],
        temperature=[0.5, 4.0],
        class_weight=[True],
        axis=[0],
    ),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_cross_entropy(call: Call, options: dict[str, Any], reduction: str) -> None:
    classes = call.logits.shape[-1]
    class_weight = np.ones(classes)
    if "class_weight" in options:
        options = {**options, "class_weight": (class_weight := np.arange(classes) % 4 / 2)}
    softcap, temperature = options.get("softcap"), options.get("temperature", 1.0)
    z = call.logits.astype(np.float64)
    s = reference.scores(z, softcap, temperature)
    p, (c, keep) = reference.softmax(s), one_hot(call)
    t = class_weight * reference.smooth(c, options.get("label_smoothing", 0.0)) * keep[..., None]
    z_loss = options.get("z_loss", 0.0)
    losses = reference.cross_entropy(p, t) + reference.z_loss(s, z_loss) * keep
    from_z_loss = 2 * z_loss * reference.logsumexp(s)[..., None] * p * keep[..., None]
    slope = np.ones_like(z) if softcap is None else 1 - np.tanh(z / softcap) ** 2
    gradient = (reference.cross_entropy_gradient(p, t) + from_z_loss) * slope / temperature
    mass = np.where(keep, (c * class_weight).sum(axis=-1), -1.0)
    loss = crossent.CrossEntropy(**options, reduction=reduction)
    compare(loss, call, expect(call, losses, gradient, mass, reduction))


@EXAMPLES
@given(
    call=calls(sigmoid=False),
    options=some(label_smoothing=[0.1, 1.0], axis=[0]),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_softmax_binary_cross_entropy(call: Call, options: dict[str, Any], reduction: str) -> None:
    if call.logits.shape[-1] == 1:  # p is 1 whatever the score: E is 0 or infinite
        return
    p, (c, keep) = reference.softmax(call.logits.astype(np.float64)), one_hot(call)
    t = reference.smooth(c, options.get("label_smoothing", 0.0))
    losses = np.where(keep, reference.two_term_cross_entropy(p, t), 0.0)
    mass = np.where(keep, 1.0, -1.0)
    expected = expect(call, losses, reference.two_term_gradient(p, t), mass, reduction)
    compare(crossent.SoftmaxBinaryCrossEntropy(**options, reduction=reduction), call, expected)


@EXAMPLES
@given(
    call=calls(sigmoid=True),
    options=some(label_smoothing=[0.1, 1.0], pos_weight=[True]),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_binary_cross_entropy(call: Call, options: dict[str, Any], reduction: str) -> None:
    outputs = call.logits.shape[-1]
    pos_weight = np.ones(outputs)
    if "pos_weight" in options:
        options = {**options, "pos_weight": (pos_weight := np.arange(outputs) % 4 / 2)}
    a = reference.sigmoid(call.logits.astype(np.float64))
    y = reference.smooth_binary(call.targets, options.get("label_smoothing", 0.0))
    losses = reference.weighted_binary_cross_entropy(a, y, pos_weight)
    gradient = (1 - y) * a - pos_weight * y * (1 - a)
    expected = expect(call, losses, gradient, np.ones(losses.shape), reduction)
    compare(crossent.BinaryCrossEntropy(**options, reduction=reduction), call, expected)


@EXAMPLES
@given(call=calls(sigmoid=True), reduction=st.sampled_from(REDUCTIONS))
def test_quadratic_cost(call: Call, reduction: str) -> None:
    a = reference.sigmoid(call.logits.astype(np.float64))
    y = call.targets.astype(np.float64)
    gradient = reference.quadratic_cost_gradient(a, y)
    losses = reference.quadratic_cost(a[..., None], y[..., None])
    expected = expect(call, losses, gradient, np.ones(losses.shape), reduction)
    compare(crossent.QuadraticCost(reduction=reduction), call, expected)
