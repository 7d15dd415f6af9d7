"""exp, log1p and tanh of the kernels against the same in more bits."""

from __future__ import annotations

from typing import Any

import mpmath
import numba
import numpy as np
import pytest

from crossent.kernels import elementary

RNG = np.random.default_rng(0)


@numba.njit(error_model="numpy")
def run(function: Any, x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = function(x[i])


@numba.njit
def exp_of_negative(x: Any) -> Any:
    return elementary.exp_of_negative(x)


@numba.njit
def log1p(x: Any) -> Any:
    return elementary.log1p(x)


@numba.njit
def log1p_of_share(x: Any) -> Any:
    return elementary.log1p_of_share(x)


def values(function: Any, x: Any) -> Any:
    out = np.empty_like(x)
    run(function, x, out)
    return out


def truths(function: Any, x: Any) -> Any:
    """Return the function's values to 40 digits, as objects."""
    with mpmath.workdps(40):
        return np.array([function(mpmath.mpf(float(each))) for each in x])


def ulps(found: Any, true: Any) -> float:
    """Return the greatest error in units of the last place of the result's type."""
    with mpmath.workdps(40):
        spacing = [mpmath.mpf(float(np.spacing(found.dtype.type(abs(float(t)))))) for t in true]
        errors = [
            abs(mpmath.mpf(float(f)) - t) / s for f, t, s in zip(found, true, spacing, strict=True)
        ]
    return float(max(errors))


@pytest.mark.parametrize(("dtype", "reach"), [("float32", 104.0), ("float64", 745.0)])
def test_exp_is_right_down_to_the_last_subnormal(dtype: str, reach: float) -> None:
    x = -np.concatenate([RNG.uniform(0, reach, 3000), RNG.uniform(0, 1, 1000)]).astype(dtype)
    assert ulps(values(exp_of_negative, x), truths(mpmath.exp, x)) < 1.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exp_at_the_ends(dtype: str) -> None:
    x = np.array([0.0, -0.0, -np.inf, np.nan, -1e30, np.finfo(dtype).min], dtype)
    expected = np.array([1.0, 1.0, 0.0, np.nan, 0.0, 0.0], dtype)
    np.testing.assert_array_equal(values(exp_of_negative, x), expected)


@numba.njit
def near_exp(x: Any) -> Any:
    return elementary.near_exp(2.0 * x, 0.5)


def test_the_shorter_exp_has_44_bits() -> None:
    x = -np.concatenate([RNG.uniform(0, 500, 3000), RNG.uniform(0, 1, 3000)])
    true = truths(mpmath.exp, x)
    found = values(near_exp, x)
    with mpmath.workdps(40):
        worst = max(abs(mpmath.mpf(f) / t - 1) for f, t in zip(found.tolist(), true, strict=True))
    assert worst < mpmath.mpf(2) ** -44
    ends = values(near_exp, np.array([0.0, -np.inf, np.nan, -1e300]))
    np.testing.assert_array_equal(ends, [1.0, 0.0, np.nan, 0.0])


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 7.7])
def test_the_exp_of_a_product_is_as_good_as_its_own(sharpness: float) -> None:
    @numba.njit
    def raised(x: Any) -> Any:
        return elementary.raised_exp_of_scaled(x, np.float32(0.0), sharpness)

    x = -np.concatenate([RNG.uniform(0, 130, 3000), RNG.uniform(0, 1, 3000)])
    x = (x / sharpness).astype(np.float32)
    true = truths(lambda v: mpmath.exp(v * mpmath.mpf(sharpness)) * mpmath.mpf(2) ** 64, x)
    assert ulps(values(raised, x), true) < 1.0
    ends = np.array([0.0, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(values(raised, ends), [np.float32(2.0**64), 0.0, np.nan])


@numba.njit
def exp_of_gap(a: Any, b: Any, out: Any) -> None:
    for i in range(a.size):
        out[i], _ = elementary.raised_exp_of_gap(a[i], b[i])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exp_of_a_gap(dtype: str) -> None:
    a, b = RNG.uniform(-60, 60, (2, 4000)).astype(dtype)
    found, raised = np.empty_like(a), 64 if dtype == "float32" else 0
    exp_of_gap(a, b, found)
    with mpmath.workdps(40):
        true = [
            mpmath.ldexp(mpmath.exp(-abs(mpmath.mpf(one) - other)), raised)
            for one, other in zip(a.tolist(), b.tolist(), strict=True)
        ]
        assert ulps(found, true) < 1.0
    ends = np.array([np.inf, -np.inf, np.nan, 3.0], dtype)
    exp_of_gap(ends, np.array([0.0, 0.0, 0.0, 3.0], dtype), ends)
    np.testing.assert_array_equal(ends, [0.0, 0.0, np.nan, 2.0**raised])


@numba.njit
def exp_from_maximum(x: Any, m: Any, sharpness: Any, out: Any) -> Any:
    around, lower = elementary.anchor(m, sharpness)
    for i in range(x.size):
        out[i] = elementary.exp_from(x[i], around)
    return lower


@pytest.mark.parametrize("m", [0.0, 0.3, -77.7, 299.9, -299.9, 300.1, -300.1, 5000.3, -1e30])
@pytest.mark.parametrize(
    ("dtype", "sharpness"),
    [("float32", s) for s in (None, 1 / 3, 7.0, 1000.3)]
    + [("float64", s) for s in (None, 0.25, 8.0)],  # a product with others is itself rounded
)
def test_exp_below_a_maximum(dtype: str, sharpness: float | None, m: float) -> None:
    s = sharpness or 1.0
    top = np.dtype(dtype).type(m / s)
    x = np.concatenate([RNG.uniform(0, 104, 3000), RNG.uniform(0, 1, 1000), [0.0]])
    x = np.minimum((top - x / s).astype(dtype), top)
    found = np.empty_like(x)
    lower = exp_from_maximum(x, top, sharpness, found)
    with mpmath.workdps(40):
        gaps = [(mpmath.mpf(float(each)) - float(top)) * s for each in x]
        assert ulps(found, [mpmath.exp(gap) / lower for gap in gaps]) < 1.0
    ends = np.array([-np.inf, np.nan, np.finfo(dtype).min / 2], dtype)
    found = np.empty_like(ends)
    exp_from_maximum(ends, top, sharpness, found)
    np.testing.assert_array_equal(found, [0.0, np.nan, 0.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log1p(dtype: str) -> None:
    x = np.concatenate([RNG.uniform(0, 1, 2000), 10.0 ** RNG.uniform(-44, 0, 2000)]).astype(dtype)
    assert ulps(values(log1p_of_share, x), truths(mpmath.log1p, x)) < 1.5
    far = np.concatenate([x, RNG.uniform(0, 200, 2000), 10.0 ** RNG.uniform(0, 38, 2000)])
    far = far.astype(dtype)
    assert ulps(values(log1p, far), truths(mpmath.log1p, far)) < 1.5
    ends = np.array([0.0, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(values(log1p, ends), ends)


@numba.njit
def tanh(x: Any) -> Any:
    return elementary.tanh(x)


@numba.njit
def slope_of_tanh(x: Any) -> Any:
    return elementary.tanh_of(x, *elementary.begin_tanh(x, -2.0))[1]


def test_tanh_and_its_derivative() -> None:
    x = np.concatenate([RNG.uniform(-1, 1, 1000), RNG.uniform(-25, 25, 2000)])
    x = np.concatenate([x, 10.0 ** RNG.uniform(-30, 0, 1000), RNG.uniform(18.2, 18.6, 5000)])
    assert ulps(values(tanh, x), truths(mpmath.tanh, x)) < 3.0
    assert ulps(values(slope_of_tanh, x), truths(lambda a: mpmath.sech(a) ** 2, x)) < 5.0
    np.testing.assert_array_equal(values(tanh, np.linspace(20.0, 400.0, 1000)), 1.0)
    ends = np.array([0.0, np.inf, -np.inf, np.nan, 400.0, -1e300])
    np.testing.assert_array_equal(values(tanh, ends), [0.0, 1.0, -1.0, np.nan, 1.0, -1.0])
    np.testing.assert_array_equal(values(slope_of_tanh, ends), [1.0, 0.0, 0.0, np.nan, 0.0, 0.0])
