"""The report of `crossent score`: reliability, and loss by class."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossent.cli import output, page
from crossent.cli.page import BLUE, INK, short

if TYPE_CHECKING:
    from crossent.cli.score import Scored


def write_report(path: Path, scored: Scored) -> None:
    """Write the report; an earlier one stays until all is written."""
    classes = output.costliest(scored.by_class)
    figures = [
        page.reliability(scored.sums.reliability),
        page.figure("classes", "Loss by class, in nats", _draw_classes, classes, scored.sums.loss),
    ]
    body = [
        _introduction(scored),
        _tiles(scored),
        page.pictures(figures),
        page.sections([page.classes(scored.by_class)]),
    ]
    page.write_page(path, f"{', '.join(scored.files[:3])}: {scored.predictions.target}", body)


def _introduction(scored: Scored) -> str:
    from crossent.cli.score import infinite_rows

    sums = scored.sums
    said = [
        f"{sums.rows + sums.ignored} rows of {scored.source} were read, "
        f"{sums.ignored} ignored; {sums.infinite} cost infinity",
        *scored.remarks,
        *([infinite_rows(scored)] if sums.infinite else []),
    ]
    return "".join(f"<p>{escape(each)}.</p>" for each in said)


def _tiles(scored: Scored) -> str:
    sums = scored.sums
    numbers = [(name, f"{value:.4f}") for name, value in scored.numbers]
    return page.tiles(page.losses(sums.loss, sums.baseline) + numbers)


def _draw_classes(axes: Any, classes: Sequence[tuple[str, int, float, float]], mean: float) -> None:
    losses = [loss for _, _, loss, _ in classes]
    finite = [loss for loss in losses if loss < float("inf")]
    longest = max(finite, default=1.0) or 1.0
    axes.barh(range(len(classes)), [min(loss, 1.15 * longest) for loss in losses], color=BLUE)
    for i, loss in enumerate(losses):
        if loss == float("inf"):
            axes.annotate(
                "infinite", (1.15 * longest, i), (4, 0), textcoords="offset points", va="center"
            )
    if mean < float("inf"):
        axes.axvline(mean, color=INK, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(classes)), [short(label) for label, *_ in classes], fontsize=8)
    axes.set(ylim=(len(classes) - 0.5, -0.5), xlabel="mean loss of the rows of the class")
    axes.tick_params(axis="y", length=0)
