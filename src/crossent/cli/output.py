"""What the commands print: rich tables on a terminal, plain aligned lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click


def on_terminal() -> bool:
    """Return whether someone looks at a terminal."""
    return sys.stdout.isatty()


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
