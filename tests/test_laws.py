"""Laws that hold for every case of the table, and laws of single losses, whatever the numbers."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import crossent
from benchmarks import oracle
from benchmarks.rows import LOSSES, SPREADS, draw
from cases import (
    ALL_OPTIONS,
    BITS,
    CASES,
    INF,
    NAN,
    SIGMOID,
    SOFT,
    SOFTMAX,
    VARIANTS,
    WIDE,
    Case,
    Y,
    Z,
)

BOUND = {"float16": 1.0, "bfloat16": 1.0, "float32": 4.0, "float64": 8.0}


def need(case: Case) -> None:
    """Skip a case in a type that is not there."""
    if case.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    need(request.param)
    return request.param


def loss_of(case: Case, **changed: Any) -> Any:
    return LOSSES[case.loss](**{**case.options, **changed})


def run(case: Case, **changed: Any) -> tuple[Any, Any]:
    z, targets, weight = case.arrays()
    normalizer = case.normalizer if "reduction" not in changed else None
    return loss_of(case, **changed).value_and_grad(z, targets, weight, normalizer)


def bits(array: Any) -> bytes:
    """Return the very bits, NaN and the sign of 0 included."""
    return np.asarray(array).tobytes()


def bound(case: Case) -> float:
    """Return how many ulps a case may be off.

    Scores behind a softcap or a temperature are rounded before exp sees them, which in float64
    alone shows: an error of 2 ulp in a score of s is one of 4 |s| ulp in its exponential.
    """
    ulps = BOUND[case.dtype]
    if case.dtype == "float64" and {"softcap", "temperature"} & set(case.options):
        z = np.array(case.logits)
        ulps += 4 * np.abs(z[np.isfinite(z)]).max() / case.options.get("temperature", 1.0)
    return ulps


def is_hard(case: Case) -> bool:
    """Return whether the gradient is no difference of two numbers that may nearly be equal."""
    indices = np.array(case.targets).dtype.kind in "iu"
    spread = {"label_smoothing", "z_loss"} & set(case.options)
    return indices and not spread and case.loss != "softmax_binary_cross_entropy"


# Every case ---------------------------------------------------------------------------------------


def test_value_and_gradient_are_true(case: Case) -> None:
    z, targets, weight = case.arrays()
    value, gradient = run(case)
    true = oracle.truth(case.loss, case.options, z, targets, weight, case.normalizer)
    allowed = max(bound(case), 4.0)  # a loss of half types is float32
    assert oracle.ulps(value, true.value, true.larger_value).max(initial=0) <= allowed
    unit = true.gradient if is_hard(case) else true.larger_term
    assert oracle.ulps(gradient, true.gradient, unit).max(initial=0) <= bound(case)


FOR_WIDENING = [
    case
    for case in CASES
    if case.loss in SOFTMAX
    and not {"label_smoothing", "softcap"} & set(case.options)
    and np.shape(case.logits)[-1:] == (3,)
]


@pytest.mark.parametrize("classes", [12, 200])
@pytest.mark.parametrize("case", FOR_WIDENING, ids=str)
def test_classes_at_minus_infinity_change_nothing(case: Case, classes: int) -> None:
    """Rows of few classes, of more, and of many are computed by kernels of their own."""
    need(case)
    z, targets, weight = case.arrays()
    axis = case.options.get("axis", -1)
    more = classes - z.shape[axis]

    def widened(array: Any, value: float) -> Any:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, more)
        return np.pad(array, widths, constant_values=value)

    options = dict(case.options)
    if np.ndim(options.get("class_weight")):
        options["class_weight"] = [*options["class_weight"], *[1.0] * more]
    wide_targets = targets if targets.dtype.kind in "iu" else widened(targets, 0.0)
    value, gradient = LOSSES[case.loss](**options).value_and_grad(
        widened(z, -np.inf), wide_targets, weight, case.normalizer
    )
    true = oracle.truth(case.loss, case.options, z, targets, weight, case.normalizer)
    allowed = max(bound(case), 4.0)
    assert oracle.ulps(value, true.value, true.larger_value).max(initial=0) <= allowed
    unit = true.gradient if is_hard(case) else true.larger_term
    own, others = np.split(gradient, [z.shape[axis]], axis=axis)
    assert oracle.ulps(own, true.gradient, unit).max(initial=0) <= bound(case)
    assert ((others == 0) | np.isnan(own).any(axis=axis, keepdims=True)).all()


def test_types_and_shapes(case: Case) -> None:
    z, _, _ = case.arrays()
    value, gradient = run(case)
    assert (gradient.dtype, gradient.shape) == (z.dtype.newbyteorder("="), z.shape)
    assert value.dtype == (np.float64 if case.dtype == "float64" else np.float32)
    shape: tuple[int, ...] = ()
    if case.options.get("reduction") == "none":
        axis = case.options.get("axis", -1)
        shape = z.shape if case.loss in SIGMOID else np.zeros(z.shape).sum(axis=axis).shape
    assert value.shape == shape


def test_out_is_filled_and_inputs_are_kept(case: Case) -> None:
    z, targets, weight = case.arrays()
    before = [bits(array) for array in (z, targets, weight)]
    poisoned = np.full(z.shape, np.nan, z.dtype.newbyteorder("="))
    value, out = loss_of(case).value_and_grad(z, targets, weight, case.normalizer, out=poisoned)
    assert out is poisoned
    assert [bits(array) for array in (z, targets, weight)] == before
    assert (bits(value), bits(out)) == tuple(map(bits, run(case)))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.layout not in ("read-only", "big-endian")], ids=str
)
def test_out_may_be_the_logits(case: Case) -> None:
    need(case)
    z, targets, weight = case.arrays()
    value, out = loss_of(case).value_and_grad(z, targets, weight, case.normalizer, out=z)
    assert out is z
    assert (bits(value), bits(out)) == tuple(map(bits, run(case)))


def test_value_alone_is_the_same(case: Case) -> None:
    z, targets, weight = case.arrays()
    assert bits(loss_of(case)(z, targets, weight, case.normalizer)) == bits(run(case)[0])


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_function_is_the_class(case: Case) -> None:
    z, targets, weight = case.arrays()
    function = getattr(crossent, case.loss)
    value = function(z, targets, sample_weight=weight, normalizer=case.normalizer, **case.options)
    assert bits(value) == bits(run(case)[0])


@pytest.mark.parametrize("case", [case for case in VARIANTS if case.layout != "C"], ids=str)
def test_layout_changes_no_bit(case: Case) -> None:
    need(case)
    plain = replace(case, layout="C")
    assert tuple(map(bits, run(case))) == tuple(map(bits, run(plain)))


def test_reductions_are_made_of_the_sums(case: Case) -> None:
    z, targets, weight = case.arrays()
    sums = loss_of(case).sums(z, targets, weight)
    total = sums.sum + sums.z_loss
    answers = {name: run(case, reduction=name)[0] for name in ("sum", "mean", "batchmean")}
    kind = answers["sum"].dtype.type
    assert bits(answers["sum"]) == bits(kind(total))
    assert bits(answers["mean"]) == bits(kind(sums.mean))
    assert bits(answers["batchmean"]) == bits(kind(total / sums.samples if sums.samples else 0.0))
    each, gradient = run(case, reduction="none")
    assert bits(gradient) == bits(run(case, reduction="sum")[1])
    np.testing.assert_allclose(math.fsum(each.flat), total, rtol=1e-6)


@pytest.mark.parametrize(
    "case", [c for c in WIDE if "axis" not in c.options and np.ndim(c.logits) > 1], ids=str
)
def test_chunks_make_the_whole(case: Case) -> None:
    z, targets, weight = case.arrays()
    loss = loss_of(case, reduction="mean")
    whole = loss.sums(z, targets, weight)
    cuts = [slice(0, 1), slice(1, 2), slice(2, None)]
    parts = [loss.sums(z[c], targets[c], None if weight is None else weight[c]) for c in cuts]
    merged = sum(parts, crossent.LossSums())
    for name in ("rows", "correct", "ignored"):
        assert getattr(merged, name) == getattr(whole, name)
    for name in ("sum", "z_loss", "weight", "samples"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-6)
    if whole.weight == 0:
        return
    chunks = [
        loss.value_and_grad(z[c], targets[c], None if weight is None else weight[c], whole.weight)
        for c in cuts
    ]
    value, gradient = loss.value_and_grad(z, targets, weight)
    np.testing.assert_allclose(sum(float(v) for v, _ in chunks), value, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([g for _, g in chunks]), gradient, rtol=1e-13)


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_hessian_product_is_true(case: Case) -> None:
    """Relative to the largest of its row, as a product is a sum of terms of either sign."""
    z, targets, weight = case.arrays()
    if z.size > 60:
        z, targets, weight = (None if a is None else a[:1] for a in (z, targets, weight))
    vector = np.cos(np.arange(z.size)).reshape(z.shape)
    rest = (weight, case.normalizer)
    product = loss_of(case).hvp(z, targets, vector, *rest)
    true = oracle.truth(case.loss, case.options, z, targets, *rest, vector=vector).product
    true = np.asarray(true, object)
    assert (product.dtype, product.shape) == (z.dtype, z.shape)
    missing = np.array([mp.isnan(x) for x in true.flat], bool).reshape(true.shape)
    np.testing.assert_array_equal(np.isnan(product), missing)
    largest = np.max(np.abs(true[~missing]), initial=mpf(0))
    assert oracle.ulps(product[~missing], true[~missing], largest).max(initial=0) <= 64


# Given probabilities, and the chain of links ------------------------------------------------------


def has_limits(case: Case) -> bool:
    """Return whether every row that takes part has probabilities."""
    return not any(word in case.name for word in ("NaN", "two +inf", "only -inf"))


def acts_on_probabilities(case: Case) -> bool:
    """Return whether no option of the case acts on logits."""
    return not {"z_loss", "softcap", "temperature"} & set(case.options)


@pytest.mark.parametrize(
    "case", [case for case in WIDE if acts_on_probabilities(case) and has_limits(case)], ids=str
)
def test_given_probabilities_cost_what_their_logits_do(case: Case) -> None:
    z, targets, weight = case.arrays()
    loss, axis = loss_of(case), case.options.get("axis", -1)
    if case.loss in SIGMOID:
        p, log_p = crossent.sigmoid(z), crossent.log_sigmoid(z)
    else:
        p, log_p = crossent.softmax(z, axis), crossent.log_softmax(z, axis)
    rest = (targets, weight, case.normalizer)
    expected = loss(z, *rest)
    if "gap of 3000, wrong" not in case.name or case.loss == "cross_entropy":  # ln p is 0 there
        np.testing.assert_allclose(loss.from_log_probabilities(log_p, *rest), expected, rtol=1e-13)
    if "certain" not in case.name and "gap" not in case.name:  # there p alone has lost 1 - p
        np.testing.assert_allclose(loss.from_probabilities(p, *rest), expected, rtol=1e-13)


@pytest.mark.parametrize(
    "case", [c for c in WIDE if "z_loss" not in c.options and has_limits(c)], ids=str
)
def test_product_of_the_links_is_the_gradient(case: Case) -> None:
    z, targets, _ = case.arrays()
    links = loss_of(case).chain_rule(z, targets)
    gradient = loss_of(case, reduction="sum").value_and_grad(z, targets)[1]
    axis = case.options.get("axis", -1)
    with np.errstate(invalid="ignore"):
        if case.loss in SIGMOID:
            product = links.dE_dp * links.dp_ds
        else:
            rows = np.moveaxis(links.dE_dp, axis, -1) if z.ndim > 1 else links.dE_dp
            product = np.einsum("...i,...ij->...j", rows, links.dp_ds)
            product = np.moveaxis(product, -1, axis) if z.ndim > 1 else product
    assert links.p.shape == z.shape
    known = np.isfinite(product)  # not where a p underflows: its link is infinite
    assert known.all() or any(word in case.name for word in ("inf", "gap", "eight", "whatever"))
    np.testing.assert_array_equal(links.dE_ds[known], product[known])
    np.testing.assert_allclose(links.dE_ds[known], gradient[known], rtol=1e-9, atol=1e-15)


# Laws of single losses ----------------------------------------------------------------------------

DTYPES = ("float32", "float64")


def ulps_between(a: Any, b: Any) -> Any:
    """Return how many ulps apart computed numbers are."""
    return oracle.ulps(a, oracle.exactly(b)).max()


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("targets", [Y, SOFT], ids=["hard", "soft"])
def test_shift_changes_nothing(targets: Any, dtype: str, loss: str) -> None:
    z = np.array(Z, dtype)
    value, gradient = LOSSES[loss]().value_and_grad(z, targets)
    for shift in (-1024.0, 8.0, 4096.0):  # exact, as the logits are eighths
        moved = LOSSES[loss]().value_and_grad(z + z.dtype.type(shift), targets)
        assert tuple(map(bits, moved)) == (bits(value), bits(gradient))


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_a_row_sums_to_0(dtype: str, loss: str, kind: str) -> None:
    z, targets = draw(loss, kind, 30, dtype, SPREADS)
    gradient = LOSSES[loss](reduction="sum").value_and_grad(z, targets)[1].astype(np.float64)
    size = np.abs(gradient).sum(axis=1)
    assert (np.abs(gradient.sum(axis=1)) <= 8 * np.finfo(dtype).eps * size + 1e-15).all()
    assert size.max() > 1


@pytest.mark.parametrize("loss", SIGMOID)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mirror(dtype: str, loss: str) -> None:
    z = np.linspace(-40, 40, 161).astype(dtype)
    y = np.tile(np.array([0.0, 1.0, 0.25, 0.5], dtype), 41)[: len(z)]
    value, gradient = LOSSES[loss](reduction="none").value_and_grad(z, y)
    mirrored, opposite = LOSSES[loss](reduction="none").value_and_grad(-z, 1 - y)
    rtol = 64 * np.finfo(dtype).eps
    np.testing.assert_allclose(mirrored, value, rtol)
    np.testing.assert_allclose(opposite, -gradient, rtol)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("classes", [2, 10, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_hot_is_the_index_to_1_ulp(dtype: str, classes: int, loss: str) -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(0, 5, (200, classes)).astype(dtype)
    y = rng.integers(classes, size=200)
    loss_of_rows = LOSSES[loss](reduction="none")
    by_index, by_one_hot = loss_of_rows(z, y), loss_of_rows(z, crossent.one_hot(y, classes))
    assert ulps_between(by_index, by_one_hot) <= 1


@pytest.mark.parametrize("row", [[NAN, 1.0], [INF, INF], [-INF, -INF], [1.0, 2.0]], ids=str)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_one_hot_is_the_index_where_the_class_has_no_weight(loss: str, row: list[float]) -> None:
    options = {"class_weight": [0.0, 1.0]} if loss == "cross_entropy" else {}
    law = LOSSES[loss](**options, reduction="none")
    index = law.value_and_grad(np.array([row]), [0])
    one_hot = law.value_and_grad(np.array([row]), [[1.0, 0.0]])
    np.testing.assert_array_equal(index[0], one_hot[0])
    np.testing.assert_array_equal(index[1], one_hot[1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_is_deletion(dtype: str, loss: str) -> None:
    z = np.array(Z, dtype)
    targets = np.array(Y if loss in SOFTMAX else BITS)
    keep = np.array([True, False, True, False])
    z[~keep] = np.nan
    deleted = LOSSES[loss]().value_and_grad(z[keep], targets[keep])
    masks = [(targets, keep * 1.0)]
    if loss in SOFTMAX:
        masks.append((np.where(keep, targets, -100), None))
    for masked_targets, weight in masks:
        value, gradient = LOSSES[loss]().value_and_grad(z, masked_targets, weight)
        assert ulps_between(value, deleted[0]) <= 1
        np.testing.assert_array_equal(gradient[keep], deleted[1])
        np.testing.assert_array_equal(gradient[~keep], 0.0)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.25}], ids=["plain", "smoothed"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_2_is_the_row_twice(dtype: str, loss: str, options: dict[str, Any]) -> None:
    options = {} if loss == "quadratic_cost" else options
    z, targets = np.array(Z, dtype), np.array(Y if loss in SOFTMAX else BITS)
    twice = [0, 0, 1, 2, 3]
    for reduction in ("sum", "mean", "batchmean"):
        law = LOSSES[loss](**options, reduction=reduction)
        value, gradient = law.value_and_grad(z, targets, [2.0, 1.0, 1.0, 1.0])
        repeated, parts = law.value_and_grad(z[twice], targets[twice])
        assert ulps_between(value, repeated) <= 2
        np.testing.assert_allclose(gradient[0], parts[0] + parts[1], rtol=1e-6)
        np.testing.assert_allclose(gradient[1:], parts[2:], rtol=1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_order_of_rows_does_not_matter(dtype: str, loss: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(0, 5, (500, 7)).astype(dtype)
    targets = rng.integers(7, size=500) if loss in SOFTMAX else rng.integers(2, size=z.shape)
    if kind == "soft":
        targets = rng.dirichlet(np.ones(7), 500).astype(dtype)
    order = rng.permutation(500)
    value, gradient = LOSSES[loss](reduction="none").value_and_grad(z, targets)
    moved, moved_gradient = LOSSES[loss](reduction="none").value_and_grad(z[order], targets[order])
    np.testing.assert_array_equal(moved, value[order])
    np.testing.assert_array_equal(moved_gradient, gradient[order])


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("dtype", DTYPES)
def test_order_of_classes_does_not_matter(dtype: str, loss: str) -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(0, 5, (50, 20)).astype(dtype)
    targets = rng.dirichlet(np.ones(20), 50).astype(dtype)
    order = rng.permutation(20)
    law = LOSSES[loss](reduction="none")
    value, gradient = law.value_and_grad(z, targets)
    moved, moved_gradient = law.value_and_grad(z[:, order], targets[:, order])
    assert ulps_between(moved, value) <= 4
    np.testing.assert_allclose(moved_gradient, gradient[:, order], rtol=1e-5, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_two_is_the_sigmoid_of_the_difference(dtype: str) -> None:
    z = np.linspace(-64, 64, 257).astype(dtype)  # halves: differences are exact
    pair = np.stack([z, z[::-1]], axis=1)
    difference = pair[:, 1] - pair[:, 0]
    y = np.arange(257) % 2
    softmax = crossent.CrossEntropy(reduction="none").value_and_grad(pair, y)
    sigmoid = crossent.BinaryCrossEntropy(reduction="none").value_and_grad(difference, y)
    assert ulps_between(softmax[0], sigmoid[0]) <= 4
    assert ulps_between(softmax[1][:, 1].copy(), sigmoid[1]) <= 6
    assert ulps_between(crossent.softmax(pair)[:, 1].copy(), crossent.sigmoid(difference)) <= 4


@pytest.mark.parametrize("targets", [Y, SOFT], ids=["hard", "soft"])
def test_two_term_error_is_the_generalised_one_of_the_softmax_outputs(targets: Any) -> None:
    c = np.array(SOFT) if targets is SOFT else crossent.one_hot(Y, 3)
    value = crossent.SoftmaxBinaryCrossEntropy()(Z, targets)
    generalised = crossent.BinaryCrossEntropy(reduction="batchmean")
    given = generalised.from_probabilities(crossent.softmax(Z), c)
    np.testing.assert_allclose(value, given, rtol=1e-14)


def test_two_term_gradient_is_2_p_minus_c_for_two_classes_and_for_more_it_is_not() -> None:
    law = crossent.SoftmaxBinaryCrossEntropy(reduction="sum")
    two = np.array([[0.5, -1.0]])
    gradient = law.value_and_grad(two, [0])[1]
    np.testing.assert_allclose(gradient, 2 * (crossent.softmax(two) - [[1.0, 0.0]]), rtol=1e-14)
    three = law.value_and_grad(Z, Y)[1]
    p_minus_c = crossent.softmax(Z) - crossent.one_hot(Y, 3)
    assert np.abs(three - p_minus_c).max() > 0.1
    assert np.abs(three - 2 * p_minus_c).max() > 0.01


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_loss_is_negative(dtype: str, loss: str, kind: str) -> None:
    z, targets = draw(loss, kind, 30, dtype, SPREADS)
    assert (LOSSES[loss](reduction="none")(z, targets) >= 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "last"), [("float32", 100), ("float64", 700)])
def test_loss_falls_to_0_and_never_stops_on_the_way(dtype: str, last: int, loss: str) -> None:
    last = last // 2 if loss == "quadratic_cost" else last  # it falls as the square
    gap = np.arange(0, last, 2).astype(dtype)
    z = np.stack([gap, np.zeros_like(gap)], axis=1) if loss in SOFTMAX else gap
    targets = np.zeros(len(gap), int) if loss in SOFTMAX else np.ones(len(gap), int)
    value, gradient = LOSSES[loss](reduction="none").value_and_grad(z, targets)
    slope = np.abs(gradient[:, 0] if loss in SOFTMAX else gradient)
    assert (np.diff(value) < 0).all()
    assert (np.diff(slope[2:]) < 0).all()
    assert 0 < value[-1] < 1e-40
    assert 0 < slope[-1] < 1e-40


OPTIONS = {
    "cross_entropy": ALL_OPTIONS,
    "softmax_binary_cross_entropy": {"label_smoothing": 0.1},
    "binary_cross_entropy": {"pos_weight": [2.0, 0.5, 1.0], "label_smoothing": 0.1},
    "quadratic_cost": {},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_the_slope_of_the_loss(loss: str) -> None:
    """The oracle's loss, differenced in 100 digits: holds the oracle's gradient and ours."""
    z, targets, options = np.array(Z), np.array(SOFT), OPTIONS[loss]
    gradient = LOSSES[loss](**options).value_and_grad(z, targets)[1]
    exact = oracle.exactly(z)
    with mp.workdps(100):
        for i in np.ndindex(z.shape):
            up, down = exact.copy(), exact.copy()
            up[i] += oracle.STEP
            down[i] -= oracle.STEP
            losses = [oracle.evaluate(loss, options, at, targets, None, None) for at in (up, down)]
            slope = (losses[0].value - losses[1].value) / (2 * oracle.STEP)
            assert abs(mpf(gradient[i]) - slope) <= abs(slope) * mpf("1e-13")


@pytest.mark.parametrize("loss", LOSSES)
def test_hessian_is_symmetric_and_the_slope_of_the_gradient(loss: str) -> None:
    law = LOSSES[loss](**OPTIONS[loss])
    z, targets = np.array(Z[:1]), np.array(SOFT[:1])
    columns = np.array([law.hvp(z, targets, column[None])[0] for column in np.eye(3)])
    np.testing.assert_allclose(columns, columns.T, atol=1e-15)
    step = 1e-6
    for j, column in enumerate(np.eye(3)):
        up, down = (law.value_and_grad(z + s * step * column, targets)[1] for s in (1, -1))
        np.testing.assert_allclose((up - down)[0] / (2 * step), columns[j], atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gap", [5.0, 40.0, 300.0])
def test_hessian_keeps_its_tails(gap: float, loss: str) -> None:
    z = np.array([[gap, 0.0]])
    for targets in ([[1.0, 0.0]], [[0.0, 1.0]]):  # right and certain, wrong and certain
        for column in np.eye(2):
            product = LOSSES[loss]().hvp(z, targets, column[None])
            true = oracle.truth(loss, {}, z, targets, vector=column[None]).product
            assert oracle.ulps(product, true).max() <= 16


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "quadratic_cost"])
def test_losses_are_linear_in_the_targets(loss: str) -> None:
    law = LOSSES[loss](reduction="none")
    one, other = np.array(SOFT), np.roll(SOFT, 1, axis=1)
    middle = law(Z, 0.25 * one + 0.75 * other)
    np.testing.assert_allclose(middle, 0.25 * law(Z, one) + 0.75 * law(Z, other), rtol=1e-14)


# Threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES)
def test_same_bits_for_any_number_of_threads(
    loss: str, kind: str, set_threads: Callable[[int], None]
) -> None:
    rng = np.random.default_rng(6)
    z = rng.normal(0, 4, (400_000, 5)).astype(np.float32)  # several chunks
    targets: Any = rng.integers(5, size=len(z)) if loss in SOFTMAX else z > 0.5
    if kind == "soft":
        targets = rng.random(z.shape, np.float32)
    found = set()
    for count in (1, 2, 3, 1, 3):
        set_threads(count)
        found.add(tuple(map(bits, LOSSES[loss]().value_and_grad(z, targets))))
    assert len(found) == 1


# Memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [3, 300])
@pytest.mark.parametrize("loss", LOSSES)
def test_out_may_overlap_the_logits_in_any_way(loss: str, width: int) -> None:
    rng = np.random.default_rng(8)
    memory = rng.normal(0, 3, (40, width))
    targets = rng.integers(2, size=30)
    targets = rng.integers(2, size=(30, width)) if loss in SIGMOID else targets
    z = memory[:30].copy()
    value, gradient = LOSSES[loss]().value_and_grad(z, targets)
    for start in (0, 1, 7):
        memory[:30] = z
        out = memory[start : start + 30]
        found = LOSSES[loss]().value_and_grad(memory[:30], targets, out=out)
        assert bits(found[0]) == bits(value)
        np.testing.assert_array_equal(out, gradient)
    upside_down = z.copy()
    _, found = LOSSES[loss]().value_and_grad(upside_down, targets, out=upside_down[::-1])
    np.testing.assert_array_equal(found, gradient)


@pytest.mark.parametrize("loss", LOSSES)
def test_out_may_be_the_targets(loss: str) -> None:
    z, c = np.array(Z), np.array(SOFT)
    value, gradient = LOSSES[loss]().value_and_grad(z, c.copy())
    found = LOSSES[loss]().value_and_grad(z, c, out=c)
    assert bits(found[0]) == bits(value)
    np.testing.assert_array_equal(c, gradient)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_wherever_arrays_lie(dtype: str, loss: str) -> None:
    rng = np.random.default_rng(9)
    z = rng.normal(0, 3, (50, 7)).astype(dtype)
    targets = rng.random((50, 7)).astype(dtype)
    memory = np.zeros(2 * z.nbytes + 256, np.uint8)
    found = {tuple(map(bits, LOSSES[loss]().value_and_grad(z, targets)))}
    for start in range(0, 256, z.itemsize):
        view = memory[start : start + z.nbytes].view(dtype).reshape(z.shape)
        beside = memory[start + z.nbytes : start + 2 * z.nbytes].view(dtype).reshape(z.shape)
        view[...] = z
        found.add(tuple(map(bits, LOSSES[loss]().value_and_grad(view, targets, out=beside))))
        found.add(tuple(map(bits, LOSSES[loss]().value_and_grad(view, targets, out=view))))
    assert len(found) == 1


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 8, 10, 16, 17, 64, 192, 193, 256, 1000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"label_smoothing": 0.1, "z_loss": 0.01}, id="smooth"),
        pytest.param({"temperature": 2.0}, id="tempered"),
        pytest.param({"softcap": 5.0}, id="capped"),
        pytest.param({"label_smoothing": 0.1, "softcap": 5.0}, id="both"),
    ],
)
def test_a_row_does_not_depend_on_where_it_stands(
    options: dict[str, Any], dtype: str, classes: int
) -> None:
    """Rows are worked on side by side, in tiles, and those that are left one by one."""
    rng = np.random.default_rng(classes)
    rows = 20 if classes > 192 else 700  # three tiles and a part
    z = (rng.standard_normal((rows, classes)) * 4).astype(dtype)
    w = rng.random(rows) * (rng.random(rows) < 0.9)
    c = rng.dirichlet(np.ones(classes), size=rows)
    loss = crossent.CrossEntropy(**options, reduction="none")
    for targets in (rng.integers(classes, size=rows), c):
        values, gradient = loss.value_and_grad(z, targets, w)
        for i in {0, 1, rows // 2, rows - 1, *rng.integers(rows, size=8).tolist()}:
            value, slope = loss.value_and_grad(z[i : i + 1], targets[i : i + 1], w[i : i + 1])
            assert (value == values[i]).all()
            assert (slope == gradient[i]).all()
        total = crossent.CrossEntropy(**options, reduction="sum")(z, targets, w)
        assert total == pytest.approx(math.fsum(values), rel=1e-14 if dtype == "float64" else 1e-6)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-4}], ids=str)
@pytest.mark.parametrize("classes", [2, 3, 9, 193])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_in_a_row_that_takes_no_part_leaves_infinity_in_another(
    dtype: str, classes: int, options: dict[str, Any]
) -> None:
    loss = crossent.CrossEntropy(**options)
    for first, second in ((0, 128), (128, 0)):  # no loop takes both at once
        z, y = np.zeros((129, classes), dtype), np.zeros(129, int)
        z[first, 0], y[second] = INF, -100
        value, gradient = loss.value_and_grad(z, y)
        z[second] = NAN
        same_value, same = loss.value_and_grad(z, y)
        assert (bits(same_value), bits(same)) == (bits(value), bits(gradient))


@pytest.mark.parametrize("top", [0.0, 3e38])
@pytest.mark.parametrize("classes", [4, 9, 192, 193, 1000])
@pytest.mark.parametrize("kind", ["smoothed", "smoothed and weighed", "probabilities"])
def test_scores_masked_by_the_least_float32_cost_what_they_cost(
    kind: str, classes: int, top: float
) -> None:
    """Where the sum of what they are below the maximum is beyond float32, their share is not."""
    z = np.zeros((2, classes), np.float32)
    z[:, 2:4], z[:, 0] = np.finfo(np.float32).min, top
    y: Any = np.array([0, 1]) if kind != "probabilities" else np.full(z.shape, 1 / classes)
    options: dict[str, Any] = {"reduction": "none"}
    if kind != "probabilities":
        options["label_smoothing"] = 0.01
    if kind == "smoothed and weighed":
        options["class_weight"] = np.linspace(0.5, 1.5, classes)
    law = crossent.CrossEntropy(**options)
    value, gradient = law.value_and_grad(z, y)
    wide, true = law.value_and_grad(z.astype(np.float64), y)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(value, wide.astype(np.float32), rtol=2.4e-7)
    assert np.isfinite(wide[0])
    np.testing.assert_allclose(gradient, true, rtol=2.4e-7, atol=1e-37)


@pytest.mark.parametrize("loss", SIGMOID)
def test_what_a_target_leaves_of_1_is_taken_before_it_is_rounded(loss: str) -> None:
    y = np.array([1 - 1e-9, 1e-9, 0.25])
    z = np.array([30.0, -30.0, 1.0])
    law = LOSSES[loss](reduction="none")
    value, gradient = law.value_and_grad(z.astype(np.float32), y)
    true_value, true = law.value_and_grad(z, y)
    np.testing.assert_allclose(value, true_value, rtol=2.4e-7)
    np.testing.assert_allclose(gradient, true, rtol=2.4e-7)


@pytest.mark.parametrize("kind", ["index", "probabilities"])
@pytest.mark.parametrize("alpha", [1e-12, 1e-3])
@pytest.mark.parametrize("classes", [3, 300])
def test_what_smoothing_leaves_of_1_is_not_a_difference(
    classes: int, alpha: float, kind: str
) -> None:
    z = np.zeros((1, classes))
    z[0, 0] = 60.0
    y: Any = [0] if kind == "index" else np.eye(classes)[:1]
    law = crossent.SoftmaxBinaryCrossEntropy(label_smoothing=alpha, reduction="sum")
    value, gradient = law.value_and_grad(z, y)
    with mp.workdps(60):
        others = (classes - 1) * mp.exp(-60)
        p, q = 1 / (1 + others), others / (1 + others)
        r = mp.exp(-60) / (1 + others)
        a = mpf(alpha)
        t, rest = 1 - a + a / classes, a / classes
        true = -t * mp.log(p) - (1 - t) * mp.log(q)
        true += (classes - 1) * (-rest * mp.log(r) - (1 - rest) * mp.log(1 - r))
        u, v = (p - t) / q, (r - rest) / (1 - r)
        slope = u - p * (u + (classes - 1) * v)
        assert abs(value - true) <= 1e-15 * true
        assert abs(gradient[0, 0] - slope) <= 1e-15 * abs(slope)


def test_no_outputs_with_weights() -> None:
    none, weight = np.empty((5, 0)), np.ones(5)
    law = crossent.BinaryCrossEntropy(reduction="none")
    assert law.sums(none, none, weight).sum == 0.0
    assert law.hvp(none, none, none, weight).shape == (5, 0)
    assert law.from_probabilities(none, none, weight).shape == (5, 0)
    assert law.value_and_grad(none, none, weight)[1].shape == (5, 0)


def test_a_label_among_very_many_classes_takes_a_row() -> None:
    rows = crossent.one_hot([1, 299_999], 300_000)
    assert (rows.shape, rows.sum(), rows[1, -1]) == ((2, 300_000), 2.0, 1.0)


def test_what_is_beyond_its_type_is_infinite_without_a_warning() -> None:
    given = np.array([[-3e38, -3e38]], np.float32)
    for reduction in ("none", "sum"):
        law = crossent.BinaryCrossEntropy(reduction=reduction)
        assert np.isinf(law.from_log_probabilities(given, [[1, 1]], [10.0])).all()
    vector = np.array([[1e300, 0.0]])
    assert np.isinf(crossent.CrossEntropy().hvp(given * 0, [0], vector)).all()
    ml_dtypes = pytest.importorskip("ml_dtypes")
    nan = np.full((1, 2), NAN, ml_dtypes.bfloat16)
    assert (crossent.BinaryCrossEntropy().predict(nan) == 0).all()


@pytest.mark.parametrize("classes", [9, 300])
def test_the_least_masses_keep_their_digits(classes: int) -> None:
    """A teacher's 1e-36, where the student is as sure: what it adds is all there is of the loss."""
    z, c = np.full((1, classes), -83.0, np.float32), np.full((1, classes), 1e-36, np.float32)
    z[0, 0], c[0, 0] = 0.0, 1.0
    value = crossent.cross_entropy(z, c)
    true = crossent.cross_entropy(z.astype(float), c.astype(float))
    assert abs(value - true) <= 4 * np.spacing(np.float32(true))
