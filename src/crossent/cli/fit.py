"""`crossent fit`: train a classifier on a table, and say how good it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossent.cli import output
from crossent.cli.watching import Watch, watching

if TYPE_CHECKING:
    from crossent.checkpoint import Checkpoint
    from crossent.cli.data import Data
    from crossent.cli.evaluation import Evaluation
    from crossent.encoding import TableEncoder
    from crossent.model_file import Model
    from crossent.sklearn import CrossEntropyClassifier

LOSSES = ("auto", "softmax", "sigmoid", "softmax_binary")
WORST = 5  # rows that are shown


@click.command()
@click.argument("source", nargs=-1, required=True)
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
    callback=output.no_nan,
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
@click.option(
    "--stream", is_flag=True, help="Read the rows again for every iteration: for any number."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep here what is needed to go on after a stop.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Iterations from one checkpoint to the next.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if there is one.")
@click.option("--out", type=click.Path(path_type=Path), help="Save the model here.")
@output.report_option
def fit(
    source: tuple[str, ...],
    target: str | None,
    drop: tuple[str, ...],
    valid: float,
    seed: int,
    stream: bool,
    checkpoint: Path | None,
    checkpoint_every: int,
    resume: bool,
    out: Path | None,
    report: Path | None,
    **options: Any,
) -> None:
    """Train a classifier on tables.

    SOURCE is a CSV, Parquet or Feather file, or several, or a directory of them, or one of digits,
    iris, wine, breast_cancer. Numbers are standardised, text is one-hot encoded, missing values
    are filled in and flagged.

    Under torchrun the rows are shared out among its processes, and read as with --stream.
    """
    from crossent import files, model_file
    from crossent.checkpoint import Checkpoint
    from crossent.cli import data as tabular
    from crossent.cli.ranks import joined

    with joined() as ranks:
        if resume and checkpoint is None:
            raise ValueError("--resume is given without --checkpoint DIR: resume from where?")
        if ranks.rank == 0:
            files.check_results(source, {"--out": out, "--report": report})
        keeper = (
            None if checkpoint is None else Checkpoint(checkpoint, checkpoint_every, resume, ranks)
        )
        if (stream or ranks.size > 1) and not _is_sample(source):
            found = tabular.streamed(source, target, ranks)
        else:
            found = tabular.in_memory(source, ranks)
        data = tabular.Data.of(found, target, drop, valid, seed, ranks)
        model, watch, stop = _train(data, options, keeper)
        evaluation = _evaluate(data, model)
        _summarise(data, model, evaluation, stop)
        if out is not None and ranks.rank == 0:
            model_file.save(model, out)
            click.echo(f"\nSaved {out}. Apply it with: crossent predict {out} TABLE --out FILE")
        if report is not None and ranks.rank == 0:
            from crossent.cli.report import write_report

            write_report(report, data, model, watch, evaluation, stop)
            click.echo(f"\nWrote {report}. Open it in any browser.")


# Steps ------------------------------------------------------------------------------------------


def _is_sample(source: tuple[str, ...]) -> bool:
    from crossent.tables import SAMPLES

    return len(source) == 1 and source[0] in SAMPLES


def _train(
    data: Data, options: dict[str, Any], checkpoint: Checkpoint | None
) -> tuple[Model, Watch, str]:
    """Return the model, the course of its training, and why that stopped."""
    from sklearn.exceptions import ConvergenceWarning

    from crossent.cli.data import Encoded, learn_columns
    from crossent.model_file import Model
    from crossent.sklearn import CrossEntropyClassifier

    encoder = learn_columns(data)
    _introduce(data, encoder)
    batches: Any = Encoded(data, encoder)
    if data.tables.kept:
        batches = list(batches)
    classifier = CrossEntropyClassifier(**options)
    with (
        watching(_checking(data, encoder, classifier)) as watch,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.set_params(callback=watch)
        classifier.fit_batches(batches, data.classes, ranks=data.ranks, checkpoint=checkpoint)
    classifier.set_params(callback=None)
    said = [str(each.message) for each in caught if each.category is ConvergenceWarning]
    return Model(classifier, encoder, data.target), watch, [*said, classifier.stop_reason_][0]


def _checking(
    data: Data, encoder: TableEncoder, classifier: CrossEntropyClassifier
) -> Callable[[], float] | None:
    """Return what gives the loss of the rows kept back, if there are any in memory."""
    if not data.kept or not data.tables.kept or data.ranks.size > 1:
        return None
    chunks = [
        (encoder.transform(chunk.columns, row=chunk.row), data.classes[chunk.codes])
        for chunk in data.to_check()
    ]

    def loss() -> float:
        each = (len(labels) * classifier.cross_entropy(X, labels) for X, labels in chunks)
        return sum(each) / data.kept

    return loss


def _evaluate(data: Data, model: Model) -> Evaluation:
    from crossent.cli.evaluation import Evaluation

    assert model.encoder is not None
    labels = [str(label) for label in data.classes.tolist()]
    frequencies = (data.counts - data.keep) / data.learnt
    own: Evaluation | None = None
    for chunk in data.to_check():
        features = model.encoder.transform(chunk.columns, row=chunk.row)
        log_p = model.classifier.predict_log_proba(features)
        found = Evaluation.of(labels, frequencies, log_p, chunk.codes, chunk.numbers)
        own = found if own is None else own + found
    evaluation: Evaluation = data.ranks.scan(own)[1]
    return evaluation


# Words ------------------------------------------------------------------------------------------


def _introduce(data: Data, encoder: TableEncoder) -> None:
    from crossent import checks

    click.echo(
        f"{data.source}: {data.learnt + data.kept} rows, {len(data.columns)} columns to learn "
        f"{data.target!r} from; {data.learnt} rows are learnt, {data.kept} kept to check"
    )
    by_reason: dict[str, list[str]] = {}
    for name, reason in encoder.left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        click.echo(f"left out, as it {reason}: {checks.listed(names)}")
    click.echo(f"{len(encoder.feature_names)} features")


def _summarise(data: Data, model: Model, evaluation: Evaluation, stop: str) -> None:
    right = int(evaluation.right.sum())
    click.echo()
    head = f"{evaluation.count} {data.checked_kind}"
    output.losses(head, evaluation.loss, evaluation.baseline)
    click.echo(f"accuracy  {right / evaluation.count:.4f} ({right} of {evaluation.count})")
    click.echo(f"stopped   after {model.classifier.n_iter_} iterations: {stop}")
    click.echo(f"l2        {model.classifier.l2:g}\n")
    output.classes(evaluation.by_class())
    _print_worst(data, evaluation)


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
