"""The cross-entropy falling: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from crossent.cli import output

if TYPE_CHECKING:
    from crossent.search import Progress

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32  # of the curve, in characters


@dataclass
class Watch:
    """Called after each iteration: keeps the loss curves, and shows them.

    Attributes
    ----------
    check : callable, optional
        Returns the loss of the rows that are not learnt from.
    train, valid : lists of float
        The losses so far, in nats.
    """

    check: Callable[[], float] | None
    show: Callable[[Watch], None]
    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        """Take note of an iteration."""
        self.train.append(progress.loss)
        if self.check is not None:
            self.valid.append(self.check())
        self.show(self)

    @property
    def line(self) -> str:
        """Return the last iteration as a line."""
        valid = f"   valid {self.valid[-1]:.4f}" if self.valid else ""
        return f"iteration {len(self.train) - 1:4d}   train {self.train[-1]:.4f}{valid} nats"


@contextmanager
def watching(check: Callable[[], float] | None) -> Iterator[Watch]:
    """Give a callback that shows the loss while it falls."""
    if not output.on_terminal():
        watch = Watch(check, _plain_line)
        yield watch
        if not _is_round(len(watch.train) - 1):
            click.echo(watch.line)
        return
    from rich.live import Live

    with Live(refresh_per_second=10) as live:
        yield Watch(check, lambda watch: live.update(f"{watch.line}   {_curve(watch.train)}"))


def _plain_line(watch: Watch) -> None:
    if _is_round(len(watch.train) - 1):
        click.echo(watch.line)


def _is_round(iteration: int) -> bool:
    """Return whether only the first digit is not zero: 0, 1, 2, ..., 10, 20, ..., 100, 200."""
    return set(str(iteration)[1:]) <= {"0"}


def _curve(losses: list[float]) -> str:
    """Return the losses as little bars, the newest to the right."""
    shown = losses[:: -(-len(losses) // WIDTH)]
    top = max(shown) or 1.0
    return "".join(BARS[min(int(8 * max(loss, 0.0) / top), 7)] for loss in shown)
