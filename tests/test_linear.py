"""The linear head on arrays: what a dense computation in float64 gives, within the memory allowed.

The oracle is `dense`: all scores at once, the formulas of reference.py, and the chain rule through
the layer written out.
"""

from __future__ import annotations

import doctest
import tracemalloc
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import crossent
from crossent import linear, reference
from crossent.kernels import head as head_kernels
from crossent.kernels.blas import multiply
from crossent.linear_layer import Layer, over_chunks

Array = NDArray[Any]
N, D, V = 23, 5, 67
RNG = np.random.default_rng(7)
X, W, B = RNG.normal(size=(N, D)), RNG.normal(size=(V, D)), RNG.normal(size=V)
LABELS = np.where(np.arange(N) % 6 == 4, -100, RNG.integers(V, size=N))
DENSE = RNG.dirichlet(np.full(V, 0.3), size=N)
TOP = (np.argsort(RNG.random((N, V)))[:, :3], RNG.dirichlet([1.0, 2.0, 3.0, 4.0], size=N)[:, :3])
WEIGHT = np.where(np.arange(N) % 7 == 2, 0.0, RNG.random(N))
ROW = V * 8  # bytes of a row of scores

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "class_weight": {"class_weight": RNG.random(V) + 0.1},
    "smoothing": {"label_smoothing": 0.2},
    "z_loss": {"z_loss": 0.03},
    "softcap": {"softcap": 2.5},
    "temperature": {"temperature": 0.6},
}
OPTIONS["all"] = {name: value for each in OPTIONS.values() for name, value in each.items()}
REDUCTIONS = ("none", "sum", "mean", "batchmean")
WAYS = [  # every option alone, none and all of them with every reduction
    *((options, "mean") for options in OPTIONS),
    *product(("plain", "all"), ("none", "sum", "batchmean")),
]


def masses(targets: Any) -> tuple[Array, Array]:
    """Return target probabilities (N, V), and which rows are not ignored."""
    if isinstance(targets, tuple):
        c = np.zeros((N, V))
        for j in range(targets[0].shape[1]):
            np.add.at(c, (np.arange(N), targets[0][:, j]), targets[1][:, j])
        return c, np.ones(N, bool)
    if targets.ndim == 2:
        return targets, np.ones(N, bool)
    return np.eye(V)[np.where(targets == -100, 0, targets)], targets != -100


def dense(
    targets: Any,
    reduction: str,
    bias: Array | None = B,
    sample_weight: Array | None = WEIGHT,
    normalizer: float | None = None,
    class_weight: Any = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> tuple[Any, Array, Array, Array]:
    """Return the loss and its gradients in features, weight and bias, from the formulas."""
    logits = X @ W.T + (0.0 if bias is None else bias)
    s = reference.scores(logits, softcap, temperature)
    slope = (1.0 if softcap is None else 1 - np.tanh(logits / softcap) ** 2) / temperature
    c, part = masses(targets)
    w = part * (1.0 if sample_weight is None else sample_weight)
    each = np.ones(V) if class_weight is None else np.asarray(class_weight)
    t = each * reference.smooth(c, label_smoothing)
    p, lse = reference.softmax(s), reference.logsumexp(s)[:, None]
    losses = w * (reference.cross_entropy(p, t) + reference.z_loss(s, z_loss))
    gradient = reference.cross_entropy_gradient(p, t) + 2 * z_loss * lse * p
    divisor = {"mean": (w * (c @ each)).sum(), "batchmean": w.sum()}.get(reduction, 1.0)
    g = w[:, None] * gradient * slope / (normalizer or divisor)
    value = losses if reduction == "none" else losses.sum() / (normalizer or divisor)
    return value, g @ W, g.T @ X, g.sum(axis=0)


TARGETS = {"indices": LABELS, "dense": DENSE, "top": TOP}
EVERY = pytest.mark.parametrize("kind", TARGETS)


def head(rows: float = 4, **options: Any) -> crossent.LinearCrossEntropy:
    """Return a head whose budget is so many rows of float64 scores, targets beside them."""
    return crossent.LinearCrossEntropy(memory_budget=int(2 * ROW * rows), **options)


def gradients(found: linear.HeadGradients) -> tuple[Any, Any, Any]:
    return found.features, found.weight, found.bias


def close(found: Any, expected: Any, rtol: float = 1e-11) -> None:
    scale = np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale)


# The same as all scores at once -------------------------------------------------------------------


@pytest.mark.parametrize(("options", "reduction"), WAYS)
@EVERY
def test_value_and_gradients_are_those_of_the_formulas(
    kind: str, options: str, reduction: str
) -> None:
    call = (X, W, TARGETS[kind], B, WEIGHT)
    loss = head(reduction=reduction, **OPTIONS[options])
    value, found = loss.value_and_grad(*call)
    expected, *slopes = dense(TARGETS[kind], reduction, **OPTIONS[options])
    close(value, expected)
    for each, slope in zip(gradients(found), slopes, strict=True):
        close(each, slope)
    assert found.dropped is None
    np.testing.assert_array_equal(loss(*call), value)


@EVERY
def test_without_bias_and_weights_and_with_a_normalizer(kind: str) -> None:
    value, found = head().value_and_grad(X, W, TARGETS[kind], normalizer=17.0)
    expected, *slopes = dense(TARGETS[kind], "mean", None, None, 17.0)
    close(value, expected)
    close(found.features, slopes[0])
    close(found.weight, slopes[1])
    assert found.bias is None


@EVERY
def test_how_many_rows_go_together_changes_rounding_only(kind: str) -> None:
    options = OPTIONS["all"]
    whole = head(1000, **options).value_and_grad(X, W, TARGETS[kind], B, WEIGHT)
    for rows in (1, 2, 3, 4, 7, 13, 22):
        value, found = head(rows, **options).value_and_grad(X, W, TARGETS[kind], B, WEIGHT)
        close(value, whole[0], 1e-13)
        for one, other in zip(gradients(found), gradients(whole[1]), strict=True):
            close(one, other, 1e-13)


@EVERY
def test_more_axes_of_rows(kind: str) -> None:
    def laid_out(array: Array) -> Array:
        return array[:20].reshape(4, 5, *array.shape[1:])

    given = TARGETS[kind]
    y = tuple(map(laid_out, given)) if isinstance(given, tuple) else laid_out(given)
    flat = tuple(each[:20] for each in given) if isinstance(given, tuple) else given[:20]
    value, found = head(reduction="none").value_and_grad(laid_out(X), W, y, B, laid_out(WEIGHT))
    other, expected = head(reduction="none").value_and_grad(X[:20], W, flat, B, WEIGHT[:20])
    np.testing.assert_array_equal(value, other.reshape(4, 5))
    np.testing.assert_array_equal(found.features, laid_out(expected.features))
    np.testing.assert_array_equal(found.weight, expected.weight)


def test_a_single_row_and_lists() -> None:
    found = crossent.linear_cross_entropy([1.0, 2.0], [[1.0, 0.0], [0.0, 1.0]], 1)
    assert found == pytest.approx(np.log1p(np.exp(-1.0)))
    assert np.ndim(found) == 0
    pair = crossent.linear_cross_entropy([1.0, 2.0], [[1.0, 0.0], [0.0, 1.0]], ([1], [1.0]))
    assert pair == found


def test_no_rows() -> None:
    for reduction in REDUCTIONS:
        value, found = head(reduction=reduction).value_and_grad(X[:0], W, LABELS[:0], B)
        assert value.shape == ((0,) if reduction == "none" else ())
        assert not np.any(value)
        assert found.features.shape == (0, D)
        assert not found.weight.any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@EVERY
def test_narrower_types_are_computed_in_float32_and_rounded_once(kind: str, dtype: str) -> None:
    if dtype == "bfloat16":
        narrow: Any = pytest.importorskip("ml_dtypes").bfloat16
    else:
        narrow = np.dtype(dtype)
    x, w, b = (array.astype(narrow) for array in (X, W, B))
    y = TARGETS[kind]
    value, found = head(**OPTIONS["all"]).value_and_grad(x, w, y, b, WEIGHT)
    wide = [array.astype(np.float64) for array in (x, w, b)]
    true, slopes = head(**OPTIONS["all"]).value_and_grad(wide[0], wide[1], y, wide[2], WEIGHT)
    assert value.dtype == np.float32
    assert value == pytest.approx(true, rel=1e-6)
    unit = {"float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for each, slope in zip(gradients(found), gradients(slopes), strict=True):
        assert each.dtype == narrow
        error = np.abs(each.astype(np.float64) - slope)
        smallest = 2.0**-25 if dtype == "float16" else 0.0  # half of its smallest number
        assert (error <= 1.01 * unit * np.abs(slope) + 1e-6 * np.abs(slope).max() + smallest).all()


def test_a_half_types_weight_is_widened_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = (array.astype(np.float16) for array in (X, W, B))
    whole = head().value_and_grad(x, w, LABELS, b)
    monkeypatch.setattr("crossent.linear_layer.BESIDE", 4 * D * 10)  # ten classes of 67 at a time
    value, found = head().value_and_grad(x, w, LABELS, b)
    assert value == pytest.approx(whole[0], rel=1e-6)
    for one, other in zip(gradients(found), gradients(whole[1]), strict=True):
        np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=2e-3, atol=1e-7)


@EVERY
def test_targets_of_half_types(kind: str) -> None:
    y = TARGETS[kind]
    if kind == "indices":
        narrow: Any = y.astype(np.int16)
        wide: Any = y
    elif kind == "dense":
        narrow = y.astype(np.float16)
        wide = narrow.astype(np.float64)
    else:
        narrow = (y[0].astype(np.uint8), y[1].astype(np.float16))
        wide = (y[0], narrow[1].astype(np.float64))
    assert head()(X, W, narrow, B) == pytest.approx(head()(X, W, wide, B), rel=1e-14)


def test_a_class_that_stands_twice_has_the_sum() -> None:
    y = (np.array([[3, 3, 1]] * N), np.array([[0.75, 0.25 + 5e-5, 0.0]] * N))  # to 1e-4 it is 1
    once = (np.array([[3, 1]] * N), np.array([[1.0, 0.0]] * N))
    assert head()(X, W, y) == pytest.approx(head()(X, W, once), rel=1e-4)
    assert head(reduction="sum")(X, W, y) == head(reduction="sum")(X, W, once)


@pytest.mark.parametrize("flip", ["features", "weight", "both"])
def test_arrays_may_lie_in_any_way(flip: str) -> None:
    expected = head().value_and_grad(X, W, LABELS, B)
    x = np.asfortranarray(X) if flip != "weight" else X[::-1].copy()[::-1]
    wide = np.zeros((V, 2 * D))
    wide[:, ::2] = W
    w = wide[:, ::2] if flip != "features" else np.asfortranarray(W)
    for array in (x, w):
        array.flags.writeable = False
    value, found = head().value_and_grad(x, w, LABELS, B)
    close(value, expected[0], 1e-14)
    close(found.features, expected[1].features, 1e-13)
    close(found.weight, expected[1].weight, 1e-13)


# What takes no part -------------------------------------------------------------------------------


@EVERY
def test_rows_that_take_no_part_may_hold_anything(kind: str) -> None:
    x, part = X.copy(), WEIGHT != 0
    if kind == "indices":
        part &= LABELS != -100
    x[~part] = np.nan
    expected = head(reduction="none").value_and_grad(X, W, TARGETS[kind], B, WEIGHT)
    value, found = head(reduction="none").value_and_grad(x, W, TARGETS[kind], B, WEIGHT)
    np.testing.assert_array_equal(value, expected[0])
    for one, other in zip(gradients(found), gradients(expected[1]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not value[~part].any()
    assert not found.features[~part].any()


def test_their_products_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []

    def counted(a: Array, b: Array, out: Array, add: bool = False) -> None:
        rows.append(len(out))
        multiply(a, b, out, add)

    monkeypatch.setattr("crossent.linear_layer.multiply", counted)
    some = np.where(np.arange(N) < 5, LABELS, -100)
    head(1000)(X, W, some)
    assert rows == [(some != -100).sum()]
    rows.clear()
    head(1000).value_and_grad(X, W, np.full(N, -100), B)
    assert rows == []


@pytest.mark.parametrize("normalizer", [None, 3.0])
@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_nothing_left_to_average(reduction: str, normalizer: float | None) -> None:
    loss = head(reduction=reduction)
    value, found = loss.value_and_grad(X, W, np.full(N, -100), B, None, normalizer)
    assert value == 0
    assert not any(each.any() for each in gradients(found))


def test_what_is_not_wanted_is_not_there() -> None:
    whole = head().value_and_grad(X, W, LABELS, B)[1]
    for wanted in [(), ("features",), ("weight",), ("bias",), ("weight", "features")]:
        found = head().value_and_grad(X, W, LABELS, B, wanted=wanted)[1]
        for name in linear.GRADIENTS:
            if name in wanted:
                np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
            else:
                assert getattr(found, name) is None


# The filter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("tolerance", [0.0, 1e-4, 1e-2, 0.3, 10.0])
@EVERY
def test_what_a_filter_drops_is_within_its_bound(
    kind: str, tolerance: float, reduction: str
) -> None:
    call = (8 * X, W, TARGETS[kind], B, WEIGHT)
    exact = head(reduction=reduction).value_and_grad(*call)
    value, found = head(reduction=reduction, filter_tolerance=tolerance).value_and_grad(*call)
    assert value == exact[0]
    np.testing.assert_array_equal(found.bias, exact[1].bias)
    for name in ("features", "weight"):
        true, bound = getattr(exact[1], name), getattr(found.dropped, name)
        error = np.linalg.norm(getattr(found, name) - true)
        assert error <= bound + 1e-14 * np.linalg.norm(true)
        assert bound <= 40 * error + 1e-6  # a bound that says something
    assert found.dropped.weight > 0 or tolerance < 0.1


def test_a_filter_that_keeps_much_drops_nothing() -> None:
    exact = head().value_and_grad(X, W, LABELS, B)[1]
    found = head(filter_tolerance=1e-3).value_and_grad(X, W, LABELS, B)[1]
    assert found.dropped == (0.0, 0.0)
    np.testing.assert_array_equal(found.weight, exact.weight)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_filter_for_narrower_types(dtype: Any) -> None:
    x, w = (8 * X).astype(dtype), W.astype(dtype)
    exact = head().value_and_grad(x.astype(np.float64), w.astype(np.float64), LABELS)[1]
    found = head(filter_tolerance=1e-2).value_and_grad(x, w, LABELS)[1]
    assert 0 < found.dropped.weight < np.linalg.norm(exact.weight)
    for name in ("features", "weight"):
        each, true = getattr(found, name).astype(np.float64), getattr(exact, name)
        rounding = {np.float32: 1e-6, np.float16: 1e-3}[dtype] * np.linalg.norm(true)
        assert np.linalg.norm(each - true) <= getattr(found.dropped, name) + rounding


def test_the_tolerance_of_a_filter_is_before_the_mean_divides() -> None:
    sums = head(reduction="sum", filter_tolerance=1e-2).value_and_grad(8 * X, W, LABELS)[1]
    means = head(reduction="mean", filter_tolerance=1e-2).value_and_grad(8 * X, W, LABELS)[1]
    count = (LABELS != -100).sum()
    close(means.weight * count, sums.weight, 1e-14)
    assert means.dropped.weight * count == pytest.approx(sums.dropped.weight, rel=1e-12)


def test_nan_passes_a_filter() -> None:
    x = 8 * X
    x[0, 0] = np.nan
    found = head(1, filter_tolerance=0.5).value_and_grad(x, W, np.arange(N))[1]
    assert np.isnan(found.features[0]).all()
    assert not np.isnan(found.features[1:]).any()


# Memory, threads, products ------------------------------------------------------------------------


def peak(call: Any) -> int:
    """Return the most bytes that a call holds at one time, above what it is given."""
    call()
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", ["indices", "some ignored", "dense", "top"])
def test_memory_stays_within_the_budget(
    kind: str, dtype: Any, set_threads: Callable[[int], None]
) -> None:
    set_threads(1)  # a helper that was not needed lets go of its arrays late
    n, d, v, budget = 1200, 32, 4000, 1 << 20
    x, w = RNG.normal(size=(n, d)).astype(dtype), RNG.normal(size=(v, d)).astype(dtype)
    y: Any = RNG.integers(v, size=n)
    if kind == "some ignored":
        y[::2] = -100
    if kind == "top":
        y = (y[:, None] + np.arange(4) - 4, np.full((n, 4), 0.25))
        y[0][y[0] < 0] = 9
    if kind == "dense":
        y = np.full((n, v), 1 / v, dtype)
    loss = crossent.LinearCrossEntropy(memory_budget=budget)
    given_back = 4 * (n * d + v * d) + (2 * (n * d + v * d) if dtype == np.float16 else 0)
    scores = n * v * 4
    most = peak(lambda: loss.value_and_grad(x, w, y))
    assert most - given_back <= 1.9 * budget < scores / 9
    checked = 3 * 2**21 if kind == "dense" and dtype == np.float16 else 0  # widened to look at
    assert peak(lambda: loss(x, w, y)) <= 1.9 * budget + checked


def test_the_same_bits_every_time_and_with_any_number_of_threads(
    set_threads: Callable[[int], None],
) -> None:
    x, w = RNG.normal(size=(300, 16)), RNG.normal(size=(3000, 16))
    y = RNG.integers(3000, size=300)
    for tolerance in (None, 1e-2):
        loss = crossent.LinearCrossEntropy(memory_budget="1MB", filter_tolerance=tolerance)
        found = []
        for number in (1, 2, 2, 3):
            set_threads(number)
            value, each = loss.value_and_grad(3 * x, w, y)
            found.append((value.tobytes(), each.features.tobytes(), each.weight.tobytes()))
        assert len(set(found)) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 1), (3, 1, 5), (1, 1, 1), (2, 0, 3)])
def test_products_of_arrays_however_they_lie(shape: tuple[int, int, int], dtype: Any) -> None:
    m, k, n = shape
    ways = (np.ascontiguousarray, np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2])
    for of_a, of_b in product(ways, ways):
        a, b = (f(RNG.normal(size=s).astype(dtype)) for f, s in ((of_a, (m, k)), (of_b, (k, n))))
        wide = np.full((m, n + 2), 7, dtype)
        multiply(a, b, wide[:, 1:-1])
        np.testing.assert_allclose(wide[:, 1:-1], a @ b, rtol=1e-5)
        multiply(a, b, wide[:, 1:-1], add=True)
        np.testing.assert_allclose(wide[:, 1:-1], 2 * (a @ b), rtol=1e-5)
        assert (wide[:, [0, -1]] == 7).all()


def test_another_loss_may_run_between_the_products() -> None:
    """What the classes of several ranks need: the loop with the caller's own work."""
    layer = Layer(X, W, B, slice(None), 4, ("features", "weight", "bias"))

    def half_the_square(chunk: slice, scores: Array) -> Array:
        return np.array([0.5 * (scores**2).sum(), chunk.stop - chunk.start])  # its own gradient

    total = over_chunks(layer, half_the_square)
    z = X @ W.T + B
    close(total, [0.5 * (z**2).sum(), N])
    close(layer.gradients["features"], z @ W)
    close(layer.gradients["weight"], z.T @ X)
    close(layer.gradients["bias"], z.sum(axis=0))


def test_converting_is_what_numpy_does() -> None:
    values = np.array([[0.0, -0.0, 1.0, 1e-8, 65504.0, 1e6, np.inf, -np.inf, 0.1]], np.float32)
    out = np.zeros(values.shape, np.int16)
    head_kernels.convert(values, out)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out.view(np.float16), values.astype(np.float16))


# Bad input ----------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    (
        {"memory_budget": 100},
        {},
        ValueError,
        "memory_budget is 100 bytes, but one row needs 536; it must be at least that",
    ),
    (
        {"memory_budget": 1000},
        {"targets": TOP},
        ValueError,
        "memory_budget is 1000 bytes, but one row needs 1072; it must be at least that",
    ),
    (
        {"memory_budget": "64 parsecs"},
        {},
        ValueError,
        "memory_budget is '64 parsecs'; it must be a number of bytes, such as 1000000, "
        '"64MB" or "1GiB"',
    ),
    (
        {"memory_budget": -1},
        {},
        ValueError,
        'memory_budget is -1; it must be a number of bytes, such as 1000000, "64MB" or "1GiB"',
    ),
    (
        {"filter_tolerance": -1.0},
        {},
        ValueError,
        "filter_tolerance is -1.0; it must be finite, at least 0",
    ),
    ({"softcap": 0}, {}, ValueError, "softcap is 0; it must be finite, at least 1e-300"),
    (
        {"class_weight": [1.0]},
        {},
        ValueError,
        "class_weight has 1 entries, but there are 67 classes",
    ),
    (
        {},
        {"features": X.astype(np.int64)},
        TypeError,
        "features has dtype int64; it must be float16, bfloat16, float32 or float64",
    ),
    (
        {},
        {"weight": W.astype(np.float32)},
        TypeError,
        "weight has dtype float32, but features has dtype float64; both must be the same",
    ),
    (
        {},
        {"bias": B.astype(np.float32)},
        TypeError,
        "bias has dtype float32, but features has dtype float64; both must be the same",
    ),
    (
        {},
        {"weight": W[:, :4]},
        ValueError,
        "weight has shape (67, 4), but features has shape (23, 5); "
        "it must have shape (V, 5), for one class or more",
    ),
    (
        {},
        {"features": 1.0},
        ValueError,
        "features is a single number; it must have shape (..., D)",
    ),
    ({}, {"bias": B[:3]}, ValueError, "bias has shape (3,); it must have shape (67,)"),
    (
        {},
        {"targets": LABELS + 60},
        ValueError,
        "a class index must be in [0, 66] or the ignore_index -100",
    ),
    (
        {},
        {"targets": np.where(np.arange(V) == 8, 1.5, DENSE)},
        ValueError,
        "targets[0, 8] is 1.5; a probability must be in [0, 1]",
    ),
    (
        {},
        {"targets": np.where(np.arange(N)[:, None] == 21, -0.25, DENSE)},
        ValueError,
        "targets[21, 0] is -0.25; a probability must be in [0, 1]",
    ),
    (
        {},
        {"targets": LABELS[:4]},
        ValueError,
        "targets has shape (4,), but logits has shape (23, 67) with classes on axis 1; "
        "class indices must have shape (23,)",
    ),
    (
        {},
        {"targets": (TOP[0].astype(float), TOP[1])},
        TypeError,
        "indices of targets has dtype float64; it must be integer",
    ),
    (
        {},
        {"targets": (TOP[0][:5], TOP[1])},
        ValueError,
        "indices of targets has shape (5, 3), but there are rows of shape (23,); "
        "the k classes of every row must have shape that and k",
    ),
    (
        {},
        {"targets": (np.where(np.arange(3) == 2, 67, TOP[0]), TOP[1])},
        ValueError,
        "indices of targets[0, 2] is 67; it must be in [0, 66]",
    ),
    (
        {},
        {"targets": (TOP[0], TOP[1][:, :2])},
        ValueError,
        "probabilities of targets has shape (23, 2); "
        "it must have the shape of the indices, (23, 3)",
    ),
    (
        {},
        {"targets": (TOP[0], np.where(np.arange(3) == 1, np.nan, TOP[1]))},
        ValueError,
        "probabilities of targets[0, 1] is nan; a probability must be in [0, 1]",
    ),
    (
        {},
        {"targets": (TOP[0], np.full((N, 3), 0.5))},
        ValueError,
        "probabilities of targets[0] add up to 1.5; those of a row must not exceed 1 (to 0.0001)",
    ),
    (
        {},
        {"sample_weight": -WEIGHT},
        ValueError,
        "a weight must be finite, >= 0",
    ),
    (
        {},
        {"normalizer": 0.0},
        ValueError,
        "normalizer is 0.0; it must be finite, greater than 0",
    ),
    (
        {"reduction": "sum"},
        {"normalizer": 2.0},
        ValueError,
        "normalizer is given, but reduction='sum' divides by nothing",
    ),
]


@pytest.mark.parametrize(("options", "changed", "kind", "message"), BAD)
def test_bad_input(
    options: dict[str, Any], changed: dict[str, Any], kind: type[Exception], message: str
) -> None:
    call = {"features": X, "weight": W, "targets": LABELS, "bias": B, **changed}
    with pytest.raises(kind) as caught:
        crossent.linear_cross_entropy(**call, **options)
    assert message in str(caught.value)
    with pytest.raises(kind) as caught:
        crossent.LinearCrossEntropy(**options).value_and_grad(**call)
    assert message in str(caught.value)


def test_gradients_that_there_are() -> None:
    message = "wanted is 'weight'; it must be a tuple of some of features, weight, bias"
    with pytest.raises(ValueError, match=message):
        head().value_and_grad(X, W, LABELS, wanted="weight")
    with pytest.raises(ValueError, match=r"wanted is \('logits',\)"):
        head().value_and_grad(X, W, LABELS, wanted=("logits",))


@pytest.mark.parametrize(
    ("text", "number"),
    [("64MB", 64_000_000), ("1GiB", 2**30), ("1.5kB", 1500), (" 2 kib ", 2048), ("7B", 7), (7, 7)],
)
def test_budgets(text: Any, number: int) -> None:
    assert crossent.LinearCrossEntropy(memory_budget=text).budget == number


def test_inputs_are_not_written() -> None:
    arrays = [a.copy() for a in (X, W, LABELS, B, WEIGHT, *TOP, DENSE)]
    for y in TARGETS.values():
        head(filter_tolerance=0.1, **OPTIONS["all"]).value_and_grad(X, W, y, B, WEIGHT)
    for before, after in zip(arrays, (X, W, LABELS, B, WEIGHT, *TOP, DENSE), strict=True):
        np.testing.assert_array_equal(before, after)


def test_examples_run() -> None:
    result = doctest.testmod(linear)
    assert result.failed == 0
    assert result.attempted > 4


def test_probabilities_in_another_byte_order() -> None:
    known = crossent.LinearCrossEntropy()(X, W, DENSE)
    for kind in (">f8", "<f8"):
        assert crossent.LinearCrossEntropy()(X, W, np.array(DENSE, kind)) == known
    with pytest.raises(TypeError, match=r"targets is .*; it must hold numbers"):
        crossent.LinearCrossEntropy()(X, W, [[0.2, 0.8], [1.0]])


def test_pairs_of_nothing_have_no_mass() -> None:
    nothing = np.empty((N, 0), int), np.empty((N, 0))
    assert crossent.LinearCrossEntropy()(X, W, nothing) == 0.0
