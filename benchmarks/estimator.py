"""`CrossEntropyClassifier.fit` beside scikit-learn's LogisticRegression, to the same objective.

Every contestant is given the loosest of TOLERANCES with which its objective comes within ACCURACY
of the least one known; the search for it is not timed. Each solver runs with all threads and with
one: for little rows two pools of threads that wait for each other are far slower than none.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

import crossent
from benchmarks.measure import MEMORY, Call, Case, Prepare, Target
from benchmarks.peers import installed

ACCURACY = 1e-6  # nats, of the objective
TOLERANCES = (1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-7, 1e-8)
SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky")
MOST_HESSIAN = 2000  # parameters: newton-cholesky makes a matrix of as many rows and columns
SEARCH = 10.0  # seconds for the tolerance of one of theirs, about
ITERATIONS = 10_000  # at most
PEAK = 1.2  # of what the features take
THEIRS = "LogisticRegression"


@dataclass(frozen=True)
class Rows:
    """Rows to learn from, and what it takes to learn them well enough."""

    X: Any
    y: np.ndarray

    @property
    def l2(self) -> float:
        """Return the penalty of scikit-learn's default, C = 1."""
        return 1 / len(self.y)

    @property
    def nbytes(self) -> int:
        from crossent.layer import nbytes_of

        return nbytes_of(self.X)

    @cached_property
    def least(self) -> float:
        """Return the least objective, as far as rounding lets one see."""
        exact = Rows(self.X.astype(np.float64), self.y)
        return self.objective(exact.ours(1e-9))

    def ours(self, tol: float, iterations: int = ITERATIONS) -> Any:
        from crossent.sklearn import CrossEntropyClassifier

        model = CrossEntropyClassifier(l2=self.l2, tol=tol, max_iter=iterations)
        return model.fit(self.X, self.y)

    def theirs(
        self, solver: str, threads: int | None, tol: float, iterations: int = ITERATIONS
    ) -> Any:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        model = LogisticRegression(C=1.0, solver=solver, tol=tol, max_iter=iterations)
        with threadpool_limits(threads):
            return model.fit(self.X, self.y)

    def objective(self, model: Any) -> float:
        """Return what both minimise, in float64."""
        z = np.asarray(self.X.astype(np.float64) @ model.coef_.T + model.intercept_, np.float64)
        if z.shape[1] == 1:
            loss: Any = crossent.BinaryCrossEntropy()
            value = loss(z, (self.y == model.classes_[1]).astype(np.float64)[:, None])
        else:
            value = crossent.CrossEntropy()(z, np.searchsorted(model.classes_, self.y))
        return float(value) + self.l2 / 2 * float(np.square(model.coef_, dtype=np.float64).sum())

    def prepared(self, fit: Callable[..., Any], limit: float = np.inf) -> Call:
        """Return a fit with the loosest tolerance that is good enough; look for so many seconds."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            aim, left, iterations = self.least + ACCURACY, limit, ITERATIONS
            for tol in TOLERANCES:
                start = time.perf_counter()
                model = fit(tol, iterations)
                if self.objective(model) <= aim:
                    return partial(fit, tol)
                seconds = time.perf_counter() - start
                left -= seconds
                iterations = int(min(ITERATIONS, left / seconds * np.max(model.n_iter_)))
                if iterations < 1:
                    break
        raise ValueError(f"not within {ACCURACY} nats at tol={tol:g}, in {limit:g} s")


def case(make: Callable[[int], Rows], factor: float, quick: bool) -> Case:
    """Return a case; crossent is to be `factor` times as fast as the best solver."""
    rows = make(16 if quick else 1)
    theirs = dict(_theirs(rows)) if installed("sklearn") else {}
    return Case(
        rows.nbytes,
        {"crossent": lambda: rows.prepared(rows.ours), **theirs},
        (
            Target(THEIRS, ">=", factor, "crossent"),
            Target("crossent", "<=", PEAK * rows.nbytes / 1e6, MEMORY),
        ),
        groups={THEIRS: tuple(theirs)},
        notes=(f"X takes {rows.nbytes / 1e6:.1f} MB",),
    )


def _theirs(rows: Rows) -> Iterator[tuple[str, Prepare]]:
    """Yield scikit-learn's solvers, each with all threads and with one."""
    parameters = rows.X.shape[1] * len(np.unique(rows.y))
    for solver in SOLVERS if parameters <= MOST_HESSIAN else SOLVERS[:2]:
        for name, threads in ((f"sklearn {solver}", None), (f"sklearn {solver}, 1 thread", 1)):
            yield name, partial(rows.prepared, partial(rows.theirs, solver, threads), SEARCH)


# Data -------------------------------------------------------------------------------------------


def dense(rows: int, columns: int, classes: int, dtype: Any, fewer: int) -> Rows:
    """Features that hang together, and classes that they tell something of."""
    random = np.random.default_rng(0)
    rows //= fewer
    hidden = random.standard_normal((rows, columns // 4))
    X = hidden @ random.standard_normal((columns // 4, columns)) / np.sqrt(columns / 4)
    X += random.standard_normal((rows, columns))
    scores = X @ random.standard_normal((columns, classes)) / np.sqrt(columns)
    y = (2 * scores + random.gumbel(size=scores.shape)).argmax(axis=1)
    return Rows(np.ascontiguousarray(X, dtype), y)


def one_hot(fewer: int) -> Rows:
    """Twenty columns of text with 2500 values each, the first ones frequent."""
    from scipy import sparse

    random = np.random.default_rng(0)
    rows, columns, values, classes = 20_000 // fewer, 20, 2500, 10
    found = np.minimum(random.exponential(values / 5, (rows, columns)).astype(int), values - 1)
    indices = (found + values * np.arange(columns)).ravel()
    indptr = columns * np.arange(rows + 1)
    X = sparse.csr_matrix((np.ones(indices.size), indices, indptr), (rows, columns * values))
    scores = X @ random.standard_normal((columns * values, classes)) / 2
    return Rows(X, (scores + random.gumbel(size=scores.shape)).argmax(axis=1))


def digits(_: int) -> Rows:
    from sklearn.datasets import load_digits

    return Rows(*load_digits(return_X_y=True))


CASES = {
    "fit_20000x400x10": partial(case, partial(dense, 20_000, 400, 10, np.float64), 2.0),
    "fit_float32_100000x100x5": partial(case, partial(dense, 100_000, 100, 5, np.float32), 3.0),
    "fit_digits": partial(case, digits, 1.0),
    "fit_binary_200000x20": partial(case, partial(dense, 200_000, 20, 2, np.float64), 1.0),
    "fit_one_hot_20000x50000x10": partial(case, one_hot, 1.0),
}
