"""float16 and bfloat16 scores, read and written as they lie in memory, computed in float32.

Numba has neither type, so arrays come as views of their bits: int16 stands for float16, uint16
for bfloat16, and any other type for itself.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from crossent.kernels.compiler import device_overload
from crossent.kernels.intrinsics import intrinsic


def _like(x, element):
    """Return the type of a number, or of a vector of them if x is one."""
    return ir.VectorType(element, x.type.count) if isinstance(x.type, ir.VectorType) else element


def _constant(x: Any, value: int) -> Any:
    """Return an integer constant of x's type, one for each lane of a vector."""
    lanes = x.type.count if isinstance(x.type, ir.VectorType) else 0
    return ir.Constant(x.type, [value] * lanes if lanes else value)


def widened(builder, kind, x):
    """Build the numbers that elements stand for; a bfloat16 is the upper half of a float32."""
    if kind == types.int16:
        half = builder.bitcast(x, _like(x, ir.HalfType()))
        return builder.fpext(half, _like(x, ir.FloatType()))
    if kind == types.uint16:
        wide = builder.zext(x, _like(x, ir.IntType(32)))
        return builder.bitcast(builder.shl(wide, _constant(wide, 16)), _like(x, ir.FloatType()))
    return x


def narrowed(builder, kind, x):
    """Build the elements of a type nearest to numbers, ties to even; NaN stays NaN."""
    if kind == types.int16:
        half = builder.fptrunc(x, _like(x, ir.HalfType()))
        return builder.bitcast(half, _like(x, ir.IntType(16)))
    if kind == types.uint16:
        bits = builder.bitcast(x, _like(x, ir.IntType(32)))
        odd = builder.and_(builder.lshr(bits, _constant(bits, 16)), _constant(bits, 1))
        # NaN that comes of the scores has no bits below theirs, so that rounding changes nothing.
        rounded = builder.add(bits, builder.add(odd, _constant(bits, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, _constant(bits, 16)), _like(x, ir.IntType(16)))
    return x


def _reader(kind):
    """Make the intrinsic that returns the float32 of a half type's bits."""

    def lower(context, builder, signature, arguments):
        return widened(builder, kind, arguments[0])

    def typed(typing_context, x):
        return types.float32(kind), lower

    return intrinsic(typed)


def _writer(kind):
    """Make the intrinsic that returns the bits of the half type's number nearest to a float32."""

    def lower(context, builder, signature, arguments):
        return narrowed(builder, kind, arguments[0])

    def typed(typing_context, x):
        return kind(types.float32), lower

    return intrinsic(typed)


from_float16, to_float16 = _reader(types.int16), _writer(types.int16)
from_bfloat16, to_bfloat16 = _reader(types.uint16), _writer(types.uint16)


def read(x):
    """Return the number that an element stands for."""
    raise AssertionError("kernels are compiled")


@device_overload(read)
def _read(x):
    if x == types.int16:
        return lambda x: from_float16(x)
    if x == types.uint16:
        return lambda x: from_bfloat16(x)
    return lambda x: x


def put(out, j, value):
    """Store a number as the j-th element of out."""
    raise AssertionError("kernels are compiled")


@device_overload(put)
def _put(out, j, value):
    def as_float16(out, j, value):
        out[j] = to_float16(np.float32(value))

    def as_bfloat16(out, j, value):
        out[j] = to_bfloat16(np.float32(value))

    def as_it_is(out, j, value):
        out[j] = value

    return {types.int16: as_float16, types.uint16: as_bfloat16}.get(out.dtype, as_it_is)


def scratch_like(array, size):
    """Return uninitialised memory of the type that the array is computed in."""
    raise AssertionError("kernels are compiled")


@device_overload(scratch_like)
def _scratch_like(array, size):
    if array.dtype in (types.int16, types.uint16):
        return lambda array, size: np.empty(size, np.float32)
    return lambda array, size: np.empty(size, array.dtype)
