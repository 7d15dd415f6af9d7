"""Columns of a table as features: scikit-learn's imputer, scaler and encoder, as plain numbers.

Numbers, dates and truth values are standardised; a missing one becomes the mean and is flagged in
a column of its own. Text is one-hot encoded, missing being a value like any other. What the
training rows taught is a record of numbers and strings, from which the same transformers are made
again: nothing is pickled.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

Array = NDArray[Any]
Record = dict[str, Any]

LEAST_ROWS = 2  # with a text value, to give it a feature: one row alone teaches nothing general
DENSE_BYTES = 64 << 20  # up to here features are dense even if most of them are 0


class TableEncoder:
    """Turns columns into features, as a record says.

    Parameters
    ----------
    record : dict
        "numbers": names of columns, the value put in for a missing one, whether missing is
        flagged, and mean and scale of all resulting features. "text": for each column the values
        that have a feature, None for missing. Plain lists, numbers and strings throughout.

    Attributes
    ----------
    record : dict
        The same.
    left_out : dict of str to str
        Columns that `fit` saw no use in, and why.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.left_out: dict[str, str] = {}
        self._numbers = _scaler_from(record["numbers"])
        self._text = _one_hot_from(list(record["text"].values()))

    @classmethod
    def fit(cls, table: pa.Table) -> Self:
        """Learn the record from the columns of a table.

        Raises
        ------
        ValueError
            For a column that holds neither numbers nor text, a number that is not finite, and if
            no column is of use.
        """
        columns = {name: _values(name, table[name]) for name in table.column_names}
        left_out = {
            name: why for name, values in columns.items() if (why := _useless(name, values))
        }
        used = {name: values for name, values in columns.items() if name not in left_out}
        if not used:
            reasons = "; ".join(f"{name!r} {why}" for name, why in left_out.items())
            raise ValueError(f"no column is left to learn from: {reasons or 'there is none'}")
        numbers = {name: values for name, values in used.items() if values.dtype != object}
        text = {name: _frequent(values) for name, values in used.items() if values.dtype == object}
        encoder = cls({"numbers": _learn_numbers(numbers), "text": text})
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

    def transform(self, table: pa.Table) -> Any:
        """Return the features of a table's rows: float64, dense or CSR.

        Raises
        ------
        ValueError
            For a column that is missing, and one that was numbers and is text.
        """
        numbers, text = self.record["numbers"]["names"], self.text_columns
        missing = [name for name in (*numbers, *text) if name not in table.column_names]
        if missing:
            raise ValueError(
                f"the table has no column {', '.join(map(repr, missing))}, which the model needs; "
                f"it has {', '.join(map(repr, table.column_names))}"
            )
        parts = []
        if self._numbers is not None:
            columns = [_numbers(name, table[name]) for name in numbers]
            parts.append(self._numbers.transform(np.column_stack(columns)))
        if self._text is not None:
            words = np.column_stack([_words(table[name]) for name in text])
            parts.append(self._text.transform(words))
        return _side_by_side(parts)


def _side_by_side(parts: list[Any]) -> Any:
    """Return features in one matrix, sparse only where dense would be large and mostly 0."""
    rows, columns = parts[0].shape[0], sum(part.shape[1] for part in parts)
    if 8 * rows * columns > DENSE_BYTES and any(map(sparse.issparse, parts)):
        return sparse.hstack(parts, format="csr")
    return np.hstack([part.toarray() if sparse.issparse(part) else part for part in parts])


# Transformers from records ----------------------------------------------------------------------


def _learn_numbers(columns: dict[str, Array]) -> Record:
    if not columns:
        return {"names": [], "fill": [], "flagged": [], "mean": [], "scale": []}
    values = np.column_stack(list(columns.values()))
    imputer = SimpleImputer(add_indicator=True).fit(values)
    scaler = StandardScaler().fit(imputer.transform(values))
    return {
        "names": list(columns),
        "fill": imputer.statistics_.tolist(),
        "flagged": np.isin(np.arange(len(columns)), imputer.indicator_.features_).tolist(),
        "mean": scaler.mean_.tolist(),
        "scale": scaler.scale_.tolist(),
    }


def _scaler_from(record: Record) -> Pipeline | None:
    """Return an imputer and a scaler that are fitted to what the record says."""
    if not record["names"]:
        return None
    fill, flagged = np.array(record["fill"]), np.array(record["flagged"], bool)
    rows = np.vstack([fill, np.where(flagged, np.nan, fill)])  # whose means are `fill`, exactly
    imputer = SimpleImputer(add_indicator=True).fit(rows)
    scaler = StandardScaler().fit(imputer.transform(rows))
    scaler.mean_, scaler.scale_ = np.array(record["mean"]), np.array(record["scale"])
    scaler.var_ = scaler.scale_**2
    return make_pipeline(imputer, scaler)


def _one_hot_from(values: list[list[str | None]]) -> OneHotEncoder | None:
    if not values:
        return None
    categories = [np.array(each, dtype=object) for each in values]
    encoder = OneHotEncoder(categories=categories, handle_unknown="ignore")
    return encoder.fit(np.array([[each[0] for each in values]], dtype=object))


# Targets ----------------------------------------------------------------------------------------


def labels_of(table: pa.Table, name: str) -> Array:
    """Return a column as labels: text, integers, truth values, or floats that are whole.

    Raises
    ------
    ValueError
        If a label is missing, for fractions, and for columns of other types.
    """
    column = table[name]
    if _is_text(column.type):
        labels = _words(column)
        missing = np.array([label is None for label in labels])
    elif pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        labels, missing = column.to_numpy(), column.is_null().to_numpy()
    else:
        labels = _numbers(name, column)
        missing = np.isnan(labels)
    if missing.any():
        raise ValueError(
            f"column {name!r} is the target and has no label in row {int(missing.argmax())} "
            f"(and {int(missing.sum()) - 1} more); leave such rows out"
        )
    if labels.dtype.kind == "f" and (labels % 1 != 0).any():
        row = int((labels % 1 != 0).argmax())
        raise ValueError(
            f"column {name!r} holds fractions, such as {labels[row]} in row {row}: an amount, not "
            "a class"
        )
    return np.asarray(labels)


# Columns ----------------------------------------------------------------------------------------


def _values(name: str, column: pa.ChunkedArray) -> Array:
    """Return numbers as float64, NaN where missing; text as objects, None where missing."""
    return _words(column) if _is_text(column.type) else _numbers(name, column)


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


def _words(column: pa.ChunkedArray) -> Array:
    return np.asarray(column.cast(pa.string()).to_numpy(zero_copy_only=False), dtype=object)


def _numbers(name: str, column: pa.ChunkedArray) -> Array:
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
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise ValueError(f"column {name!r} holds {values[row]} in row {row}; it must be finite")
    return np.asarray(values)


def _microseconds(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_time(kind):
        return pa.time64("us")
    return pa.duration("us") if pa.types.is_duration(kind) else pa.timestamp("us")


def _useless(name: str, values: Array) -> str:
    """Return why nothing can be learnt from a column, empty if something can."""
    if not name:
        return "has no name"
    text = values.dtype == object
    known = values[[value is not None for value in values] if text else ~np.isnan(values)]
    if not known.size:
        return "is empty"
    if known.size == values.size and (known == known[0]).all():
        return f"is {known[0]!r} in every row" if text else f"is {known[0]:g} in every row"
    if text and not _frequent(values):
        return "has another value in every row"
    return ""


def _frequent(words: Array) -> list[str | None]:
    """Return the values that occur often enough, sorted, None last."""
    counts = Counter(words.tolist())
    frequent = [value for value, count in counts.items() if count >= LEAST_ROWS]
    return sorted(frequent, key=lambda value: (value is None, value or ""))
