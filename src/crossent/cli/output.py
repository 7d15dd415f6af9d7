"""What the commands print: rich tables on a terminal, plain aligned lines elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import click

# Options that more than one command has.
json_option = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
report_option = click.option(
    "--report", type=click.Path(path_type=Path), help="Write an HTML report here."
)


def on_terminal() -> bool:
    """Return whether someone looks at a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def no_nan(_: click.Context, parameter: click.Parameter, value: float) -> float:
    """Return a number within a range, which NaN is in for click."""
    if math.isnan(value):
        raise click.BadParameter("nan is not in the range.", param=parameter)
    return value


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table; cells that are numbers stand to the right."""
    if title:
        click.echo(title)
    right = [_numeric(column) for column in zip(*rows, strict=True)] or [False] * len(heads)
    if on_terminal():
        _rich_table(heads, rows, right)
        return
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def losses(head: str, nats: float, baseline: float) -> None:
    """Print a cross-entropy beside that of the best constant prediction, in nats and bits."""
    rows = (("cross-entropy", nats), ("always the class frequencies", baseline))
    cells = [[name, f"{value:.4f}", f"{value / math.log(2):.4f}"] for name, value in rows]
    table([head, "nats", "bits"], cells)


ByClass = Sequence[tuple[str, int, float, float]]
MOST_CLASSES = 30  # that are shown one by one


def classes(by_class: ByClass) -> None:
    """Print label, rows, mean loss and accuracy of each class; of many, those that cost most."""
    shown = costliest(by_class)
    heads = ["class", "rows", "cross-entropy", "accuracy"]
    table(heads, cells(shown), heading_of(shown, by_class))


def cells(by_class: ByClass) -> list[tuple[str, ...]]:
    """Return the lines of a table of classes."""
    return [
        (label, str(rows), f"{loss:.4f}", f"{share:.4f}") for label, rows, loss, share in by_class
    ]


def costliest(by_class: ByClass) -> ByClass:
    """Return all classes in order, or of many those that cost most."""
    if len(by_class) <= MOST_CLASSES:
        return by_class
    return sorted(by_class, key=lambda each: -each[2])[:MOST_CLASSES]


def heading_of(shown: ByClass, by_class: ByClass) -> str:
    """Return what to say of the classes that are shown, if they are not all."""
    if len(shown) == len(by_class):
        return ""
    return f"the {len(shown)} classes of {len(by_class)} that cost most"


def _rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table()
    for head, to_right in zip(heads, right, strict=True):
        grid.add_column(head, justify="right" if to_right else "left")
    for row in rows:
        grid.add_row(*map(Text, row))
    Console().print(grid)


def _numeric(cells: Sequence[str]) -> bool:
    return all(cell in ("", "-") or _is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def number(value: float) -> str:
    """Return a number with six significant digits."""
    return f"{value + 0.0:.6g}"  # + 0.0: no minus before a zero
