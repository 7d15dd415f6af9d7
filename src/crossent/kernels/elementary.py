"""exp, log1p and tanh as short branch-free functions that vectorise, for float32 and float64.

The standard library's are calls, one element each. Polynomials are minimax fits (Remez exchange,
60 digits) on the reduced argument. Errors seen, in units in the last place (ulp) of the result:
exp_of_difference below 1, log1p below 2, both over their whole domain.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from crossent.kernels.compiler import device
from crossent.kernels.intrinsics import (
    bits,
    fma,
    from_bits,
    magnitude,
    round_even,
    scale_by_power,
    select,
)

F32 = np.float32
F64 = np.float64


def exp_of_difference(x: Any, m: Any) -> Any:
    """Return exp(x - m) for x <= m and m finite: 1 at x = m, 0 at x = -inf, NaN at NaN."""
    raise AssertionError("kernels are compiled")


def exp_of_negative(x: Any) -> Any:
    """Return exp(x) for x <= 0: 0 at x = -inf, NaN at NaN."""
    raise AssertionError("kernels are compiled")


def log1p(x: Any) -> Any:
    """Return ln(1 + x): float64 for any x >= 0; float32 for x in [0, 1]."""
    raise AssertionError("kernels are compiled")


def raised_exp(x: Any, m: Any) -> Any:
    """Return exp(x - m) for x <= m, times 2**64 in float32, where it would soon be subnormal.

    Many subnormal terms, each rounded to their coarse spacing, would make a bad sum.
    """
    raise AssertionError("kernels are compiled")


def exp_of_scaled(x: Any, m: Any, sharpness: Any, like: Any) -> Any:
    """Return exp(sharpness (x - m)) in float64 for float64 m and x <= m.

    To all bits if the scores came as an array like `like` of float64, else to 45.
    """
    raise AssertionError("kernels are compiled")


@overload(exp_of_difference, jit_options={"error_model": "numpy"})
def _exp_of_difference(x: Any, m: Any) -> Any:
    return _exp32 if x == types.float32 else _exp64


@overload(exp_of_negative, jit_options={"error_model": "numpy"})
def _exp_of_negative(x: Any) -> Any:
    return _exp_of_negative32 if x == types.float32 else _exp_of_negative64


@overload(raised_exp, jit_options={"error_model": "numpy"})
def _raised_exp(x: Any, m: Any) -> Any:
    return _raised_exp32 if x == types.float32 else _exp64


@overload(exp_of_scaled, jit_options={"error_model": "numpy"})
def _exp_of_scaled(x: Any, m: Any, sharpness: Any, like: Any) -> Any:
    return _exp_of_scaled64 if like.dtype == types.float64 else _exp_of_scaled32


@overload(log1p, jit_options={"error_model": "numpy"})
def _log1p(x: Any) -> Any:
    return _log1p32 if x == types.float32 else _log1p64


@device
def add_exactly(total: Any, lost: Any, x: Any) -> Any:
    """Return total + x, and lost plus what that addition rounds away (two-sum), in float64."""
    s = total + x
    b = s - total
    rounded = (total - (s - b)) + (x - b)
    return s, lost + select(rounded == rounded, rounded, 0.0)  # inf - inf loses nothing


@device
def difference(x: Any, m: Any, reach: Any) -> Any:
    """Return d, e with d + e = x - m exactly (two-sum), no further apart than `reach`.

    x - m is itself rounded, and exp turns an absolute error into a relative one: at a gap of 65
    the rounding alone would cost 50 ulp.
    """
    d = x - m
    b = d - x
    e = (x - (d - b)) - (m + b)
    return at_least(d, -reach), select(d > -reach, e, reach - reach)


@device
def at_least(x: Any, low: Any) -> Any:
    """Return x, or low if x is below it; NaN stays NaN."""
    return select(x < low, low, x)


def _exp32(x: Any, m: Any) -> Any:
    d, e = difference(x, m, F32(110.0))  # further down exp rounds to 0
    p, k = exp32_parts(d, e)
    return scale_by_power(p, k)


def _exp_of_negative32(x: Any) -> Any:
    p, k = exp32_parts(at_least(x, F32(-110.0)), F32(-0.0))  # adding -0 is nothing, and left out
    return scale_by_power(p, k)


def _exp_of_negative64(x: Any) -> Any:
    return exp64_of_sum(at_least(x, -750.0), 0.0)


def _raised_exp32(x: Any, m: Any) -> Any:
    d, e = difference(x, m, F32(155.0))
    p, k = exp32_parts(d, e)
    return scale_by_power(p, k + F32(64.0))


@device
def exp32_parts(d: Any, e: Any) -> Any:
    """Return p in [0.7, 1.5] and a whole k with exp(d + e) = p 2**k, e far smaller than d."""
    k = round_even(d * F32(1.4426950408889634))
    r = fma(k, F32(2.12194440e-4), fma(k, F32(-0.693359375), d)) + e
    q = F32(1.3814599015849816e-3)
    q = fma(q, r, F32(8.368716808730813e-3))
    q = fma(q, r, F32(4.166838803155814e-2))
    q = fma(q, r, F32(1.6666520632472775e-1))
    q = fma(q, r, F32(4.99999934478981e-1))
    return fma(fma(q, r, F32(1.0)), r, F32(1.0)), k


def _exp64(x: Any, m: Any) -> Any:
    d, e = difference(x, m, 750.0)
    return exp64_of_sum(d, e)


def _exp_of_scaled64(x: Any, m: Any, sharpness: Any, like: Any) -> Any:
    d, e = difference(x, m, 750.0 / sharpness)
    return exp64_of_sum(d * sharpness, e * sharpness)


def _exp_of_scaled32(x: Any, m: Any, sharpness: Any, like: Any) -> Any:
    return near_exp((F64(x) - m) * sharpness)  # float64 holds a difference of float32


@device
def near_exp(x: Any) -> Any:
    """Return exp(x) for float64 x <= 0 to 45 bits."""
    d = at_least(x, -750.0)
    k = round_even(d * 1.4426950408889634)
    r = fma(k, -1.9082149292705877e-10, fma(k, -0.6931471803691238, d))
    q = 2.4801493100038142e-05
    q = fma(q, r, 1.9841269506578848e-04)
    q = fma(q, r, 1.3888888943628895e-03)
    q = fma(q, r, 8.33333333349446e-03)
    q = fma(q, r, 4.166666666653016e-02)
    q = fma(q, r, 1.6666666666666413e-01)
    q = fma(q, r, 5.000000000000011e-01)
    return scale_by_power(fma(fma(q, r, 1.0), r, 1.0), k)


@device
def exp64_of_sum(d: Any, e: Any) -> Any:
    """Return exp(d + e) for d in [-750, 0] and e far smaller."""
    k = round_even(d * 1.4426950408889634)
    r = fma(k, -1.9082149292705877e-10, fma(k, -0.6931471803691238, d)) + e
    q = 2.500006064923463e-08
    q = fma(q, r, 2.7630248010846225e-07)
    q = fma(q, r, 2.7557586375500727e-06)
    q = fma(q, r, 2.4801493100038142e-05)
    q = fma(q, r, 1.9841269506578848e-04)
    q = fma(q, r, 1.3888888943628895e-03)
    q = fma(q, r, 8.33333333349446e-03)
    q = fma(q, r, 4.166666666653016e-02)
    q = fma(q, r, 1.6666666666666413e-01)
    q = fma(q, r, 5.000000000000011e-01)
    return scale_by_power(fma(fma(q, r, 1.0), r, 1.0), k)


def _log1p32(x: Any) -> Any:
    q = F32(2.0729539246347253e-3)
    q = fma(q, x, F32(-1.3631509433748398e-2))
    q = fma(q, x, F32(4.19814167686092e-2))
    q = fma(q, x, F32(-8.307412546027103e-2))
    q = fma(q, x, F32(1.2467125647313473e-1))
    q = fma(q, x, F32(-1.6129336760763727e-1))
    q = fma(q, x, F32(1.989793219067736e-1))
    q = fma(q, x, F32(-2.4988579031623817e-1))
    q = fma(q, x, F32(3.333268977681129e-1))
    q = fma(q, x, F32(-4.9999987290747944e-1))
    return fma(x * x, q, x)


def _log1p64(x: Any) -> Any:
    w = 1.0 + x
    lost = (x - (w - 1.0)) / w  # what rounding 1 + x took, as a share of w
    # w = 2**k f with f in [sqrt(1/2), sqrt(2)): add the distance to sqrt(1/2) before cutting k off
    shifted = bits(w) + (0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
    k = F64((shifted >> 52) - 1023)
    f = from_bits((shifted & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD)
    s = (f - 1.0) / (f + 1.0)
    v = s * s
    q = 0.14796728734453327
    q = fma(q, v, 0.15313976905613955)
    q = fma(q, v, 0.18183567032536907)
    q = fma(q, v, 0.22222198524592854)
    q = fma(q, v, 0.28571428742825145)
    q = fma(q, v, 0.39999999999412883)
    q = fma(q, v, 0.6666666666666735)
    small = fma(k, 1.9082149292705877e-10, fma(s * v, q, lost))
    value = fma(k, 0.6931471803691238, 2.0 * s + small)
    return select(w < np.inf, value, w)  # w may be NaN too


@device
def tanh(x: Any) -> Any:
    """Return tanh x and its derivative 1 - tanh^2 = 4 e / (1 + e)^2, with e = exp(-2 |x|).

    In float64. Near 0, where (1 - e) / (1 + e) cancels, tanh is taken by its series.
    """
    e = exp_of_negative(-2.0 * magnitude(x))
    share = 1.0 / (1.0 + e)
    a = magnitude(x)
    v = a * a
    q = -1382.0 / 155925.0
    q = fma(q, v, 62.0 / 2835.0)
    q = fma(q, v, -17.0 / 315.0)
    q = fma(q, v, 2.0 / 15.0)
    q = fma(q, v, -1.0 / 3.0)
    t = select(a < 0.08, fma(a * v, q, a), (1.0 - e) * share)
    return select(x >= 0.0, t, -t), 4.0 * e * share * share
