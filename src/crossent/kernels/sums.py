"""Sums and products in float64 of many numbers, by the same operations on every machine.

A compiler that vectorises a sum makes as many partial sums as the machine's registers have lanes:
the fewer, the more rounding each of them accumulates. Here there are as many on all machines.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from crossent.kernels.compiler import device
from crossent.kernels.elementary import F64, log1p
from crossent.kernels.intrinsics import fma, intrinsic

MOST = 32  # partial results: of float64, which has no digits to spare; half as many of float32


def _lanes_at(context: Any, builder: Any, kind: Any, pointer: Any, wide: Any) -> Any:
    """Build the numbers from a place on, as many as there are partial results."""
    vector = ir.VectorType(context.get_value_type(kind), wide.count)
    place = builder.bitcast(pointer, vector.as_pointer())
    read = builder.load(place, align=kind.bitwidth // 8)
    return read if kind == types.float64 else builder.fpext(read, wide)


def _sum(builder: Any, a: Any, b: Any) -> Any:
    return builder.fadd(a, b)


def _product(builder: Any, a: Any, b: Any) -> Any:
    """Build (1 + a) (1 + b) - 1: of shares no digit is lost, however small they are."""
    return builder.fadd(builder.fadd(a, b), builder.fmul(a, b))


def _of_lanes(builder: Any, vector: Any, join: Any) -> Any:
    """Build the sum or the product of a vector, halves joined with halves."""
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
        vector = join(builder, *halves)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _joiner(join: Any) -> Any:
    """Make the intrinsic that joins the first `size` numbers of a stretch of memory.

    They are a multiple of MOST.
    """

    def joined(typing_context, values, size):
        lanes = MOST if values.dtype == types.float64 else MOST // 2
        wide = ir.VectorType(ir.DoubleType(), lanes)

        def lower(context, builder, signature, arguments):
            array, size = arguments
            start = context.make_array(values)(context, builder, value=array).data
            total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * lanes))
            step = size.type(lanes)
            with cgutils.for_range_slice(builder, size.type(0), size, step) as (i, _):
                more = _lanes_at(context, builder, values.dtype, builder.gep(start, [i]), wide)
                builder.store(join(builder, builder.load(total), more), total)
            return _of_lanes(builder, builder.load(total), join)

        return types.float64(values, types.intp), lower

    return intrinsic(joined)


sum_of_whole = _joiner(_sum)
product_of_whole = _joiner(_product)


@device
def sum_of(values):
    """Return the sum of float32 or float64 numbers that lie one after the other."""
    whole = values.size // MOST * MOST
    total = sum_of_whole(values, whole)
    for j in range(whole, values.size):
        total += F64(values[j])
    return total


@device
def sum_of_logarithms(shares, size):
    """Return the sum of ln(1 + x) over the first `size` numbers x >= 0, overwriting them.

    As one logarithm, of a product that float64 must have room for: of a thousand x up to 1, or a
    hundred up to 1000. There is space for a multiple of 4 MOST.
    """
    quarter = (size + 4 * MOST - 1) // (4 * MOST) * MOST
    for i in range(size, 4 * quarter):
        shares[i] = 0
    a, b = shares[:quarter], shares[quarter : 2 * quarter]
    c, d = shares[2 * quarter : 3 * quarter], shares[3 * quarter : 4 * quarter]
    for i in range(a.size):
        near, far = with_product(a[i], b[i]), with_product(c[i], d[i])
        a[i] = with_product(near, far)
    return log1p(product_of_whole(shares, quarter))


@device
def with_product(a, b):
    """Return (1 + a) (1 + b) - 1."""
    return fma(a, b, a + b)
