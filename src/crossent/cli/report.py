"""The HTML report: one file, pictures inside, nothing fetched.

Pictures are drawn by matplotlib as SVG. What it draws in INK takes the colour of the page's text,
and its text is the page's text, so that the pictures follow a dark page.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import crossent
from crossent.files import replacing

if TYPE_CHECKING:
    from crossent.cli.evaluation import Evaluation
    from crossent.cli.fit import Data
    from crossent.cli.watching import Watch
    from crossent.model_file import Model

INK = "#010203"
BLUE, ORANGE = "#4c8edb", "#e08a2e"  # told apart by the colour-blind, on light and on dark
MOST_CLASSES = 30  # in the confusion matrix
MOST_WEIGHTS = 20
WORST = 20

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


def write_report(
    path: Path, data: Data, model: Model, watch: Watch, evaluation: Evaluation, stop: str
) -> None:
    """Write the report; an earlier one stays until all is written."""
    page = _page(data, model, watch, evaluation, stop)
    with replacing(path) as beside:
        beside.write_text(page, encoding="utf-8")


def _page(data: Data, model: Model, watch: Watch, evaluation: Evaluation, stop: str) -> str:
    title = f"{data.source}: {data.target}"
    pictures = [
        _figure(
            "loss", "Cross-entropy while it was trained, in nats", _draw_losses, watch, evaluation
        ),
        _figure(
            "confusion", f"What {data.checked_kind} are taken for", _draw_confusion, evaluation
        ),
        _figure("reliability", "Is the confidence right?", _draw_reliability, evaluation),
        _figure("weights", "The largest weights", _draw_weights, model),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{_introduction(data, model, stop)}
{_tiles(data, model, evaluation)}
<div class="pictures">
{"".join(pictures)}
</div>
<div class="tables">
<section>{_classes(evaluation)}</section>
<section>{_worst(data, evaluation)}</section>
</div>
<footer>crossent {crossent.__version__}</footer>
</body>
</html>
"""


# Words and numbers ------------------------------------------------------------------------------


def _introduction(data: Data, model: Model, stop: str) -> str:
    kept = len(data.valid)
    check = f"{kept} were kept to check with" if kept else "none were kept to check with"
    return (
        f"<p>{len(data.train)} rows were learnt, {check}. Training stopped after "
        f"{model.classifier.n_iter_} iterations: {escape(stop)}.</p>"
    )


def _tiles(data: Data, model: Model, evaluation: Evaluation) -> str:
    right, rows = int(evaluation.right.sum()), len(data.checked)
    tiles = [
        ("cross-entropy, nats", f"{evaluation.loss:.4f}"),
        ("the same in bits", f"{evaluation.loss / math.log(2):.4f}"),
        ("nats for always the class frequencies", f"{evaluation.baseline:.4f}"),
        (f"accuracy, {right} of {rows} {data.checked_kind}", f"{right / rows:.4f}"),
        (f"l2, for {model.classifier.loss_}", f"{model.classifier.l2:g}"),
    ]
    boxes = "".join(f"<div><b>{value}</b>{escape(name)}</div>" for name, value in tiles)
    return f'<div class="numbers">{boxes}</div>'


def _classes(evaluation: Evaluation) -> str:
    rows = [
        (label, str(rows), f"{loss:.4f}", f"{right:.4f}")
        for label, rows, loss, right in evaluation.by_class()
    ]
    return "<h2>Class by class</h2>" + _table(["class", "rows", "nats", "accuracy"], rows)


def _worst(data: Data, evaluation: Evaluation) -> str:
    rows = [
        (str(row), is_, taken, f"{p:.4f}", f"{q:.3g}")
        for row, is_, taken, p, q in evaluation.worst(WORST)
    ]
    heads = ["row, from 0", "is", "taken for", "p of that", "p of the truth"]
    body = _table(heads, rows) if rows else "<p>None is taken for a wrong class.</p>"
    return f"<h2>Most confidently wrong {data.checked_kind}</h2>{body}"


def _table(heads: list[str], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


# Pictures ---------------------------------------------------------------------------------------


def _figure(name: str, caption: str, draw: Callable[..., Any], *arguments: Any) -> str:
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


def _follow_the_page(svg: str, name: str, caption: str) -> str:
    """Return an SVG to stand in a page: its colours, any width, names of its own."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1 LABEL>", svg, count=1)
    svg = svg.replace("LABEL", f'role="img" aria-label="{escape(caption)}"', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def _draw_losses(axes: Any, watch: Watch, evaluation: Evaluation) -> None:
    axes.plot(watch.train, color=BLUE, label="rows that are learnt")
    if watch.valid:
        axes.plot(watch.valid, color=ORANGE, label="rows kept to check with")
    axes.axhline(
        evaluation.baseline, color=INK, linestyle=":", linewidth=1, label="always the frequencies"
    )
    if min(watch.train + watch.valid) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.legend(loc="best", fontsize=9)


def _draw_confusion(axes: Any, evaluation: Evaluation) -> None:
    from matplotlib.patches import Rectangle

    counts = evaluation.confusion[:MOST_CLASSES, :MOST_CLASSES]
    names = [_short(label) for label in evaluation.labels[:MOST_CLASSES]]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 10 if len(counts) <= 8 else 7 if len(counts) <= 16 else 4
    for i, j in zip(*np.nonzero(counts), strict=True):
        alpha = 0.2 + 0.6 * shares[i, j]
        colour = BLUE if i == j else ORANGE
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, alpha=alpha))
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=size)
    turn = 0 if max(map(len, names)) * len(names) < 50 else 90
    axes.set_xticks(range(len(names)), names, rotation=turn)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
    axes.set(xlabel="taken for", ylabel="is")
    axes.tick_params(length=0)


def _draw_reliability(axes: Any, evaluation: Evaluation) -> None:
    confidence, accuracy, rows = map(np.array, zip(*evaluation.reliability(), strict=True))
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
    axes.plot(confidence, accuracy, color=BLUE, linewidth=1)
    axes.scatter(confidence, accuracy, s=20 + 200 * rows / rows.sum(), color=BLUE)
    for x, y, count in zip(confidence, accuracy, rows, strict=True):
        axes.annotate(
            str(count), (x, y), (0, 9), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set(xlim=(0, 1.04), ylim=(-0.04, 1.1), aspect="equal")
    axes.set(xlabel="probability of the class decided for", ylabel="share that is right")


def _draw_weights(axes: Any, model: Model) -> None:
    classifier = model.classifier
    features = model.encoder.feature_names if model.encoder else []
    labels = [_short(str(label)) for label in classifier.classes_.tolist()]
    labels = labels if len(classifier.coef_) == len(labels) else labels[1:]
    largest = np.argsort(-np.abs(classifier.coef_), axis=None, kind="stable")[:MOST_WEIGHTS]
    outputs, columns = np.unravel_index(largest, classifier.coef_.shape)
    weights = classifier.coef_[outputs, columns]
    names = [f"{_short(features[d])} → {labels[j]}" for j, d in zip(outputs, columns, strict=True)]
    axes.barh(range(len(names)), weights, color=[BLUE if w > 0 else ORANGE for w in weights])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="weight, features standardised")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"
