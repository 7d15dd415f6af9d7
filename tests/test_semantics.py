"""The table of design: every question that was decided once, asked of every loss it concerns."""

import math
from typing import Any

import numpy as np
import pytest

import crossent
from benchmarks.rows import LOSSES
from cases import (
    ALL_OPTIONS,
    BITS,
    INF,
    NAN,
    REDUCTIONS,
    SIGMOID,
    SOFT,
    SOFTMAX,
    WEIGHT,
    Y,
    Z,
    numpy_type,
)

DTYPES = (np.float16, np.float32, np.float64)


def hard(loss: str) -> Any:
    return np.array(Y if loss in SOFTMAX else BITS)


def each(loss: str, z: Any, targets: Any, weight: Any = None, **options: Any) -> tuple[Any, Any]:
    """Return the losses and the gradient of their sum."""
    return LOSSES[loss](**options, reduction="none").value_and_grad(np.array(z), targets, weight)


# Integer targets are indices, floating ones probabilities ----------------------------------------


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64]
)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_integers_of_any_width_are_class_indices(loss: str, dtype: Any) -> None:
    assert LOSSES[loss]()(Z, np.array(Y, dtype)) == LOSSES[loss]()(Z, Y)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int64, np.float16, np.float32])
@pytest.mark.parametrize("loss", SIGMOID)
def test_bits_of_any_type_are_targets_of_a_sigmoid(loss: str, dtype: Any) -> None:
    expected = LOSSES[loss]()(Z, np.array(BITS, float))
    assert LOSSES[loss]()(Z, np.array(BITS, dtype)) == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_floats_of_any_width_are_probabilities(loss: str, dtype: Any) -> None:
    c = np.array(SOFT)  # eighths: every type has them
    assert LOSSES[loss]()(Z, c.astype(dtype)) == LOSSES[loss]()(Z, c)


# Class axis ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", SOFTMAX)
def test_classes_are_on_the_last_axis_unless_said_otherwise(loss: str) -> None:
    z, y = np.array(Z), np.array(Y)
    value, gradient = LOSSES[loss]().value_and_grad(z, y)
    for axis in (0, -2):
        turned = LOSSES[loss](axis=axis).value_and_grad(z.T, y)
        assert turned[0] == value
        np.testing.assert_array_equal(turned[1], gradient.T)
    cube = np.stack([z.T, z.T[:, ::-1]])
    _, turned_gradient = LOSSES[loss](axis=1).value_and_grad(cube, np.stack([y, y[::-1]]))
    np.testing.assert_array_equal(turned_gradient[0], gradient.T / 2)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_activations_take_any_axis(axis: int) -> None:
    z = np.random.default_rng(0).normal(size=(3, 4, 5))
    moved = np.moveaxis(z, axis, -1)
    np.testing.assert_array_equal(
        crossent.softmax(z, axis), np.moveaxis(crossent.softmax(moved), -1, axis)
    )
    np.testing.assert_array_equal(crossent.logsumexp(z, axis), crossent.logsumexp(moved))
    np.testing.assert_array_equal(crossent.CrossEntropy(axis=axis).predict(z), z.argmax(axis))
    np.testing.assert_array_equal(
        crossent.CrossEntropy(axis=axis).activation(z), crossent.softmax(z, axis)
    )


# Reductions, the mean, the normalizer -------------------------------------------------------------


@pytest.mark.parametrize("targets", [Y, SOFT], ids=["hard", "soft"])
def test_mean_divides_by_weight_of_the_targets_before_smoothing(targets: Any) -> None:
    class_weight, weight = np.array([0.5, 2.0, 1.5]), np.array(WEIGHT)
    options: dict[str, Any] = {"class_weight": class_weight, "label_smoothing": 0.25}
    c = np.eye(3)[Y] if targets is Y else np.array(SOFT)
    losses, _ = each("cross_entropy", Z, targets, weight, **options)
    mean = crossent.CrossEntropy(**options)(Z, targets, weight)
    assert mean == pytest.approx(losses.sum() / (weight * (c @ class_weight)).sum(), rel=1e-15)


def test_mean_of_torch() -> None:
    torch = pytest.importorskip("torch")
    options: dict[str, Any] = {"label_smoothing": 0.25, "ignore_index": 1}
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(Z, dtype=torch.float64),
        torch.tensor(Y),
        weight=torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64),
        **options,
    )
    ours = crossent.CrossEntropy(class_weight=[0.5, 2.0, 1.5], **options)(Z, Y)
    assert ours == pytest.approx(float(theirs), rel=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
def test_batchmean_sums_outputs_and_averages_samples(loss: str) -> None:
    losses, _ = each(loss, Z, hard(loss), WEIGHT)
    batchmean = LOSSES[loss](reduction="batchmean")(Z, hard(loss), WEIGHT)
    assert batchmean == pytest.approx(losses.sum() / sum(WEIGHT), rel=1e-14)


@pytest.mark.parametrize("loss", SIGMOID)
def test_mean_of_a_sigmoid_is_over_all_outputs(loss: str) -> None:
    losses, _ = each(loss, Z, BITS, WEIGHT)
    assert LOSSES[loss]()(Z, BITS, WEIGHT) == pytest.approx(
        losses.sum() / (3 * sum(WEIGHT)), rel=1e-14
    )
    weights = np.arange(12.0).reshape(4, 3)
    losses, _ = each(loss, Z, BITS, weights)
    assert LOSSES[loss]()(Z, BITS, weights) == pytest.approx(
        losses.sum() / weights.sum(), rel=1e-14
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_normalizer_divides_the_sum_instead(reduction: str, loss: str) -> None:
    total, gradient = LOSSES[loss](reduction="sum").value_and_grad(Z, hard(loss), WEIGHT)
    law = LOSSES[loss](reduction=reduction)
    value, scaled = law.value_and_grad(Z, hard(loss), WEIGHT, normalizer=8.0)
    assert (value, law(Z, hard(loss), WEIGHT, 8.0)) == (total / 8, total / 8)
    np.testing.assert_array_equal(scaled, gradient / 8)
    vector = np.ones((4, 3)) * [1.0, -2.0, 0.5]
    np.testing.assert_array_equal(
        law.hvp(Z, hard(loss), vector, WEIGHT, 8.0),
        LOSSES[loss](reduction="sum").hvp(Z, hard(loss), vector, WEIGHT) / 8,
    )


def test_accumulated_batches_of_unequal_size_make_the_mean_of_all() -> None:
    z, y = np.array(Z), np.array([0, -100, 1, 0])
    loss = crossent.CrossEntropy()
    whole = loss(z, y)
    weight = loss.sums(z, y).weight
    parts = [loss(z[:1], y[:1], normalizer=weight), loss(z[1:], y[1:], normalizer=weight)]
    assert sum(parts) == pytest.approx(whole, rel=1e-15)
    mean_of_means = (loss(z[:1], y[:1]) + loss(z[1:], y[1:])) / 2
    assert abs(mean_of_means - whole) > 0.05  # what the normalizer is there to avoid


# Rows that take no part ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("loss", LOSSES)
def test_rows_of_weight_0_take_no_part_whatever_they_hold(loss: str, bad: float) -> None:
    z, weight = np.array(Z), np.array([1.0, 0.0, 2.0, 1.0])
    z[1] = bad
    for reduction in REDUCTIONS:
        law = LOSSES[loss](reduction=reduction)
        value, gradient = law.value_and_grad(z, hard(loss), weight)
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(gradient[1], 0.0)
        assert np.isfinite(law.hvp(z, hard(loss), np.ones((4, 3)), weight)).all()
    sums = LOSSES[loss]().sums(z, hard(loss), weight)
    outputs = 3 if loss in SIGMOID else 1
    assert math.isfinite(sums.mean)
    assert (sums.rows, sums.ignored, sums.samples) == (3 * outputs, outputs, 4.0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.5}], ids=["plain", "smoothed"])
def test_ignored_rows_take_no_part_whatever_they_hold(
    options: dict[str, Any], loss: str, bad: float
) -> None:
    z, y = np.array(Z), [0, -100, 1, 0]
    z[1] = bad
    law = LOSSES[loss](**options)
    value, gradient = law.value_and_grad(z, y)
    keep = [0, 2, 3]
    assert value == law(z[keep], [0, 1, 0])
    np.testing.assert_array_equal(gradient[1], 0.0)
    sums = law.sums(z, y)
    assert (sums.rows, sums.ignored, sums.weight) == (3, 1, 3.0)
    links = law.chain_rule(z, y)
    np.testing.assert_array_equal(links.dE_dp[1], 0.0)
    np.testing.assert_array_equal(links.dE_ds[1], 0.0)
    assert np.isfinite(law.hvp(z, y, np.ones((4, 3)))).all()


def test_targets_of_rows_of_weight_0_may_be_anything_too() -> None:
    c = np.array(SOFT)
    c[1] = NAN
    for loss in LOSSES:
        assert np.isfinite(LOSSES[loss]()(Z, c, [1.0, 0.0, 1.0, 1.0]))


def test_probabilities_of_rows_that_take_no_part_may_be_anything() -> None:
    p = [[0.5, 0.5], [0.0, 0.0], [NAN, 7.0]]
    value = crossent.CrossEntropy().from_probabilities(p, [0, -100, 1], [1.0, 1.0, 0.0])
    assert value == pytest.approx(math.log(2), rel=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_left_to_average_is_0_with_a_gradient_of_0(loss: str) -> None:
    z = np.array(Z)
    z[0] = NAN
    for reduction in ("mean", "batchmean", "sum"):
        law = LOSSES[loss](reduction=reduction)
        value, gradient = law.value_and_grad(z, hard(loss), np.zeros(4))
        assert value == 0
        np.testing.assert_array_equal(gradient, 0.0)
        np.testing.assert_array_equal(law.hvp(z, hard(loss), np.ones((4, 3)), np.zeros(4)), 0.0)
    sums = LOSSES[loss]().sums(z, hard(loss), np.zeros(4))
    assert (sums.weight, sums.samples, sums.rows, sums.mean, sums.accuracy) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("targets", [Y, SOFT], ids=["hard", "soft"])
def test_class_weights_of_0_leave_nothing_to_average(targets: Any) -> None:
    law = crossent.CrossEntropy(class_weight=[0.0, 0.0, 0.0])
    value, gradient = law.value_and_grad([[NAN, 0.0, 1.0], *Z[1:]], targets)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0.0)


# Label smoothing, z-loss, softcap, temperature ----------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_smoothing_spreads_alpha_over_all_classes(loss: str, alpha: float) -> None:
    for c in (np.eye(3)[Y], np.array(SOFT)):
        smoothed = (1 - alpha) * c + alpha / 3
        expected = LOSSES[loss]()(Z, smoothed)
        assert LOSSES[loss](label_smoothing=alpha)(Z, c) == pytest.approx(expected, rel=1e-14)
    by_index = LOSSES[loss](label_smoothing=alpha)(Z, Y)
    assert by_index == pytest.approx(
        LOSSES[loss](label_smoothing=alpha)(Z, np.eye(3)[Y]), rel=1e-15
    )


def test_smoothing_of_a_sigmoid_spreads_alpha_over_0_and_1() -> None:
    smoothed = 0.9 * np.array(BITS) + 0.05
    value = crossent.BinaryCrossEntropy(label_smoothing=0.1)(Z, BITS)
    assert value == pytest.approx(crossent.BinaryCrossEntropy()(Z, smoothed), rel=1e-14)


def test_z_loss_is_added_to_the_value_and_reported_apart() -> None:
    lse = crossent.logsumexp(Z)
    plain, with_z = crossent.CrossEntropy(), crossent.CrossEntropy(z_loss=0.5)
    assert with_z(Z, Y) == pytest.approx(plain(Z, Y) + 0.5 * (lse**2).mean(), rel=1e-14)
    sums = with_z.sums(Z, Y, WEIGHT)
    assert sums.sum == pytest.approx(plain.sums(Z, Y, WEIGHT).sum, rel=1e-15)
    assert sums.z_loss == pytest.approx(0.5 * (np.array(WEIGHT) * lse**2).sum(), rel=1e-14)
    assert sums.mean == with_z(Z, Y, WEIGHT)
    assert sums.perplexity == pytest.approx(math.exp(plain(Z, Y, WEIGHT)), rel=1e-14)


def test_z_loss_of_an_infinite_score_is_infinite() -> None:
    z = np.array([[INF, 0.0, 1.0], [2.0, 1.0, 0.0]])
    losses, _ = each("cross_entropy", z, [0, 0], z_loss=0.5)
    assert losses[0] == INF
    assert np.isfinite(losses[1])


def test_softcap_and_temperature_make_scores_of_logits() -> None:
    z = np.array(Z)
    scores = 1.5 * np.tanh(z / 1.5) / 0.5
    capped = crossent.CrossEntropy(softcap=1.5, temperature=0.5)
    assert capped(z, Y) == pytest.approx(crossent.CrossEntropy()(scores, Y), rel=1e-13)
    np.testing.assert_allclose(capped.activation(z), crossent.softmax(scores), rtol=1e-13)
    np.testing.assert_array_equal(capped.predict(z), z.argmax(axis=1))


def test_infinite_logits_behind_a_softcap_are_as_good_as_the_cap() -> None:
    capped = crossent.CrossEntropy(softcap=2.0, reduction="none")
    value, gradient = capped.value_and_grad([[INF, INF, -INF]], [0])
    expected = crossent.CrossEntropy(reduction="none")([[2.0, 2.0, -2.0]], [0])
    np.testing.assert_allclose(value, expected, rtol=1e-15)
    np.testing.assert_array_equal(gradient, 0.0)


# Infinite scores and NaN --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 3, 300])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [False, True], ids=["index", "one-hot"])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_one_score_of_inf_is_the_limit(loss: str, soft: bool, dtype: Any, width: int) -> None:
    z = np.zeros((2, width), dtype)
    z[0, 1] = INF
    right, wrong = (np.eye(width)[[k, 0]] if soft else np.array([k, 0]) for k in (1, 0))
    value, gradient = each(loss, z, right)
    assert value[0] == 0
    np.testing.assert_array_equal(gradient[0], 0.0)
    value, gradient = each(loss, z, wrong)
    assert value[0] == INF
    assert np.isfinite(value[1])
    if loss == "cross_entropy" or width == 2:  # p - c, twice p - c for the two-term error of two
        expected = np.zeros(width)
        expected[:2] = [-1.0, 1.0] if loss == "cross_entropy" else [-2.0, 2.0]
        np.testing.assert_array_equal(gradient[0], expected)
    np.testing.assert_array_equal(crossent.softmax(z)[0], np.eye(width)[1])
    log_p = crossent.log_softmax(z)[0]
    np.testing.assert_array_equal(log_p, np.where(np.arange(width) == 1, 0.0, -INF))
    assert crossent.logsumexp(z)[0] == INF


@pytest.mark.parametrize("width", [3, 300])
@pytest.mark.parametrize("row", ["two +inf", "only -inf", "NaN", "NaN and +inf"])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_rows_without_a_limit_are_nan_and_no_other_row_is(
    loss: str, soft: bool, row: str, width: int
) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, width))
    z[77] = -INF if row == "only -inf" else 0.0
    z[77, 1:3] = {"two +inf": INF, "only -inf": -INF, "NaN": NAN, "NaN and +inf": [NAN, INF]}[row]
    targets = rng.dirichlet(np.ones(width), 200) if soft else rng.integers(width, size=200)
    value, gradient = each(loss, z, targets)
    others = np.arange(200) != 77
    assert np.isnan(value[77])
    assert np.isnan(gradient[77]).all()
    assert np.isfinite(value[others]).all()
    assert np.isfinite(gradient[others]).all()
    assert np.isnan(crossent.softmax(z)[77]).all()
    assert np.isfinite(crossent.softmax(z)[others]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [2, 3, 9, 192, 193])
def test_nan_of_either_sign_takes_all_of_its_row(width: int, dtype: str) -> None:
    for place in (0, width - 1):
        for sign in (1.0, -1.0):
            z = np.zeros((40, width), dtype)
            z[7, place] = np.copysign(np.nan, sign)
            value, gradient = crossent.CrossEntropy(reduction="none").value_and_grad(z, [0] * 40)
            assert np.isnan(value).nonzero()[0].tolist() == [7]
            assert np.isnan(gradient[7]).all()
            assert np.isfinite(np.delete(gradient, 7, 0)).all()


@pytest.mark.parametrize("width", [2, 20, 300])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_nan_of_a_half_type_stays_one(loss: str, dtype: str, width: int) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")
    every = np.arange(2**16, dtype=np.uint16).view(numpy_type(dtype))
    with np.errstate(invalid="ignore"):  # some of them signal
        every = every[np.isnan(every)]
        z = np.zeros((len(every), width), every.dtype)
        z[:, -1] = every
        targets = np.zeros(len(z) if loss in SOFTMAX else z.shape, int)
        gradient = each(loss, z, targets)[1]
        assert np.isnan(gradient if loss in SOFTMAX else gradient[:, -1]).all()


@pytest.mark.parametrize("width", [3, 600])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_minus_inf_is_p_0_and_never_nan(loss: str, dtype: Any, width: int) -> None:
    z = np.full((2, width), -INF, dtype)
    z[:, -1] = 1.0
    z[1, -2] = 1.0
    value, gradient = each(loss, z, [width - 1, width - 2])
    assert value[0] == 0
    assert value[1] == pytest.approx(math.log(2) * (2 if "binary" in loss else 1), rel=1e-6)
    np.testing.assert_array_equal(gradient[:, :-2], 0.0)
    assert not np.isnan(gradient).any()
    np.testing.assert_array_equal(crossent.softmax(z)[:, :-2], 0.0)
    value, gradient = each(loss, z[:1], [0])  # the target itself has p = 0
    assert value[0] == INF
    soft = np.zeros((2, width))
    soft[:, -1] = 1.0  # no mass where p = 0: 0 * ln 0 = 0
    assert np.isfinite(each(loss, z, soft)[0]).all()


def test_logsumexp_of_nothing_is_minus_inf() -> None:
    assert crossent.logsumexp([-INF, -INF]) == -INF
    assert crossent.logsumexp([INF, INF]) == INF
    assert math.isnan(crossent.logsumexp([INF, NAN]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", SIGMOID)
def test_infinite_logits_of_a_sigmoid_are_the_limit(loss: str, dtype: Any) -> None:
    z = np.array([INF, -INF, INF, -INF, NAN, 0.0], dtype)
    value, gradient = each(loss, z, np.array([1, 0, 0, 1, 1, 1]))
    wrong = INF if loss == "binary_cross_entropy" else 0.5
    np.testing.assert_array_equal(value[:4], [0.0, 0.0, wrong, wrong])
    slope = 1.0 if loss == "binary_cross_entropy" else 0.0
    np.testing.assert_array_equal(gradient[:4], [0.0, 0.0, slope, -slope])
    assert (np.isnan(value[4]), np.isnan(gradient[4])) == (True, True)
    assert np.isfinite([value[5], gradient[5]]).all()
    np.testing.assert_array_equal(crossent.sigmoid(z[:2]), [1.0, 0.0])
    np.testing.assert_array_equal(crossent.log_sigmoid(z[:2]), [0.0, -INF])


def test_term_of_weight_0_is_0_whatever_its_partner() -> None:
    value, gradient = each("binary_cross_entropy", [INF, -INF], [1, 1], pos_weight=[0.0])
    np.testing.assert_array_equal(value, [0.0, 0.0])
    np.testing.assert_array_equal(gradient, [0.0, 0.0])


# Types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_of_the_answers(dtype: Any, loss: str, reduction: str) -> None:
    z = np.array(Z, dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    value, gradient = LOSSES[loss](reduction=reduction).value_and_grad(z, hard(loss))
    assert (value.dtype, gradient.dtype) == (wide, dtype)
    assert LOSSES[loss](reduction=reduction)(z, hard(loss)).dtype == wide
    assert LOSSES[loss]().hvp(z, hard(loss), np.ones((4, 3))).dtype == dtype
    assert LOSSES[loss]().activation(z).dtype == dtype
    assert crossent.logsumexp(z).dtype == wide
    assert LOSSES[loss]().predict(z).dtype == np.int64
    links = LOSSES[loss]().chain_rule(z, hard(loss))
    assert {part.dtype for part in vars(links).values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("loss", LOSSES)
def test_lists_of_numbers_are_float64(loss: str) -> None:
    value, gradient = LOSSES[loss]().value_and_grad([[2, 1, 0], [0, 1, 2]], hard(loss)[:2].tolist())
    assert (value.dtype, gradient.dtype) == (np.float64, np.float64)


@pytest.mark.parametrize("loss", LOSSES)
def test_probabilities_of_half_types_may_sum_to_1_as_their_type_can(loss: str) -> None:
    z = np.random.default_rng(1).normal(0, 3, (500, 5)).astype(np.float16)
    p = LOSSES[loss]().activation(z)
    targets = np.zeros(500, int) if loss in SOFTMAX else np.ones((500, 5))
    assert LOSSES[loss]().from_probabilities(p, targets).dtype == np.float32
    log_p = (crossent.log_softmax if loss in SOFTMAX else crossent.log_sigmoid)(z)
    given = LOSSES[loss]().from_log_probabilities(log_p, targets)
    assert given == pytest.approx(LOSSES[loss]()(z, targets), rel=5e-3)


# Given probabilities ------------------------------------------------------------------------------


def test_nothing_is_clipped() -> None:
    given = crossent.CrossEntropy(reduction="none").from_probabilities
    np.testing.assert_array_equal(given([[1.0, 0.0], [1.0, 0.0]], [0, 1]), [0.0, INF])
    np.testing.assert_array_equal(given([[1.0, 0.0]], [[1.0, 0.0]]), [0.0])
    binary = crossent.BinaryCrossEntropy(reduction="none").from_probabilities
    np.testing.assert_array_equal(binary([0.0, 1.0, 0.0, 1.0], [0, 1, 1, 0]), [0, 0, INF, INF])
    logs = crossent.CrossEntropy(reduction="none").from_log_probabilities
    np.testing.assert_array_equal(logs([[0.0, -INF], [0.0, -INF]], [0, 1]), [0.0, INF])
    assert logs([[-1e-300, -690.0]], [0])[0] == 1e-300  # what p itself has rounded away


# Decisions ----------------------------------------------------------------------------------------


def test_decisions() -> None:
    assert crossent.CrossEntropy().predict([1.0, 3.0, 3.0]) == 1  # the first of equals
    np.testing.assert_array_equal(
        crossent.BinaryCrossEntropy().predict([-1.0, 0.0, 2.0]), [0, 0, 1]
    )
    sums = crossent.CrossEntropy().sums(Z, [0, 2, 2, -100])
    assert (sums.rows, sums.correct, sums.ignored) == (3, 3, 1)
    assert sums.accuracy == 1.0
    sums = crossent.CrossEntropy().sums(Z, SOFT)
    assert (sums.rows, sums.correct) == (4, 2)
    sums = crossent.BinaryCrossEntropy().sums([2.0, -1.0, 3.0], [1, 1, 0], [1.0, 1.0, 0.0])
    assert (sums.rows, sums.correct, sums.ignored) == (2, 1, 1)


# Empty batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
@pytest.mark.parametrize("loss", LOSSES)
def test_empty_batches_keep_their_shapes(loss: str, shape: tuple[int, ...]) -> None:
    z = np.zeros(shape, np.float32)
    lead = shape[:-1]
    targets = np.zeros(lead, int) if loss in SOFTMAX else np.zeros(shape)
    weight = np.zeros(lead)
    for reduction in ("sum", "mean", "batchmean"):
        law = LOSSES[loss](reduction=reduction)
        for rest in ((), (weight,)):
            value, gradient = law.value_and_grad(z, targets, *rest)
            assert (value, gradient.shape) == (0, shape)
            assert law.hvp(z, targets, z, *rest).shape == shape
    value, gradient = each(loss, z, targets)
    assert (value.shape, gradient.shape) == (lead if loss in SOFTMAX else shape, shape)
    sums = LOSSES[loss]().sums(z, targets, weight)
    assert (sums.rows, sums.weight, sums.mean) == (0, 0, 0)
    assert LOSSES[loss]().activation(z).shape == shape
    assert LOSSES[loss]().predict(z).shape == (lead if loss in SOFTMAX else shape)
    assert LOSSES[loss]().chain_rule(z, targets).dE_ds.shape == shape
    assert LOSSES[loss]().from_probabilities(z, targets) == 0
    assert crossent.logsumexp(z).shape == lead


@pytest.mark.parametrize("loss", SIGMOID)
def test_samples_of_no_outputs(loss: str) -> None:
    z = np.zeros((3, 0))
    value, gradient = LOSSES[loss]().value_and_grad(z, z, [1.0, 2.0, 3.0])
    assert (value, gradient.shape) == (0, (3, 0))


# Losses are values --------------------------------------------------------------------------------


def test_losses_are_frozen_compare_and_pickle() -> None:
    import pickle
    from dataclasses import FrozenInstanceError

    loss = crossent.CrossEntropy(**ALL_OPTIONS)
    assert loss == crossent.CrossEntropy(
        **{**ALL_OPTIONS, "class_weight": np.array([0.5, 2.0, 1.5])}
    )
    assert hash(loss) == hash(crossent.CrossEntropy(**ALL_OPTIONS))
    assert pickle.loads(pickle.dumps(loss)) == loss
    with pytest.raises(FrozenInstanceError):
        loss.temperature = 2.0
