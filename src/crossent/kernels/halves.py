"""float16 and bfloat16 scores, read and written as they lie in memory, computed in float32.

Numba has neither type, so arrays come as views of their bits: int16 stands for float16, uint16
for bfloat16, and any other type for itself.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload

from crossent.kernels.intrinsics import intrinsic


@intrinsic
def from_float16(typing_context: Any, x: Any) -> Any:
    """Return the float32 of a float16's bits."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), lower


@intrinsic
def to_float16(typing_context: Any, x: Any) -> Any:
    """Return the bits of the float16 nearest to a float32."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), lower


@intrinsic
def from_bfloat16(typing_context: Any, x: Any) -> Any:
    """Return the float32 of a bfloat16's bits: the upper half of it."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.IntType(32)(16)), ir.FloatType())

    return types.float32(types.uint16), lower


@intrinsic
def to_bfloat16(typing_context: Any, x: Any) -> Any:
    """Return the bits of the bfloat16 nearest to a float32, ties to even; NaN stays NaN."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        bits = builder.bitcast(arguments[0], integer)
        odd = builder.and_(builder.lshr(bits, integer(16)), integer(1))
        rounded = builder.add(bits, builder.add(odd, integer(0x7FFF)))
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        chosen = builder.select(is_nan, builder.or_(bits, integer(0x400000)), rounded)
        return builder.trunc(builder.lshr(chosen, integer(16)), ir.IntType(16))

    return types.uint16(types.float32), lower


def read(x: Any) -> Any:
    """Return the number that an element stands for."""
    raise AssertionError("kernels are compiled")


@overload(read, strict=False)
def _read(x: Any) -> Any:
    if x == types.int16:
        return lambda x: from_float16(x)
    if x == types.uint16:
        return lambda x: from_bfloat16(x)
    return lambda x: x


def put(out: Any, j: Any, value: Any) -> Any:
    """Store a number as the j-th element of out."""
    raise AssertionError("kernels are compiled")


@overload(put, strict=False)
def _put(out: Any, j: Any, value: Any) -> Any:
    def as_float16(out, j, value):  # type: ignore[no-untyped-def]
        out[j] = to_float16(np.float32(value))

    def as_bfloat16(out, j, value):  # type: ignore[no-untyped-def]
        out[j] = to_bfloat16(np.float32(value))

    def as_it_is(out, j, value):  # type: ignore[no-untyped-def]
        out[j] = value

    return {types.int16: as_float16, types.uint16: as_bfloat16}.get(out.dtype, as_it_is)


def scratch_like(array: Any, size: Any) -> Any:
    """Return uninitialised memory of the type that the array is computed in."""
    raise AssertionError("kernels are compiled")


@overload(scratch_like, strict=False)
def _scratch_like(array: Any, size: Any) -> Any:
    if array.dtype in (types.int16, types.uint16):
        return lambda array, size: np.empty(size, np.float32)
    return lambda array, size: np.empty(size, array.dtype)
