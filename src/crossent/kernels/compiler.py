"""How kernels are compiled: strictly, without the interpreter's lock, and cached on disk."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

# Numba looks only at a kernel's own file to see whether its cached machine code is stale; a
# kernel here is made of functions from several files, so all of them are looked at.
_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def _unique_name(pattern: str, number: int) -> str:
    """Return a file's name that nobody else draws.

    Numba counts files, so two processes that compile a kernel for different types at once would
    give both the same name, and the index of one could end up with the machine code of the other.
    """
    return pattern.replace("{number:d}", uuid4().hex)


def device(function: Function) -> Function:
    """Compile a function that kernels are made of; it is inlined into them."""
    return cast(Function, numba.njit(error_model="numpy")(function))


def kernel(function: Function) -> Function:
    """Compile an entry point: other threads run beside it, and its machine code is cached."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        compiled.enable_caching()
        file = compiled._cache._cache_file
        file._source_stamp = _DIGEST
        file._data_name = partial(_unique_name, file._data_name_pattern)
    except (RuntimeError, OSError, AttributeError):
        pass  # no directory to write to: compile in every process rather than fail
    return cast(Function, compiled)
