"""Labels of any kind: what classes there are, which class each row has, and what it weighs."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from crossent import checks
from crossent.layer import Array, Float64


def labels(y: Any) -> Array:
    """Return y as (n,) labels of one type, or as an indicator matrix (n, J) of 0 and 1.

    Raises
    ------
    ValueError, TypeError
        For a label that is missing, labels of several types, and continuous targets.
    """
    y = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
    if y.ndim != 2 or y.shape[1] == 1:
        y = _one_type(column_or_1d(y, warn=True))
    if y.ndim == 2 or y.dtype.kind not in "iubU":  # a row of those is a label, whatever it is
        _refuse_missing(y)
        check_classification_targets(y)
    return np.asarray(y)


def _one_type(y: Array) -> Array:
    """Return an array of objects as one of their common type; strings stay objects."""
    if y.dtype != object:
        return y
    types = {type(label) for label in y.tolist()}
    if len(types) > 1 and not any(map(_is_missing, y)):
        first = {
            type(label).__name__: f"y[{i}] is {label!r}"
            for i, label in reversed(list(enumerate(y)))
        }
        raise TypeError(
            f"y has labels of several types ({', '.join(sorted(first.values()))}); give them one"
        )
    return y if len(types) > 1 or str in types else np.array(y.tolist())


def _is_missing(label: Any) -> bool:
    missing = label is None or type(label).__name__ in ("NAType", "NaTType")
    return missing or (isinstance(label, float) and label != label)


def _refuse_missing(y: Array) -> None:
    if y.dtype == object:
        missing = np.array([_is_missing(label) for label in y.reshape(-1)], bool)
    else:
        missing = np.isnan(y).reshape(-1) if y.dtype.kind == "f" else np.zeros(1, bool)
    if missing.any():
        row = int(missing.argmax()) // (y.shape[1] if y.ndim == 2 else 1)
        raise ValueError(f"Input y contains NaN: the label of row {row} is missing")
    if y.dtype.kind == "f":
        assert_all_finite(y, input_name="y")


def sample_weight(value: Any, y: Array) -> Float64 | None:
    """Return weights of shape (n,), or that of an indicator matrix y; not all of them 0."""
    weight = checks.sample_weight(value, y.shape[:1], y.shape)
    if weight is not None and not weight.any():
        raise ValueError(
            "sample_weight is zero everywhere; some row must have a weight greater than zero"
        )
    return weight


def classes_of(y: Array, weight: Float64 | None) -> Array:
    """Return the classes of the rows that take part, sorted; there must be two or more."""
    if y.ndim == 2:
        return np.arange(y.shape[1])
    classes = np.unique(y if weight is None else y[weight > 0])
    if len(classes) < 2:
        raise ValueError(
            f"y holds one class only, {classes.tolist()[0]!r}; there must be two or more classes"
        )
    return classes


def given_classes(classes: Any, y: Array) -> Array:
    """Return the classes that partial_fit is told of, sorted."""
    if classes is None and y.ndim == 2:
        return np.arange(y.shape[1])
    if classes is None:
        raise ValueError(
            "classes must be passed on the first call to partial_fit: all labels there will be"
        )
    found = np.unique(labels(classes))
    if len(found) < 2:
        raise ValueError(f"classes is {checks.listed(found)}; there must be two labels or more")
    return found


def codes_of(y: Array, classes: Array, weight: Float64 | None) -> Array:
    """Return the position of each label in classes; 0 for one of a row of weight 0."""
    codes = np.searchsorted(classes, y).clip(0, len(classes) - 1)
    known = classes[codes] == y
    if not np.all(known):
        wrong = ~known if weight is None else ~known & (weight > 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            label = y[row : row + 1].tolist()[0]
            raise ValueError(f"y[{row}] is {label!r}; the classes are {checks.listed(classes)}")
        codes[~known] = 0
    return codes


def class_weights(totals: Float64, classes: Array, class_weight: Any) -> Float64:
    """Return what multiplies the weight of each class's rows, whose totals are given."""
    if class_weight is None:
        return np.ones(len(classes))
    if isinstance(class_weight, str) and class_weight == "balanced":
        present = totals > 0
        even = totals.sum() / present.sum()
        return np.where(present, even / np.maximum(totals, 1e-300), 0)
    if isinstance(class_weight, dict):
        return _named_weights(class_weight, classes)
    raise ValueError(
        f"class_weight is {class_weight!r}; it must be a dict of label to weight, 'balanced' or "
        "None"
    )


def _named_weights(class_weight: dict[Any, Any], classes: Array) -> Float64:
    names = classes.tolist()
    for label, value in class_weight.items():
        if label not in names:
            raise ValueError(
                f"class_weight names {label!r}; the classes are {checks.listed(classes)}"
            )
        checks.number(f"class_weight[{label!r}]", value, 0.0, np.inf)
    return np.array([float(class_weight.get(name, 1.0)) for name in names])
