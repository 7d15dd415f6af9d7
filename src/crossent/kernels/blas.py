"""Matrix products by BLAS, through SciPy's: its C interface adds to what is there.

NumPy's products neither add nor always find the fast path for rows that lie apart.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numba.extending import get_cython_function_address
from numpy.typing import NDArray

Array = NDArray[Any]


@cache
def _gemm(dtype: np.dtype[Any]) -> Any:
    """Return BLAS's product for float32 or float64."""
    name = "sgemm" if dtype == np.float32 else "dgemm"
    address = get_cython_function_address("scipy.linalg.cython_blas", name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(address)


def multiply(a: Array, b: Array, out: Array, add: bool = False) -> None:
    """Store a @ b in out, whose rows are contiguous, or add it to what is there."""
    if not a.size or not b.size:
        if not add:
            out[...] = 0
        return
    (x, x_flipped, x_step), (y, y_flipped, y_step) = _laid_out(a), _laid_out(b)
    _, _, out_step = _laid_out(out)
    sizes = [ctypes.c_int(k) for k in (b.shape[1], a.shape[0], a.shape[1])]
    steps = [ctypes.c_int(k) for k in (y_step, x_step, out_step)]
    number = ctypes.c_float if out.dtype == np.float32 else ctypes.c_double
    one, old = number(1.0), number(float(add))
    flags = [ctypes.c_char(b"T" if flipped else b"N") for flipped in (y_flipped, x_flipped)]
    _gemm(out.dtype)(  # column by column, as BLAS reads memory: out^T = b^T a^T
        *map(ctypes.byref, (*flags, *sizes, one)),
        *(y.ctypes.data, ctypes.byref(steps[0]), x.ctypes.data, ctypes.byref(steps[1])),
        *(ctypes.byref(old), out.ctypes.data, ctypes.byref(steps[2])),
    )


def _laid_out(array: Array) -> tuple[Array, bool, int]:
    """Return the array, whether it is stored column by column, and how far those lie apart.

    Only one whose rows and columns both lie apart is copied.
    """
    for flipped in (False, True):
        rows = array.T if flipped else array
        step = rows.strides[0] // rows.itemsize if len(rows) > 1 else rows.shape[1]
        if rows.strides[1] == rows.itemsize or rows.shape[1] == 1:
            if step >= rows.shape[1] and rows.strides[0] % rows.itemsize == 0:
                return array, flipped, step
    return _laid_out(np.ascontiguousarray(array))
