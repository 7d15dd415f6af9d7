"""Predictions in tables: which columns hold what, and which class each label stands for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from threading import Event, Lock

import numpy as np
import pyarrow as pa

from crossent import checks, tables
from crossent.kernels import score as kernels
from crossent.layout import Array, writable
from crossent.scoring import NO_WEIGHT, Rows, Scoring, rows_in_piece, second_of_two
from crossent.sums import ScoreSums
from crossent.threads import get_num_threads

MOST_ROWS = 1 << 18  # in a batch
MOST_PARTS = 2  # side by side: each holds a batch and its reader's memory; threads share the work
WIDEST = 1 << 16  # span of whole numbers that are looked up in a table


def score_parts(
    parts: Iterable[tables.Part],
    predictions: Predictions,
    rule: Scoring,
    watch: Callable[[tables.Batch], object] = lambda batch: None,
) -> ScoreSums:
    """Return the sums over some parts of tables; those of all parts add up to the whole.

    As many parts as there are threads, but not more than MOST_PARTS, are read and judged side by
    side, and threads beyond that help each of them. The bits are the same with any number.

    Parameters
    ----------
    parts : parts of `tables.parts`
        In any number and order: each process may take its own.
    predictions : Predictions
        Which columns hold what.
    rule : Scoring
        How they are judged.
    watch : callable
        Called with each batch once it has been judged: by several threads, one at a time.

    Raises
    ------
    ValueError
        Naming file and row of the first bad one, for a label without a column, a missing label,
        a probability outside [0, 1], a row that does not sum to 1, a bad weight, a bad file.
    """
    zero, wanted = rule.zero(len(predictions.labels)), list(predictions.wanted)
    rows = min(rows_in_piece(len(predictions.labels)), MOST_ROWS)
    parts = list(parts)
    at_once = max(min(get_num_threads(), MOST_PARTS, len(parts)), 1)
    threads = get_num_threads() // at_once  # of each
    over, watching = Event(), Lock()

    def judged(part: tables.Part) -> ScoreSums:
        total = zero
        for batch in tables.batches([part], wanted, rows, predictions.column_types, threads > 1):
            if over.is_set():
                break
            total += rule.sums(predictions.of(batch), threads)
            with watching:
                watch(batch)
        return total

    with ThreadPoolExecutor(at_once, "crossent-part") as pool:
        try:
            return sum(pool.map(judged, parts), zero)
        finally:  # what is wrong with a part is raised in the order of the parts; none goes on
            over.set()


@dataclass(frozen=True)
class Predictions:
    """What the columns of some tables are.

    Attributes
    ----------
    outputs : {"probabilities", "logits"}
    columns : tuple of str
        One for each class in order; or one of fixed-size lists; or one of numbers, for the second
        of two classes.
    labels : tuple of str
        The classes.
    target : str
        The column of the labels.
    weight : str or None
        The column of the rows' weights.
    ignore_missing : bool
        Whether rows without a label take no part; else they are an error.
    named : bool
        Whether the classes were read off the names of the columns.
    """

    outputs: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    target: str
    weight: str | None = None
    ignore_missing: bool = False
    named: bool = False

    @classmethod
    def found_in(
        cls,
        parts: Sequence[tables.Part],
        outputs: str,
        pattern: str,
        target: str,
        labels: Sequence[str] | None = None,
        weight: str | None = None,
        ignore_missing: bool = False,
    ) -> Predictions:
        """Return what the columns are, once all tables are found to have them.

        A pattern with one * stands for all columns that fit, apart from target and weight; what
        the * stands for is the label. A name without * is one column.

        Raises
        ------
        ValueError
            For a column that is not there or holds no numbers, labels that do not fit the
            columns, and tables that differ, naming two of them and the column.
        """
        others = [target] if weight is None else [target, weight]
        schema = parts[0].schema
        for option, name in zip(("target", "weight"), others, strict=False):
            _require(option, name, name in schema.names, parts[0])
        columns = _matching(parts, outputs, pattern, others)
        tables.common_schema(parts, [*columns, *others[1:]])
        tables.common_schema(parts, [target], types=False)
        classes = _number_of_classes(parts[0], columns)
        named = labels is None and len(columns) > 1
        if named:
            labels = [_between_fixed_parts(pattern, column) for column in columns]
        names = tuple(map(str, range(classes) if labels is None else labels))
        _check_labels(names, classes, columns, pattern)
        return cls(outputs, tuple(columns), names, target, weight, ignore_missing, named)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Return all columns that are read."""
        names = (*self.columns, self.target, *([] if self.weight is None else [self.weight]))
        return tuple(dict.fromkeys(names))

    @property
    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return the types of the columns in a CSV file."""
        numbers = dict.fromkeys(self.wanted, pa.float64())
        return numbers | {self.target: pa.string()}

    def check_every_class_has_rows(self, sums: ScoreSums) -> None:
        """Raise ValueError for a column whose class is no label of any row."""
        empty = np.flatnonzero(sums.class_rows == 0).tolist() if self.named and sums.rows else []
        if empty:
            raise ValueError(
                f"column {self.columns[empty[0]]!r} is for the label {self.labels[empty[0]]!r}, "
                f"which no row has (and {len(empty) - 1} more columns); if that is right, name "
                "all labels in the order of the columns"
            )

    def of(self, batch: tables.Batch) -> Rows:
        """Return the rows of a batch as they are judged."""
        predictions, tolerance = self._numbers(batch)
        label_column = batch.data[self.target]
        keys, low, codes = self._classes.keys_of(label_column, self.ignore_missing)
        return Rows(
            predictions,
            keys,
            low,
            codes,
            self._weights(batch),
            tolerance,
            batch.part.file,
            batch.start,
            batch.row,
            lambda j: repr(self.columns[min(j, len(self.columns) - 1)]),
            lambda i: label_column[i].as_py(),
            f"one of {checks.listed(self.labels)}",
        )

    def _numbers(self, batch: tables.Batch) -> tuple[Array | list[Array], float]:
        """Return the predictions, and how far from 1 a row may sum."""
        arrays = [batch.data[name] for name in self.columns]
        if pa.types.is_fixed_size_list(arrays[0].type):
            rows = _rows_of(arrays[0])
            return writable(_common_type([rows])[0]), checks.sum_tolerance(rows.dtype.name)
        columns = [_numbers_of(array) for array in arrays]
        tolerance = max(checks.sum_tolerance(column.dtype.name) for column in columns)
        if len(columns) == 1:
            return second_of_two(columns[0], self.outputs), tolerance
        return _common_type(columns), tolerance

    def _weights(self, batch: tables.Batch) -> Array:
        if self.weight is None:
            return NO_WEIGHT
        weights = np.array(_numbers_of(batch.data[self.weight]), np.float64)
        wrong = ~((weights >= 0) & (weights < np.inf))
        if wrong.any():
            i = int(wrong.argmax())
            raise ValueError(
                f"{self.weight!r} of {batch.row(i)} is {weights[i]}; a weight must be finite, >= 0"
            )
        return weights

    @cached_property
    def _classes(self) -> Classes:
        return Classes(self.labels)


# Columns ----------------------------------------------------------------------------------------


def _require(option: str, name: str, there: bool, part: tables.Part) -> None:
    if not there:
        raise ValueError(
            f"{option} is {name!r}; {part.path} has no such column but "
            f"{checks.listed(part.schema.names)}"
        )


def _matching(
    parts: Sequence[tables.Part], outputs: str, pattern: str, others: Sequence[str]
) -> list[str]:
    """Return the columns that fit the pattern in any of the tables, in order."""
    if pattern.count("*") > 1:
        raise ValueError(f"{outputs} is {pattern!r}; it must hold one *, or none")
    before, star, after = pattern.partition("*")
    if not star:
        _require(outputs, pattern, pattern in parts[0].schema.names, parts[0])
        return [pattern]
    fits = re.compile(f"{re.escape(before)}.*{re.escape(after)}", re.DOTALL).fullmatch
    files = [next(group) for _, group in groupby(parts, key=lambda part: part.path)]
    names = dict.fromkeys(name for part in files for name in part.schema.names)
    columns = [name for name in names if fits(name) and name not in others]
    _require(outputs, pattern, bool(columns), parts[0])
    return columns


def _between_fixed_parts(pattern: str, column: str) -> str:
    before, _, after = pattern.partition("*")
    return column[len(before) : len(column) - len(after)]


def _number_of_classes(part: tables.Part, columns: Sequence[str]) -> int:
    """Return how many classes the columns are for; they must hold numbers, or one lists."""
    kinds = [part.schema.field(name).type for name in columns]
    if len(columns) == 1 and pa.types.is_fixed_size_list(kinds[0]):
        size, kinds = kinds[0].list_size, [kinds[0].value_type]
    else:
        size = max(len(columns), 2)
    for name, kind in zip(columns, kinds, strict=True):
        if tables.kind_of(kind) not in ("number", "null"):
            raise ValueError(
                f"column {name!r} of {part.path} is {part.schema.field(name).type}; it must hold "
                "numbers, or be the only one and hold fixed-size lists of numbers"
            )
    return int(size)


def _check_labels(
    labels: Sequence[str], classes: int, columns: Sequence[str], pattern: str
) -> None:
    if len(labels) != classes:
        raise ValueError(
            f"{len(labels)} labels are given, {checks.listed(labels)}, but the columns are for "
            f"{classes} classes: {checks.listed(columns)}"
        )
    if "" in labels:
        column = columns[min(labels.index(""), len(columns) - 1)]
        raise ValueError(f"column {column!r} fits {pattern!r}, but names no label")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ValueError(f"the label {twice[0]!r} is given twice")


def _numbers_of(column: pa.Array) -> Array:
    """Return a column of numbers as floats, NaN where one is missing."""
    if not pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _rows_of(column: pa.Array) -> Array:
    """Return a column of fixed-size lists as (n, C), NaN where one is missing."""
    given = _numbers_of(column.flatten()).reshape(-1, column.type.list_size)
    if not column.null_count:
        return given
    rows = np.full((len(column), column.type.list_size), np.nan, given.dtype)
    rows[~column.is_null().to_numpy(zero_copy_only=False)] = given
    return rows


def _common_type(columns: list[Array]) -> list[Array]:
    """Return all in float64 if one is, else in float32."""
    wide = any(column.dtype == np.float64 for column in columns)
    dtype = np.float64 if wide else np.float32
    return [np.ascontiguousarray(column, dtype) for column in columns]


# Labels -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classes:
    """Labels of any type, looked up by name: 1, 1.0 and "1" are one label, True and "true" too.

    Where that would make one of two of the names, labels are compared letter by letter.
    """

    labels: tuple[str, ...]

    def keys_of(self, column: pa.Array, ignore_missing: bool) -> tuple[Array, int, Array]:
        """Return keys, low and codes as `Rows` has them."""
        if pa.types.is_signed_integer(column.type) and self._table and not column.null_count:
            return writable(column.cast(pa.int64()).to_numpy()), *self._table
        missing = -(kernels.IGNORED if ignore_missing else kernels.MISSING)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        names = column.dictionary.to_pylist()
        codes = [missing if _is_missing(name) else self._code(name) for name in names]
        keys = column.indices.cast(pa.int64()).fill_null(len(codes)).to_numpy()
        return writable(keys), 0, np.array([*codes, missing], np.int32)

    def _code(self, label: object) -> int:
        return self._codes.get(self._name(label), -kernels.UNKNOWN)

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {self._name(label): code for code, label in enumerate(self.labels)}

    @cached_property
    def _name(self) -> Callable[[object], str]:
        alike = len({_plain(label) for label in self.labels}) < len(self.labels)
        return str if alike else _plain

    @cached_property
    def _table(self) -> tuple[int, Array] | None:
        """Return the least label and the codes from there on, if all are whole numbers."""
        if self._name is str:  # labels that only their letters tell apart
            return None
        numbers = [int(name) for name in self._codes if re.fullmatch(r"-?\d+", name)]
        if len(numbers) < len(self.labels) or max(numbers) - min(numbers) >= WIDEST:
            return None
        if max(map(abs, numbers)) >= 2**63:  # no integer of a column is
            return None
        codes = np.full(max(numbers) - min(numbers) + 1, -kernels.UNKNOWN, np.int32)
        codes[np.array(numbers) - min(numbers)] = np.arange(len(numbers))
        return min(numbers), codes


def _is_missing(label: object) -> bool:
    return label is None or label != label


def _plain(label: object) -> str:
    """Return a label's name, the same for a whole number however it is written."""
    text = str(label)
    whole = re.fullmatch(r"([+-]?\d+)(\.0*)?", text)
    if whole:
        return str(int(whole[1]))
    return text.lower() if text in ("True", "False") else text
