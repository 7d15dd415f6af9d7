"""Commands under torchrun: the first process speaks, and any failure is everybody's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crossent.distributed import ALONE, Alone


@contextmanager
def joined() -> Iterator[Alone]:
    """Give the processes that share out the work of a command."""
    yield ALONE
