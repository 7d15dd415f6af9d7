"""Rows turned into columns and back, so that lane i of every vector is row i.

A square of as many rows as a vector has lanes is read whole, turned in registers by log2(lanes)
rounds of shuffles, and written whole: one load, one store and four shuffles a vector where single
elements would take a load and a store each. Rows may have any length; the last square of a row is
masked.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from crossent.kernels.compiler import device
from crossent.kernels.halves import narrowed, put, read, widened
from crossent.kernels.intrinsics import intrinsic

VECTOR = 64  # bytes: smaller registers take a vector in parts


def _lanes(array: Any) -> int:
    return VECTOR * 8 // int(array.dtype.bitwidth)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, row: Any, column: Any) -> Any:
    """Build the address of an element of a contiguous two-dimensional array."""
    view = context.make_array(kind)(context, builder, value=array)
    width = cgutils.unpack_tuple(builder, view.shape, 2)[1]
    return builder.gep(view.data, [builder.add(builder.mul(row, width), column)])


def _vector(builder: Any, pointer: Any, vector: Any) -> Any:
    return builder.bitcast(pointer, ir.PointerType(vector))


def _mask(builder: Any, width: Any, lanes: int) -> Any:
    """Build a mask of the first `width` lanes."""
    kind = ir.IntType(64)
    spread = builder.insert_element(
        ir.Constant(ir.VectorType(kind, lanes), ir.Undefined), width, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    spread = builder.shuffle_vector(spread, spread, zeros)
    return builder.icmp_signed("<", ir.Constant(spread.type, list(range(lanes))), spread)


def _masked(builder: Any, action: str, result: Any, vector: Any, arguments: Any) -> Any:
    """Call llvm.masked.load or llvm.masked.store."""
    element = {"i16": "i16", "float": "f32", "double": "f64"}[str(vector.element)]
    name = f"llvm.masked.{action}.v{vector.count}{element}.p0"
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Build the columns of a square: in each round, blocks of 1, 2, 4 ... lanes change places."""
    lanes, size = len(rows), 1
    while size < lanes:
        for i in (i for i in range(lanes) if not i & size):
            a, b = rows[i], rows[i + size]
            near = [j if not j & size else lanes + j - size for j in range(lanes)]
            far = [j + size if not j & size else lanes + j for j in range(lanes)]
            rows[i], rows[i + size] = _shuffled(builder, a, b, near), _shuffled(builder, a, b, far)
        size *= 2
    return rows


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(
        a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    )


@intrinsic
def square_in(
    typing_context: Any, rows: Any, row: Any, column: Any, width: Any, work: Any, lane: Any
) -> Any:
    """Turn rows[row :, column : column + width] into work[column :, lane :], in work's type.

    As many rows as a vector has lanes; as many rows of work are written, whatever the width.
    """

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, row, column, width, target, lane = arguments
        lanes = _lanes(work)
        vector = ir.VectorType(context.get_value_type(rows.dtype), lanes)
        mask, align = _mask(builder, width, lanes), ir.IntType(32)(rows.dtype.bitwidth // 8)
        read = []
        for i in range(lanes):
            place = builder.add(row, row.type(i))
            pointer = _pointer(context, builder, rows, source, place, column)
            given = [pointer, align, mask, ir.Constant(vector, None)]
            loaded = _masked(builder, "load", vector, vector, given)
            read.append(widened(builder, rows.dtype, loaded))
        for i, turned in enumerate(_turned(builder, read)):
            place = builder.add(column, column.type(i))
            pointer = _pointer(context, builder, work, target, place, lane)
            builder.store(turned, _vector(builder, pointer, turned.type), align=4)
        return context.get_dummy_value()

    return types.none(rows, types.intp, types.intp, types.intp, work, types.intp), lower


@intrinsic
def square_out(
    typing_context: Any, work: Any, lane: Any, rows: Any, row: Any, column: Any, width: Any
) -> Any:
    """Turn work[column :, lane :] back into rows[row :, column : column + width]."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, lane, target, row, column, width = arguments
        lanes = _lanes(work)
        vector = ir.VectorType(context.get_value_type(work.dtype), lanes)
        mask, align = _mask(builder, width, lanes), ir.IntType(32)(rows.dtype.bitwidth // 8)
        read = []
        for i in range(lanes):
            place = builder.add(column, column.type(i))
            pointer = _pointer(context, builder, work, source, place, lane)
            read.append(builder.load(_vector(builder, pointer, vector), align=4))
        for i, turned in enumerate(_turned(builder, read)):
            place = builder.add(row, row.type(i))
            pointer = _pointer(context, builder, rows, target, place, column)
            value = narrowed(builder, rows.dtype, turned)
            given = [value, pointer, align, mask]
            _masked(builder, "store", ir.VoidType(), value.type, given)
        return context.get_dummy_value()

    return types.none(work, types.intp, rows, types.intp, types.intp, types.intp), lower


@device
def turn_in(rows: Any, first: Any, count: Any, work: Any) -> None:
    """Copy `count` rows from `first` on into the columns of work (classes + a vector's, lanes)."""
    lanes, classes = VECTOR // work.itemsize, rows.shape[1]
    whole = count // lanes * lanes
    for i in range(0, whole, lanes):
        for j in range(0, classes, lanes):
            square_in(rows, first + i, j, min(lanes, classes - j), work, i)
    for i in range(whole, count):
        for j in range(classes):
            work[j, i] = read(rows[first + i, j])


@device
def turn_out(work: Any, rows: Any, first: Any, count: Any) -> None:
    """Copy the columns of work back into `count` rows from `first` on."""
    lanes, classes = VECTOR // work.itemsize, rows.shape[1]
    whole = count // lanes * lanes
    for i in range(0, whole, lanes):
        for j in range(0, classes, lanes):
            square_out(work, i, rows, first + i, j, min(lanes, classes - j))
    for i in range(whole, count):
        row = rows[first + i]
        for j in range(classes):
            put(row, j, work[j, i])
