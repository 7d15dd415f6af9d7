"""Commands under torchrun: the first process speaks, and a failure of one is that of all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossent.cli.group import sentence
from crossent.distributed import ALONE, FAILED, Alone, Ranks, several

if TYPE_CHECKING:
    from crossent.tables import Part


@contextmanager
def joined() -> Iterator[Alone]:
    """Give the processes that share out the work of a command."""
    if not several():
        yield ALONE
        return
    ranks = Ranks(_tell)
    try:
        with _quiet_unless_first(ranks):
            yield ranks
        ranks.close()
    except Exception as error:
        if ranks.fail(sentence(error)):
            os._exit(FAILED)  # the user has been told; what else runs here may wait for ever
        raise


def shared(parts: list[Part], ranks: Alone) -> list[Part]:
    """Return the parts of this process: all processes have about as many rows, in their order."""
    import numpy as np

    counted = all(part.rows is not None for part in parts)
    weights = np.array([part.rows if counted else part.size for part in parts], dtype=float)
    middles = np.cumsum(weights) - weights / 2
    owners = np.minimum(middles * ranks.size / max(weights.sum(), 1.0), ranks.size - 1).astype(int)
    return [part for part, owner in zip(parts, owners, strict=True) if owner == ranks.rank]


def _tell(text: str) -> None:
    click.echo(f"crossent: {text}", err=True)
    sys.stderr.flush()


@contextmanager
def _quiet_unless_first(ranks: Alone) -> Iterator[None]:
    if ranks.rank == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield
