"""The machine's own limit: what reads all scores once, and what also writes as much, must take."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measure import Call, Prepare
from benchmarks.peers import import_torch, installed
from crossent.threads import sum_over_rows

COPY = ("copy (memcpy)", "copy (torch)")
READ = ("read (NumPy)", "read (torch)")


def copies(array: np.ndarray) -> dict[str, Prepare]:
    """Ways to copy as many bytes; "the copy" is the faster."""
    source = _words(array)
    return _with_torch(COPY, lambda: _memcpy(source), lambda: _torch_copy(source))


def reads(array: np.ndarray) -> dict[str, Prepare]:
    """Ways to read as many bytes, by looking for the largest; "the read" is the faster."""
    source = _words(array)
    return _with_torch(READ, lambda: _largest(source), lambda: _torch_largest(source))


def _words(array: np.ndarray) -> np.ndarray:
    """Return the memory as float32, whatever it holds: PyTorch lacks some types."""
    return array.reshape(-1).view(np.uint8).view(np.float32)


def _with_torch(names: tuple[str, str], ours: Prepare, theirs: Prepare) -> dict[str, Prepare]:
    both = dict(zip(names, (ours, theirs), strict=True))
    return both if installed("torch") else {names[0]: ours}


def _memcpy(source: np.ndarray) -> Call:
    target = np.zeros_like(source)

    def copy(start: int, stop: int, sums: Any) -> None:
        target[start:stop] = source[start:stop]

    return lambda: sum_over_rows(copy, source.size, 1)


def _torch_copy(source: np.ndarray) -> Call:
    torch = import_torch()
    a, b = torch.from_numpy(source), torch.from_numpy(np.zeros_like(source))
    return lambda: b.copy_(a)


def _largest(source: np.ndarray) -> Call:
    def read(start: int, stop: int, sums: Any) -> None:
        sums[0] = source[start:stop].max()

    return lambda: sum_over_rows(read, source.size, 1)


def _torch_largest(source: np.ndarray) -> Call:
    a = import_torch().from_numpy(source)
    return lambda: a.amax()
