"""Rows turned into columns and back, by vectors of the width that either kind of processor has."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from crossent.kernels import turning

LANES = 48
OUTSIDE = 7


def turning_with(size: int) -> Any:
    """Return the module as it is where vectors have so many bytes."""
    source = Path(turning.__file__).read_text(encoding="utf-8")
    chosen = 'VECTOR = 64 if "+avx512f" in FEATURES else 32'
    assert chosen in source
    module = types.ModuleType(f"turning_with_{size}")
    exec(source.replace(chosen, f"VECTOR = {size}"), vars(module))
    return module


@pytest.fixture(scope="module", params=[32, 64])
def turns(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    module = turning_with(request.param)
    turn_in, turn_out = module.turn_in, module.turn_out

    @numba.njit
    def there(rows: Any, first: int, count: int, work: Any) -> None:
        turn_in(rows, first, count, work)

    @numba.njit
    def back(work: Any, rows: Any, first: int, count: int) -> None:
        turn_out(work, rows, first, count)

    return there, back


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("count", [1, 16, 47, 48])
def test_there_and_back_and_nothing_beyond(turns: Any, dtype: str, count: int) -> None:
    there, back = turns
    for classes in range(1, 41):
        for following in (0, 3):  # rows of another tile, or of another thread
            numbers = np.random.default_rng(classes).normal(size=(2 + count + following, classes))
            given = numbers.astype(dtype)
            rows = given.view("int16") if dtype == "float16" else given
            wide = given.astype("float32") if dtype == "float16" else given
            work = np.full((classes + 16, LANES), OUTSIDE, wide.dtype)
            there(rows, 2, count, work)
            np.testing.assert_array_equal(work[:classes, :count], wide[2 : 2 + count].T)
            memory = np.full(rows.size + 64, OUTSIDE, rows.dtype)
            turned = memory[32:-32].reshape(rows.shape)
            back(work, turned, 2, count)
            np.testing.assert_array_equal(turned[2 : 2 + count], rows[2 : 2 + count])
            turned[2 : 2 + count] = OUTSIDE
            assert (memory == OUTSIDE).all()
