"""Single machine operations that Python has no spelling for, each one LLVM instruction.

Kernels are compiled strictly: no flag lets the compiler reorder a sum behind their back, because
one flag on a function reaches every operation in it and undoes error-free transformations. What
may be reordered says so itself, through `reordered_add`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as numba_intrinsic

# Numba's own annotations describe the typing function, not what kernels call.
intrinsic: Any = numba_intrinsic


def _call(name: str, builder: Any, result: Any, arguments: Any) -> Any:
    """Call the LLVM intrinsic `name`, overloaded on the types of its arguments."""
    kinds = [argument.type for argument in arguments]
    overloads = kinds if name == "llvm.ldexp" else kinds[:1]
    function = ir.FunctionType(result, kinds)
    return builder.call(builder.module.declare_intrinsic(name, overloads, function), arguments)


def _same_type_intrinsic(name: str, arity: int) -> Any:
    """Make a Numba intrinsic of `arity` arguments of one type from an LLVM one."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(name, builder, arguments[0].type, arguments)

    if arity == 1:

        def unary(typing_context: Any, a: Any) -> Any:
            return a(a), lower

        return intrinsic(unary)

    def binary(typing_context: Any, a: Any, b: Any) -> Any:
        return a(a, a), lower

    return intrinsic(binary)


round_even = _same_type_intrinsic("llvm.rint", 1)  # to the nearest whole number
maximum = _same_type_intrinsic(
    "llvm.maximum", 2
)  # NaN if either is; Python's max is not vectorised
magnitude = _same_type_intrinsic("llvm.fabs", 1)


@intrinsic
def larger(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the larger of two numbers, for a chain of them that vectorises; NaN may get lost.

    One instruction where `maximum` takes six, which must let NaN through and tell 0 from -0.
    """

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        above = builder.fcmp_ordered(">", *arguments, flags=("nnan", "nsz"))
        return builder.select(above, *arguments, flags=("nnan", "nsz"))

    return a(a, a), lower


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c with one rounding."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), lower


@intrinsic
def reordered_add(typing_context: Any, a: Any, b: Any) -> Any:
    """Return a + b, where a chain of them may be summed in any order, so that it vectorises."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments, flags=("reassoc", "nsz"))

    return a(a, a), lower


@intrinsic
def scale_by_power(typing_context: Any, a: Any, k: Any) -> Any:
    """Return a * 2**k for a near 1 and a whole float k, rounded once, subnormal results included.

    AVX-512 has an instruction for it. Elsewhere the general one would be a call per element, and
    two factors 2**(k / 2), made by shifting bits, do: only the second product may round.
    """

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exponent = builder.fptosi(arguments[1], ir.IntType(32))
        if "+avx512f" in context.codegen().magic_tuple()[2]:
            return _call("llvm.ldexp", builder, arguments[0].type, [arguments[0], exponent])
        half = builder.ashr(exponent, ir.IntType(32)(1))
        first = builder.fmul(arguments[0], _power_of_two(builder, half, arguments[0].type))
        rest = builder.sub(exponent, half)
        return builder.fmul(first, _power_of_two(builder, rest, arguments[0].type))

    return a(a, a), lower


def _power_of_two(builder: Any, exponent: Any, result: Any) -> Any:
    """Build 2**exponent from its bits."""
    size, bias, mantissa = (64, 1023, 52) if result == ir.DoubleType() else (32, 127, 23)
    integer = ir.IntType(size)
    wide = builder.sext(exponent, integer) if size == 64 else exponent
    return builder.bitcast(builder.shl(builder.add(wide, integer(bias)), integer(mantissa)), result)


@intrinsic
def bits(typing_context: Any, a: Any) -> Any:
    """Return the bits of a float64 as an int64."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), lower


@intrinsic
def from_bits(typing_context: Any, a: Any) -> Any:
    """Return the float64 whose bits are the int64 a."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), lower


@intrinsic
def borrowed(typing_context: Any, array: Any) -> Any:
    """Return the array without its owner, whose memory the caller keeps.

    Numba counts references to the owner, atomically, for every row that is sliced off: 100 ns a
    row, and more when two threads at work on one array hand that counter to each other.
    """

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, value=arguments[0])
        view.meminfo = ir.Constant(view.meminfo.type, None)
        view.parent = ir.Constant(view.parent.type, None)
        return view._getvalue()

    return array(array), lower


@intrinsic
def element_at(typing_context: Any, like: Any, address: Any, i: Any) -> Any:
    """Return the i-th element of memory at an address that holds elements of an array's type."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_data_type(like.dtype)
        begin = builder.inttoptr(arguments[1], kind.as_pointer())
        return builder.load(builder.gep(begin, [arguments[2]]))

    return like.dtype(like, types.int64, types.int64), lower


@intrinsic
def keep(typing_context: Any, array: Any) -> Any:
    """Keep the owner of borrowed scratch memory alive until here."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_dummy_value()

    return types.none(array), lower


@intrinsic
def select(typing_context: Any, condition: Any, a: Any, b: Any) -> Any:
    """Return a if condition else b, both computed: never a branch, which may stop vectors."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return a(types.boolean, a, a), lower
