"""exp, log1p and tanh as short branch-free functions that vectorise, for float32 and float64.

The standard library's are calls, one element each. Polynomials are minimax fits (Remez exchange,
60 digits) on the reduced argument. Errors seen, in units in the last place (ulp) of the result:
exp_of_difference below 1, log1p below 1.5, tanh below 3 and its derivative below 5, over their
whole domain.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.intrinsics import (
    bits,
    fma,
    from_bits,
    magnitude,
    power_at_end,
    select,
    with_sign,
)

I32 = np.int32
U64 = np.uint64
F32 = np.float32
F64 = np.float64


def exp_of_difference(x, m):
    """Return exp(x - m) for x <= m and m finite: 1 at x = m, 0 at x = -inf, NaN at NaN."""
    raise AssertionError("kernels are compiled")


def exp_of_negative(x):
    """Return exp(x) for x <= 0: 0 at x = -inf, NaN at NaN."""
    raise AssertionError("kernels are compiled")


def log1p(x):
    """Return ln(1 + x) for x >= 0."""
    raise AssertionError("kernels are compiled")


def log1p_of_share(x):
    """Return ln(1 + x) for x in [0, 1]."""
    raise AssertionError("kernels are compiled")


def raised_exp_of_sum(d, e):
    """Return exp(d + e) for d <= 0 and e far smaller, times 2**64 in float32.

    There it would soon be subnormal, and many subnormal terms, each rounded to their coarse
    spacing, would make a bad sum.
    """
    raise AssertionError("kernels are compiled")


def raised_exp_of_scaled(x, m, sharpness):
    """Return exp(sharpness (x - m)), raised as `raised_exp` is; sharpness None stands for 1."""
    raise AssertionError("kernels are compiled")


def anchor(m, sharpness):
    """Return what `exp_from` needs for numbers up to m, and the factor that undoes its raising.

    sharpness None stands for 1; for float32 it must be well within the type.
    """
    raise AssertionError("kernels are compiled")


def exp_from(x, around):
    """Return exp(sharpness (x - m)) for x <= m, raised by a factor; NaN at NaN."""
    raise AssertionError("kernels are compiled")


def exp_of_scaled(x, m, sharpness, like):
    """Return exp(sharpness (x - m)) in float64 for float64 m and x <= m.

    To all bits if the scores came as an array like `like` of float64, else to 44.
    """
    raise AssertionError("kernels are compiled")


@device_overload(exp_of_difference)
def _exp_of_difference(x, m):
    return _exp32 if x == types.float32 else _exp64


@device_overload(exp_of_negative)
def _exp_of_negative(x):
    return _exp_of_negative32 if x == types.float32 else _exp_of_negative64


@device_overload(raised_exp_of_sum)
def _raised_exp_of_sum(d, e):
    if d == types.float32:
        return lambda d, e: exp_beside(d, e, SHIFT32, F32(-131.0))
    return lambda d, e: exp64_of_sum(d, e)


@device_overload(raised_exp_of_scaled)
def _raised_exp_of_scaled(x, m, sharpness):
    if isinstance(sharpness, types.NoneType):
        return lambda x, m, sharpness: raised_exp(x, m)
    if x == types.float32:
        return _raised_scaled32
    return lambda x, m, sharpness: exp64_of_scaled(x, m, sharpness)


@device_overload(anchor)
def _anchor(m, sharpness):
    plain = isinstance(sharpness, types.NoneType)
    if m == types.float32:
        return _anchor32 if plain else _anchor_scaled32
    if plain:
        return lambda m, sharpness: ((m,), 1.0)
    return lambda m, sharpness: ((m, sharpness), 1.0)


@device_overload(exp_from)
def _exp_from(x, around):
    if x == types.float32:
        return _exp_from32 if around.count == 3 else _exp_from_scaled32
    if around.count == 1:
        return lambda x, around: exp_of_difference(x, around[0])
    return lambda x, around: exp64_of_scaled(x, around[0], around[1])


@device_overload(exp_of_scaled)
def _exp_of_scaled(x, m, sharpness, like):
    if like.dtype == types.float64:
        return lambda x, m, sharpness, like: exp64_of_scaled(x, m, sharpness)
    return _exp_of_scaled32


@device_overload(log1p)
def _log1p(x):
    return _log1p32 if x == types.float32 else _log1p64


@device_overload(log1p_of_share)
def _log1p_of_share(x):
    return _log1p_of_share32 if x == types.float32 else _log1p64


@device
def two_sum(a, b):
    """Return a + b and what that rounds away, exactly."""
    s = a + b
    near = s - a
    return s, (a - (s - near)) + (b - near)


@device
def add_exactly(total, lost, x):
    """Return total + x, and lost plus what that addition rounds away."""
    s, rounded = two_sum(total, x)
    return s, lost + select(rounded == rounded, rounded, type(lost)(0.0))  # inf - inf: nothing


@device
def difference(x, m):
    """Return d, e with d + e = x - m exactly.

    x - m is itself rounded, and exp turns an absolute error into a relative one: at a gap of 65
    the rounding alone would cost 50 ulp.
    """
    return two_sum(x, -m)


@device
def raised_exp(x, m):
    """Return exp(x - m) for x <= m, raised as `raised_exp_of_sum` is."""
    return raised_exp_of_sum(*difference(x, m))


@device
def raised_exp_of_gap(a, b):
    """Return exp(-|a - b|), raised as that is, and a - b."""
    zero = type(a)(0.0)
    d, e = difference(a, b)
    e = select(magnitude(d) < type(a)(np.inf), e, zero)  # inf - inf: nothing
    return raised_exp_of_sum(-magnitude(d), select(d > zero, -e, e)), d


@device
def at_least(x, low):
    """Return x, or low if x is below it; NaN stays NaN."""
    return select(x < low, low, x)


def _exp32(x, m):
    return raised_exp(x, m) * F32(2.0**-64)


def _exp_of_negative32(x):
    return exp_from(x, (F32(0.0), SHIFT32, F32(-131.0))) * F32(2.0**-64)


def _exp_of_negative64(x):
    return exp64_of_sum(x, -0.0)


def _raised_scaled32(x, m, sharpness):
    d, e = difference(x, m)
    near = F32(sharpness)
    product = d * near
    lost = fma(d, near, -product) + fma(d, F32(sharpness - F64(near)), e * near)
    return raised_exp_of_sum(product, lost)


# exp(d) = 2**k exp(r), |r| <= ln(2) / 2. Added to a number so large that its last bit counts ones,
# d / ln 2 is rounded to k, which stands at the end of the sum beside the bias of an exponent: one
# shift makes it a power of two. That must be a normal number, so that what may end up subnormal
# (float32 from -87 on) is raised before, and lowered by a product that rounds once.

SHIFT32 = F32(1.5 * 2**23 + 127 + 64)
SHIFT64 = 1.5 * 2**52 + 1023
RAISED64 = 128
LOWERED64 = 2.0**-RAISED64  # a power would be compiled as a loop


@device
def exp_beside(d, e, shift, low):
    """Return exp(d + e) for e far smaller than d, raised by what shift says, 0 for d below low."""
    t = fma(d, F32(1.4426950408889634), shift)
    k = t - shift
    r = fma(k, F32(2.12194440e-4), fma(k, F32(-0.693359375), d) + e)  # the inner one is exact
    return select(d < low, F32(0.0), exp_of_rest32(r) * power_at_end(t))


@device
def exp_of_rest32(r):
    """Return exp(r) for |r| <= ln(2) / 2."""
    q = F32(1.3814599015849816e-3)
    q = fma(q, r, F32(8.368716808730813e-3))
    q = fma(q, r, F32(4.166838803155814e-2))
    q = fma(q, r, F32(1.6666520632472775e-1))
    q = fma(q, r, F32(4.99999934478981e-1))
    return fma(fma(q, r, F32(1.0)), r, F32(1.0))


# For a whole row of float32 no difference need be corrected. Near 0 nothing is subtracted: k alone
# is lowered by the maximum's. Far from 0, the maximum is, exactly: what is not as good as 0 beside
# it differs from it by less than a factor of 2.

SUBTRACTED = 300.0  # a maximum, times sharpness, from here on, either way


def _anchor32(m, sharpness):
    around, lower = anchor(m, 1.0)
    return around[:3], lower


def _anchor_scaled32(m, sharpness):
    far = magnitude(sharpness * m) >= SUBTRACTED
    origin = select(far, m, F32(0.0))
    top = sharpness * F64(m - origin)
    k = np.floor(top * 1.4426950408889634)
    lower = near_exp(k * 0.6931471805599453 - top, 1.0) * 2.0**-64
    near = F32(sharpness)
    low, rest = F32(top) - F32(131.0), F32(sharpness - F64(near))
    return (origin, SHIFT32 - F32(k), low, near, rest), lower


def _exp_from32(x, around):
    origin, shift, low = around
    return exp_beside(x - origin, F32(-0.0), shift, low)


def _exp_from_scaled32(x, around):
    origin, shift, low, near, rest = around
    d = x - origin
    product = d * near
    return exp_beside(product, fma(d, rest, fma(d, near, -product)), shift, low)


def _exp64(x, m):
    d, e = difference(x, m)
    return exp64_of_sum(d, e)


@device
def exp64_of_scaled(x, m, sharpness):
    """Return exp(sharpness (x - m)) to all bits."""
    d, e = difference(x, m)
    return exp64_of_sum(d * sharpness, e * sharpness)


def _exp_of_scaled32(x, m, sharpness, like):
    return near_exp(F64(x) - m, sharpness)  # float64 holds a difference of float32


@device
def two_steps(q, x, v, a, b):
    """Return (q x + a) x + b for v = x**2; in a long polynomial half as many products wait."""
    return fma(q, v, fma(a, x, b))


@device
def near_exp(d, sharpness):
    """Return exp(sharpness d) for float64 d <= 0 to 44 bits, 0 where that is below 2**-722."""
    scale = sharpness * 1.4426950408889634
    t = fma(d, scale, SHIFT64)
    r = fma(d, scale, SHIFT64 - t)
    v = r * r
    q = fma(1.0154352419988546e-07, r, 1.3257700226002984e-06)
    q = two_steps(q, r, v, 1.5252940793056786e-05, 0.00015403444171801478)
    q = two_steps(q, r, v, 0.0013333557765226078, 0.009618129175856126)
    q = two_steps(q, r, v, 0.05550410866681488, 0.24022650695748796)
    q = two_steps(q, r, v, 0.6931471805599453, 1.0)
    return select(t < SHIFT64 - 722.0, 0.0, q * power_at_end(t))


@device
def exp64_of_sum(d, e):
    """Return exp(d + e) for d <= 0 and e far smaller, 0 for d below -750."""
    t = fma(d, 1.4426950408889634, SHIFT64 + RAISED64)
    r = remainder64(d, t - (SHIFT64 + RAISED64)) + e
    p = fma(fma(exp64_tail(r), r, 1.0), r, 1.0) * power_at_end(t)
    return select(d < -750.0, 0.0, p * LOWERED64)


@device
def remainder64(d, k):
    """Return d - k ln 2."""
    return fma(k, -1.9082149292705877e-10, fma(k, -0.6931471803691238, d))


@device
def exp64_tail(r):
    """Return (exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2."""
    q = 2.500006064923463e-08
    q = fma(q, r, 2.7630248010846225e-07)
    q = fma(q, r, 2.7557586375500727e-06)
    q = fma(q, r, 2.4801493100038142e-05)
    q = fma(q, r, 1.9841269506578848e-04)
    q = fma(q, r, 1.3888888943628895e-03)
    q = fma(q, r, 8.33333333349446e-03)
    q = fma(q, r, 4.166666666653016e-02)
    q = fma(q, r, 1.6666666666666413e-01)
    return fma(q, r, 5.000000000000011e-01)


def _log1p_of_share32(x):
    v = x * x
    q = fma(F32(2.0729539246347253e-3), x, F32(-1.3631509433748398e-2))
    q = two_steps(q, x, v, F32(4.19814167686092e-2), F32(-8.307412546027103e-2))
    q = two_steps(q, x, v, F32(1.2467125647313473e-1), F32(-1.6129336760763727e-1))
    q = two_steps(q, x, v, F32(1.989793219067736e-1), F32(-2.4988579031623817e-1))
    q = two_steps(q, x, v, F32(3.333268977681129e-1), F32(-4.9999987290747944e-1))
    return fma(v, q, x)


# w = 1 + x is 2**k f with f in [sqrt(1/2), sqrt(2)): before k is cut off its bits, the distance
# from sqrt(1/2) to 1 is added to them. What rounding w took is added to f - 1 again.

ROOT32, BELOW_ONE32 = 0x3F3504F3, 0x3F800000 - 0x3F3504F3
ROOT64, BELOW_ONE64 = 0x3FE6A09E667F3BCD, 0x3FF0000000000000 - 0x3FE6A09E667F3BCD


def _log1p32(x):
    w = F32(1.0) + x
    shifted = I32(bits(w) + BELOW_ONE32)  # I32: the compiler's sums of integers have 64 bits
    k = I32(I32(shifted >> 23) - 127)
    f = from_bits(I32(I32(shifted & 0x7FFFFF) + ROOT32))
    power = from_bits(I32(I32(127 - k) << 23))
    r = fma(x - (w - F32(1.0)), power, f - F32(1.0))
    q = F32(-0.07621756)
    q = fma(q, r, F32(0.12905261))
    q = fma(q, r, F32(-0.132434))
    q = fma(q, r, F32(0.14181732))
    q = fma(q, r, F32(-0.16609026))
    q = fma(q, r, F32(0.20001976))
    q = fma(q, r, F32(-0.25001585))
    q = fma(q, r, F32(0.33333325))
    q = fma(q, r, F32(-0.49999988))
    value = fma(F32(k), F32(0.693359375), fma(F32(k), F32(-2.12194440e-4), fma(r * r, q, r)))
    return select(w < F32(np.inf), value, w)  # w may be NaN too


def _log1p64(x):
    w = 1.0 + x
    shifted = bits(w) + BELOW_ONE64
    k = (shifted >> 52) - 1023
    f = from_bits((shifted & 0xFFFFFFFFFFFFF) + ROOT64)
    r = fma(x - (w - 1.0), from_bits((1023 - k) << 52), f - 1.0)
    s = r / (2.0 + r)
    v = s * s
    q = 0.14796728734453327
    q = fma(q, v, 0.15313976905613955)
    q = fma(q, v, 0.18183567032536907)
    q = fma(q, v, 0.22222198524592854)
    q = fma(q, v, 0.28571428742825145)
    q = fma(q, v, 0.39999999999412883)
    q = fma(q, v, 0.6666666666666735)
    half = 0.5 * r * r
    small = fma(F64(k), 1.9082149292705877e-10, s * fma(v, q, half))
    value = fma(F64(k), 0.6931471803691238, r - (half - small))
    return select(w < np.inf, value, w)  # w may be NaN too


# With exp(-2 |x|) = 2**k exp(r) and c = r / tanh(r / 2), so that exp(r) = (c + r) / (c - r):
#
#     tanh |x| = ((c - r) - 2**k (c + r)) / ((c - r) + 2**k (c + r))
#
# One division gives that and its derivative, 4 2**k (c - r) (c + r) over the denominator squared.
# c is 2 and a little more; where k is 0, the numerator is -2 r, and nothing cancels.

LEAST_TWICE = -709.3  # of -2 |x|: from there on 2**k is 0, and tanh 1, whose derivative is 0


@device
def tanh(x):
    """Return tanh x in float64."""
    value, _ = tanh_of(x, *begin_tanh(x, -2.0))
    return value


@device
def begin_tanh(x, scale):
    """Return t and r with exp(scale |x|) = power_at_end(t) exp(r), for scale < 0."""
    d = at_least(magnitude(x) * scale, LEAST_TWICE)
    t = fma(d, 1.4426950408889634, SHIFT64)
    return t, remainder64(d, t - SHIFT64)


@device
def tanh_of(x, t, r):
    """Return a tanh with x's sign, and its derivative, for what `begin_tanh` makes of 2 |x|."""
    power, v = power_at_end(t), r * r
    w = v * v
    more = fma(4.1381436861539517e-08, v, -1.6533902376903856e-06)
    more = fma(more, w, fma(6.613756321567693e-05, v, -0.0027777777777015823))
    more = fma(more, w, 0.16666666666666602 * v)  # c - 2
    up, down = 1.0 + power, 1.0 - power
    lost = power - (up - 1.0)  # where power is near 2**-53, it would count four times in the slope
    below = (up + up) + fma(more, up, fma(-r, down, lost + lost))
    above = (down + down) + fma(more, down, -(r * up))
    share = 1.0 / below
    value = above * share
    value = fma(fma(-below, value, above), share, value)  # 1, not next to it, where both are equal
    product = 4.0 + fma(more, 4.0 + more, -v)
    return with_sign(value, x), product * share * (4.0 * power * share)
