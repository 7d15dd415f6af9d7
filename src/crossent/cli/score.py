"""`crossent score`: how good the predictions in tables are, however long the tables."""

from __future__ import annotations

import csv
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossent.cli import output

if TYPE_CHECKING:
    from crossent.distributed import Alone
    from crossent.predictions import Predictions
    from crossent.scoring import Scoring
    from crossent.sums import ScoreSums
    from crossent.tables import Part


@click.command()
@click.argument("table", nargs=-1, required=True)
@click.option("--target", required=True, help="The column of the labels.")
@click.option("--probabilities", metavar="COLUMNS", help="Columns of probabilities, as 'p_*'.")
@click.option("--logits", metavar="COLUMNS", help="Columns of scores, as 'z_*'.")
@click.option("--labels", help="The classes in the order of the columns, separated by commas.")
@click.option("--weight", metavar="NAME", help="The column of the rows' weights.")
@click.option("--ignore-missing", is_flag=True, help="Leave out rows without a label.")
@click.option("--renormalize", is_flag=True, help="Divide probabilities by their sum.")
@click.option(
    "--clip",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Let no probability cost more than this one.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="The largest k of the top-k accuracies.",
)
@click.option(
    "--bins",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="Bins of the expected calibration error.",
)
@output.json_option
@output.report_option
def score(
    table: tuple[str, ...],
    target: str,
    probabilities: str | None,
    logits: str | None,
    labels: str | None,
    weight: str | None,
    ignore_missing: bool,
    as_json: bool,
    report: Path | None,
    **options: Any,
) -> None:
    """Score predictions by their cross-entropy.

    TABLE is a CSV, Parquet or Feather file, a directory of them, or a pattern; there may be any
    number. COLUMNS is a pattern whose * stands for the label, or one column: of fixed-size lists,
    or of numbers for the second of two classes.

    Under torchrun the rows are shared out among its processes.
    """
    from crossent import files, tables
    from crossent.cli.ranks import joined
    from crossent.predictions import Predictions
    from crossent.scoring import Scoring

    with joined() as ranks:
        if ranks.rank == 0:
            files.check_results(table, {"--report": report})
        if (probabilities is None) == (logits is None):
            raise ValueError(
                "give --probabilities or --logits, one of them: what columns hold is not guessed"
            )
        outputs = "logits" if probabilities is None else "probabilities"
        rule = Scoring(outputs, **options)
        parts = tables.parts(table)
        predictions = Predictions.found_in(
            parts,
            outputs,
            probabilities or logits or "",
            target,
            None if labels is None else next(csv.reader([labels])),
            weight,
            ignore_missing,
        )
        scored = _score(parts, predictions, rule, ranks)
        if ranks.rank == 0:
            _tell(scored, as_json, report)


def _tell(scored: Scored, as_json: bool, report: Path | None) -> None:
    """Write the report, and print what came out."""
    if report is not None:
        from crossent.cli.score_report import write_report

        write_report(report, scored)
    if as_json:
        click.echo(json.dumps(scored.as_json(), indent=1, allow_nan=False))
        return
    _print(scored)
    if report is not None:
        click.echo(f"\nWrote {report}. Open it in any browser.")


@dataclass(frozen=True)
class Scored:
    """What was scored, how, and what came out."""

    parts: list[Part]
    predictions: Predictions
    rule: Scoring
    sums: ScoreSums
    seconds: float

    @property
    def files(self) -> list[str]:
        """Return the files, in order."""
        return list(dict.fromkeys(str(part.path) for part in self.parts))

    @property
    def source(self) -> str:
        """Return the file, or how many there are."""
        return self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"

    @property
    def numbers(self) -> list[tuple[str, float]]:
        """Return what is a single number, by name."""
        sums = self.sums
        return [
            ("perplexity", sums.perplexity),
            ("accuracy", sums.accuracy),
            *((f"top-{k} accuracy", share) for k, share in self.top_accuracy.items()),
            ("expected calibration error", sums.calibration_error),
            ("Brier score", sums.brier),
        ]

    @property
    def top_accuracy(self) -> dict[int, float]:
        """Return the top-k accuracies that say something: more than 1 of more than k classes."""
        shares = self.sums.top_accuracy.tolist()
        return {k: shares[k - 1] for k in range(2, min(len(shares) + 1, self.sums.classes))}

    @property
    def by_class(self) -> list[tuple[str, int, float, float]]:
        """Return label, rows, mean loss and accuracy of each class that has rows."""
        sums = self.sums
        columns = (sums.class_rows, sums.class_loss, sums.class_accuracy)
        rows = zip(self.predictions.labels, *(column.tolist() for column in columns), strict=True)
        return [row for row in rows if row[1]]

    @property
    def infinite_rows(self) -> list[tuple[str, int]]:
        """Return file and row of the first rows whose loss is infinite."""
        return [(self.files[source], row) for source, row in self.sums.infinite_rows]

    @property
    def remarks(self) -> list[str]:
        """Return what must be known to read the numbers."""
        found = []
        if self.rule.clip:
            found.append(
                f"a probability below {self.rule.clip:g} costs as much as {self.rule.clip:g}"
            )
        if self.rule.renormalize:
            found.append("probabilities were divided by their sum")
        if self.predictions.weight is not None:
            found.append(f"rows are weighted by {self.predictions.weight!r}")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return everything; None where a number is infinite or there is none."""
        sums, rule = self.sums, self.rule
        classes = [
            dict(zip(("label", "rows", "nats", "accuracy"), c, strict=True)) for c in self.by_class
        ]
        bins = [
            dict(zip(("confidence", "accuracy", "weight"), b, strict=True))
            for b in sums.reliability
        ]
        found: dict[str, Any] = {
            "files": self.files,
            "outputs": rule.outputs,
            "columns": list(self.predictions.columns),
            "target": self.predictions.target,
            "weight": self.predictions.weight,
            "clip": rule.clip,
            "renormalize": rule.renormalize,
            "rows_read": sums.rows + sums.ignored,
            "rows": sums.rows,
            "ignored": sums.ignored,
            "infinite": sums.infinite,
            "infinite_rows": [{"file": file, "row": row} for file, row in self.infinite_rows],
            "nats": sums.loss,
            "bits": sums.bits,
            "baseline_nats": sums.baseline,
            "perplexity": sums.perplexity,
            "accuracy": sums.accuracy,
            "top_accuracy": self.top_accuracy,
            "calibration_error": sums.calibration_error,
            "brier": sums.brier,
            "classes": classes,
            "reliability": bins,
            "seconds": self.seconds,
            "rows_per_second": (sums.rows + sums.ignored) / self.seconds,
        }
        return {name: _finite(value) for name, value in found.items()}


def _finite(value: Any) -> Any:
    """Return the same with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _score(parts: list[Part], predictions: Predictions, rule: Scoring, ranks: Alone) -> Scored:
    from crossent.cli.progress import reading
    from crossent.cli.ranks import shared
    from crossent.predictions import score_parts

    began = time.perf_counter()
    own = shared(parts, ranks)
    with reading(own, shown=ranks.rank == 0) as watch:
        sums: ScoreSums = ranks.scan(score_parts(own, predictions, rule, watch))[1]
    seconds = time.perf_counter() - began
    if not sums.rows:
        raise ValueError(f"{parts[0].path} has no row that takes part; {sums.ignored} are ignored")
    predictions.check_every_class_has_rows(sums)
    return Scored(parts, predictions, rule, sums, seconds)


# Words ------------------------------------------------------------------------------------------


def _print(scored: Scored) -> None:
    sums = scored.sums
    read = sums.rows + sums.ignored
    click.echo(
        f"{scored.source}: {read} rows read, {sums.ignored} ignored, {sums.infinite} infinite; "
        f"{read / scored.seconds:.3g} rows per second"
    )
    for remark in scored.remarks:
        click.echo(remark)
    click.echo()
    output.losses(scored.rule.outputs, sums.loss, sums.baseline)
    width = max(len(name) for name, _ in scored.numbers)
    for name, value in scored.numbers:
        click.echo(f"{name:{width}}  {value:.4f}")
    click.echo()
    output.classes(scored.by_class)
    if sums.infinite:
        click.echo(f"\n{infinite_rows(scored)}")


def infinite_rows(scored: Scored) -> str:
    """Return which rows have an infinite loss, in a sentence."""
    places = ", ".join(f"row {row} of {file}" for file, row in scored.infinite_rows)
    more = scored.sums.infinite - len(scored.infinite_rows)
    return (
        f"infinite, as what happened had probability 0: {places}"
        f"{f' and {more} more' if more else ''} (the first row is 0; --clip makes them finite)"
    )
