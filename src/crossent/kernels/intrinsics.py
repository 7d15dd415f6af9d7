"""Single machine operations that Python has no spelling for, each one LLVM instruction.

Kernels are compiled strictly: no flag lets the compiler reorder a sum behind their back, because
one flag on a function reaches every operation in it and undoes error-free transformations. What
may be reordered says so itself, through `reordered_add`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

LINE = 64  # bytes that memory comes in
STREAM = 128  # lines: two pages
STREAMS = 4  # side by side, in which memory is asked for
SPAN = STREAMS * STREAM * LINE  # bytes

# Numba's own annotations describe the typing function, not what kernels call.
intrinsic: Any = numba_intrinsic


def _call(name: str, builder: Any, result: Any, arguments: Any) -> Any:
    """Call the LLVM intrinsic `name`, overloaded on the types of its arguments."""
    kinds = [argument.type for argument in arguments]
    function = ir.FunctionType(result, kinds)
    return builder.call(builder.module.declare_intrinsic(name, kinds[:1], function), arguments)


def _same_type_intrinsic(name: str, arity: int) -> Any:
    """Make a Numba intrinsic of `arity` arguments of one type from an LLVM one."""

    def lower(context, builder, signature, arguments):
        return _call(name, builder, arguments[0].type, arguments)

    if arity == 1:

        def unary(typing_context, a):
            return a(a), lower

        return intrinsic(unary)

    def binary(typing_context, a, b):
        return a(a, a), lower

    return intrinsic(binary)


maximum = _same_type_intrinsic("llvm.maximum", 2)  # NaN if either is; Python's is no vector's
magnitude = _same_type_intrinsic("llvm.fabs", 1)
with_sign = _same_type_intrinsic("llvm.copysign", 2)  # the first, with the second's sign


@intrinsic
def larger(typing_context, a, b):
    """Return the larger of two numbers, for a chain of them that vectorises; NaN may get lost.

    One instruction where `maximum` takes six, which must let NaN through and tell 0 from -0.
    """

    def lower(context, builder, signature, arguments):
        above = builder.fcmp_ordered(">", *arguments, flags=("nnan", "nsz"))
        return builder.select(above, *arguments, flags=("nnan", "nsz"))

    return a(a, a), lower


@intrinsic
def fma(typing_context, a, b, c):
    """Return a * b + c with one rounding."""

    def lower(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, a, a), lower


@intrinsic
def reordered_add(typing_context, a, b):
    """Return a + b, where a chain of them may be summed in any order, so that it vectorises."""

    def lower(context, builder, signature, arguments):
        return builder.fadd(*arguments, flags=("reassoc", "nsz"))

    return a(a, a), lower


@intrinsic
def power_at_end(typing_context, t):
    """Return 2**k, where the last bits of t hold the exponent k as floats hold theirs: biased."""
    integer, mantissa = (ir.IntType(32), 23) if t == types.float32 else (ir.IntType(64), 52)

    def lower(context, builder, signature, arguments):
        shifted = builder.shl(builder.bitcast(arguments[0], integer), integer(mantissa))
        return builder.bitcast(shifted, arguments[0].type)

    return t(t), lower


@intrinsic
def bits(typing_context, a):
    """Return the bits of a float as an integer of as many."""
    integer, kind = _OF_32_BITS[:2] if a == types.float32 else _OF_64_BITS[:2]

    def lower(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], kind)

    return integer(a), lower


@intrinsic
def from_bits(typing_context, a):
    """Return the float whose bits are an integer's."""
    real, kind = _OF_32_BITS[2:] if a == types.int32 else _OF_64_BITS[2:]

    def lower(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], kind)

    return real(a), lower


_OF_32_BITS: Any = types.int32, ir.IntType(32), types.float32, ir.FloatType()
_OF_64_BITS: Any = types.int64, ir.IntType(64), types.float64, ir.DoubleType()


@intrinsic
def borrowed(typing_context, given):
    """Return an array without its owner, whose memory the caller keeps; or a tuple of such arrays.

    Numba counts references to the owner, atomically, for every row that is sliced off: 100 ns a
    row, and more when two threads at work on one array hand that counter to each other.
    """

    def lower(context, builder, signature, arguments):
        return _without_owner(context, builder, given, arguments[0])

    return given(given), lower


def _without_owner(context, builder, kind, value):
    if isinstance(kind, (types.Tuple, types.UniTuple)):
        pairs = zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)
        bare = [_without_owner(context, builder, *pair) for pair in pairs]
        return context.make_tuple(builder, kind, bare)
    if not isinstance(kind, types.Array):
        return value
    view = context.make_array(kind)(context, builder, value=value)
    view.meminfo = ir.Constant(view.meminfo.type, None)
    view.parent = ir.Constant(view.parent.type, None)
    return view._getvalue()


@intrinsic
def element_at(typing_context, like, address, i):
    """Return the i-th element of memory at an address that holds elements of an array's type."""

    def lower(context, builder, signature, arguments):
        return builder.load(_place(context, builder, like, *arguments[1:]))

    return like.dtype(like, types.int64, types.int64), lower


def _place(context, builder, like, address, i):
    kind = context.get_data_type(like.dtype)
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [i])


@intrinsic
def fetch_streams(typing_context, array, i):
    """Ask for the line of memory with an array's i-th element; nothing waits for it.

    And for one as far on in each of the streams that follow.
    """
    stream = STREAM * LINE * 8 // array.dtype.bitwidth

    def lower(context, builder, signature, arguments):
        view = context.make_array(array)(context, builder, value=arguments[0])
        place = builder.gep(view.data, [arguments[1]])
        for k in range(STREAMS):
            _fetch(builder, builder.gep(place, [arguments[1].type(k * stream)]))
        return context.get_dummy_value()

    return types.none(array, types.intp), lower


@intrinsic
def fetch_at(typing_context, like, address, i):
    """Ask for a line of memory at an address: the i-th element's, all of an array's type."""

    def lower(context, builder, signature, arguments):
        _fetch(builder, _place(context, builder, like, *arguments[1:]))
        return context.get_dummy_value()

    return types.none(like, types.int64, types.int64), lower


def _fetch(builder, place):
    number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, nearest, data = number(0), number(3), number(1)
    builder.call(prefetch, [builder.bitcast(place, byte), read, nearest, data])


def _adder(width: int) -> Any:
    """Make the intrinsic that adds numbers to the first `width` of sums[row], all at once.

    They are values[i, j] and what follows.
    """

    def add(typing_context, sums, row, values, i, j):
        def lower(context, builder, signature, arguments):
            pairs = zip((sums, values), (arguments[:2], arguments[2:]), strict=True)
            into, given = (_numbers(context, builder, kind, *at, width) for kind, at in pairs)
            total = builder.fadd(builder.load(into, align=8), builder.load(given, align=8))
            builder.store(total, into, align=8)
            return context.get_dummy_value()

        return types.none(sums, types.intp, values, types.intp, types.intp), lower

    return intrinsic(add)


def _numbers(context, builder, kind, array, row, *rest):
    """Build the address of float64 numbers of a contiguous matrix, as many as a vector has."""
    *column, width = rest
    view = context.make_array(kind)(context, builder, value=array)
    place = builder.mul(row, cgutils.unpack_tuple(builder, view.shape, 2)[1])
    for more in column:
        place = builder.add(place, more)
    vector = ir.VectorType(ir.DoubleType(), width)
    return builder.bitcast(builder.gep(view.data, [place]), vector.as_pointer())


add_three, add_four = _adder(3), _adder(4)


@intrinsic
def keep(typing_context, array):
    """Keep the owner of borrowed scratch memory alive until here."""

    def lower(context, builder, signature, arguments):
        return context.get_dummy_value()

    return types.none(array), lower


@intrinsic
def select(typing_context, condition, a, b):
    """Return a if condition else b, both computed: never a branch, which may stop vectors."""

    def lower(context, builder, signature, arguments):
        return builder.select(*arguments)

    return a(types.boolean, a, a), lower
