"""The way down: when it stops, and what it keeps, on objectives made for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossent.curvature import Coordinates
from crossent.layer import Rows, Value
from crossent.search import RESIDUAL, Progress, Search, newton_step

START = np.array([[3.0], [-2.0], [1.0]])
UNCHANGED = Coordinates(np.ones(2), 1.0)


class Bowl:
    """Sum of ln cosh(p - 1) from a height on, beside features of so many rows.

    Every look at it finds it higher by the height's last digit. With a wall around it, every other
    point than the start is higher by far.
    """

    def __init__(self, rows: int = 1, height: float = 0.0, wall: bool = False) -> None:
        self.height, self.wall, self.looks = height, wall, 0
        features = np.zeros((rows, 2))
        self.rows = Rows([], rows, 2, features.dtype, False, features.nbytes)

    def value_and_grad(self, parameters: NDArray[np.float64]) -> Value:
        self.looks += 1
        value = float(np.log(np.cosh(parameters - 1)).sum()) + self.height
        value += self.looks * np.spacing(self.height)
        if self.wall and (parameters != START).any():
            value += 10
        return Value(value / 2, value, np.tanh(parameters - 1))

    def hvp(self, parameters: Any, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(vector / np.cosh(parameters - 1) ** 2)

    def affine(self, parameters: NDArray[np.float64]) -> tuple[Any, Any]:
        return parameters[:-1], parameters[-1]


AT_START = float(np.log(np.cosh([2, 3])).sum())


def search(bowl: Bowl, tol: float = 1e-9, max_iter: int = 100, callback: Any = None) -> Search:
    return Search(bowl, UNCHANGED, START, callback).run(tol, max_iter)


@pytest.mark.parametrize("rows", [1, 1000])  # Newton, L-BFGS
def test_it_goes_down_to_the_bottom(rows: int) -> None:
    done = search(Bowl(rows))
    assert done.parameters == pytest.approx(np.ones((3, 1)), abs=1e-8)
    assert done.reason == "gradient below tol"
    assert done.history[0] == pytest.approx(AT_START)
    assert len(done.history) == done.iterations + 1
    assert (np.diff(done.history) <= 0).all()


@pytest.mark.parametrize("rows", [1, 1000])
def test_at_the_bottom_it_looks_once(rows: int) -> None:
    bowl = Bowl(rows)
    done = search(bowl, tol=10)
    assert (done.iterations, bowl.looks, done.reason) == (0, 1, "gradient below tol")


@pytest.mark.parametrize("rows", [1, 1000])
def test_where_nothing_is_lower_it_ends(rows: int) -> None:
    bowl = Bowl(rows, wall=True)
    done = search(bowl)
    assert done.reason == "no further decrease within rounding"
    assert bowl.looks < 60
    assert (done.parameters == START).all()
    assert (done.iterations, done.history) == (0, [done.history[0]])


def test_where_rounding_hides_the_fall_the_slope_leads_on() -> None:
    done = search(Bowl(height=1e12))  # whose last digit is 1e-4
    assert done.reason == "gradient below tol"
    assert done.parameters == pytest.approx(np.ones((3, 1)), abs=1e-8)
    assert (np.diff(done.history) <= 0).all()


@pytest.mark.parametrize("rows", [1, 1000])
def test_the_last_iteration_allowed(rows: int) -> None:
    done = search(Bowl(rows), max_iter=1)
    assert done.iterations == 1
    fall = done.history[0] - done.history[1]
    assert done.reason == f"max_iter reached, loss still falling by {fall:.1e} per iteration"


@pytest.mark.parametrize("rows", [1, 1000])
def test_what_a_callback_gets(rows: int) -> None:
    seen: list[Progress] = []
    done = search(Bowl(rows), callback=seen.append)
    assert [each.iteration for each in seen] == list(range(done.iterations + 1))
    assert [each.objective for each in seen] == done.history
    assert seen[0].loss == pytest.approx(AT_START / 2)
    assert seen[0].gradient_norm == pytest.approx(np.hypot(*np.tanh([2, 3])))
    assert seen[0].coef.tolist() == [[3.0, -2.0]]
    assert seen[-1].gradient_norm < 1e-9
    stopped = search(Bowl(rows), callback=lambda progress: True)
    assert stopped.reason == "stopped by the callback"
    assert stopped.iterations <= 1


# Newton's step ----------------------------------------------------------------------------------


def curved(*eigenvalues: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a Hessian with these eigenvalues, and a gradient that has a share of all of them."""
    n = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))
    return basis @ np.diag(eigenvalues) @ basis.T, basis.sum(axis=1)


@pytest.mark.parametrize("spread", [1.0, 1e2, 1e4])
def test_a_step_leaves_little_of_the_gradient(spread: float) -> None:
    hessian, gradient = curved(*np.logspace(0, np.log10(spread), 20))
    given = gradient.copy()
    step = newton_step(gradient, hessian.__matmul__)
    assert np.linalg.norm(hessian @ step + gradient) <= RESIDUAL * np.linalg.norm(gradient)
    assert (gradient == given).all()
    assert step @ gradient < 0


def test_a_step_leads_down_where_the_curvature_does_too() -> None:
    hessian, gradient = curved(3.0, 1.0, -0.5)
    assert newton_step(gradient, hessian.__matmul__) @ gradient < 0
    assert (newton_step(gradient, (-hessian @ hessian).__matmul__) == -gradient).all()
    assert (newton_step(gradient, lambda vector: vector * np.nan) == -gradient).all()
