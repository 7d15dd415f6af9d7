"""Rows turned into columns and back, so that lane i of every vector is row i.

A square of as many rows as a vector has lanes is read whole, turned in registers by log2(lanes)
rounds of shuffles, and written whole: one load, one store and four shuffles a vector where single
elements would take a load and a store each. No vector is masked, as many processors store those
slowly: the last square of a row overlaps the one before it, and that of a shorter row reaches into
the next row. Rows much shorter than a vector fill vectors one after the other, and every class is
picked out of all of them.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from crossent.kernels.compiler import device
from crossent.kernels.halves import narrowed, put, read, widened
from crossent.kernels.intrinsics import intrinsic

MOST = 8  # classes that are picked apart: C classes take C (C - 1) shuffles
FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
VECTOR = 64 if "+avx512f" in FEATURES else 32  # bytes: squares of 64 take over 16 registers
ALIGNED = 2  # bytes: what rows of a half type are


def _lanes(array) -> int:
    return VECTOR * 8 // int(array.dtype.bitwidth)


def _pointer(context, builder, kind, array, row, column):
    """Build the address of an element of a contiguous two-dimensional array."""
    view = context.make_array(kind)(context, builder, value=array)
    width = cgutils.unpack_tuple(builder, view.shape, 2)[1]
    return builder.gep(view.data, [builder.add(builder.mul(row, width), column)])


def _load(builder, pointer, lanes):
    """Build the vector that lies at an element's address."""
    vector = ir.VectorType(pointer.type.pointee, lanes)
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=ALIGNED)


def _store(builder, vector, pointer):
    builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=ALIGNED)


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
    """Build the addresses where a square's rows begin, as many as a vector has lanes.

    Each from the one before it: a product for each would take longer than what is done there.
    """
    view = context.make_array(kind)(context, builder, value=array)
    width = cgutils.unpack_tuple(builder, view.shape, 2)[1]
    places = [_pointer(context, builder, kind, array, row, column)]
    while len(places) < lanes:
        places.append(builder.gep(places[-1], [width]))
    return places


@intrinsic
def square_in(typing_context, rows, row, column, work, lane):
    """Turn rows[row :, column :] into work[column :, lane :], in work's type.

    As many rows and columns as a vector has lanes; beyond a row's end, the next one's are taken.
    """
    lanes = _lanes(work)

    def lower(context, builder, signature, arguments):
        source, row, column, target, lane = arguments
        read = [
            widened(builder, rows.dtype, _load(builder, pointer, lanes))
            for pointer in _starts(context, builder, rows, source, row, column, lanes)
        ]
        places = _starts(context, builder, work, target, column, lane, lanes)
        for each, pointer in zip(_turned(builder, read), places, strict=True):
            _store(builder, each, pointer)
        return context.get_dummy_value()

    return types.none(rows, types.intp, types.intp, work, types.intp), lower


@intrinsic
def square_out(typing_context, work, lane, rows, row, column):
    """Turn work[column :, lane :] back into rows[row :, column :], row by row.

    What is stored beyond a row's end, the next one's elements replace: they have to follow.
    """
    lanes = _lanes(work)

    def lower(context, builder, signature, arguments):
        source, lane, target, row, column = arguments
        read = [
            _load(builder, pointer, lanes)
            for pointer in _starts(context, builder, work, source, column, lane, lanes)
        ]
        places = _starts(context, builder, rows, target, row, column, lanes)
        for each, pointer in zip(_turned(builder, read), places, strict=True):
            _store(builder, narrowed(builder, rows.dtype, each), pointer)
        return context.get_dummy_value()

    return types.none(work, types.intp, rows, types.intp, types.intp), lower


@intrinsic
def vectors_in(typing_context, rows, row, work, lane):
    """Turn as many rows as a vector has lanes into work[:, lane :], in work's type.

    They have at most MOST classes, and fill as many vectors.
    """
    lanes = _lanes(work)

    def lower(context, builder, signature, arguments):
        source, row, target, lane = arguments
        for classes in _each_count(context, builder, rows, source):
            read = [
                widened(builder, rows.dtype, _load(builder, place, lanes))
                for place in _following(context, builder, rows, source, row, classes, lanes)
            ]
            for j in range(classes):
                at = [divmod(i * classes + j, lanes) for i in range(lanes)]
                place = _pointer(context, builder, work, target, row.type(j), lane)
                _store(builder, _gathered(builder, read, at), place)
        return context.get_dummy_value()

    return types.none(rows, types.intp, work, types.intp), lower


@intrinsic
def vectors_out(typing_context, work, lane, rows, row):
    """Turn work[:, lane :] back into as many rows as a vector has lanes."""
    lanes = _lanes(work)

    def lower(context, builder, signature, arguments):
        source, lane, target, row = arguments
        for classes in _each_count(context, builder, rows, target):
            read = [
                _load(builder, _pointer(context, builder, work, source, row.type(j), lane), lanes)
                for j in range(classes)
            ]
            places = _following(context, builder, rows, target, row, classes, lanes)
            for k, place in enumerate(places):
                at = [divmod(k * lanes + i, classes)[::-1] for i in range(lanes)]
                _store(builder, narrowed(builder, rows.dtype, _gathered(builder, read, at)), place)
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
def in_squares(count, classes, lanes, followed):
    """Return how many of `count` rows are turned in squares, or in vectors.

    Not the last ones, if they are shorter than a square and no row follows that it may touch.
    """
    if MOST < classes < lanes and not followed:
        count -= 1
    return count // lanes * lanes


@device
def start_of_square(column, classes, lanes):
    """Return where a square begins, so that it ends with the row if that is long enough."""
    return max(min(column, classes - lanes), 0)


@device
def turn_in(rows, first, count, work):
    """Copy `count` rows from `first` on into the columns of work (classes + a vector's, lanes)."""
    lanes, classes = VECTOR // work.itemsize, rows.shape[1]
    whole = in_squares(count, classes, lanes, first + count < rows.shape[0])
    for i in range(0, whole, lanes):
        if classes <= MOST:
            vectors_in(rows, first + i, work, i)
        else:
            for j in range(0, classes, lanes):
                square_in(rows, first + i, start_of_square(j, classes, lanes), work, i)
    for i in range(whole, count):
        for j in range(classes):
            work[j, i] = read(rows[first + i, j])


@device
def turn_out(work, rows, first, count):
    """Copy the columns of work back into `count` rows from `first` on."""
    lanes, classes = VECTOR // work.itemsize, rows.shape[1]
    whole = in_squares(count, classes, lanes, False)  # what follows may be another thread's
    for i in range(0, whole, lanes):
        if classes <= MOST:
            vectors_out(work, i, rows, first + i)
        else:
            for j in range(0, classes, lanes):
                square_out(work, i, rows, first + i, start_of_square(j, classes, lanes))
    for i in range(whole, count):
        row = rows[first + i]
        for j in range(classes):
            put(row, j, work[j, i])
