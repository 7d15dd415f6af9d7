"""Tables: CSV, Parquet and Feather files, and scikit-learn's sample data, as pyarrow tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, feather, parquet

from crossent.files import replacing

SAMPLES = ("digits", "iris", "wine", "breast_cancer")
SAMPLE_TARGET = "target"
MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", "?"]
_KINDS = {
    ".csv": "CSV",
    ".tsv": "CSV",
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".feather": "Feather",
    ".arrow": "Feather",
}


def read_table(source: str | Path, text_columns: Collection[str] = ()) -> pa.Table:
    """Read a table.

    Parameters
    ----------
    source : path, or one of SAMPLES
        The suffix tells the format: .csv and .tsv (.gz too), .parquet, .pq, .feather, .arrow. A
        CSV file has a header; comma, semicolon, tab or bar between its fields is found out, and
        the words in MISSING mean a missing value.
    text_columns : names
        Columns of a CSV file that are text even if they look like numbers.

    Raises
    ------
    FileNotFoundError, ValueError
        For no such file, one that is no table, one without rows, and column names used twice.

    Examples
    --------
    >>> from crossent.tables import read_table
    >>> read_table("iris").num_rows
    150
    """
    if str(source) in SAMPLES:
        return _sample(str(source))
    path = Path(source)
    kind = _kind(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        table = _READ[kind](path, text_columns)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the file system's own errors name the file
            raise
        raise ValueError(f"{path} is no {kind} file that can be read: {error}") from error
    _check(table, path)
    return table


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table in the format of the suffix; an earlier file stays until all is written."""
    kind = _kind(path, "written")
    with replacing(path) as beside:
        if kind == "CSV":
            delimiter = "\t" if path.suffix == ".tsv" else ","
            csv.write_csv(table, beside, csv.WriteOptions(delimiter=delimiter))
        elif kind == "Parquet":
            parquet.write_table(table, beside)
        else:
            feather.write_feather(table, str(beside))


# Formats ----------------------------------------------------------------------------------------


def _kind(path: Path, done: str = "read") -> str:
    suffixes = path.suffixes[:-1] if path.suffix == ".gz" and done == "read" else path.suffixes
    kind = _KINDS.get(suffixes[-1].lower() if suffixes else "")
    if kind is None:
        names = f", or one of {', '.join(SAMPLES)}" if done == "read" else ""
        known = ", ".join(_KINDS)
        raise ValueError(f"{path} cannot be {done}: the suffix must be one of {known}{names}")
    return kind


def _read_csv(path: Path, text_columns: Collection[str]) -> pa.Table:
    try:
        header = _first_line(path).decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is not UTF-8 text (see its first line); save it as UTF-8"
        ) from None
    if not header.strip():
        raise ValueError(f"{path} is empty")
    table = csv.read_csv(
        path,
        parse_options=csv.ParseOptions(delimiter=_delimiter(header), newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            null_values=MISSING,
            strings_can_be_null=True,
            column_types=dict.fromkeys(text_columns, pa.string()),
        ),
    )
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if pa.types.is_binary(kind):
            raise ValueError(f"{path} is not UTF-8 text (see column {name!r}); save it as UTF-8")
    return table


def _first_line(path: Path) -> bytes:
    with pa.input_stream(str(path), compression="detect") as stream:
        start = bytes(stream.read(1 << 20))
    return start.split(b"\n", 1)[0]


def _delimiter(header: str) -> str:
    """Return what separates the names of a header: the most frequent candidate outside quotes."""
    outside = "".join(header.split('"')[::2])
    return max(",;\t|", key=outside.count)


def _read_parquet(path: Path, _: Collection[str]) -> pa.Table:
    return parquet.read_table(path)


def _read_feather(path: Path, _: Collection[str]) -> pa.Table:
    return feather.read_table(str(path))


_READ = {"CSV": _read_csv, "Parquet": _read_parquet, "Feather": _read_feather}


def _check(table: pa.Table, path: Path) -> None:
    twice = [name for name, count in Counter(table.column_names).items() if count > 1 and name]
    if twice:
        raise ValueError(f"{path} has more than one column {twice[0]!r}; names must differ")
    if table.num_rows == 0:
        raise ValueError(f"{path} has {table.num_columns} columns but no rows")


# Sample data ------------------------------------------------------------------------------------


def _sample(name: str) -> pa.Table:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    labels = bunch.target if name == "digits" else bunch.target_names[bunch.target].astype(str)
    columns = {str(key): bunch.data[:, j] for j, key in enumerate(bunch.feature_names)}
    return pa.table({**columns, SAMPLE_TARGET: labels})
