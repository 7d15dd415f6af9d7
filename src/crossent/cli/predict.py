"""`crossent predict`: classes and probabilities for the rows of a table."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("table")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The file to write: .parquet, .csv or .feather.",
)
def predict(model: Path, table: str, out: Path) -> None:
    """Apply a saved model to a table.

    MODEL is what `crossent fit --out` has written, TABLE a file with the columns it was fitted on.
    Writes a column "class" and, for every class, its probability in a column "p_<class>".
    """
    import pyarrow as pa

    from crossent import files, model_file, tables

    files.check_results((model, table), {"--out": out})
    fitted = model_file.load(model)
    if fitted.encoder is None:
        raise ValueError(f"{model} was saved from an array; it names no columns to look for")
    rows = tables.read_table(table, fitted.encoder.text_columns)
    features = fitted.encoder.transform(rows)
    probabilities = fitted.classifier.predict_proba(features)
    labels = fitted.classifier.classes_
    columns = {"class": labels[probabilities.argmax(axis=1)]}
    columns |= {f"p_{label}": probabilities[:, j] for j, label in enumerate(labels)}
    tables.write_table(pa.table(columns), out)
    click.echo(f"Wrote {out}: {rows.num_rows} rows, {len(labels)} classes.")
