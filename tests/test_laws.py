"""Laws that hold for every case of the table, and laws of single losses, whatever the numbers."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import crossent
import oracle
from cases import CASES, VARIANTS, WIDE, Case
from rows import LOSSES

BOUND = {"float16": 1.0, "bfloat16": 1.0, "float32": 4.0, "float64": 8.0}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    if request.param.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")
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
    alone shows: half an ulp of a score of 16 is 8 ulp of its exponential.
    """
    rounded = case.dtype == "float64" and {"softcap", "temperature"} & set(case.options)
    return 64.0 if rounded else BOUND[case.dtype]


# Every case ---------------------------------------------------------------------------------------


def test_value_and_gradient_are_true(case: Case) -> None:
    z, targets, weight = case.arrays()
    value, gradient = run(case)
    true = oracle.truth(case.loss, case.options, z, targets, weight, case.normalizer)
    allowed = max(bound(case), 4.0)
    assert oracle.ulps(value, true.value, true.larger_value).max(initial=0) <= allowed
    assert oracle.ulps(gradient, true.gradient, true.larger_term).max(initial=0) <= bound(case)


def test_types_and_shapes(case: Case) -> None:
    z, _, _ = case.arrays()
    value, gradient = run(case)
    assert (gradient.dtype, gradient.shape) == (z.dtype.newbyteorder("="), z.shape)
    assert value.dtype == (np.float64 if case.dtype == "float64" else np.float32)
    rows = np.array(oracle.truth(case.loss, case.options, *case.arrays()).value, object)
    assert value.shape == rows.shape


def test_out_is_filled_and_inputs_are_kept(case: Case) -> None:
    z, targets, weight = case.arrays()
    before = [bits(array) for array in (z, targets, weight)]
    poisoned = np.full(z.shape, np.nan, z.dtype.newbyteorder("="))
    value, out = loss_of(case).value_and_grad(z, targets, weight, case.normalizer, out=poisoned)
    assert out is poisoned
    assert [bits(array) for array in (z, targets, weight)] == before
    assert (bits(value), bits(out)) == tuple(map(bits, run(case)))


def test_out_may_be_the_logits(case: Case) -> None:
    z, targets, weight = case.arrays()
    if case.layout in ("read-only", "big-endian"):
        pytest.skip("cannot take a gradient")
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
    each = run(case, reduction="none")[0]
    np.testing.assert_allclose(math.fsum(each.flat), total, rtol=1e-6)


def test_gradients_of_reductions_differ_by_the_divisor(case: Case) -> None:
    z, targets, weight = case.arrays()
    sums = loss_of(case).sums(z, targets, weight)
    whole = run(case, reduction="sum")[1].astype(np.float64)
    assert bits(run(case, reduction="none")[1]) == bits(run(case, reduction="sum")[1])
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-6, "float64": 2e-15}
    for name, divisor in (("mean", sums.weight), ("batchmean", sums.samples)):
        gradient = run(case, reduction=name)[1].astype(np.float64)
        expected = whole / divisor if divisor else np.zeros_like(whole)
        smallest = float(mpf(2) ** oracle.FORMATS[case.dtype][1])
        np.testing.assert_allclose(
            gradient, expected, rtol=tolerance[case.dtype], atol=2 * smallest
        )


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_chunks_make_the_whole(case: Case) -> None:
    z, targets, weight = case.arrays()
    if z.ndim < 2 or case.options.get("axis", -1) not in (-1, z.ndim - 1):
        pytest.skip("no leading axis to cut")
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
    assert bits(np.concatenate([g for _, g in chunks])) == bits(gradient)


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
    assert (product.dtype, product.shape) == (z.dtype, z.shape)
    missing = np.array([mp.isnan(x) for x in true.flat]).reshape(true.shape)
    np.testing.assert_array_equal(np.isnan(product), missing)
    largest = np.max(np.abs(true[~missing]), initial=mpf(0))
    assert oracle.ulps(product[~missing], true[~missing], largest).max(initial=0) <= 64
