"""What rows share: memory is asked for ahead of time."""

import numpy as np
import pytest
from numba import types

from crossent.kernels import rows
from crossent.kernels.intrinsics import LINE, SPAN, STREAM


@pytest.mark.parametrize("share", [224, 256, 1000])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_every_line_is_asked_for_once_and_a_span_ahead(
    dtype: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = np.zeros(200_000, dtype)
    line = LINE // memory.itemsize
    stream, span = STREAM * line, SPAN // memory.itemsize
    asked: list[int] = []
    monkeypatch.setattr(
        rows,
        "fetch_streams",
        lambda array, i: asked.extend(range(i, i + span, stream)),
        raising=True,
    )
    fetch = rows._fetch_ahead(types.Array(getattr(types, dtype), 1, "C"), types.intp, types.intp)
    for start in range(0, memory.size, share):
        before = len(asked)
        fetch(memory, start, share)
        assert all(start < place < start + share + 2 * span for place in asked[before:])
    assert len(set(asked)) == len(asked)
    whole = memory.size // span * span
    assert set(range(span, whole, line)) <= set(asked) <= set(range(span, whole + span, line))
