"""The way down: when it stops, and what it keeps, on objectives made for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossent.curvature import Coordinates
from crossent.layer import Rows, Value
from crossent.search import MAX_REFUSED, Progress, Search

START = np.array([[3.0], [-2.0], [1.0]])
UNCHANGED = Coordinates(np.ones(2), 1.0)


class Bowl:
    """1/2 sum (p - 1)^2, given in steps of `grain`, beside features of so many rows."""

    def __init__(self, grain: float = 0.0, rows: int = 1) -> None:
        self.grain, self.looks = grain, 0
        features = np.zeros((rows, 2))
        self.rows = Rows([], rows, 2, features.dtype, False, features.nbytes)

    def value_and_grad(self, parameters: NDArray[np.float64]) -> Value:
        self.looks += 1
        away = parameters - 1
        value = 0.5 * float((away**2).sum())
        if self.grain:
            value = round(value / self.grain) * self.grain
        return Value(value / 2, value, away)

    def hvp(self, parameters: Any, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return vector

    def affine(self, parameters: NDArray[np.float64]) -> tuple[Any, Any]:
        return parameters[:-1], parameters[-1]


def search(bowl: Bowl, tol: float = 1e-9, max_iter: int = 100, callback: Any = None) -> Search:
    return Search(bowl, UNCHANGED, START, callback).run(tol, max_iter)


@pytest.mark.parametrize("rows", [1, 1000])  # the trust region, L-BFGS
def test_it_goes_down_to_the_bottom(rows: int) -> None:
    done = search(Bowl(rows=rows))
    assert done.parameters == pytest.approx(np.ones((3, 1)), abs=1e-8)
    assert done.reason == "gradient below tol"
    assert done.history[0] == 6.5
    assert len(done.history) == done.iterations + 1


@pytest.mark.parametrize("rows", [1, 1000])
def test_at_the_bottom_it_looks_once(rows: int) -> None:
    bowl = Bowl(rows=rows)
    done = search(bowl, tol=10)
    assert (done.iterations, bowl.looks, done.reason) == (0, 1, "gradient below tol")


@pytest.mark.parametrize("rows", [1, 1000])
def test_where_every_step_is_refused_it_ends(rows: int) -> None:
    bowl = Bowl(grain=100.0, rows=rows)  # everything looks the same
    done = search(bowl)
    assert done.reason == "no further decrease within rounding"
    assert bowl.looks < 60
    assert (done.parameters == START).all()
    assert done.iterations == (MAX_REFUSED if rows == 1 else 0)
    assert done.history == [0.0] * (done.iterations + 1)


@pytest.mark.parametrize("rows", [1, 1000])
def test_the_last_iteration_allowed(rows: int) -> None:
    done = search(Bowl(rows=rows), max_iter=1)
    assert done.iterations == 1
    fall = done.history[0] - done.history[1]
    assert done.reason == f"max_iter reached, loss still falling by {fall:.1e} per iteration"


@pytest.mark.parametrize("rows", [1, 1000])
def test_what_a_callback_gets(rows: int) -> None:
    seen: list[Progress] = []
    done = search(Bowl(rows=rows), callback=seen.append)
    assert [each.iteration for each in seen] == list(range(done.iterations + 1))
    assert [each.objective for each in seen] == done.history
    assert seen[0].loss == 3.25
    assert seen[0].gradient_norm == pytest.approx(np.sqrt(13))
    assert seen[0].coef.tolist() == [[3.0, -2.0]]
    assert seen[-1].gradient_norm < 1e-9
    stopped = search(Bowl(rows=rows), callback=lambda progress: True)
    assert stopped.reason == "stopped by the callback"
    assert stopped.iterations <= 1
