"""Columns of tables as features: what rows teach about them, and what is made of it.

Numbers, dates and truth values are standardised; a missing one becomes the mean and is flagged in
a column of its own. Text is one-hot encoded, missing being a value like any other. What the
training rows taught is a `Summary`, which adds up over any number of tables; what follows from it
is a record of numbers and strings: nothing is pickled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[Any]
Record = dict[str, Any]
Rows = Callable[[int], str]  # names a row of a table, for a message

INEXACT = 2.0**53  # from here on, a float stands for more than one whole number
LEAST_ROWS = 2  # with a text value, to give it a feature: one row alone teaches nothing general
MOST_WORDS = 1 << 17  # different ones of a column: more are counted no further
LARGEST = 1e100  # number of a column, in magnitude: sums of squares stay finite
DENSE_BYTES = 64 << 20  # up to here features are dense even if most of them are 0


class TableEncoder:
    """Turns columns into features, as a record says.

    Parameters
    ----------
    record : dict
        "numbers": names of columns, whether they hold dates, the value put in for a missing one,
        whether missing is flagged, and mean and scale of all resulting features. "text": for each
        column the values that have a feature, None for missing. Plain lists, numbers and strings
        throughout.

    Attributes
    ----------
    record : dict
        The same.
    left_out : dict of str to str
        Columns that `learnt` saw no use in, and why.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.left_out: dict[str, str] = {}
        numbers = record["numbers"]
        self._fill, self._flagged = np.array(numbers["fill"]), np.array(numbers["flagged"], bool)
        self._mean, self._scale = np.array(numbers["mean"]), np.array(numbers["scale"])
        self._dates = numbers.get("dates")  # an earlier record does not know
        self._words = {name: pa.array(each, pa.string()) for name, each in record["text"].items()}

    @classmethod
    def fit(cls, table: pa.Table) -> Self:
        """Learn the record from the columns of a table: what `learnt` makes of its summary."""
        return cls.learnt(Summary.of(table))

    @classmethod
    def learnt(cls, summary: Summary) -> Self:
        """Return the encoder that follows from a summary of the rows to learn from.

        Raises
        ------
        ValueError
            If no column is of use.
        """
        left_out = {
            name: why for name, each in summary.columns.items() if (why := _useless(name, each))
        }
        used = {name: each for name, each in summary.columns.items() if name not in left_out}
        if not used:
            reasons = "; ".join(f"{name!r} {why}" for name, why in left_out.items())
            raise ValueError(f"no column is left to learn from: {reasons or 'there is none'}")
        numbers = {name: each for name, each in used.items() if isinstance(each, Numbers)}
        text = {name: each.frequent() for name, each in used.items() if isinstance(each, Words)}
        encoder = cls({"numbers": _record_of(numbers), "text": text})
        encoder.left_out = left_out
        return encoder

    @property
    def text_columns(self) -> list[str]:
        """Return the names of the columns that are text."""
        return list(self.record["text"])

    @property
    def feature_names(self) -> list[str]:
        """Return what each feature is: "age", "age is missing", "colour = red"."""
        numbers = self.record["numbers"]
        flags = [
            name for name, flag in zip(numbers["names"], numbers["flagged"], strict=True) if flag
        ]
        words = [
            f"{name} is missing" if value is None else f"{name} = {value}"
            for name, values in self.record["text"].items()
            for value in values
        ]
        return [*numbers["names"], *(f"{name} is missing" for name in flags), *words]

    def transform(
        self, table: pa.Table, of_rows: int | None = None, row: Rows = "row {}".format
    ) -> Any:
        """Return the features of a table's rows: float64, dense or CSR.

        Parameters
        ----------
        of_rows : int, optional
            How many rows there are in all, if these are some of them: it decides for all alike
            whether features are dense.
        row : callable, optional
            Names a row for a message.

        Raises
        ------
        ValueError
            For a column that is missing, and one that was numbers and is text.
        """
        names = self.record["numbers"]["names"]
        missing = [name for name in (*names, *self._words) if name not in table.column_names]
        if missing:
            raise ValueError(
                f"the table has no column {', '.join(map(repr, missing))}, which the model needs; "
                f"it has {', '.join(map(repr, table.column_names))}"
            )
        words = [_positions(table[name], values) for name, values in self._words.items()]
        widths = list(map(len, self._words.values()))
        columns = len(self._mean) + sum(widths)
        if words and 8 * (of_rows or table.num_rows) * columns > DENSE_BYTES:
            numbers = self._put_numbers(table, np.empty((table.num_rows, len(self._mean))), row)
            return sparse.hstack([numbers, *map(_one_hot, words, widths)], format="csr")
        features = np.zeros((table.num_rows, columns))
        self._put_numbers(table, features[:, : len(self._mean)], row)
        for found, start in zip(words, np.cumsum([len(self._mean), *widths]), strict=False):
            rows = np.flatnonzero(found >= 0)
            features[rows, start + found[rows]] = 1.0
        return features

    def _put_numbers(self, table: pa.Table, features: Array, row: Rows) -> Array:
        """Write and return the features that are numbers, and the flags of missing ones."""
        flag = len(self._fill)
        for j, name in enumerate(self.record["numbers"]["names"]):
            if self._dates is not None:
                _check_kind(name, table[name].type, self._dates[j])
            values = _numbers(name, table[name], row)
            gaps = np.isnan(values)
            features[:, j] = values - self._mean[j]
            features[gaps, j] = self._fill[j] - self._mean[j]
            if self._flagged[j]:
                features[:, flag] = gaps
                features[:, flag] -= self._mean[flag]
                flag += 1
        features /= self._scale
        return features


def _check_kind(name: str, kind: pa.DataType, dates: bool) -> None:
    """Raise unless a column holds dates where the model was fitted on dates, else none."""
    if pa.types.is_temporal(kind) != dates and not (pa.types.is_null(kind) or _is_text(kind)):
        raise ValueError(
            f"column {name!r} has type {kind}; the model was fitted on "
            f"{'dates' if dates else 'plain numbers'} there"
        )


def _positions(column: pa.ChunkedArray, values: pa.Array) -> Array:
    """Return which of the values each text is, -1 if none."""
    found = pc.index_in(_text(column), values)
    return np.asarray(pc.fill_null(found, -1).to_numpy())


def _one_hot(positions: Array, width: int) -> Any:
    known = positions >= 0
    indptr = np.concatenate([[0], np.cumsum(known)])
    ones = np.ones(int(indptr[-1]))
    return sparse.csr_matrix((ones, positions[known], indptr), (len(positions), width))


# What rows teach --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """The numbers of a column: how many rows and how many known ones, and their moments.

    Dates are numbers, too, but are not mixed with others. `spread` is the sum of squared distances
    from the mean. Source of the addition: Chan, Golub and LeVeque, Updating formulae and a pairwise
    algorithm for computing sample variances (1979).
    """

    rows: int
    known: int
    mean: float
    spread: float
    low: float
    high: float
    dates: bool = False

    @classmethod
    def of(cls, values: Array, dates: bool = False) -> Self:
        """Return those of an array, NaN where missing."""
        known = values[~np.isnan(values)]
        if not known.size:
            return cls(len(values), 0, 0.0, 0.0, np.inf, -np.inf)
        mean = known.mean()
        spread = np.square(known - mean).sum()
        mean, spread, low, high = map(float, (mean, spread, known.min(), known.max()))
        return cls(len(values), len(known), mean, spread, low, high, dates)

    @property
    def kind(self) -> str:
        """Return what the column holds, empty if nothing is known of it."""
        return ("dates" if self.dates else "numbers") if self.known else ""

    def __add__(self, other: Numbers | Words) -> Numbers | Words:
        if isinstance(other, Words):
            return other + self
        known = self.known + other.known
        share = other.known / max(known, 1)
        away = other.mean - self.mean
        return Numbers(
            self.rows + other.rows,
            known,
            self.mean + share * away,
            self.spread + other.spread + self.known * share * away**2,
            min(self.low, other.low),
            max(self.high, other.high),
            self.dates or other.dates,
        )

    def scale(self) -> float:
        """Return the standard deviation once the mean is put in for what is missing; 1 for 0."""
        variance, epsilon = self.spread / self.rows, np.finfo(float).eps
        noise = self.rows * epsilon * variance + (self.rows * self.mean * epsilon) ** 2
        return float(np.sqrt(variance)) if variance > noise else 1.0


@dataclass(frozen=True)
class Words:
    """The values of a text column, None for missing: how often each occurs; None if too many."""

    rows: int
    counts: Counter[str | None] | None
    kind = "text"

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Self:
        """Return those of a column."""
        counts = _counts(_text(column))
        return cls(len(column), counts if len(counts) <= MOST_WORDS else None)

    def __add__(self, other: Numbers | Words) -> Words:
        if isinstance(other, Numbers):  # none of them known: the column of a table that has no type
            other = Words(other.rows, Counter({None: other.rows}))
        rows = self.rows + other.rows
        if self.counts is None or other.counts is None:
            return Words(rows, None)
        counts = self.counts + other.counts
        return Words(rows, counts if len(counts) <= MOST_WORDS else None)

    def frequent(self) -> list[str | None]:
        """Return the values that occur often enough, sorted, None last."""
        found = [value for value, count in (self.counts or {}).items() if count >= LEAST_ROWS]
        return sorted(found, key=lambda value: (value is None, value or ""))


@dataclass(frozen=True)
class Summary:
    """What rows teach about their columns; add up those of several tables.

    Attributes
    ----------
    columns : dict of str to Numbers or Words
        By name.
    """

    columns: dict[str, Numbers | Words]

    @classmethod
    def of(cls, table: pa.Table, row: Rows = "row {}".format) -> Self:
        """Return the summary of a table.

        Raises
        ------
        ValueError
            For a column that holds neither numbers nor text, and a number that is not finite.
        """
        names = table.column_names
        return cls({name: _summary_of(name, table[name], row) for name in names})

    def __add__(self, other: Summary) -> Summary:
        """Return the summary of the rows of both.

        Raises
        ------
        ValueError
            For a column that is text in one and numbers in the other, or dates.
        """
        for name, each in self.columns.items():
            kinds = each.kind, other.columns[name].kind
            if all(kinds) and kinds[0] != kinds[1]:
                raise ValueError(mixed(name, *kinds))
        columns = self.columns.items()
        return Summary({name: each + other.columns[name] for name, each in columns})


def mixed(name: str, one: str, other: str) -> str:
    """Return what is wrong with a column of two kinds."""
    return f"column {name!r} is {one} in some tables and {other} in others; it must be one of them"


def _summary_of(name: str, column: pa.ChunkedArray, row: Rows) -> Numbers | Words:
    if _is_text(column.type):
        return Words.of(column)
    return Numbers.of(_numbers(name, column, row), pa.types.is_temporal(column.type))


def _useless(name: str, column: Numbers | Words) -> str:
    """Return why nothing can be learnt from a column, empty if something can."""
    if not name:
        return "has no name"
    return _useless_numbers(column) if isinstance(column, Numbers) else _useless_words(column)


def _useless_numbers(column: Numbers) -> str:
    if not column.known:
        return "is empty"
    same = column.known == column.rows and column.low == column.high
    return f"is {column.low:g} in every row" if same else ""


def _useless_words(column: Words) -> str:
    if column.counts is None:
        return f"has more than {MOST_WORDS} different values"
    if column.counts[None] == column.rows:
        return "is empty"
    if len(column.counts) == 1:
        return f"is {next(iter(column.counts))!r} in every row"
    return "" if column.frequent() else "has another value in every row"


def _record_of(columns: dict[str, Numbers]) -> Record:
    flags = [each for each in columns.values() if each.known < each.rows]
    shares = [1 - each.known / each.rows for each in flags]
    return {
        "names": list(columns),
        "dates": [each.dates for each in columns.values()],
        "fill": [each.mean for each in columns.values()],
        "flagged": [each.known < each.rows for each in columns.values()],
        "mean": [*(each.mean for each in columns.values()), *shares],
        "scale": [
            *(each.scale() for each in columns.values()),
            *((share * (1 - share)) ** 0.5 for share in shares),
        ],
    }


# Targets ----------------------------------------------------------------------------------------


def labels_of(table: pa.Table, name: str, row: Rows = "row {}".format) -> Array:
    """Return a column as labels: text, integers, truth values, or floats that are whole.

    Raises
    ------
    ValueError
        If a label is missing, for fractions, and for columns of other types.
    """
    return np.asarray(_labels(name, table[name], row).to_numpy(zero_copy_only=False))


def label_counts(table: pa.Table, name: str, row: Rows = "row {}".format) -> Counter[Any]:
    """Return how often each label occurs in a column.

    Raises
    ------
    ValueError
        As `labels_of`.
    """
    return _counts(_labels(name, table[name], row))


def label_codes(table: pa.Table, name: str, classes: Array) -> Array:
    """Return the position of each label of a column in the classes."""
    column = table[name]
    if _is_text(column.type):
        return _positions(column, pa.array(classes.tolist(), pa.string()))
    return np.searchsorted(classes, labels_of(table, name))


def _labels(name: str, column: pa.ChunkedArray, row: Rows) -> pa.Array:
    """Return a column once every row of it is seen to have a label."""
    if _is_text(column.type):
        labels = _text(column)
    elif pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        labels = column.combine_chunks()
    elif pa.types.is_floating(column.type) or pa.types.is_null(column.type):
        labels = _whole(name, _numbers(name, column, row), row)
    else:
        raise ValueError(
            f"column {name!r} is the target and has type {column.type}; labels are text, integers, "
            "truth values or floats that are whole"
        )
    if labels.null_count:
        first = labels.is_null().index(True).as_py()
        raise ValueError(
            f"column {name!r} is the target and has no label in {row(first)} "
            f"(and {labels.null_count - 1} more); leave such rows out"
        )
    return labels


def _whole(name: str, values: Array, row: Rows) -> pa.Array:
    """Return floats that are whole, null where NaN."""
    fractions = values % 1 > 0
    if fractions.any():
        first = int(fractions.argmax())
        raise ValueError(
            f"column {name!r} holds fractions, such as {values[first]} in {row(first)}: an amount, "
            "not a class"
        )
    blurred = np.abs(values) >= INEXACT
    if blurred.any():
        first = int(blurred.argmax())
        raise ValueError(
            f"column {name!r} holds {values[first]} in {row(first)}; floats from 2**53 on, such as "
            "a CSV file's integers from 2**63 on become, stand for several labels; make text of it"
        )
    return pa.array(values + 0.0, from_pandas=True)  # + 0.0: one zero only


# Columns ----------------------------------------------------------------------------------------


def _counts(values: pa.Array) -> Counter[Any]:
    found = pc.value_counts(values)
    return Counter(dict(zip(*(field.to_pylist() for field in found.flatten()), strict=True)))


def _is_text(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_dictionary,
        )
    )


def _text(column: pa.ChunkedArray) -> pa.Array:
    text = column.cast(pa.string())
    return text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text


def _numbers(name: str, column: pa.ChunkedArray, row: Rows = "row {}".format) -> Array:
    if _is_text(column.type):
        value = column.drop_null()[0].as_py() if column.null_count < len(column) else None
        raise ValueError(
            f"column {name!r} is text, such as {value!r}; the model was fitted on numbers there"
        )
    try:
        if pa.types.is_temporal(column.type):
            column = pc.cast(column, _microseconds(column.type), safe=False).cast(pa.int64())
        values = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        raise ValueError(
            f"column {name!r} has type {column.type}; numbers, dates, truth values and text can "
            "be learnt from"
        ) from None
    large = np.abs(values) > LARGEST
    if large.any():
        first = int(large.argmax())
        raise ValueError(
            f"column {name!r} holds {values[first]} in {row(first)}; it must be finite, at most "
            f"{LARGEST:g} in magnitude"
        )
    return np.asarray(values)


def _microseconds(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_time(kind):
        return pa.time64("us")
    return pa.duration("us") if pa.types.is_duration(kind) else pa.timestamp("us")
