"""The layer under the classifier: its products, its derivatives, its coordinates and its memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

import crossent
from crossent import layer
from crossent.curvature import Coordinates, Memory, centre, coordinates_for, moments
from crossent.kernels.products import NARROW, add_narrow_back, narrow_scores
from crossent.layer import Block, Objective, Prior, Rows
from memory_rows import read_again, rows_of

Array = NDArray[Any]


def normal(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


# Products ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("columns", [1, 5, 64, 67])
@pytest.mark.parametrize("outputs", [1, 2, 5, NARROW])
def test_narrow_products(dtype: Any, rows: int, columns: int, outputs: int) -> None:
    X, w, b = normal(rows, columns), normal(outputs, columns, seed=1), normal(outputs, seed=2)
    X, w, b = (each.astype(dtype) for each in (X, w, b))
    slope, sums = np.full((rows, outputs), np.nan, dtype), normal(outputs, columns, seed=3)
    narrow_scores(X, w, b, slope)
    precision = 4 * np.finfo(dtype).eps * np.sqrt(columns + rows)
    exact = X.astype(float) @ w.T.astype(float) + b.astype(float)
    assert slope == pytest.approx(exact, abs=precision * np.abs(exact).max() * 4)
    expected = sums + slope.T.astype(float) @ X.astype(float)
    sums = sums.astype(dtype)
    add_narrow_back(X, slope, sums)
    assert sums == pytest.approx(expected, abs=precision * np.abs(expected).max() * 4)


@pytest.mark.parametrize("outputs", [2, NARROW + 1])
def test_products_of_every_layout(outputs: int) -> None:
    X, w, b = normal(30, 8), normal(8, outputs, seed=1), normal(outputs, seed=2)
    expected = X @ w + b
    for form in (X, np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2], sparse.csr_array(X)):
        assert layer.scores_of(form, w, b) == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert layer.scores_of(X.astype(np.float32), w, b).dtype == np.float32


# Derivatives ------------------------------------------------------------------------------------

LOSSES = {
    "softmax": crossent.CrossEntropy(),
    "two terms": crossent.SoftmaxBinaryCrossEntropy(),
    "sigmoid": crossent.BinaryCrossEntropy(reduction="batchmean"),
}


def objective(name: str, form: Any, weighted: bool, columns: int = 4) -> Objective:
    X = normal(50, columns) + 3
    y = np.random.default_rng(1).integers(3, size=50)
    targets = np.eye(3)[y] if name == "sigmoid" else y
    weight = np.random.default_rng(2).uniform(0, 2, 50) if weighted else None
    prior = Prior(np.abs(normal(columns + 1, 3, seed=3)), normal(columns + 1, 3, seed=4))
    whole = Block(form(X), targets, weight)
    cut = [whole.at(i) for i in CUTS]
    return Objective(LOSSES[name], rows_of(cut[:2], cut[2:]), 40.0, X.mean(axis=0), prior)


CUTS = (slice(0, 20), slice(20, 21), slice(21, 50))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sparse.csr_matrix])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_and_curvature_by_finite_differences(name: str, form: Any, weighted: bool) -> None:
    target, at, along = objective(name, form, weighted), normal(5, 3, seed=5), normal(5, 3, seed=6)
    step = 1e-6 * along
    ahead, behind = target.value_and_grad(at + step), target.value_and_grad(at - step)
    slope = float(np.vdot(target.value_and_grad(at).gradient, along))
    assert (ahead.objective - behind.objective) / 2e-6 == pytest.approx(slope, rel=1e-7)
    change = (ahead.gradient - behind.gradient) / 2e-6
    assert target.hvp(at, along) == pytest.approx(change, rel=1e-6, abs=1e-8)
    assert target.hvp(2 * at, along) != pytest.approx(change, rel=1e-3)
    assert target.hvp(at, along) == pytest.approx(change, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_blocks_add_up(name: str) -> None:
    cut = objective(name, np.asarray, True)
    parts = zip(*cut.rows.blocks(), strict=True)
    features, targets, weight = (np.concatenate(part) for part in parts)
    whole = rows_of([Block(features, targets, weight)])
    one = Objective(cut.loss, whole, cut.normalizer, cut.origin, cut.prior)
    at = normal(5, 3, seed=7)
    assert one.value_and_grad(at).loss == pytest.approx(cut.value_and_grad(at).loss, rel=1e-13)
    assert one.value_and_grad(at).gradient == pytest.approx(
        cut.value_and_grad(at).gradient, rel=1e-12, abs=1e-14
    )
    weights, bias = one.affine(at)
    by_hand = cut.loss(features @ weights + bias, targets, weight, cut.normalizer)
    assert one.value_and_grad(at).loss == pytest.approx(by_hand, rel=1e-13)


def test_blocks_share_the_memory_of_the_features() -> None:
    X, y = normal(100_000, 20), np.zeros(100_000, int)
    blocks = layer.blocks_of(X, y, None, 1)
    assert len(blocks) > 1
    assert sum(len(block.targets) for block in blocks) == len(X)
    assert all(np.shares_memory(block.features, X) for block in blocks)
    assert len(layer.blocks_of(sparse.csr_matrix(X[:100]), y[:100], None, 1)) == 1


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_rows_read_again_give_the_same_bits(name: str, form: Any) -> None:
    kept = objective(name, form, True)
    again = Objective(kept.loss, read_again(kept.rows), 40.0, kept.origin, kept.prior)
    at, along = normal(5, 3, seed=5), normal(5, 3, seed=6)
    assert (again.value_and_grad(at).gradient == kept.value_and_grad(at).gradient).all()
    assert (again.hvp(at, along) == kept.hvp(at, along)).all()
    assert again.rows.batches.looks == 2


def test_some_rows_are_taken_evenly_however_they_are_cut() -> None:
    X, y, weight = normal(1000, 3), np.arange(1000), np.arange(1000.0)
    whole = Block(X, y, weight)
    cuts = [slice(0, 1), slice(1, 390), slice(390, 1000)]
    for rows in (rows_of([whole.at(i) for i in cuts]), rows_of(*([whole.at(i)] for i in cuts))):
        for taken in (rows, read_again(rows), replace(rows, before=33)):
            numbers = np.concatenate([block.targets for block in taken._some])
            assert (numbers + taken.before).tolist() == [
                i + taken.before for i in range(1000) if (i + taken.before) % 33 == 0
            ]
    assert np.shares_memory(rows._some[0].features, X) is False  # put together
    assert np.shares_memory(rows_of([whole])._some[0].features, X)


# Coordinates ------------------------------------------------------------------------------------


def features(X: Any) -> Rows:
    """Return features without targets, cut in two."""
    whole = Block(X, np.zeros(X.shape[0]), None)
    return rows_of([whole.at(slice(0, 100)), whole.at(slice(100, None))])


def correlated(n: int = 4000, columns: int = 6) -> NDArray[np.float64]:
    return normal(n, columns) @ normal(columns, columns, seed=1) * np.logspace(-3, 3, columns) + 5


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_coordinates_are_a_linear_change_and_its_adjoint(form: Any) -> None:
    X = features(form(correlated()))
    change = coordinates_for(X, centre(X), 0.25, np.full(6, 1e-3))
    p, q = normal(7, 2, seed=2), normal(7, 2, seed=3)
    assert change.parameters(change.position(p)) == pytest.approx(p, rel=1e-9)
    forth, back = np.vdot(change.parameters(p), q), np.vdot(p, change.gradient(q))
    assert forth == pytest.approx(back, rel=1e-12)


def test_in_coordinates_the_curvature_is_one() -> None:
    X, curvature, precision = correlated(), 0.2, np.full(7, 1e-3)
    precision[-1] = 0
    change = coordinates_for(features(X), X.mean(axis=0), curvature, precision[:-1])
    centred = np.column_stack([X - X.mean(axis=0), np.ones(len(X))])
    hessian = curvature * centred.T @ centred / len(X) + np.diag(precision)
    basis = change.parameters(np.eye(7))
    assert basis.T @ hessian @ basis == pytest.approx(
        np.eye(7), abs=0.5
    )  # from a tenth of the rows
    plain = np.diag(hessian) ** -0.5
    assert np.linalg.cond(plain[:, None] * hessian * plain) > 30


def test_uncorrelated_features_are_only_scaled() -> None:
    change = coordinates_for(features(normal(5000, 50)), np.zeros(50), 0.25, np.zeros(50))
    assert change.basis.ndim == 1
    assert change.basis == pytest.approx(np.full(50, 2.0), rel=0.2)


def test_columns_without_spread_do_no_harm() -> None:
    X = correlated()
    X[:, 2] = 7.0
    for precision in (np.zeros(6), np.full(1, 1e-3)):
        basis = coordinates_for(features(X), X.mean(axis=0), 0.25, precision).basis
        assert np.isfinite(basis).all()


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_moments_with_weights(form: Any) -> None:
    X, weight = correlated(300), np.random.default_rng(0).uniform(0, 2, 300)
    blocks = [Block(form(X[i]), X[i], weight[i]) for i in (slice(0, 100), slice(100, 300))]
    mean, variance = moments(rows_of(blocks))
    expected = np.average(X, axis=0, weights=weight)
    assert mean == pytest.approx(expected, rel=1e-12)
    spread = np.average((X - expected) ** 2, axis=0, weights=weight)
    assert variance == pytest.approx(spread, rel=1e-6)


# Memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_the_memory_is_the_diagonal_of_the_hessian(form: Any) -> None:
    X = normal(20, 3)
    y, weight = np.arange(20) % 3, np.random.default_rng(0).uniform(0, 2, 20)
    origin, at = X.mean(axis=0), normal(4, 3, seed=1)
    rows = rows_of([Block(form(X), y, weight)])
    none = Memory(origin, np.ones(3), np.zeros((4, 3)))
    total = float(weight.sum())
    layer_at = at[:-1], at[-1] - origin @ at[:-1]
    memory = none.and_rows(LOSSES["softmax"], rows, total, *layer_at).and_rows(
        LOSSES["softmax"], rows, total, *layer_at
    )
    summed = Objective(LOSSES["softmax"], rows, 1.0, origin, Prior(np.zeros((4, 1)), at * 0))
    for i in range(4):
        for j in range(3):
            unit = np.zeros((4, 3))
            unit[i, j] = 1
            assert memory.curvature[i, j] == pytest.approx(2 * summed.hvp(at, unit)[i, j], rel=1e-9)
    assert memory.weight == 2 * total


def test_wide_sparse_rows_are_remembered_by_feature_and_by_output() -> None:
    """Over all outputs together, and for the constants, as much is held as by the diagonal."""
    X, y, weight = normal(20, 30), np.arange(20) % 3, np.random.default_rng(0).uniform(0, 2, 20)
    origin, weights, bias = X.mean(axis=0), normal(30, 3, seed=1), normal(3, seed=2)
    taught = float(weight.sum()), weights, bias
    none = Memory(origin, np.ones(1), np.zeros((1, 1)))
    found, exact = (
        none.and_rows(LOSSES["softmax"], rows_of([Block(form(X), y, weight)]), *taught)
        for form in (sparse.csr_matrix, np.asarray)
    )
    assert found.curvature.shape == (31, 1)
    assert found.diagonal.sum(axis=1) == pytest.approx(exact.diagonal.sum(axis=1), rel=1e-9)
    assert found.diagonal[-1] == pytest.approx(exact.diagonal[-1], rel=1e-9)
    again = found.and_rows(LOSSES["softmax"], rows_of([Block(X, y, weight)]), *taught)
    assert again.diagonal == pytest.approx(found.diagonal + exact.diagonal, rel=1e-9)


def test_the_prior_of_a_memory_pulls_to_where_it_was_least() -> None:
    """At the parameters themselves its slope is that of the rows seen: minus their penalty's."""
    scale, at = np.array([1.0, 2.0]), normal(3, 2)
    memory = Memory(np.zeros(2), scale, np.abs(normal(3, 2, seed=1)), weight=30.0)
    l2, total = 0.1, 50.0
    prior = memory.prior(l2, at, total)
    _, slope = prior.value_and_grad(at)
    penalty = np.append(l2 * scale**2, 0)[:, None] * at
    assert slope == pytest.approx(penalty - penalty * 30 / 50, rel=1e-12)
    fresh = Memory(np.zeros(2), scale, np.zeros((3, 2))).prior(l2, at, total)
    assert fresh.value_and_grad(at)[1] == pytest.approx(penalty, rel=1e-12)


def test_coordinates_of_a_diagonal() -> None:
    change = Coordinates(np.array([2.0, 4.0]), 3.0)
    assert change.parameters(np.ones((3, 1))).ravel().tolist() == [2, 4, 3]
    assert change.position(np.ones((3, 1))).ravel() == pytest.approx([0.5, 0.25, 1 / 3])


def test_fits_side_by_side_give_blas_its_threads_back() -> None:
    def threads() -> list[int]:
        blas = layer._libraries().select(user_api="blas").info()
        return [library["num_threads"] for library in blas]

    known = threads()
    first, second = layer.one_blas_thread(), layer.one_blas_thread()
    with ExitStack() as one:
        with ExitStack() as other:
            one.enter_context(first)
            other.enter_context(second)
            one.close()
            assert threads() == [1] * len(known)
    assert threads() == known
