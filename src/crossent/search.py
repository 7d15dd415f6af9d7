"""The way down: SciPy's optimisers on the objective of a layer, in coordinates that suit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from crossent.curvature import Coordinates
from crossent.layer import Float64, Objective

if TYPE_CHECKING:
    from crossent.checkpoint import Remembered

HISTORY = 10  # pairs of vectors that L-BFGS keeps
FIRST_RADIUS, LAST_RADIUS = 3.0, 1e8  # of the trust region, in the scores' own unit
MAX_REFUSED = 12  # steps in a row: one 4^12 times shorter gains nothing either


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


class Search:
    """A way down an objective: what SciPy asks and reports, and what is kept of it.

    After `run`: `parameters`, `history` (the objective at the start and after each iteration) and
    `reason`, why it stopped.
    """

    def __init__(
        self,
        objective: Objective | Remembered,
        coordinates: Coordinates,
        start: Float64,
        callback: Callable[[Progress], object] | None = None,
    ) -> None:
        self.objective, self.coordinates, self.callback = objective, coordinates, callback
        self.history: list[float] = []
        self.reason = ""
        self._shape = start.shape
        self._trial: _Trial | None = None
        self._best = self._look(coordinates.position(start).ravel())
        self._refused = 0

    @property
    def parameters(self) -> Float64:
        """Return the best parameters found."""
        return self._best.parameters

    @property
    def iterations(self) -> int:
        """Return how many iterations were made."""
        return max(0, len(self.history) - 1)

    def run(self, tol: float, max_iter: int) -> Search:
        """Search until the gradient's length falls below tol, or for max_iter iterations."""
        self._tol = tol
        self._accept(self._best)
        if self._best.length >= tol:
            minimize(
                self._value_and_grad,
                self._best.position,
                jac=True,
                callback=self._after_iteration,
                **self._method(max_iter),
            )
        self.reason = self.reason or self._why_stopped(max_iter)
        return self

    def _method(self, max_iter: int) -> dict[str, Any]:
        """Return L-BFGS where its history is small beside the features, else Newton-CG.

        The trust region keeps but a few vectors like the parameters, and takes fewer passes over
        wide sparse features.
        """
        if 2 * HISTORY * self._best.position.nbytes <= self.objective.rows.nbytes:
            options = {"maxcor": HISTORY, "ftol": 0.0, "gtol": 0.0, "maxfun": 10**9}
            return {"method": "L-BFGS-B", "options": {**options, "maxiter": max_iter}}
        radius = {"initial_trust_radius": FIRST_RADIUS, "max_trust_radius": LAST_RADIUS}
        options = {**radius, "gtol": self._tol, "maxiter": max_iter}
        return {"method": "trust-ncg", "hessp": self._hvp, "options": options}

    def _look(self, position: Float64) -> _Trial:
        """Return the objective at a position; the last one asked for is kept."""
        if self._trial is None or not np.array_equal(position, self._trial.position):
            parameters = self.coordinates.parameters(position.reshape(self._shape))
            loss, objective, gradient = self.objective.value_and_grad(parameters)
            gradient = self.coordinates.gradient(gradient).ravel()
            length = float(np.linalg.norm(gradient))
            self._trial = _Trial(position.copy(), parameters, loss, objective, gradient, length)
        return self._trial

    def _value_and_grad(self, position: Float64) -> tuple[float, Float64]:
        trial = self._look(position)
        return trial.objective, trial.gradient

    def _hvp(self, position: Float64, vector: Float64) -> Float64:
        known = np.array_equal(position, self._best.position)
        at = self._best.parameters if known else self._look(position).parameters
        along = self.coordinates.parameters(vector.reshape(self._shape))
        return self.coordinates.gradient(self.objective.hvp(at, along)).ravel()

    def _after_iteration(self, intermediate_result: OptimizeResult) -> None:
        assert self._trial is not None
        if np.array_equal(intermediate_result.x, self._trial.position):
            self._refused = 0
            self._accept(self._trial)
        else:  # the trust region refused the step and will try a shorter one
            self._refused += 1
            self.history.append(self._best.objective)
        if self._best.length < self._tol or self._refused >= MAX_REFUSED or self.reason:
            raise StopIteration

    def _accept(self, trial: _Trial) -> None:
        """Keep a trial as the best, and report it."""
        self._best = trial
        self.history.append(trial.objective)
        if self.callback is None:
            return
        weights, bias = self.objective.affine(trial.parameters)
        progress = Progress(
            self.iterations, trial.loss, trial.objective, trial.length, weights.T, bias
        )
        if self.callback(progress) is True:
            self.reason = "stopped by the callback"

    def _why_stopped(self, max_iter: int) -> str:
        if self._best.length < self._tol:
            return "gradient below tol"
        if self.iterations >= max_iter:
            fall = self.history[-2] - self.history[-1]
            return f"max_iter reached, loss still falling by {fall:.1e} per iteration"
        return "no further decrease within rounding"
