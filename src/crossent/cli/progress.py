"""How far tables have been read: a bar on a terminal, with rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossent.tables import Batch, Part


@contextmanager
def reading(parts: Sequence[Part], shown: bool = True) -> Iterator[Callable[[Batch], None]]:
    """Give what is to be called with each batch of these parts once it is done with."""
    if not (shown and sys.stderr.isatty()):
        yield lambda batch: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=sum(part.size for part in parts), rows="")
        bytes_done: dict[tuple[int, int | None], float] = {}  # of each part
        began, rows = time.perf_counter(), 0

        def watch(batch: Batch) -> None:
            nonlocal rows
            rows += batch.data.num_rows
            bytes_done[batch.part.file, batch.part.group] = batch.part.size * batch.done
            rate = rows / (time.perf_counter() - began)
            shown = f"{rows:,} rows, {rate:,.0f} per second"
            bar.update(task, completed=sum(bytes_done.values()), rows=shown)

        yield watch
