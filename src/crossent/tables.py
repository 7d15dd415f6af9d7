"""Tables: CSV, Parquet and Feather files, whole or batch by batch, and scikit-learn's samples."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import csv, feather, ipc, parquet

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
Stream = tuple["Part", Iterable[tuple[pa.RecordBatch, float]]]
WIDTHS = 16  # times as long as its header is at most a row of a CSV file that is very wide
BLOCK = 1 << 20  # bytes of a CSV file read at a time
BUFFER = 1 << 18  # bytes of a column of a Parquet file read at a time


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
    with _reading(path, samples=True) as kind:
        table = _without_views(_READ[kind](path, text_columns))
    _check_names(table.column_names, path)
    if table.num_rows == 0:
        raise ValueError(f"{path} has {table.num_columns} columns but no rows")
    return table


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table in the format of the suffix; an earlier file stays until all is written."""
    kind = _kind(path, "written")
    with replacing(path) as beside:
        if kind == "CSV":
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            csv.write_csv(table, beside, csv.WriteOptions(delimiter=delimiter))
        elif kind == "Parquet":
            parquet.write_table(table, beside)
        else:
            feather.write_feather(table, str(beside))


# Batch by batch ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Rows that can be read apart from all others: a row group of a Parquet file, or a whole file.

    Attributes
    ----------
    path : Path
        The file.
    schema : pyarrow.Schema
        The names and types of its columns; those of a CSV file are told from its first rows.
    group : int or None
        Which row group; None for other formats.
    start : int
        The number, in the file, of the first row.
    rows : int or None
        How many rows; None for a CSV file, whose rows are counted by reading them.
    size : int
        Bytes of the file that it takes, about: what progress is counted in.
    file : int
        Which of all files given, from 0.
    footer : pyarrow.parquet.FileMetaData or None
        Where in a Parquet file all groups lie: read once, not again for each group.
    """

    path: Path
    schema: pa.Schema
    group: int | None
    start: int
    rows: int | None
    size: int
    file: int = 0
    footer: parquet.FileMetaData | None = field(default=None, repr=False, compare=False)


class Batch(NamedTuple):
    """Some rows of a part.

    Attributes
    ----------
    part : Part
        Where they are from.
    start : int
        The number, in the file, of the first.
    data : pyarrow.RecordBatch
        The rows.
    done : float
        The share of the part that has been read, this batch included.
    """

    part: Part
    start: int
    data: pa.RecordBatch
    done: float

    def row(self, i: int) -> str:
        """Return the name of a row of the batch, for a message."""
        return f"row {self.start + i} of {self.part.path}"


def parts(
    sources: Iterable[str | Path], column_types: Mapping[str, pa.DataType] | None = None
) -> list[Part]:
    """Return what tables are made of, in the order given: each part can be read on its own.

    Parameters
    ----------
    sources : paths
        Files, directories (all tables under them, in the order of their names; names that begin
        with a dot or an underscore are left out) and patterns such as "run/*.parquet".
    column_types : mapping of name to pyarrow.DataType, optional
        Types of columns of CSV files; those of other files are what they are.

    Raises
    ------
    FileNotFoundError, ValueError
        For no such file, a directory without tables, a file that is none, and one given twice.
    """
    paths = [path for source in sources for path in _files_of(Path(source))]
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise ValueError(f"{path} is given {count} times; its rows would count as often")
    return [
        replace(part, file=file)
        for file, path in enumerate(paths)
        for part in _parts_of(path, column_types or {})
    ]


def common_schema(
    parts: Iterable[Part], columns: Collection[str] | None = None, types: bool = True
) -> pa.Schema:
    """Return the schema of the first part, once all others have the same columns of like types.

    Any numbers are alike, and so is any text. `columns` limits the comparison to some; without
    `types` only their names are compared.

    Raises
    ------
    ValueError
        Naming two files and the column they differ in.
    """
    first, *others = (next(group) for _, group in groupby(parts, key=lambda part: part.path))
    for other in others:
        for one, two in ((first, other), (other, first)):
            _compare(one, two, one.schema.names if columns is None else columns, types)
    schema: pa.Schema = first.schema
    return schema


def batches(
    parts: Iterable[Part],
    columns: Collection[str] | None = None,
    batch_rows: int = 1 << 16,
    column_types: Mapping[str, pa.DataType] | None = None,
    use_threads: bool = True,
) -> Iterator[Batch]:
    """Yield the rows of some parts in order, not more than `batch_rows` at a time.

    Memory holds a batch and what the readers read ahead, in small pieces: not a row group,
    not a file. A Feather file is read by the batches it was written in.

    Parameters
    ----------
    columns : names, optional
        The columns to read, in this order; all by default.
    column_types : mapping of name to pyarrow.DataType, optional
        Types of columns of CSV files, as given to `parts`. Without, a column has the type that its
        first rows have, and a later row that does not fit is an error.
    use_threads : bool
        Whether several threads may decode a batch of a Parquet file.
    """
    names = None if columns is None else list(columns)
    for path, of_file in groupby(parts, key=lambda part: part.path):
        with _reading(path) as kind:
            options = names, batch_rows, column_types or {}, use_threads
            for part, stream in _STREAM[kind](path, of_file, *options):
                start = part.start
                for given, done in stream:
                    data = _without_views(given)
                    for offset in range(0, data.num_rows, batch_rows):
                        yield Batch(part, start + offset, data.slice(offset, batch_rows), done)
                    start += data.num_rows


# Formats ----------------------------------------------------------------------------------------


def _kind(path: Path, done: str = "read", samples: bool = False) -> str:
    suffixes = path.suffixes[:-1] if path.suffix == ".gz" and done == "read" else path.suffixes
    kind = _KINDS.get(suffixes[-1].lower() if suffixes else "")
    if kind is None:
        names = f", or one of {', '.join(SAMPLES)}" if samples else ""
        known = ", ".join(_KINDS)
        raise ValueError(f"{path} cannot be {done}: the suffix must be one of {known}{names}")
    return kind


@contextmanager
def _reading(path: Path, samples: bool = False) -> Iterator[str]:
    """Give the format of a file; what goes wrong while it is read becomes a sentence."""
    kind = _kind(path, samples=samples)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        yield kind
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the file system's own errors name the file
            raise
        raise ValueError(f"{path} is no {kind} file that can be read: {error}") from error


def _files_of(source: Path) -> list[Path]:
    """Return the files that a path, a directory or a pattern stands for."""
    if source.is_dir():
        found = [path for path in sorted(source.rglob("*")) if _is_table(path, source)]
        if not found:
            raise FileNotFoundError(f"{source} is a directory that holds no table")
        return found
    if source.exists() or not glob.has_magic(str(source)):
        return [source]
    found = [Path(path) for path in sorted(glob.glob(str(source), recursive=True))]
    if not found:
        raise FileNotFoundError(f"{source}: no file has such a name")
    return found


def _is_table(path: Path, under: Path) -> bool:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    hidden = any(name.startswith((".", "_")) for name in path.relative_to(under).parts)
    return suffix.lower() in _KINDS and not hidden and path.is_file()


def _parts_of(path: Path, column_types: Mapping[str, pa.DataType]) -> list[Part]:
    with _reading(path) as kind:
        found = _PARTS[kind](path, column_types)
    _check_names(found[0].schema.names if found else [], path)
    return found


def _compare(one: Part, two: Part, columns: Collection[str], with_types: bool) -> None:
    """Raise ValueError if `two` lacks a column that `one` has, or has it of another kind."""
    for name in columns:
        here, there = (name in part.schema.names for part in (one, two))
        if here and not there:
            raise ValueError(f"{two.path} has no column {name!r}, which {one.path} has")
        if not (here and with_types):
            continue
        types = [part.schema.field(name).type for part in (one, two)]
        kinds = {kind_of(each) for each in types} - {"null"}
        if len(kinds) > 1:
            raise ValueError(
                f"column {name!r} is {types[0]} in {one.path} but {types[1]} in {two.path}"
            )


def kind_of(column: pa.DataType) -> str:
    """Return what a type is alike to: "number", "text", or its own name."""
    if pa.types.is_dictionary(column):
        return kind_of(column.value_type)
    if pa.types.is_integer(column) or pa.types.is_floating(column) or pa.types.is_decimal(column):
        return "number"
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return "text" if any(is_kind(column) for is_kind in texts) else str(column)


def _csv_options(path: Path, column_types: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """Return how to read a CSV file, once its first line has been looked at."""
    try:
        header = _first_line(path).decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is not UTF-8 text (see its first line); save it as UTF-8"
        ) from None
    if not header.strip():
        raise ValueError(f"{path} is empty")
    return {
        "read_options": csv.ReadOptions(block_size=max(BLOCK, WIDTHS * len(header))),
        "parse_options": csv.ParseOptions(delimiter=_delimiter(header), newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            null_values=MISSING, strings_can_be_null=True, column_types=dict(column_types)
        ),
    }


def _read_csv(path: Path, text_columns: Collection[str]) -> pa.Table:
    table = csv.read_csv(path, **_csv_options(path, dict.fromkeys(text_columns, pa.string())))
    _check_text(table.schema, path)
    return table


def _check_text(schema: pa.Schema, path: Path) -> None:
    for name, kind in zip(schema.names, schema.types, strict=True):
        if pa.types.is_binary(kind):
            raise ValueError(f"{path} is not UTF-8 text (see column {name!r}); save it as UTF-8")


def _csv_parts(path: Path, column_types: Mapping[str, pa.DataType]) -> list[Part]:
    with csv.open_csv(path, **_csv_options(path, column_types)) as reader:
        _check_text(reader.schema, path)
        return [Part(path, reader.schema, None, 0, None, path.stat().st_size)]


def _stream_csv(
    path: Path,
    parts: Iterable[Part],
    columns: list[str] | None,
    _: int,
    column_types: Mapping[str, pa.DataType],
    *__: object,
) -> Iterator[Stream]:
    options = _csv_options(path, column_types)
    options["convert_options"].include_columns = columns or []
    for part in parts:
        with (
            _csv_bytes(path) as (file, content),
            csv.open_csv(content, **options) as reader,
        ):
            yield part, ((batch, file.tell() / part.size) for batch in reader)


@contextmanager
def _csv_bytes(path: Path) -> Iterator[tuple[pa.NativeFile, pa.NativeFile]]:
    """Give a file, which tells how far it has been read, and its bytes, decompressed."""
    with pa.OSFile(str(path)) as file:
        content = pa.CompressedInputStream(file, "gzip") if path.suffix == ".gz" else file
        yield file, content


def _first_line(path: Path) -> bytes:
    """Return the first line that is not blank: those before are skipped."""
    with pa.input_stream(str(path), compression="detect") as stream:
        start = bytes(stream.read(1 << 20))
    return next((line for line in start.split(b"\n") if line.strip()), b"")


def _delimiter(header: str) -> str:
    """Return what separates the names of a header: the most frequent candidate outside quotes."""
    outside = "".join(header.split('"')[::2])
    return max(",;\t|", key=outside.count)


def _read_parquet(path: Path, _: Collection[str]) -> pa.Table:
    return parquet.read_table(path)


def _parquet_parts(path: Path, _: object) -> list[Part]:
    with parquet.ParquetFile(path) as file:
        footer = file.metadata
        rows = [footer.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = accumulate(rows, initial=0)
        size = path.stat().st_size / max(sum(rows), 1)
        return [
            Part(path, file.schema_arrow, group, start, count, round(size * count), 0, footer)
            for group, (start, count) in enumerate(zip(starts, rows, strict=False))
        ] or [Part(path, file.schema_arrow, None, 0, 0, 0)]


def _stream_parquet(
    path: Path,
    parts: Iterable[Part],
    columns: list[str] | None,
    batch_rows: int,
    _: object,
    use_threads: bool,
) -> Iterator[Stream]:
    for part in parts:
        groups = [] if part.group is None else [part.group]
        with parquet.ParquetFile(
            path, metadata=part.footer, buffer_size=BUFFER, pre_buffer=False
        ) as file:
            names = file.schema_arrow.names if columns is None else columns
            stream = file.iter_batches(batch_rows, groups, names, use_threads)
            yield part, _with_share(stream, part, names)  # it keeps the file's order of columns


def _read_feather(path: Path, _: Collection[str]) -> pa.Table:
    return _validated(feather.read_table(str(path)))


def _feather_parts(path: Path, _: object) -> list[Part]:
    with pa.OSFile(str(path)) as file, ipc.open_file(file) as reader:
        size = path.stat().st_size
        return [Part(path, reader.schema, None, 0, reader.count_rows(), size)]


def _stream_feather(
    path: Path, parts: Iterable[Part], columns: list[str] | None, *_: object
) -> Iterator[Stream]:
    for part in parts:
        names = part.schema.names if columns is None else columns
        wanted = ipc.IpcReadOptions(included_fields=[part.schema.names.index(n) for n in names])
        with pa.OSFile(str(path)) as file, ipc.open_file(file, options=wanted) as reader:
            found = map(reader.get_batch, range(reader.num_record_batches))
            yield part, _with_share(map(_validated, found), part, names)


def _validated(data: Any) -> Any:
    """Return a table or batch of a Feather file once its text is seen to lie within it.

    The reader takes what the file says of that as given; a place beyond it would end the process.
    """
    data.validate(full=True)
    return data


def _without_views(data: Any) -> Any:
    """Return a table or batch whose text is plain: of views Arrow cannot yet take some rows."""
    names = [field.name for field in data.schema if pa.types.is_string_view(field.type)]
    for name in names:
        place = data.schema.get_field_index(name)
        data = data.set_column(place, name, data.column(place).cast(pa.string()))
    return data


def _with_share(
    stream: Iterable[pa.RecordBatch], part: Part, names: list[str]
) -> Iterator[tuple[pa.RecordBatch, float]]:
    """Yield batches with their columns in order, and the share of the part read so far."""
    rows = 0
    for batch in stream:
        rows += batch.num_rows
        yield batch.select(names), rows / max(part.rows or 0, 1)


_READ = {"CSV": _read_csv, "Parquet": _read_parquet, "Feather": _read_feather}
_PARTS = {"CSV": _csv_parts, "Parquet": _parquet_parts, "Feather": _feather_parts}
_STREAM: dict[str, Callable[..., Iterator[Stream]]] = {
    "CSV": _stream_csv,
    "Parquet": _stream_parquet,
    "Feather": _stream_feather,
}


def _check_names(names: list[str], path: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise ValueError(f"{path} has more than one column {twice[0]!r}; names must differ")


# Sample data ------------------------------------------------------------------------------------


def _sample(name: str) -> pa.Table:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    labels = bunch.target if name == "digits" else bunch.target_names[bunch.target].astype(str)
    columns = {str(key): bunch.data[:, j] for j, key in enumerate(bunch.feature_names)}
    return pa.table({**columns, SAMPLE_TARGET: labels})
