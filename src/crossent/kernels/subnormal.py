"""Products of float32 that may be subnormal, of which Intel's processors make a detour each.

It takes them 150 cycles. So such products are taken raised, and lowered as integers: the bits of a
subnormal number say how many of the least one it is.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import F32, F64, I32
from crossent.kernels.intrinsics import bits, fma, from_bits, magnitude, select, with_sign

UP = 110  # powers of 2 that a product is raised by: more than it takes, for one with a rest
RAISE, LOWER = F32(2.0**UP), F32(2.0**-UP)
LEAST_NORMAL = F32(2.0 ** (UP - 126))  # raised
COUNT, ONES = F32(2.0 ** (149 - UP)), F32(2.0**23)  # a number of this size counts ones
ONES_BITS, LEAST_NORMAL_BITS = I32(0x4B000000), I32((UP + 1) << 23)
LEAST_NORMAL_OF_64 = np.int64((1023 - 126) << 52)
INFINITE_BITS = np.uint32(0x7F800000)
MOST = 2.0**-48  # a factor that can be raised, of numbers up to 2**64


@device
def lowered(r):
    """Return r / 2**110 for a float32 r, which may be subnormal then, but is not now."""
    size = magnitude(r)
    counted = from_bits(I32(bits(fma(size, COUNT, ONES)) - ONES_BITS))
    normal = from_bits(max(bits(size), LEAST_NORMAL_BITS)) * LOWER  # selected, all were multiplied
    return with_sign(select(size < LEAST_NORMAL, counted, normal), r)


def may_be_subnormal(values, factor):
    """Return whether numbers >= 0 times a factor may be, and can be raised before."""
    raise AssertionError("kernels are compiled")


@device_overload(may_be_subnormal)
def _may_be_subnormal(values, factor):
    def of_float32(values, factor):
        least = INFINITE_BITS
        for j in range(values.size):
            least = min(least, np.uint32(bits(values[j]) - I32(1)))  # 0 becomes the largest
        below = F64(from_bits(I32(least))) * magnitude(factor) < 2.0**-100
        return below and magnitude(factor) < MOST

    if values.dtype == types.float32:
        return of_float32
    return lambda values, factor: False


@device
def at_least_normal(x):
    """Return a float64 x >= 0, or the least normal float32 if it is below that.

    Not selected: the compiler would turn all into float32 first, and make the detour.
    """
    return from_bits(max(bits(magnitude(x)), LEAST_NORMAL_OF_64))  # NaN may have a sign
