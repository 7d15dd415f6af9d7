"""Commands under torchrun: the first process speaks, and a failure of one is that of all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import click

from crossent.cli.group import sentence
from crossent.distributed import ALONE, FAILED, Alone, Ranks, several


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
