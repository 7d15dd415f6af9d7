"""How kernels are compiled: strictly, without the interpreter's lock, and cached on disk.

Functions that the compiler types are written without annotations: one version is made for every
combination of types they are called with.
"""

import gc
import hashlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numba
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.extending import overload

# Numba looks only at a kernel's own file to see whether its cached machine code is stale; a
# kernel here is made of functions from several files, so all of them are looked at.
_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()

WIDE = '"prefer-vector-width"="512"'


def _unique_name(pattern: str, number: int) -> str:
    """Return a file's name that nobody else draws.

    Numba counts files, so two processes that compile a kernel for different types at once would
    give both the same name, and the index of one could end up with the machine code of the other.
    """
    return pattern.replace("{number:d}", uuid4().hex)


class _Part(JITCodeLibrary):
    """Code that is only ever inlined: it is optimised, and turned to machine code, with a kernel.

    Numba does both for every function on its own as well, a third of what compiling takes.
    """

    codegen = SimpleNamespace(set_env=lambda name, environment: None)  # who is called has one

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalized = True


class _PartCompiler(Compiler):
    """Compiles a function that kernels are made of."""

    def compile_extra(self, function):
        self.state.library = _Part(self.state.targetctx.codegen(), function.__qualname__)
        return super().compile_extra(function)


class _Kernel(JITCodeLibrary):
    """An entry point's code, in vectors as wide as there are.

    LLVM takes half of 512 bits on most of Intel's processors, the first of which lowered their
    clock for a while after wider ones: bad for a short burst, which a kernel is not.
    """

    def add_ir_module(self, ir_module):
        for function in ir_module.functions:
            set.add(function.attributes, WIDE)  # which knows no attribute with a value by itself
        super().add_ir_module(ir_module)


class _KernelCompiler(Compiler):
    """Compiles an entry point, and nobody looks for garbage meanwhile.

    Of the hundreds of thousands of objects that make up a kernel, next to none is garbage before
    its end.
    """

    def compile_extra(self, function):
        self.state.library = _Kernel(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        collecting = gc.isenabled()
        gc.disable()
        try:
            return super().compile_extra(function)
        finally:
            if collecting:
                gc.enable()


# A call in the machine code hands over all fields of every array, dozens of them: 20 ns, for each
# row or oftener. Python never calls, nor does C: neither needs an entry.
_INLINED: Any = {
    "error_model": "numpy",
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _PartCompiler,
}
_ENTERED: Any = {"nogil": True, "error_model": "numpy", "pipeline_class": _KernelCompiler}


def device(function: Any) -> Any:
    """Compile a function that kernels are made of; it is inlined into them."""
    return numba.njit(**_INLINED)(function)


def device_overload(function: Any) -> Any:
    """Let the types of the arguments decide what a function that kernels are made of does."""
    return overload(function, strict=False, jit_options=_INLINED)


def kernel(function: Any) -> Any:
    """Compile an entry point: other threads run beside it, and its machine code is cached."""
    compiled: Any = numba.njit(**_ENTERED)(function)
    try:
        compiled.enable_caching()
        file = compiled._cache._cache_file
        file._source_stamp = _DIGEST
        file._data_name = partial(_unique_name, file._data_name_pattern)
    except (RuntimeError, OSError):
        pass  # no directory to write to: compile in every process rather than fail
    except AttributeError:  # another Numba, whose cache would not see that code is stale
        compiled._cache = NullCache()
    return compiled
