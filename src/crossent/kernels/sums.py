"""Sums in float64 of many numbers, by the same additions on every machine.

A compiler that vectorises a sum makes as many partial sums as the machine's registers have lanes:
the fewer, the more rounding each of them accumulates. Here there are as many on all machines.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from crossent.kernels.compiler import device
from crossent.kernels.elementary import F64
from crossent.kernels.intrinsics import intrinsic

MOST = 32  # partial sums: of float64, which has no digits to spare; half as many of float32


def _lanes_at(context: Any, builder: Any, kind: Any, pointer: Any, wide: Any) -> Any:
    """Build the numbers from a place on, as many as there are partial sums."""
    vector = ir.VectorType(context.get_value_type(kind), wide.count)
    place = builder.bitcast(pointer, vector.as_pointer())
    read = builder.load(place, align=kind.bitwidth // 8)
    return read if kind == types.float64 else builder.fpext(read, wide)


def _sum_of_lanes(builder: Any, vector: Any) -> Any:
    """Build the sum of a vector, halves onto halves."""
    width = vector.type.count
    while width > 1:
        width //= 2
        far = [ir.Constant(ir.IntType(32), width + i) for i in range(width)]
        near = [ir.Constant(ir.IntType(32), i) for i in range(width)]
        halves = [
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), width), lanes)
            )
            for lanes in (near, far)
        ]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


@intrinsic
def sum_of_whole(typing_context, values, size):
    """Return the sum of the first `size` numbers, a multiple of MOST, of a stretch of memory."""
    lanes = MOST if values.dtype == types.float64 else MOST // 2
    wide = ir.VectorType(ir.DoubleType(), lanes)

    def lower(context, builder, signature, arguments):
        array, size = arguments
        start = context.make_array(values)(context, builder, value=array).data
        total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * lanes))
        step = size.type(lanes)
        with cgutils.for_range_slice(builder, size.type(0), size, step) as (i, _):
            more = _lanes_at(context, builder, values.dtype, builder.gep(start, [i]), wide)
            builder.store(builder.fadd(builder.load(total), more), total)
        return _sum_of_lanes(builder, builder.load(total))

    return types.float64(values, types.intp), lower


@device
def sum_of(values):
    """Return the sum of float32 or float64 numbers that lie one after the other."""
    whole = values.size // MOST * MOST
    total = sum_of_whole(values, whole)
    for j in range(whole, values.size):
        total += F64(values[j])
    return total
