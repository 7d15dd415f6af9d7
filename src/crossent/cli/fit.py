"""`crossent fit`: train a classifier on a table, and say how good it is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossent.cli import output
from crossent.cli.watching import Watch, watching

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from crossent.cli.evaluation import Evaluation
    from crossent.encoding import TableEncoder
    from crossent.model_file import Model
    from crossent.sklearn import CrossEntropyClassifier

    Array = NDArray[Any]

LOSSES = ("auto", "softmax", "sigmoid", "softmax_binary")
WORST = 5  # rows that are shown
MOST_CLASSES = 30  # that are shown one by one


@click.command()
@click.argument("source")
@click.option("--target", help="The column to learn; the samples know theirs.")
@click.option("--drop", multiple=True, metavar="NAME", help="A column to leave out; repeatable.")
@click.option(
    "--l2", type=click.FloatRange(0), default=1e-4, show_default=True, help="Penalty strength."
)
@click.option("--loss", type=click.Choice(LOSSES), default="auto", show_default=True)
@click.option(
    "--class-weight", type=click.Choice(["balanced"]), help="Give all classes the same weight."
)
@click.option(
    "--valid",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the rows that is kept back to check with.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Which rows those are."
)
@click.option(
    "--max-iter", type=click.IntRange(1), default=1000, show_default=True, help="Most iterations."
)
@click.option(
    "--tol",
    type=click.FloatRange(0, min_open=True),
    default=1e-4,
    show_default=True,
    help="Stop when the gradient is smaller.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Save the model here.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML report here.")
def fit(
    source: str,
    target: str | None,
    drop: tuple[str, ...],
    valid: float,
    seed: int,
    out: Path | None,
    report: Path | None,
    **options: Any,
) -> None:
    """Train a classifier on a table.

    SOURCE is a CSV, Parquet or Feather file, or one of digits, iris, wine, breast_cancer. Numbers
    are standardised, text is one-hot encoded, missing values are filled in and flagged.
    """
    from crossent import files, model_file

    for path in (out, report):
        if path is not None:
            files.check_can_write(path)
    data = _read(source, target, drop, valid, seed)
    model, watch, stop = _train(data, options)
    evaluation = _evaluate(data, model)
    _summarise(data, model, evaluation, stop)
    if out is not None:
        model_file.save(model, out)
        click.echo(f"\nSaved {out}. Apply it with: crossent predict {out} TABLE --out FILE")
    if report is not None:
        from crossent.cli.report import write_report

        write_report(report, data, model, watch, evaluation, stop)
        click.echo(f"\nWrote {report}. Open it in any browser.")


@dataclass(frozen=True)
class Data:
    """A table to learn from.

    Attributes
    ----------
    source, target : str
        Where it is from, and the column to learn.
    columns : pyarrow.Table
        The others.
    labels : (n,) array
        The labels.
    train, valid : arrays
        The numbers of the rows to learn from, and to check with.
    """

    source: str
    target: str
    columns: pa.Table
    labels: Array
    train: Array
    valid: Array

    @property
    def checked(self) -> Array:
        """Return the rows that predictions are judged by: all, if none were kept back."""
        return self.valid if len(self.valid) else self.train

    @property
    def checked_kind(self) -> str:
        """Return what rows those are."""
        return "validation rows" if len(self.valid) else "training rows"


# Steps ------------------------------------------------------------------------------------------


def _read(source: str, target: str | None, drop: tuple[str, ...], share: float, seed: int) -> Data:
    import numpy as np

    from crossent import encoding, tables

    table = tables.read_table(source)
    if target is None and source in tables.SAMPLES:
        target = tables.SAMPLE_TARGET
    if target is None:
        raise ValueError(f"--target is missing; the columns are {_names(table.column_names)}")
    for option, name in (("--target", target), *(("--drop", name) for name in drop)):
        if name not in table.column_names:
            raise ValueError(
                f"{option} is {name!r}; {source} has no such column but "
                f"{_names(table.column_names)}"
            )
    labels = encoding.labels_of(table, target)
    _, codes = np.unique(labels, return_inverse=True)
    if codes.max() == 0:
        raise ValueError(
            f"column {target!r} holds one class only, {labels.tolist()[0]!r}; it takes two to learn"
        )
    train, valid = _split(codes, share, seed)
    return Data(source, target, table.drop_columns([target, *drop]), labels, train, valid)


def _split(codes: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Return rows to learn from and to check with; every class gives its share to both."""
    import numpy as np

    random = np.random.default_rng(seed)
    valid: list[int] = []
    for code in range(codes.max() + 1):
        rows = random.permutation(np.flatnonzero(codes == code))
        valid.extend(rows[: min(round(share * len(rows)), len(rows) - 1)])
    kept = np.ones(len(codes), bool)
    kept[valid] = False
    return np.flatnonzero(kept), np.flatnonzero(~kept)


def _train(data: Data, options: dict[str, Any]) -> tuple[Model, Watch, str]:
    """Return the model, the course of its training, and why that stopped."""
    from sklearn.exceptions import ConvergenceWarning

    from crossent.encoding import TableEncoder
    from crossent.model_file import Model
    from crossent.sklearn import CrossEntropyClassifier

    encoder = TableEncoder.fit(data.columns.take(data.train))
    _introduce(data, encoder)
    features, labels = encoder.transform(data.columns.take(data.train)), data.labels[data.train]
    classifier = CrossEntropyClassifier(**options)
    with (
        watching(_checking(data, encoder, classifier)) as watch,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.set_params(callback=watch).fit(features, labels)
    classifier.set_params(callback=None)
    said = [str(each.message) for each in caught if each.category is ConvergenceWarning]
    return Model(classifier, encoder, data.target), watch, [*said, classifier.stop_reason_][0]


def _checking(
    data: Data, encoder: TableEncoder, classifier: CrossEntropyClassifier
) -> Callable[[], float] | None:
    """Return what gives the loss of the rows kept back, if there are any."""
    if not len(data.valid):
        return None
    features, labels = encoder.transform(data.columns.take(data.valid)), data.labels[data.valid]
    return lambda: classifier.cross_entropy(features, labels)


def _evaluate(data: Data, model: Model) -> Evaluation:
    import numpy as np

    from crossent.cli.evaluation import Evaluation

    assert model.encoder is not None
    classes = model.classifier.classes_
    features = model.encoder.transform(data.columns.take(data.checked))
    counts = np.bincount(np.searchsorted(classes, data.labels[data.train]))
    return Evaluation(
        [str(label) for label in classes.tolist()],
        np.searchsorted(classes, data.labels[data.checked]),
        model.classifier.predict_log_proba(features),
        data.checked,
        counts / counts.sum(),
    )


# Words ------------------------------------------------------------------------------------------


def _introduce(data: Data, encoder: TableEncoder) -> None:
    click.echo(
        f"{data.source}: {len(data.labels)} rows, {data.columns.num_columns} columns to learn "
        f"{data.target!r} from; {len(data.train)} rows are learnt, {len(data.valid)} kept to check"
    )
    by_reason: dict[str, list[str]] = {}
    for name, reason in encoder.left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        click.echo(f"left out, as it {reason}: {_names(names)}")
    click.echo(f"{len(encoder.feature_names)} features")


def _summarise(data: Data, model: Model, evaluation: Evaluation, stop: str) -> None:
    nats, always = evaluation.loss, evaluation.baseline
    right = int(evaluation.right.sum())
    click.echo()
    output.table(
        [f"{len(data.checked)} {data.checked_kind}", "nats", "bits"],
        [
            ["cross-entropy", f"{nats:.4f}", f"{nats / math.log(2):.4f}"],
            ["always the class frequencies", f"{always:.4f}", f"{always / math.log(2):.4f}"],
        ],
    )
    click.echo(f"accuracy  {right / len(data.checked):.4f} ({right} of {len(data.checked)})")
    click.echo(f"stopped   after {model.classifier.n_iter_} iterations: {stop}")
    click.echo(f"l2        {model.classifier.l2:g}\n")
    _print_classes(evaluation)
    _print_worst(data, evaluation)


def _print_classes(evaluation: Evaluation) -> None:
    classes = evaluation.by_class()
    worst = sorted(classes, key=lambda each: -each[2])[:MOST_CLASSES]
    shown = classes if len(classes) <= MOST_CLASSES else worst
    output.table(
        ["class", "rows", "cross-entropy", "accuracy"],
        [[label, str(rows), f"{loss:.4f}", f"{share:.4f}"] for label, rows, loss, share in shown],
        "" if shown is classes else f"the {MOST_CLASSES} classes of {len(classes)} that cost most",
    )


def _print_worst(data: Data, evaluation: Evaluation) -> None:
    worst = evaluation.worst(WORST)
    if not worst:
        click.echo(f"\nNone of the {data.checked_kind} is taken for a wrong class.")
        return
    click.echo()
    output.table(
        ["row", "is", "taken for", "p of that", "p of the truth"],
        [[str(row), *names, f"{p:.4f}", f"{q:.3g}"] for row, *names, p, q in worst],
        f"most confidently wrong {data.checked_kind} (the first row of the table is 0)",
    )


def _names(names: list[str]) -> str:
    """Return names for a message, not all of very many."""
    shown = ", ".join(map(repr, names[:20]))
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
