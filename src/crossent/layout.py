"""How arrays are laid out for the kernels, and the type that losses come back in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def result_type(dtype: Any) -> Any:
    """Return the type of a loss: float64 for float64 scores, else float32."""
    return np.float64 if dtype.char == "d" else np.float32


def bits(array: Array) -> Array:
    """Return a half type's bits as kernels take them (see halves.py), any other array itself."""
    if array.dtype.itemsize != 2:
        return array
    return array.view(np.int16 if array.dtype == np.float16 else np.uint16)


def as_rows(array: Array, axis: int) -> Array:
    """Return the array as (N, C), classes last and contiguous, copied only if need be."""
    moved = array if axis == array.ndim - 1 else np.moveaxis(array, axis, -1)
    rows = moved if array.ndim == 2 else moved.reshape(-1, array.shape[axis])
    return writable(np.ascontiguousarray(rows))


def as_outputs(array: Array, outputs: int) -> Array:
    """Return the array as (n, J), copied only if need be."""
    rows = array.size // outputs if outputs else math.prod(array.shape[:-1])
    cut = array if array.shape == (rows, outputs) else array.reshape(rows, outputs)
    return writable(np.ascontiguousarray(cut))


def writable(array: Array) -> Array:
    """Return a view that counts as writable: kernels never write inputs, and one type is enough."""
    if array.flags.writeable:
        return array
    raw = array.view(f"u{array.dtype.itemsize}")  # a name that every type's memory goes by
    interface = dict(raw.__array_interface__, data=(raw.__array_interface__["data"][0], False))
    return np.asarray(_Memory(array, interface)).view(array.dtype)


class _Memory:
    """Memory of an array, under another interface to it."""

    def __init__(self, owner: Array, interface: dict[str, Any]) -> None:
        self.owner = owner
        self.__array_interface__ = interface
