"""The report of `crossent fit`: loss curve, confusion, reliability, weights."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossent.cli import page
from crossent.cli.evaluation import WORST
from crossent.cli.page import BLUE, INK, ORANGE, short

if TYPE_CHECKING:
    from crossent.cli.data import Data
    from crossent.cli.evaluation import Evaluation
    from crossent.cli.watching import Watch
    from crossent.model_file import Model

MOST_WEIGHTS = 20


def write_report(
    path: Path, data: Data, model: Model, watch: Watch, evaluation: Evaluation, stop: str
) -> None:
    """Write the report; an earlier one stays until all is written."""
    figures = [
        page.figure(
            "loss", "Cross-entropy while it was trained, in nats", _draw_losses, watch, evaluation
        ),
        page.figure(
            "confusion", f"What {data.checked_kind} are taken for", _draw_confusion, evaluation
        ),
        page.reliability(evaluation.reliability()),
        page.figure("weights", "The largest weights", _draw_weights, model),
    ]
    body = [
        _introduction(data, model, stop),
        _tiles(data, model, evaluation),
        page.pictures(figures),
        page.sections([page.classes(evaluation.by_class()), _worst(data, evaluation)]),
    ]
    page.write_page(path, f"{data.source}: {data.target}", body)


# Words and numbers ------------------------------------------------------------------------------


def _introduction(data: Data, model: Model, stop: str) -> str:
    kept = data.kept or "none"
    check = f"{kept} were kept to check with"
    return (
        f"<p>{data.learnt} rows were learnt, {check}. Training stopped after "
        f"{model.classifier.n_iter_} iterations: {escape(stop)}.</p>"
    )


def _tiles(data: Data, model: Model, evaluation: Evaluation) -> str:
    right, rows = int(evaluation.right.sum()), evaluation.count
    numbers = [
        *page.losses(evaluation.loss, evaluation.baseline),
        (f"accuracy, {right} of {rows} {data.checked_kind}", f"{right / rows:.4f}"),
        (f"l2, for {model.classifier.loss_}", f"{model.classifier.l2:g}"),
    ]
    return page.tiles(numbers)


def _worst(data: Data, evaluation: Evaluation) -> str:
    rows = [
        (str(row), is_, taken, f"{p:.4f}", f"{q:.3g}")
        for row, is_, taken, p, q in evaluation.worst(WORST)
    ]
    heads = ["row, from 0", "is", "taken for", "p of that", "p of the truth"]
    body = page.table(heads, rows) if rows else "<p>None is taken for a wrong class.</p>"
    return f"<h2>Most confidently wrong {data.checked_kind}</h2>{body}"


# Pictures ---------------------------------------------------------------------------------------


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
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9)  # off the lines


def _draw_confusion(axes: Any, evaluation: Evaluation) -> None:
    from matplotlib.patches import Rectangle

    counts = evaluation.confusion
    names = [short(label) for label in evaluation.labels[: len(counts)]]
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


def _draw_weights(axes: Any, model: Model) -> None:
    classifier = model.classifier
    features = model.encoder.feature_names if model.encoder else []
    labels = [short(str(label)) for label in classifier.classes_.tolist()]
    labels = labels if len(classifier.coef_) == len(labels) else labels[1:]
    largest = np.argsort(-np.abs(classifier.coef_), axis=None, kind="stable")[:MOST_WEIGHTS]
    outputs, columns = np.unravel_index(largest, classifier.coef_.shape)
    weights = classifier.coef_[outputs, columns]
    names = [f"{short(features[d])} → {labels[j]}" for j, d in zip(outputs, columns, strict=True)]
    axes.barh(range(len(names)), weights, color=[BLUE if w > 0 else ORANGE for w in weights])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="weight, features standardised")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
