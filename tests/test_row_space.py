"""The way down in the space of the rows: the minimum of the other ways, in less memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from crossent import model_file, training
from crossent.checkpoint import Checkpoint
from crossent.distributed import Alone
from crossent.layer import Block
from crossent.row_space import FLOOR, PATIENCE, in_row_space
from crossent.search import Progress
from crossent.sklearn import CrossEntropyClassifier
from memory_rows import read_again, rows_of

ROWS, COLUMNS = 150, 600


def table(
    rows: int = ROWS, columns: int = COLUMNS, classes: int = 3, dtype: Any = np.float64
) -> tuple[Any, NDArray[np.int64]]:
    """Return sparse rows, some columns frequent and not all around 0, and classes that overlap."""
    random = np.random.default_rng(0)
    density = np.minimum(1, 5 / (1 + np.arange(columns)))
    X = sparse.csr_matrix((random.random((rows, columns)) < density) * 1.0)
    X.data = random.uniform(0.5, 2, X.data.size).astype(dtype)
    scores = X @ random.standard_normal((columns, classes)) + random.gumbel(size=(rows, classes))
    y = scores.argmax(axis=1)
    y[:classes] = np.arange(classes)
    return X, y


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the searches in the row space that are made, with where each was led."""
    made: list[Any] = []

    class Seen(training.RowSearch):
        def run(self, tol: float, max_iter: int) -> Any:
            made.append(self)
            return super().run(tol, max_iter)

    monkeypatch.setattr(training, "RowSearch", Seen)
    return made


class Shared(Alone):
    """Two processes that share out the rows."""

    size = 2


def by_other_ways(X: Any, y: Any, weight: Any = None, **options: Any) -> CrossEntropyClassifier:
    """Return the classifier found among the parameters themselves, as for rows read again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "in_row_space", lambda *_: False)
        return CrossEntropyClassifier(**{"tol": 1e-10, **options}).fit(X, y, weight)


def objective(model: CrossEntropyClassifier, X: Any, y: Any, weight: Any, scale: Any) -> float:
    cost = model.l2 / 2 * np.square(model.coef_ * scale).sum()
    return float(model.cross_entropy(X, y, weight) + cost)


# The minimum --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "softmax_binary"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_finds_the_minimum(
    searches: list[Any], loss: str, standardize: bool, weighted: bool, dtype: Any
) -> None:
    X, y = table(dtype=dtype)
    weight = np.random.default_rng(1).uniform(0, 3, len(y)) if weighted else None
    options = {"loss": loss, "l2": 1e-2, "standardize": standardize}
    options["class_weight"] = {1: 2.5} if weighted else None
    found = CrossEntropyClassifier(**options, tol=1e-5).fit(X, y, weight)
    X = X.astype(np.float64)
    least = by_other_ways(X, y, weight, **options)
    assert searches[0].reason == found.stop_reason_ == "gradient below tol"
    scale = found._memory.scale
    gap = objective(found, X, y, weight, scale) - objective(least, X, y, weight, scale)
    assert gap < 5 * found.tol**2
    away, penalised = np.abs((found.coef_ - least.coef_) * scale), np.abs(least.coef_ * scale)
    assert away.max() < 3e-4 * penalised.max()
    assert found.intercept_ == pytest.approx(least.intercept_, abs=2e-4)
    assert found.loss_history_[-1] == pytest.approx(least.loss_history_[-1], abs=4e-8)
    assert (np.diff(found.loss_history_) <= 0).all()
    assert (found.n_iter_, found.coef_.dtype) == (len(found.loss_history_) - 1, np.float64)


@pytest.mark.parametrize("columns", [1, 3])
def test_one_output_and_an_indicator_matrix(searches: list[Any], columns: int) -> None:
    X, y = table()
    target = np.column_stack([y == 0, y >= 1, X[:, 3].toarray() > 0]).astype(int)[:, :columns]
    y = target if columns > 1 else target[:, 0]
    weight = np.random.default_rng(2).uniform(0.5, 2, y.shape)
    found = CrossEntropyClassifier(tol=1e-5, l2=1e-2).fit(X, y, weight)
    least = by_other_ways(X, y, weight, l2=1e-2)
    assert searches[0].reason
    assert np.abs(found.coef_ - least.coef_).max() < 3e-5 * np.abs(least.coef_).max()


def test_where_float32_ends_newton_goes_on(searches: list[Any]) -> None:
    X, y = table()
    found = CrossEntropyClassifier(tol=1e-10, l2=1e-2).fit(X, y)
    least = by_other_ways(X, y, l2=1e-2)
    assert searches[0].reason == ""
    assert found.stop_reason_ == "gradient below tol"
    assert found.n_iter_ > searches[0].iterations
    assert found.coef_ == pytest.approx(least.coef_, abs=2e-10)
    assert (np.diff(found.loss_history_) <= 0).all()


@pytest.mark.parametrize(("decades", "iterations"), [(2.7, PATIENCE), (6, 0)])
def test_where_features_differ_too_much_newton_goes_on(
    searches: list[Any], decades: float, iterations: int
) -> None:
    X, y = table()
    y = np.minimum(y, 1)
    X = sparse.csr_matrix(X @ sparse.diags(np.logspace(-1, decades - 1, COLUMNS)))
    found = CrossEntropyClassifier(tol=1e-5).fit(X, y)
    assert (searches[0].iterations, searches[0].reason) == (iterations, "")
    assert found.stop_reason_ == "gradient below tol"
    least = by_other_ways(X, y, tol=1e-5)
    assert found.loss_history_[-1] == pytest.approx(least.loss_history_[-1], rel=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("l2", [1e-300, 1e-20, 1e100])
def test_what_float32_does_not_hold_is_left_to_newton(scale: float, l2: float) -> None:
    X, y = table()
    found = CrossEntropyClassifier(l2=l2, max_iter=200).fit(X * scale, y)
    assert np.isfinite(found.coef_).all()
    assert found.loss_history_[-1] <= found.loss_history_[0]


# Conventions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_threads_gives_the_same_bits(
    searches: list[Any], dtype: Any, set_threads: Callable[[int], None]
) -> None:
    X, y = table(3000, 9000, 5, dtype)
    bits = set()
    for count in (1, 2, 5):
        set_threads(count)
        bits.add(CrossEntropyClassifier().fit(X, y).coef_.tobytes())
    assert len(bits) == 1
    assert len(searches) == 3
    assert all(each.reason for each in searches)


def test_the_last_iteration_allowed(searches: list[Any]) -> None:
    X, y = table()
    with pytest.warns(ConvergenceWarning, match="max_iter reached"):
        found = CrossEntropyClassifier(max_iter=2).fit(X, y)
    assert (found.n_iter_, len(found.loss_history_)) == (2, 3)
    assert searches[0].reason == found.stop_reason_


def test_what_a_callback_gets(searches: list[Any]) -> None:
    seen: list[Progress] = []

    def stops(progress: Progress) -> bool:
        seen.append(progress)
        return progress.iteration == 4

    X, y = table()
    found = CrossEntropyClassifier(callback=stops).fit(X, y)
    assert found.stop_reason_ == "stopped by the callback"
    assert [each.iteration for each in seen] == [0, 1, 2, 3, 4]
    assert [each.objective for each in seen] == found.loss_history_.tolist()
    assert (seen[0].coef == 0).all()
    for each in seen:
        found.coef_, found.intercept_ = each.coef, each.intercept
        assert found.cross_entropy(X, y) == pytest.approx(each.loss, rel=1e-6)
        assert each.objective == pytest.approx(objective(found, X, y, None, 1.0), rel=1e-6)
    assert seen[-1].gradient_norm < seen[0].gradient_norm
    assert seen[-1].gradient_norm > FLOOR * seen[0].gradient_norm


def test_the_length_of_the_gradient_is_that_of_the_other_ways() -> None:
    X, y = table()
    found: list[Progress] = []
    options = {"callback": found.append, "tol": 1e3}
    CrossEntropyClassifier(**options).fit(X, y)
    by_other_ways(X, y, **options)
    assert found[0].gradient_norm == pytest.approx(found[1].gradient_norm, rel=1e-5)
    assert found[0].objective == pytest.approx(found[1].objective, rel=1e-12)


@pytest.mark.parametrize("standardize", [False, True])
def test_it_is_remembered(tmp_path: Path, standardize: bool) -> None:
    X, y = table()
    options = {"tol": 1e-5, "l2": 1e-2, "standardize": standardize}
    model = CrossEntropyClassifier(**options).fit(X[:100], y[:100])
    assert model._memory.curvature.shape == (COLUMNS + 1, 1)
    model_file.save(model, tmp_path / "m.crossent")
    again = model_file.load(tmp_path / "m.crossent").classifier
    apart = model.loss_history_[-1]
    for each in (model, again):
        each.partial_fit(X[100:], y[100:])
        assert each.cross_entropy(X[:100], y[:100]) < apart + 0.05
    assert again.coef_ == pytest.approx(model.coef_, rel=1e-9)
    assert model._memory.curvature.shape == (COLUMNS + 1, 3)


# When it is gone, and why -------------------------------------------------------------------------


def test_when_it_is_gone(tmp_path: Path, searches: list[Any]) -> None:
    X, y = table()
    batch = Block(X, y, None)
    most = COLUMNS * 8 // (5 * 4)
    assert in_row_space(rows_of([batch]), 1e-9, None)
    assert in_row_space(rows_of([Block(sparse.csr_matrix((most, COLUMNS)), y, None)]), 1e-9, None)
    assert not in_row_space(
        rows_of([Block(sparse.csr_matrix((most + 1, COLUMNS)), y, None)]), 1e-9, None
    )
    assert not in_row_space(rows_of([batch]), 0.0, None)
    assert not in_row_space(rows_of([batch]), 1e-9, np.zeros((COLUMNS + 1, 3)))
    assert not in_row_space(rows_of([batch], [batch]), 1e-9, None)
    assert not in_row_space(read_again(rows_of([batch])), 1e-9, None)
    assert not in_row_space(rows_of([Block(X.toarray(), y, None)]), 1e-9, None)
    shared = replace(rows_of([batch]), ranks=Shared())
    assert not in_row_space(shared, 1e-9, None)
    CrossEntropyClassifier().fit_batches([(X, y)], [0, 1, 2], checkpoint=Checkpoint(tmp_path / "c"))
    assert not searches
    warm = CrossEntropyClassifier(warm_start=True).fit(X, y)
    assert len(searches) == 1
    warm.fit(X, y)
    assert len(searches) == 1
    assert warm.n_iter_ == 0


def test_it_takes_little_more_than_the_coefficients() -> None:
    random = np.random.default_rng(0)
    X = sparse.random_array((8000, 20_000), density=1e-3, format="csr", random_state=random)
    y = random.integers(10, size=8000)
    CrossEntropyClassifier().fit(X[:100], y[:100])  # compiles
    tracemalloc.start()
    try:
        model = CrossEntropyClassifier().fit(X, y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.7 * model.coef_.nbytes, (
        f"{peak / model.coef_.nbytes:.2f} times the coefficients"
    )
