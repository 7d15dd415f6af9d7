"""The classifier: its minimum by reference.py, its conventions, and what it says when it stops."""

from __future__ import annotations

import re
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_info

from crossent import model_file, reference
from crossent.search import Progress
from crossent.sklearn import SEPARABLE, CrossEntropyClassifier
from crossent.tables import read_table

Array = NDArray[Any]
LOSSES = ("softmax", "sigmoid", "softmax_binary")
TIGHT = 1e-9  # tol for tests that ask for the minimum itself

EQUIVALENCE = (
    "the check wants 7 digits alike from two ways to the minimum, and tol=1e-4 asks for fewer; "
    "with tol=1e-12 the estimators below pass it"
)


def expected_failures(estimator: CrossEntropyClassifier) -> dict[str, str]:
    if estimator.tol < 1e-8:
        return {}
    return {
        f"check_sample_weight_equivalence_on_{kind}_data": EQUIVALENCE
        for kind in ("dense", "sparse")
    }


@parametrize_with_checks(
    [
        CrossEntropyClassifier(),
        CrossEntropyClassifier(tol=1e-12),
        CrossEntropyClassifier(loss="sigmoid", standardize=True, warm_start=True, tol=1e-12),
        CrossEntropyClassifier(loss="softmax_binary", l2=1e-2, tol=1e-12),
    ],
    expected_failed_checks=expected_failures,
)
def test_the_conventions_of_scikit_learn(estimator: CrossEntropyClassifier, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(estimator)


def rows(
    n: int = 60, columns: int = 4, classes: int = 3, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return features in different units, and classes that overlap."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((n, columns)) @ random.standard_normal((columns, columns))
    scores = X @ random.standard_normal((columns, classes)) + random.gumbel(size=(n, classes))
    y = scores.argmax(axis=1)
    y[:classes] = np.arange(classes)
    return X * np.logspace(-1, 1, columns) + np.arange(columns), y


def fitted(X: Any, y: Any, sample_weight: Any = None, **options: Any) -> CrossEntropyClassifier:
    return CrossEntropyClassifier(**{"tol": TIGHT, **options}).fit(X, y, sample_weight)


# The minimum ------------------------------------------------------------------------------------


def reference_gradient(
    model: CrossEntropyClassifier, X: Array, target: Array, weight: Array, scale: Array
) -> tuple[float, Array]:
    """Return the objective by reference.py, and its gradient in the coefficients and biases."""
    z = X @ model.coef_.T + model.intercept_
    if model.loss_ == "sigmoid":
        p = reference.sigmoid(z)
        error = reference.generalised_cross_entropy(p, target)
        slope = reference.binary_cross_entropy_gradient(p, target)
    elif model.loss_ == "softmax":
        p = reference.softmax(z)
        error = reference.cross_entropy(p, target)
        slope = reference.cross_entropy_gradient(p, target)
    else:
        p = reference.softmax(z)
        error = reference.two_term_cross_entropy(p, target)
        slope = reference.two_term_gradient(p, target)
    w = weight / weight.mean()
    in_weights, in_bias = reference.layer_gradient(X, w[:, None] * slope)
    penalised = model.coef_ * scale
    value = float((w * error).mean() + 0.5 * model.l2 * (penalised**2).sum())
    return value, np.vstack([in_weights + model.l2 * (penalised * scale).T, in_bias])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_by_reference_vanishes(
    loss: str, classes: int, standardize: bool, weighted: bool
) -> None:
    X, y = rows(classes=classes)
    weight = np.random.default_rng(1).uniform(0, 3, len(y)) if weighted else np.ones(len(y))
    given = weight if weighted else None
    class_weight = {1: 2.5} if weighted else None
    model = fitted(
        X, y, given, loss=loss, standardize=standardize, l2=1e-2, class_weight=class_weight
    )
    if weighted:
        weight = weight * np.where(y == 1, 2.5, 1.0)
    target = np.eye(classes)[y]
    target = target[:, 1:] if loss == "sigmoid" and classes == 2 else target
    mean = np.average(X, axis=0, weights=weight)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    scale = scale if standardize else np.ones(X.shape[1])
    value, gradient = reference_gradient(model, X, target, weight, scale)
    assert value == pytest.approx(model.loss_history_[-1], rel=1e-12)
    assert np.abs(gradient).max() < 1e-7
    assert model.loss_history_[0] > value + 0.01


def test_an_indicator_matrix_trains_each_output_on_its_own() -> None:
    X, y = rows(n=80, classes=3)
    target = np.column_stack([y == 0, y >= 1, X[:, 0] > np.median(X[:, 0])]).astype(int)
    weight = np.random.default_rng(2).uniform(0.5, 2, target.shape)
    whole = fitted(X, target, weight, l2=1e-2)
    assert whole.multilabel_
    assert whole.classes_.tolist() == [0, 1, 2]
    total = weight.sum() / 3
    for j in range(3):
        alone = fitted(X, target[:, j], weight[:, j], l2=1e-2 * total / weight[:, j].sum())
        assert whole.coef_[j] == pytest.approx(alone.coef_[0], rel=1e-5)
        assert whole.predict_proba(X)[:, j] == pytest.approx(alone.predict_proba(X)[:, 1], rel=1e-6)
    assert (whole.predict(X) == (whole.predict_proba(X) > 0.5)).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_scikit_learn_finds_the_same_coefficients(classes: int) -> None:
    X, y = rows(n=200, classes=classes)
    ours = fitted(X, y, l2=1e-3)
    theirs = LogisticRegression(C=1 / (len(y) * 1e-3), tol=1e-12, solver="newton-cholesky")
    theirs.fit(X, y)
    assert ours.coef_ == pytest.approx(theirs.coef_, rel=1e-6, abs=1e-8)
    assert ours.predict_log_proba(X) == pytest.approx(theirs.predict_log_proba(X), rel=1e-6)
    assert ours.score(X, y) == theirs.score(X, y)


def test_standardize_is_training_on_standardised_features() -> None:
    X, y = rows(n=100)
    scaler = StandardScaler().fit(X)
    before = fitted(scaler.transform(X), y, l2=1e-2)
    within = fitted(X, y, l2=1e-2, standardize=True)
    assert within.coef_ * scaler.scale_ == pytest.approx(before.coef_, rel=1e-6)
    assert within.decision_function(X) == pytest.approx(
        before.decision_function(scaler.transform(X)), rel=1e-6, abs=1e-7
    )


def test_standardize_leaves_a_constant_column_without_weight() -> None:
    X, y = rows()
    model = fitted(np.column_stack([X, np.full(len(y), 7.0)]), y, standardize=True)
    assert np.abs(model.coef_[:, -1]).max() < 1e-6
    assert model._memory.scale[-1] == 1  # in a later batch it may vary, and is penalised then


# Features as they lie ---------------------------------------------------------------------------


def layouts(X: Array, folder: Path) -> dict[str, Any]:
    """Return the same features in every form that is taken."""
    on_disk = np.lib.format.open_memmap(folder / "X.npy", "w+", X.dtype, X.shape)
    on_disk[:] = X
    on_disk.flush()
    read_only = X.copy()
    read_only.flags.writeable = False
    return {
        "C order": X,
        "Fortran order": np.asfortranarray(X),
        "read-only": read_only,
        "memory map": np.load(folder / "X.npy", mmap_mode="r"),
        "every second row": np.repeat(X, 2, axis=0)[::2],
        "CSR": sparse.csr_matrix(X),
        "CSC": sparse.csc_array(X),
        "list": X.tolist(),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_are_taken_in_any_form(dtype: Any, tmp_path: Path) -> None:
    X, y = rows(n=100)
    X = X.astype(dtype)
    kept = X.copy()
    expected = fitted(X.astype(np.float64), y, l2=1e-2).coef_
    for name, form in layouts(X, tmp_path).items():
        model = CrossEntropyClassifier(l2=1e-2, tol=1e-6).fit(form, y)
        assert model.coef_ == pytest.approx(expected, rel=1e-3), name
        assert model.coef_.dtype == np.float64, name
        of_input = np.float64 if name == "list" else dtype
        assert model.decision_function(form).dtype == of_input, name
        assert model.predict_proba(form).sum(axis=1) == pytest.approx(np.ones(len(y)), rel=1e-12)
    assert (X == kept).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("standardize", [False, True])
def test_features_are_never_copied(dtype: Any, order: Any, standardize: bool) -> None:
    random = np.random.default_rng(0)
    X = np.asarray(random.standard_normal((150_000, 50)), dtype=dtype, order=order)
    y = (X[:, :3] + random.gumbel(size=(len(X), 3))).argmax(axis=1)
    model = CrossEntropyClassifier(standardize=standardize)
    model.fit(X[:1000], y[:1000])  # compiles
    tracemalloc.start()
    try:
        model.fit(X, y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * X.nbytes, f"{peak / X.nbytes:.2f} times the features"


@pytest.mark.parametrize("loss", LOSSES)
def test_wide_features_go_by_newton_to_the_same_minimum(loss: str) -> None:
    random = np.random.default_rng(3)
    X = random.standard_normal((40, 120))
    y = random.integers(3, size=40)
    wide = fitted(X, y, loss=loss, l2=0.1)
    tall = fitted(np.repeat(X, 60, axis=0), np.repeat(y, 60), loss=loss, l2=0.1)
    assert wide.n_iter_ < tall.n_iter_
    # Around the minimum w* F rises by l2/2 |w - w*|^2 at least. L-BFGS, which compares values of F,
    # cannot see that rise where it is less than the rounding of F: some 4 eps F.
    unseen = np.sqrt(2 * 4 * np.finfo(float).eps * tall.loss_history_[-1] / 0.1)
    assert np.linalg.norm(wide.coef_ - tall.coef_) < unseen < 1e-7


@pytest.mark.parametrize("wide", [False, True])
def test_any_number_of_threads_gives_the_same_bits(
    wide: bool, set_threads: Callable[[int], None]
) -> None:
    X, y = rows(n=30_000, columns=40)
    if wide:
        random = np.random.default_rng(0)
        X = sparse.random_array((60_000, 20_000), density=1e-4, format="csr", random_state=random)
        y = random.integers(3, size=60_000)
    bits = set()
    for count in (1, 2, 5):
        set_threads(count)
        bits.add(CrossEntropyClassifier().fit(X, y).coef_.tobytes())
    assert len(bits) == 1


# Labels -----------------------------------------------------------------------------------------

LABELS: dict[str, Any] = {
    "text": np.array(["no", "perhaps", "yes"]),
    "text objects": np.array(["no", "perhaps", "yes"], dtype=object),
    "integers": np.array([-5, 0, 12]),
    "small integers": np.array([3, 4, 250], dtype=np.uint8),
    "whole floats": np.array([-1.0, 0.0, 2.0]),
    "two texts": np.array(["a", "b"]),
    "truth values": np.array([False, True]),
    "truth values as objects": np.array([False, True], dtype=object),
    "two integers": np.array([1, 2]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_survive_everything(kind: str, tmp_path: Path) -> None:
    names = LABELS[kind]
    X, codes = rows(n=90, classes=len(names))
    y = names[codes]
    model = CrossEntropyClassifier(class_weight={names[0]: 2}).fit(X, y)
    plain = CrossEntropyClassifier(class_weight={0: 2}).fit(X, codes)
    assert model.classes_.tolist() == names.tolist()
    assert (model.predict(X) == names[plain.predict(X)]).all()
    assert set(map(type, model.predict(X).tolist())) <= set(map(type, names.tolist()))

    batches = clone(model)
    for part in np.array_split(np.arange(len(y)), 3):
        batches.partial_fit(X[part], y[part], classes=names)
    assert batches.classes_.tolist() == names.tolist()
    assert (batches.predict(X) == y).mean() > plain.score(X, codes) - 0.1

    for each in (model, batches):
        model_file.save(each, tmp_path / "m.crossent")
        again = model_file.load(tmp_path / "m.crossent").classifier
        assert again.classes_.dtype == each.classes_.dtype
        assert (again.predict(X) == each.predict(X)).all()
        assert (again.predict_proba(X) == each.predict_proba(X)).all()
        more = again.partial_fit(X[:30], y[:30])
        assert (more.coef_ == each.partial_fit(X[:30], y[:30]).coef_).all()


def test_lists_of_labels_and_columns_of_them_are_taken() -> None:
    X, codes = rows()
    names = ["x", "y", "z"]
    y = [names[code] for code in codes]
    expected = CrossEntropyClassifier().fit(X, np.array(y)).coef_
    assert (CrossEntropyClassifier().fit(X, y).coef_ == expected).all()
    assert (CrossEntropyClassifier().fit(X, tuple(y)).coef_ == expected).all()


# Weights ----------------------------------------------------------------------------------------


def test_weight_zero_removes_a_row_and_its_label() -> None:
    X, y = rows(n=80)
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    y = np.where((weight == 0) & (np.arange(len(y)) % 2 == 0), 99, y)
    kept = weight > 0
    whole, part = fitted(X, y, weight), fitted(X[kept], y[kept], weight[kept])
    assert whole.classes_.tolist() == part.classes_.tolist() == [0, 1, 2]
    assert whole.coef_ == pytest.approx(part.coef_, rel=1e-5)


def test_weight_two_is_a_row_twice() -> None:
    X, y = rows(n=80)
    times = np.random.default_rng(0).integers(1, 4, len(y))
    weighted = fitted(X, y, times, l2=1e-2)
    repeated = fitted(X.repeat(times, axis=0), y.repeat(times), l2=1e-2)
    assert weighted.coef_ == pytest.approx(repeated.coef_, rel=1e-6)


def test_balanced_gives_classes_the_same_weight() -> None:
    X, y = rows(n=200)
    counts = np.bincount(y)
    balanced = fitted(X, y, class_weight="balanced", l2=1e-2)
    by_hand = fitted(X, y, class_weight={k: 7.0 / counts[k] for k in range(3)}, l2=1e-2)
    assert balanced.coef_ == pytest.approx(by_hand.coef_, rel=1e-6)
    p = balanced.predict_proba(X)
    for k in range(3):  # at the minimum the biases' gradient is 0: each class has its weight
        assert np.average(p[:, k], weights=1 / counts[y]) == pytest.approx(1 / 3, rel=1e-6)


# Stopping ---------------------------------------------------------------------------------------


def test_tol_has_effect_and_means_the_same_at_every_scale() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    best = fitted(X, y).loss_history_[-1]
    gaps = []
    for tol in (1e-1, 1e-2, 1e-3, 1e-4):
        model = CrossEntropyClassifier(tol=tol).fit(X, y)
        assert model.stop_reason_ == "gradient below tol"
        gaps.append(model.loss_history_[-1] - best)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1e-3 > gaps[2]
    assert gaps[-1] < 1e-6
    units = np.logspace(-6, 6, X.shape[1])
    scaled = CrossEntropyClassifier(standardize=True).fit(X, y)
    other_units = CrossEntropyClassifier(standardize=True).fit(X * units, y)
    assert other_units.coef_ * units == pytest.approx(scaled.coef_, rel=0.03)
    assert abs(other_units.n_iter_ - scaled.n_iter_) <= 0.3 * scaled.n_iter_


def test_history_falls_from_the_class_frequencies() -> None:
    X, y = load_digits(return_X_y=True)
    model = CrossEntropyClassifier().fit(X, y)
    share = np.bincount(y) / len(y)
    assert model.loss_history_[0] == pytest.approx(-(share * np.log(share)).sum(), rel=1e-12)
    assert len(model.loss_history_) == model.n_iter_ + 1
    assert (np.diff(model.loss_history_) <= 0).all()


def test_max_iter_says_how_fast_the_loss_still_falls() -> None:
    X, y = load_digits(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="max_iter reached.*raise max_iter or tol"):
        model = CrossEntropyClassifier(max_iter=5).fit(X, y)
    assert model.n_iter_ == 5
    fall = model.loss_history_[-2] - model.loss_history_[-1]
    assert model.stop_reason_ == f"max_iter reached, loss still falling by {fall:.1e} per iteration"


def test_separable_rows_are_told_with_the_columns_that_do_it() -> None:
    table = read_table("iris")
    X, y = table.drop_columns(["target"]), table["target"].to_pylist()
    with pytest.warns(ConvergenceWarning, match=r"'petal length .cm.', 'petal width .cm.' \(each"):
        model = CrossEntropyClassifier(l2=0).fit(X, y)
    assert model.stop_reason_ == SEPARABLE
    assert CrossEntropyClassifier(l2=1e-6).fit(X, y).stop_reason_ == "gradient below tol"


def test_a_level_that_only_one_class_has_is_told() -> None:
    random = np.random.default_rng(0)
    level = np.repeat([0.0, 1.0], [90, 10])
    X = np.column_stack([random.standard_normal(100), level])
    y = np.where(level == 1, 0, random.integers(2, size=100))
    for form in (X, sparse.csr_matrix(X)):
        with pytest.warns(ConvergenceWarning, match=r"separable.* column 1 can tell classes apart"):
            CrossEntropyClassifier(l2=0).fit(form, y)


def test_columns_that_separate_only_together_are_told() -> None:
    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, (200, 2))
    X = X[np.abs(X.sum(axis=1)) > 0.1]
    y = (X.sum(axis=1) > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match="the features together"):
        CrossEntropyClassifier(l2=0).fit(X, y)
    y[0] = 1 - y[0]
    assert CrossEntropyClassifier(l2=0).fit(X, y).stop_reason_ == "gradient below tol"


def test_float32_stops_where_rounding_begins() -> None:
    X, y = rows(n=300)
    model = CrossEntropyClassifier(tol=1e-14).fit(X.astype(np.float32), y)
    assert model.stop_reason_ == "no further decrease within rounding"
    assert model.loss_history_[-1] == pytest.approx(fitted(X, y).loss_history_[-1], rel=1e-6)


def test_newton_too_stops_where_rounding_begins() -> None:
    random = np.random.default_rng(3)
    X = random.standard_normal((40, 120), dtype=np.float32)
    model = CrossEntropyClassifier(tol=1e-14).fit(X, random.integers(3, size=40))
    assert model.stop_reason_ == "no further decrease within rounding"
    assert model.n_iter_ < 60
    assert len(model.loss_history_) == model.n_iter_ + 1
    assert (np.diff(model.loss_history_) <= 0).all()


def test_blas_keeps_to_one_thread_only_while_it_trains() -> None:
    X, y = rows()
    before, within = blas_threads(), []

    def callback(progress: Progress) -> None:
        within.extend(blas_threads())

    CrossEntropyClassifier(callback=callback).fit(X, y)
    assert set(within) == {1}
    assert blas_threads() == before


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def test_the_callback_sees_every_iteration_and_can_stop() -> None:
    X, y = load_digits(return_X_y=True)
    seen: list[Progress] = []
    scores: list[float] = []
    model = CrossEntropyClassifier()

    def callback(progress: Progress) -> bool:
        seen.append(progress)
        scores.append(model.score(X, y))
        return progress.iteration == 4

    model.set_params(callback=callback).fit(X, y)
    assert [each.iteration for each in seen] == [0, 1, 2, 3, 4]
    assert model.stop_reason_ == "stopped by the callback"
    assert [each.objective for each in seen] == model.loss_history_.tolist()
    assert (seen[-1].coef == model.coef_).all()
    assert scores[0] < 0.2 < 0.9 < scores[-1]
    assert seen[-1].loss == pytest.approx(model.cross_entropy(X, y), rel=1e-12)


def test_warm_start_begins_where_the_last_fit_ended() -> None:
    X, y = load_digits(return_X_y=True)
    model = CrossEntropyClassifier(warm_start=True).fit(X, y)
    first, end = model.n_iter_, model.loss_history_[-1]
    model.fit(X, y)
    assert model.n_iter_ == 0 < first
    assert model.stop_reason_ == "gradient below tol"
    assert model.loss_history_[0] == pytest.approx(end, rel=1e-9)
    model.fit(X, y % 5)  # other classes: from the start
    assert model.loss_history_[0] == pytest.approx(np.log(5), rel=1e-2)


# In batches -------------------------------------------------------------------------------------


def test_the_first_partial_fit_is_a_fit() -> None:
    X, y = load_digits(return_X_y=True)
    whole = CrossEntropyClassifier(standardize=True).fit(X, y)
    first = CrossEntropyClassifier(standardize=True).partial_fit(X, y, classes=np.arange(10))
    assert (first.coef_ == whole.coef_).all()


@pytest.mark.parametrize(("batches", "at_most"), [(5, 1.15), (20, 1.35)])
def test_batches_teach_about_as_much_as_all_rows_at_once(batches: int, at_most: float) -> None:
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, valid = order[:1400], order[1400:]
    options: dict[str, Any] = {"l2": 1e-2, "standardize": True}
    whole = CrossEntropyClassifier(**options).fit(X[train], y[train])
    model = CrossEntropyClassifier(**options)
    for part in np.array_split(train, batches):
        model.partial_fit(X[part], y[part], classes=np.arange(10))
    last_alone = CrossEntropyClassifier(**options).fit(X[part], y[part])
    all_rows, in_batches, last_batch = (
        each.cross_entropy(X[valid], y[valid]) for each in (whole, model, last_alone)
    )
    assert in_batches < at_most * all_rows
    assert in_batches < 0.9 * last_batch
    assert model.score(X[valid], y[valid]) > whole.score(X[valid], y[valid]) - 0.02


def test_the_same_batch_again_changes_nothing() -> None:
    X, y = rows(n=200)
    model = CrossEntropyClassifier(tol=1e-9, l2=1e-2).fit(X, y)
    coef = model.coef_.copy()
    for _ in range(3):
        model.partial_fit(X, y)
        assert model.coef_ == pytest.approx(coef, rel=1e-6)


def test_a_fit_is_remembered_by_partial_fit() -> None:
    X, y = rows(n=2000)
    model = CrossEntropyClassifier().fit(X, y)
    before = model.cross_entropy(X, y)
    model.partial_fit(X[:6], np.array([0, 1, 2, 2, 1, 0]))
    assert model.cross_entropy(X, y) < before + 0.01


# Predicting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_and_their_logarithms_keep_both_tails(
    loss: str, classes: int, dtype: Any
) -> None:
    X, y = rows(classes=classes)
    model = CrossEntropyClassifier(loss=loss).fit(X.astype(dtype), y)
    far = (X * 300).astype(dtype)
    p, log_p = model.predict_proba(far), model.predict_log_proba(far)
    assert p.shape == log_p.shape == (len(y), classes)
    assert np.isfinite(log_p).all()
    assert log_p.min() < -1000
    small = (log_p > -700) & (log_p < -1)
    assert p[small] == pytest.approx(np.exp(log_p[small]), rel=1e-12)
    assert p.sum(axis=1) == pytest.approx(np.ones(len(y)), rel=1e-12)
    order = np.sort(log_p, axis=1)
    certain = (order[:, -2] < -40) & (order[:, -2] > -700)  # there 1 - p is below rounding
    assert certain.any()
    rest = np.exp(order[certain, :-1]).sum(axis=1)
    assert -order[certain, -1] == pytest.approx(rest, rel=1e-12)
    assert (model.predict(far) == log_p.argmax(axis=1)).all()


def test_one_against_the_rest_divides_by_the_sum() -> None:
    X, y = rows()
    model = CrossEntropyClassifier(loss="sigmoid").fit(X, y)
    a = reference.sigmoid(model.decision_function(X))
    assert model.predict_proba(X) == pytest.approx(a / a.sum(axis=1, keepdims=True), rel=1e-12)


def test_decisions_for_two_classes_have_one_sign() -> None:
    X, y = rows(classes=2)
    for loss in LOSSES:
        model = CrossEntropyClassifier(loss=loss, l2=1e-2).fit(X, y)
        assert model.decision_function(X).shape == (len(y),)
        odds = np.diff(model.predict_log_proba(X))[:, 0]
        assert model.decision_function(X) == pytest.approx(odds, rel=1e-9, abs=1e-12)


# Bad input --------------------------------------------------------------------------------------

GOOD = np.arange(8.0).reshape(4, 2)
BAD: list[tuple[dict[str, Any], Any, Any, type[Exception], str]] = [
    ({}, ["a"] * 4, None, ValueError, "y holds one class only, 'a'; there must be two or more"),
    ({}, [0, 1, 1, 0], [0, 1, 1, 0], ValueError, "y holds one class only, 1; there must be two"),
    ({}, [0, 1, np.nan, 0], None, ValueError, "the label of row 2 is missing"),
    ({}, ["a", None, "b", "a"], None, ValueError, "the label of row 1 is missing"),
    ({}, ["a", 1, "b", 1], None, None, ""),
    ({}, np.array(["a", 1, "b", 1], object), None, TypeError, "y[0] is 'a', y[1] is 1"),
    ({}, [0.1, 0.2, 0.3, 0.4], None, ValueError, "Unknown label type: continuous"),
    ({}, [0, 1, 0], None, ValueError, "inconsistent numbers of samples"),
    ({}, None, None, ValueError, "requires y to be passed, but the target y is None"),
    ({}, [0, 1, 1, 0], [1, -1, 1, 1], ValueError, "sample_weight[1] is -1.0; a weight must be"),
    ({}, [0, 1, 1, 0], [0] * 4, ValueError, "sample_weight is zero everywhere"),
    ({}, [0, 1, 1, 0], [1, 1], ValueError, "sample_weight has shape (2,); it must have shape (4,)"),
    ({"l2": -1}, [0, 1, 1, 0], None, ValueError, "l2 is -1; it must be finite, at least 0"),
    ({"tol": 0}, [0, 1, 1, 0], None, ValueError, "tol is 0; it must be finite, greater than 0"),
    ({"max_iter": 0}, [0, 1, 1, 0], None, ValueError, "max_iter is 0; it must be finite, at least"),
    ({"max_iter": 1.5}, [0, 1, 1, 0], None, TypeError, "max_iter is 1.5, a float; it must be an"),
    (
        {"loss": "hinge"},
        [0, 1, 1, 0],
        None,
        ValueError,
        "loss is 'hinge'; it must be one of 'auto'",
    ),
    (
        {"loss": "softmax"},
        [[0, 1], [1, 1], [1, 0], [0, 1]],
        None,
        ValueError,
        "loss is 'softmax', but y is an indicator matrix",
    ),
    (
        {"class_weight": {"z": 2}},
        ["a", "b", "b", "a"],
        None,
        ValueError,
        "class_weight names 'z'; the classes are 'a', 'b'",
    ),
    (
        {"class_weight": {"a": -2}},
        ["a", "b", "b", "a"],
        None,
        ValueError,
        "class_weight['a'] is -2; it must be finite, at least 0",
    ),
    (
        {"class_weight": "even"},
        ["a", "b", "b", "a"],
        None,
        ValueError,
        "class_weight is 'even'; it must be a dict of label to weight, 'balanced' or None",
    ),
]


@pytest.mark.parametrize(("options", "y", "weight", "error", "message"), BAD)
def test_bad_input_is_one_sentence(
    options: dict[str, Any], y: Any, weight: Any, error: Any, message: str
) -> None:
    model = CrossEntropyClassifier(**options)
    if error is None:  # NumPy makes text of a list of text and numbers
        assert model.fit(GOOD, y, weight).classes_.tolist() == ["1", "a", "b"]
        return
    with pytest.raises(error, match=re.escape(message)):
        model.fit(GOOD, y, weight)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_must_be_finite(value: float) -> None:
    X = GOOD.copy()
    X[2, 1] = value
    with pytest.raises(ValueError, match="Input X contains"):
        CrossEntropyClassifier().fit(X, [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("array", "position", "value", "message"),
    [
        ("indices", 3, 5, "X.indices is 5 at position 3; it must be at least 0 and less than 5"),
        ("indices", 0, -1, "X.indices is -1 at position 0; it must be at least 0 and less than 5"),
        ("indptr", 2, 9, "X.indptr is 9 at position 2 and 3 at position 3; it must not fall"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "fit_batches", "partial_fit", "predict", "cross_entropy"])
def test_sparse_features_lie_within_their_shape(
    array: str, position: int, value: int, message: str, call: str
) -> None:
    X, y = sparse.csr_matrix(np.eye(4, 5)), np.array([0, 1, 1, 0])
    model = CrossEntropyClassifier().fit(X, y)
    before = model.coef_.copy()
    getattr(X, array)[position] = value
    arguments = {"predict": (X,), "fit_batches": ([(X, y)], [0, 1])}.get(call, (X, y))
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(model, call)(*arguments)
    assert np.array_equal(model.coef_, before)


def test_partial_fit_wants_its_classes_first_and_no_others_later() -> None:
    model = CrossEntropyClassifier()
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        model.partial_fit(GOOD, [0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"y\[1\] is 'c'; the classes are 'a', 'b'"):
        model.partial_fit(GOOD, ["a", "c", "b", "a"], classes=["a", "b"])
    model.partial_fit(GOOD, ["a", "b", "b", "a"], classes=["b", "a"])
    with pytest.raises(ValueError, match="classes is 'a', 'c'; in the first call it was 'a', 'b'"):
        model.partial_fit(GOOD, ["a", "b", "b", "a"], classes=["a", "c"])
    with pytest.raises(ValueError, match="X has 1 features"):
        model.partial_fit(GOOD[:, :1], ["a", "b", "b", "a"])


@pytest.mark.parametrize("changed", [{"l2": -1}, {"class_weight": {"z": 2}}])
def test_a_fit_that_fails_leaves_the_model_as_it_was(changed: dict[str, Any]) -> None:
    X, y = rows(classes=3)
    model = CrossEntropyClassifier().fit(X, y)
    known = model.predict_proba(X)
    two = np.unique(y)[:2]
    with pytest.raises(ValueError, match=r"l2 is|class_weight names"):
        model.set_params(**changed).fit(X[np.isin(y, two)], y[np.isin(y, two)])
    assert (model.predict_proba(X) == known).all()


def test_a_warning_names_the_line_that_calls() -> None:
    X, y = rows(classes=2)
    with pytest.warns(ConvergenceWarning) as caught:
        CrossEntropyClassifier(max_iter=1).fit(X, y)
    assert caught[0].filename == __file__


def test_a_warm_start_with_other_columns_starts_anew() -> None:
    X, y = rows(classes=3)
    model = CrossEntropyClassifier(warm_start=True).fit(X, y).fit(X[:, :2], y)
    assert (model.coef_ == CrossEntropyClassifier().fit(X[:, :2], y).coef_).all()


def test_batches_and_classes_that_fit_batches_cannot_take() -> None:
    X, codes = np.arange(8.0).reshape(4, 2), [0, 1, 1, 0]
    model = CrossEntropyClassifier()
    with pytest.raises(ValueError, match="classes is 'b', 'a'; it must be sorted, each label once"):
        model.fit_batches([(X, codes)], ["b", "a"])
    with pytest.raises(ValueError, match="classes is 'a'; there must be two labels or more"):
        model.fit_batches([(X, codes)], ["a"])
    with pytest.raises(ValueError, match="batches can be gone through once only"):
        model.fit_batches(iter([(X, codes)]), ["a", "b"])
    with pytest.raises(ValueError, match="class_weight leaves no row a weight greater than zero"):
        model.set_params(class_weight={0: 0, 1: 0}).fit(X, codes)
