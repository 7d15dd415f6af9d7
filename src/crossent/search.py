"""The way down the objective of a layer: L-BFGS or Newton's method, in coordinates that suit it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg.blas import daxpy
from scipy.optimize import OptimizeResult, minimize

from crossent.curvature import Coordinates
from crossent.layer import Float64, Objective

if TYPE_CHECKING:
    from crossent.checkpoint import Remembered

HISTORY = 10  # pairs of vectors that L-BFGS keeps
ENOUGH = 1e-4  # of the fall that a gradient promises a step
ROUNDING = 16  # times the last digit of an objective: what its products may change
RESIDUAL = 0.2  # of a gradient, left by a step: less takes more products than it saves steps
HALVINGS = 20  # of a step: what is still shorter gains nothing either


@dataclass(frozen=True)
class Progress:
    """Where the search stands after an iteration (or, for iteration 0, before the first).

    Attributes
    ----------
    iteration : int
        Iterations made.
    loss : float
        Mean cross-entropy of the rows it trains on, in nats, without the prior.
    objective : float
        The same with the prior: what is minimised.
    gradient_norm : float
        Length of the objective's gradient, in `Coordinates`; compared with tol.
    coef, intercept : (J, D) and (J,) arrays
        The layer as it is now, for the features as given.
    """

    iteration: int
    loss: float
    objective: float
    gradient_norm: float
    coef: Float64
    intercept: Float64


class _Trial(NamedTuple):
    """A position that was looked at."""

    position: Float64
    parameters: Float64
    loss: float
    objective: float
    gradient: Float64
    length: float  # of the gradient


class Descent(ABC):
    """What is kept of a way down, and told of it.

    After it: `history` (the objective at the start and after each iteration) and `reason`, why it
    ended.
    """

    def __init__(
        self, callback: Callable[[Progress], object] | None, history: Sequence[float] = ()
    ) -> None:
        self.callback, self.history, self.reason = callback, list(history), ""

    @property
    def iterations(self) -> int:
        """Return how many iterations were made."""
        return max(0, len(self.history) - 1)

    @abstractmethod
    def layer(self) -> tuple[Float64, Float64]:
        """Return the weights (J, D) and biases (J,) that it has led to."""

    def report(
        self,
        loss: float,
        objective: float,
        length: float,
        layer: Callable[[], tuple[Float64, Float64]],
    ) -> None:
        """Take note of an iteration; the layer is made for a callback only.

        An objective that only rounding has raised stays what it was.
        """
        objective = min([objective, *self.history[-1:]])
        self.history.append(objective)
        if self.callback is None:
            return
        if self.callback(Progress(self.iterations, loss, objective, length, *layer())) is True:
            self.reason = "stopped by the callback"

    def ended(self, length: float, tol: float, max_iter: int) -> bool:
        """Return whether this is the end, and keep why."""
        if not self.reason and length < tol:
            self.reason = "gradient below tol"
        elif not self.reason and self.iterations >= max_iter:
            fall = self.history[-2] - self.history[-1]
            self.reason = f"max_iter reached, loss still falling by {fall:.1e} per iteration"
        return bool(self.reason)


class Search(Descent):
    """A way down an objective: what SciPy asks and reports, and what is kept of it.

    It goes on with a history that is given, whose last entry was taken at the start.
    """

    def __init__(
        self,
        objective: Objective | Remembered,
        coordinates: Coordinates,
        start: Float64,
        callback: Callable[[Progress], object] | None = None,
        history: Sequence[float] = (),
    ) -> None:
        super().__init__(callback, history)
        self.objective, self.coordinates = objective, coordinates
        self._shape = start.shape
        self._best = self._trial = self._look(coordinates.position(start).ravel())

    @property
    def parameters(self) -> Float64:
        """Return the best parameters found."""
        return self._best.parameters

    def layer(self) -> tuple[Float64, Float64]:
        """Return the weights and biases of the best parameters."""
        weights, bias = self.objective.affine(self.parameters)
        return np.ascontiguousarray(weights.T), bias

    def run(self, tol: float, max_iter: int) -> Search:
        """Search until the gradient's length falls below tol, or for max_iter iterations."""
        self._tol, self._max_iter = tol, max_iter
        if not self.history:
            self._accept(self._best)
        if not self._done:
            self._way()
        self.reason = self.reason or "no further decrease within rounding"
        return self

    @property
    def _way(self) -> Callable[[], None]:
        """Return L-BFGS where its history is small beside the features, else Newton's method.

        The latter keeps but a few vectors like the parameters, and takes fewer passes over wide
        sparse features.
        """
        little = 2 * HISTORY * self._best.position.nbytes <= self.objective.rows.nbytes
        return self._by_lbfgs if little else self._by_newton

    @property
    def _done(self) -> bool:
        return self.ended(self._best.length, self._tol, self._max_iter)

    def _by_lbfgs(self) -> None:
        options = {"maxcor": HISTORY, "ftol": 0.0, "gtol": 0.0, "maxfun": 10**9}
        minimize(
            self._value_and_grad,
            self._best.position,
            jac=True,
            callback=self._after_iteration,
            method="L-BFGS-B",
            options={**options, "maxiter": self._max_iter},
        )

    def _value_and_grad(self, position: Float64) -> tuple[float, Float64]:
        if not np.array_equal(position, self._trial.position):
            self._trial = self._look(position.copy())
        return self._trial.objective, self._trial.gradient

    def _after_iteration(self, intermediate_result: OptimizeResult) -> None:
        self._value_and_grad(intermediate_result.x)
        self._accept(self._trial)
        if self._done:
            raise StopIteration

    def _by_newton(self) -> None:
        """Go down by steps that `newton_step` finds, shortened as far as need be."""
        while not self._done:
            trial = self._lower(newton_step(self._best.gradient, self._hvp))
            if trial is None:
                return
            self._accept(trial)

    def _hvp(self, vector: Float64) -> Float64:
        """Return the Hessian at the best position, times a vector."""
        along = self.coordinates.parameters(vector.reshape(self._shape))
        product = self.objective.hvp(self._best.parameters, along)
        return self.coordinates.gradient(product).ravel()

    def _lower(self, step: Float64) -> _Trial | None:
        """Return a lower point along a step, or none.

        Where rounding hides what there is to fall, one that is far flatter passes for as low.
        """
        best, promised = self._best, abs(float(step @ self._best.gradient))
        hidden = ROUNDING * float(np.finfo(self.objective.rows.dtype).eps) * abs(best.objective)
        for _ in range(HALVINGS):
            trial = self._look(best.position + step)
            fall = best.objective - trial.objective
            if fall >= ENOUGH * promised:
                return trial
            if abs(fall) <= hidden and trial.length < best.length / 2:
                return trial._replace(objective=best.objective)
            step *= 0.5
            promised *= 0.5
        return None

    def _look(self, position: Float64) -> _Trial:
        """Return the objective at a position, in one look at the rows."""
        parameters = self.coordinates.parameters(position.reshape(self._shape))
        loss, objective, gradient = self.objective.value_and_grad(parameters)
        gradient = self.coordinates.gradient(gradient).ravel()
        length = float(np.linalg.norm(gradient))
        return _Trial(position, parameters, loss, objective, gradient, length)

    def _accept(self, trial: _Trial) -> None:
        """Keep a trial as the best, and report it."""
        self._best = self._trial = trial
        self.report(trial.loss, trial.objective, trial.length, self.layer)


def newton_step(gradient: Float64, product: Callable[[Float64], Float64]) -> Float64:
    """Return a step s with H s = -gradient but for a small residual, given H times a vector.

    By conjugate gradients, up to the first direction along which H does not curve upwards. SciPy's
    trust-ncg takes nearly three times the products with H on one-hot columns, and its Newton-CG
    stops at a gradient of 1e-8, where rounding hides from a line search what the objective falls.
    Source: Dembo and Steihaug, Truncated-Newton algorithms for large-scale unconstrained
    optimization (1983).
    """
    step, residual, direction = np.zeros_like(gradient), gradient.copy(), -gradient
    square = float(residual @ residual)
    enough = RESIDUAL**2 * square
    while square > enough:
        bent = product(direction)
        curvature = float(direction @ bent)
        if not curvature > 0:
            return step if step.any() else direction
        daxpy(direction, step, a=square / curvature)
        daxpy(bent, residual, a=square / curvature)
        before, square = square, float(residual @ residual)
        direction *= square / before
        direction -= residual
    return step
