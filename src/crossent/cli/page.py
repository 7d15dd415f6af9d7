"""A page of a report: one HTML file, pictures inside, nothing fetched.

Pictures are drawn by matplotlib as SVG. What it draws in INK takes the colour of the page's text,
and its text is the page's text, so that the pictures follow a dark page.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import crossent
from crossent.cli import output
from crossent.files import replacing

INK = "#010203"
BLUE, ORANGE = "#4c8edb", "#e08a2e"  # told apart by the colour-blind, on light and on dark

STYLE = """
:root { color-scheme: light dark; --rule: #8886; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; max-width: 44rem; }
.numbers, .pictures, .tables { display: grid; }
.numbers { gap: .75rem; margin: 1rem 0; }
.numbers { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.numbers div { border: 1px solid var(--rule); border-radius: .5rem; padding: .5rem .9rem; }
.numbers b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.pictures, .tables { gap: 1.5rem; }
.pictures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.tables { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child, .text { text-align: left; }
footer { margin: 2rem 0 1rem; opacity: .7; font-size: .9rem; }
"""


def write_page(path: Path, title: str, body: Sequence[str]) -> None:
    """Write a page; an earlier one stays until all is written."""
    lines = "\n".join(body)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{lines}
<footer>crossent {crossent.__version__}</footer>
</body>
</html>
"""
    with replacing(path) as beside:
        beside.write_text(page, encoding="utf-8")


def tiles(numbers: Sequence[tuple[str, str]]) -> str:
    """Return numbers in boxes, each over its name."""
    boxes = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in numbers)
    return f'<div class="numbers">{boxes}</div>'


def losses(nats: float, baseline: float) -> list[tuple[str, str]]:
    """Return a cross-entropy in both units and the best constant prediction's, for boxes."""
    return [
        ("cross-entropy, nats", f"{nats:.4f}"),
        ("the same in bits", f"{nats / math.log(2):.4f}"),
        ("nats for always the class frequencies", f"{baseline:.4f}"),
    ]


def pictures(figures: Sequence[str]) -> str:
    """Return figures side by side."""
    return f'<div class="pictures">\n{"".join(figures)}\n</div>'


def sections(parts: Sequence[str]) -> str:
    """Return sections side by side."""
    shown = "\n".join(f"<section>{part}</section>" for part in parts)
    return f'<div class="tables">\n{shown}\n</div>'


def table(heads: list[str], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table; the cells may hold any text."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def classes(by_class: output.ByClass) -> str:
    """Return a table of the classes, with its heading; of many, of those that cost most."""
    shown = output.costliest(by_class)
    heading = output.heading_of(shown, by_class) or "Class by class"
    heads = ["class", "rows", "nats", "accuracy"]
    return f"<h2>{heading}</h2>" + table(heads, output.cells(shown))


def figure(name: str, caption: str, draw: Callable[..., Any], *arguments: Any) -> str:
    """Return a picture that `draw` puts on axes, as SVG with its caption."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(inked, INK) | {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(5, 3.9), layout="constrained")
        draw(figure.subplots(), *arguments)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = _follow_the_page(stream.getvalue(), name, caption)
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def reliability(bins: Iterable[tuple[float, float, float]]) -> str:
    """Return a reliability diagram."""
    return figure("reliability", "Is the confidence right?", _draw_reliability, bins)


def _follow_the_page(svg: str, name: str, caption: str) -> str:
    """Return an SVG to stand in a page: its colours, any width, names of its own."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1 LABEL>", svg, count=1)
    svg = svg.replace("LABEL", f'role="img" aria-label="{escape(caption)}"', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def _draw_reliability(axes: Any, bins: Iterable[tuple[float, float, float]]) -> None:
    """Draw accuracy over mean confidence, a point for each bin, as large as its weight."""
    confidence, accuracy, rows = map(np.array, zip(*bins, strict=True))
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
    axes.plot(confidence, accuracy, color=BLUE, linewidth=1)
    axes.scatter(confidence, accuracy, s=20 + 200 * rows / rows.sum(), color=BLUE)
    for x, y, count in zip(confidence, accuracy, rows, strict=True):
        axes.annotate(
            f"{count:.6g}", (x, y), (0, 9), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set(xlim=(0, 1.04), ylim=(-0.04, 1.1), aspect="equal")
    axes.set(xlabel="probability of the class decided for", ylabel="share that is right")


def short(name: str) -> str:
    """Return a name that fits beside a picture."""
    return name if len(name) <= 20 else f"{name[:19]}…"
