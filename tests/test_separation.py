"""When a loss has no minimum: rows that can be told apart without error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from crossent.layer import Block
from crossent.separation import separates, separating_columns
from memory_rows import rows_of

FORMS = [np.asarray, sparse.csr_array]


def columns(form: Any, features: Any, targets: Any, weight: Any = None) -> list[int]:
    X, y = np.array(features, dtype=float), np.array(targets)
    weight = None if weight is None else np.array(weight, dtype=float)
    outputs = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    whole = Block(form(X), y, weight)
    rows = rows_of([whole.at(slice(0, 3))], [whole.at(slice(3, None))])
    return separating_columns(rows, outputs).tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_class_on_one_side_of_all_others(form: Any) -> None:
    below, above, between, mixed, same = (
        [1, 2, 5, 6],
        [6, 5, 2, 1],
        [2, 3, 1, 4],
        [1, 6, 2, 5],
        [7] * 4,
    )
    X = np.column_stack([below, above, between, mixed, same])
    assert columns(form, X, [0, 0, 1, 1]) == [0, 1]
    assert columns(form, X[:, ::-1], [0, 0, 1, 1]) == [3, 4]
    assert columns(form, X, [[0], [0], [1], [1]]) == [0, 1]


@pytest.mark.parametrize("form", FORMS)
def test_the_uppermost_class_of_several_is_enough(form: Any) -> None:
    x = [[1], [3], [2], [4], [5], [6]]
    assert columns(form, x, [0, 0, 1, 1, 2, 2]) == [0]
    assert columns(form, [[-row[0]] for row in x], [0, 0, 1, 1, 2, 2]) == [0]
    assert columns(form, [[1], [4], [2], [6], [3], [5]], [0, 0, 1, 1, 2, 2]) == []


@pytest.mark.parametrize("form", FORMS)
def test_classes_may_touch_but_not_cross(form: Any) -> None:
    assert columns(form, [[0], [0], [0], [1]], [0, 0, 1, 1]) == [0]
    assert columns(form, [[0], [1], [0], [1]], [0, 0, 1, 1]) == []


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_weight_zero_take_no_part(form: Any) -> None:
    x, y = [[1], [9], [5], [6]], [0, 0, 1, 1]
    assert columns(form, x, y) == []
    assert columns(form, x, y, [1, 0, 1, 1]) == [0]
    assert columns(form, x, y, [1, 1, 0, 0]) == []  # nothing to be told from


def scores_of(scores: Any, targets: Any, weight: Any = None) -> bool:
    """Return whether these scores separate: features that are scores, and weights of one."""
    X: NDArray[np.float64] = np.array(scores, dtype=float)
    y = np.array(targets)
    cut = [slice(0, 1), slice(1, None)]
    blocks = [Block(X[i], y[i], None if weight is None else np.array(weight)[i]) for i in cut]
    return separates(rows_of(blocks), np.eye(X.shape[1]), np.zeros(X.shape[1]))


def test_every_row_on_its_right_side() -> None:
    right = [[2, 1, 0], [0, 3, 1], [0, 1, 2]]
    assert scores_of(right, [0, 1, 2])
    assert not scores_of(right, [0, 1, 1])
    assert not scores_of([[2, 2, 0], [0, 3, 1], [0, 1, 2]], [0, 1, 2])  # on the border
    assert scores_of(right, [0, 1, 1], [1, 1, 0])
    assert not scores_of(right, [0, 1, 1], [0, 1, 1])


def test_one_sigmoid_output_is_enough() -> None:
    scores = [[1, -1], [2, 1], [-1, -1]]
    assert scores_of(scores, [[1, 1], [1, 1], [0, 0]])
    assert not scores_of(scores, [[0, 1], [1, 1], [0, 0]])
    assert not scores_of([[0, -1], [2, 1], [-1, -1]], [[1, 1], [1, 1], [0, 0]])
