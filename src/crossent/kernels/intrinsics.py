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
    """Return a * 2**k for a whole float k, with one rounding, subnormal results included."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exponent = builder.fptosi(arguments[1], ir.IntType(32))
        return _call("llvm.ldexp", builder, arguments[0].type, [arguments[0], exponent])

    return a(a, a), lower


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
