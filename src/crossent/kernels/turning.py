"""Rows turned into columns and back, so that lane i of every vector is row i.

A square of as many rows as a vector has lanes is read whole, turned in registers by log2(lanes)
rounds of shuffles, and written whole: one load, one store and four shuffles a vector where single
elements would take a load and a store each. Rows may have any length; the last square of a row is
masked. Rows much shorter than a vector fill vectors one after the other, and every class is picked
out of all of them.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from crossent.kernels.compiler import device
from crossent.kernels.halves import narrowed, put, read, widened
from crossent.kernels.intrinsics import intrinsic

MOST = 8  # classes that are picked apart: C classes take C (C - 1) shuffles
VECTOR = 64  # bytes: smaller registers take a vector in parts
PAIR = ir.IntType(32)  # two elements of a half type
ALIGNED = ir.IntType(32)(2)  # bytes: what rows of a half type are


def _lanes(array) -> int:
    return VECTOR * 8 // int(array.dtype.bitwidth)


def _pointer(context, builder, kind, array, row, column):
    """Build the address of an element of a contiguous two-dimensional array."""
    view = context.make_array(kind)(context, builder, value=array)
    width = cgutils.unpack_tuple(builder, view.shape, 2)[1]
    return builder.gep(view.data, [builder.add(builder.mul(row, width), column)])


def _vector(builder, pointer, vector):
    return builder.bitcast(pointer, ir.PointerType(vector))


def _read(builder: Any, kind: Any, pointer: Any, width: Any, lanes: int) -> Any:
    """Build a vector of a row's first `width` elements, and zeros."""
    vector = ir.VectorType(kind, lanes)
    if kind != ir.IntType(16):
        rest = [ALIGNED, _mask(builder, width, lanes), ir.Constant(vector, None)]
        return _masked(builder, "load", vector, vector, [pointer, *rest])
    pairs, last = _pairs_and_last(builder, width)
    read = _read(builder, PAIR, builder.bitcast(pointer, PAIR.as_pointer()), pairs, lanes // 2)
    end = builder.load(builder.gep(pointer, [last]))
    return builder.insert_element(builder.bitcast(read, vector), end, last)


def _write(builder: Any, vector: Any, pointer: Any, width: Any) -> None:
    """Build what stores the first `width` lanes of a vector as a row's elements."""
    kind, lanes = vector.type.element, vector.type.count
    if kind != ir.IntType(16):
        rest = [ALIGNED, _mask(builder, width, lanes)]
        _masked(builder, "store", ir.VoidType(), vector.type, [vector, pointer, *rest])
        return
    pairs, last = _pairs_and_last(builder, width)
    whole = builder.bitcast(vector, ir.VectorType(PAIR, lanes // 2))
    _write(builder, whole, builder.bitcast(pointer, PAIR.as_pointer()), pairs)
    builder.store(builder.extract_element(vector, last), builder.gep(pointer, [last]))


def _pairs_and_last(builder: Any, width: Any) -> tuple[Any, Any]:
    """Build how many whole pairs there are, and which element is the last, paired or not.

    Not all processors can leave out elements of 16 bits, but of 32 bits they can.
    """
    one = width.type(1)
    return builder.lshr(width, one), builder.sub(width, one)


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
    element = {"i32": "i32", "float": "f32", "double": "f64"}[str(vector.element)]
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


def _starts(
    context: Any, builder: Any, kind: Any, array: Any, row: Any, column: Any, lanes: int
) -> list[Any]:
    """Build the addresses where a square's rows begin, as many as a vector has lanes."""
    return [
        _pointer(context, builder, kind, array, builder.add(row, row.type(i)), column)
        for i in range(lanes)
    ]


@intrinsic
def square_in(typing_context, rows, row, column, width, work, lane):
    """Turn rows[row :, column : column + width] into work[column :, lane :], in work's type.

    As many rows as a vector has lanes; as many rows of work are written, whatever the width.
    """
    lanes = _lanes(work)

    def lower(context, builder, signature, arguments):
        source, row, column, width, target, lane = arguments
        kind = context.get_value_type(rows.dtype)
        read = [
            _read(builder, kind, pointer, width, lanes)
            for pointer in _starts(context, builder, rows, source, row, column, lanes)
        ]
        turned = _turned(builder, [widened(builder, rows.dtype, each) for each in read])
        places = _starts(context, builder, work, target, column, lane, lanes)
        for each, pointer in zip(turned, places, strict=True):
            builder.store(each, _vector(builder, pointer, each.type), align=4)
        return context.get_dummy_value()

    return types.none(rows, types.intp, types.intp, types.intp, work, types.intp), lower


@intrinsic
def square_out(typing_context, work, lane, rows, row, column, width):
    """Turn work[column :, lane :] back into rows[row :, column : column + width]."""
    lanes = _lanes(work)

    def lower(context, builder, signature, arguments):
        source, lane, target, row, column, width = arguments
        vector = ir.VectorType(context.get_value_type(work.dtype), lanes)
        read = [
            builder.load(_vector(builder, pointer, vector), align=4)
            for pointer in _starts(context, builder, work, source, column, lane, lanes)
        ]
        turned = [narrowed(builder, rows.dtype, each) for each in _turned(builder, read)]
        places = _starts(context, builder, rows, target, row, column, lanes)
        for each, pointer in zip(turned, places, strict=True):
            _write(builder, each, pointer, width)
        return context.get_dummy_value()

    return types.none(work, types.intp, rows, types.intp, types.intp, types.intp), lower


@intrinsic
def vectors_in(typing_context, rows, row, work, lane):
    """Turn as many rows as a vector has lanes into work[:, lane :], in work's type.

    They have at most MOST classes, and fill as many vectors.
    """
    lanes = _lanes(work)

    def lower(context, builder, signature, arguments):
        source, row, target, lane = arguments
        vector = ir.VectorType(context.get_value_type(rows.dtype), lanes)
        for classes in _each_count(context, builder, rows, source):
            places = _following(context, builder, rows, source, row, classes, lanes)
            read = [
                widened(builder, rows.dtype, builder.load(_vector(builder, place, vector), align=2))
                for place in places
            ]
            for j in range(classes):
                at = [divmod(i * classes + j, lanes) for i in range(lanes)]
                place = _pointer(context, builder, work, target, row.type(j), lane)
                each = _gathered(builder, read, at)
                builder.store(each, _vector(builder, place, each.type), align=4)
        return context.get_dummy_value()

    return types.none(rows, types.intp, work, types.intp), lower


@intrinsic
def vectors_out(typing_context, work, lane, rows, row):
    """Turn work[:, lane :] back into as many rows as a vector has lanes."""
    lanes = _lanes(work)

    def lower(context, builder, signature, arguments):
        source, lane, target, row = arguments
        vector = ir.VectorType(context.get_value_type(work.dtype), lanes)
        for classes in _each_count(context, builder, rows, target):
            starts = [
                _pointer(context, builder, work, source, row.type(j), lane) for j in range(classes)
            ]
            read = [builder.load(_vector(builder, start, vector), align=4) for start in starts]
            places = _following(context, builder, rows, target, row, classes, lanes)
            for k, place in enumerate(places):
                at = [divmod(k * lanes + i, classes)[::-1] for i in range(lanes)]
                each = narrowed(builder, rows.dtype, _gathered(builder, read, at))
                builder.store(each, _vector(builder, place, each.type), align=2)
        return context.get_dummy_value()

    return types.none(work, types.intp, rows, types.intp), lower


def _each_count(context: Any, builder: Any, kind: Any, array: Any) -> Iterator[int]:
    """Build code for every number of classes up to MOST; the rows' own is gone into."""
    view = context.make_array(kind)(context, builder, value=array)
    classes = cgutils.unpack_tuple(builder, view.shape, 2)[1]
    after = builder.append_basic_block()
    switch = builder.switch(classes, after)
    for count in range(1, MOST + 1):
        block = builder.append_basic_block()
        switch.add_case(classes.type(count), block)
        builder.position_at_end(block)
        yield count
        builder.branch(after)
    builder.position_at_end(after)


def _following(
    context: Any, builder: Any, kind: Any, array: Any, row: Any, count: int, lanes: int
) -> list[Any]:
    """Build the addresses of vectors one after the other, from a row's start on."""
    return [_pointer(context, builder, kind, array, row, row.type(k * lanes)) for k in range(count)]


def _gathered(builder: Any, vectors: list[Any], at: list[tuple[int, int]]) -> Any:
    """Build a vector of lanes, each given by its vector's number and its lane there."""
    lanes, found = len(at), vectors[0]
    for number, vector in enumerate(vectors[1:], 1):
        first = [lane if number == 1 else i for i, (_, lane) in enumerate(at)]
        mask = [lanes + at[i][1] if at[i][0] == number else first[i] for i in range(lanes)]
        found = _shuffled(builder, found, vector, mask)
    return found


@device
def turn_in(rows, first, count, work):
    """Copy `count` rows from `first` on into the columns of work (classes + a vector's, lanes)."""
    lanes, classes = VECTOR // work.itemsize, rows.shape[1]
    whole = count // lanes * lanes
    for i in range(0, whole, lanes):
        if classes <= MOST:
            vectors_in(rows, first + i, work, i)
        else:
            for j in range(0, classes, lanes):
                square_in(rows, first + i, j, min(lanes, classes - j), work, i)
    for i in range(whole, count):
        for j in range(classes):
            work[j, i] = read(rows[first + i, j])


@device
def turn_out(work, rows, first, count):
    """Copy the columns of work back into `count` rows from `first` on."""
    lanes, classes = VECTOR // work.itemsize, rows.shape[1]
    whole = count // lanes * lanes
    for i in range(0, whole, lanes):
        if classes <= MOST:
            vectors_out(work, i, rows, first + i)
        else:
            for j in range(0, classes, lanes):
                square_out(work, i, rows, first + i, j, min(lanes, classes - j))
    for i in range(whole, count):
        row = rows[first + i]
        for j in range(classes):
            put(row, j, work[j, i])
