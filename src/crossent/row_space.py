"""The way down where features are sparse and far more than rows: in the space of the rows.

With a penalty S on the weights, a search from W = 0 never leaves what the rows span: there is
always an array A like the scores for which W = S^-1 (X - m)^T A, and the gradient is
(X - m)^T (slope + A). So conjugate gradients, in the lengths that S^-1 gives, need no vector like
the weights: they hold five like the scores, in float32, in the very memory that the weights are
written to at the end. Source: Kimeldorf and Wahba, Some results on Tchebycheffian spline functions
(1971), for the weights; Polak and Ribiere, Note sur la convergence de methodes de directions
conjuguees (1969), for the way.

Letters as in `crossent.layer`; K = (X - m) S^-1 (X - m)^T, where m is the mean of the rows. That
is taken off by centring what goes into X^T and what comes out of X.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg.blas import saxpy

from crossent.curvature import Memory
from crossent.kernels.sparse_rows import through_features
from crossent.layer import Array, Float64, Rows
from crossent.search import Descent, Progress
from crossent.task import Task
from crossent.threads import CHUNK, get_num_threads, sum_over_rows

VECTORS = 5  # like the scores
FLOOR = 1e-6  # of the first gradient's length: float32 cannot tell much less from 0
PATIENCE = 100  # iterations; where it takes more, Newton's method has better coordinates
FLAT = 0.1  # of the slope that a line begins with: little enough to turn
TRIALS = 20  # points of a line
PIECE = 1024  # rows whose scores are in float64 at a time

NOTHING = np.empty(0)


def in_row_space(rows: Rows, penalty: float, start: Float64 | None) -> bool:
    """Return whether this way can be gone, and saves memory.

    It can from no weights, with a penalty, if all rows are here. It does if the vectors of the
    search fit into the memory of the weights.
    """
    here = rows.sparse and rows.kept and rows.ranks.size == 1 and len(list(rows.blocks())) == 1
    fits = VECTORS * np.float32().nbytes * rows.count <= np.float64().nbytes * rows.columns
    return start is None and penalty > 0 and here and fits


class RowSearch(Descent):
    """A way down by nonlinear conjugate gradients; without a `reason` it came to no end.

    Its vectors are (J, n): A; the scores but for their constants c; the direction, and how the
    scores change in it; and slope + A, which K is multiplied with in place.
    """

    def __init__(
        self,
        task: Task,
        memory: Memory,
        penalty: float,
        callback: Callable[[Progress], object] | None = None,
    ) -> None:
        super().__init__(callback)
        self._task, self._origin, self._c = task, memory.origin, task.start()
        (self._block,) = task.rows.blocks()
        self._measure(penalty * memory.scale**2)
        columns, outputs = task.rows.columns, len(self._c)
        self._spare = list(np.empty((min(get_num_threads(), outputs), columns), np.float32))
        self._patience = PATIENCE if self._few_are_steep() else 0
        self._weights = np.zeros((outputs, columns))
        self._lay_out(outputs, task.rows.count)
        self._shift, self._cost = np.zeros(outputs), 0.0
        self._square, self._sums, self._beta = np.inf, self._shift, 0.0

    def _measure(self, precision: Float64) -> None:
        """Keep the squares of what lengths are measured in: those of S^-1, and of `Coordinates`."""
        coordinates = self._task.coordinates(self._origin, precision)
        self._unit = self._stride = coordinates.unit**2
        with np.errstate(over="ignore", divide="ignore"):  # beyond float32 no line is found
            self._squared = np.square(coordinates.basis, dtype=np.float32)
            inverse = np.minimum(1.0 / precision, np.finfo(np.float32).max)
        self._inverse = np.broadcast_to(np.float32(inverse), coordinates.basis.shape)

    def _few_are_steep(self) -> bool:
        """Return whether few features bend the loss so much more than the penalty bends them.

        The iterations are as many as the root of that, or as those features, for every output.
        """
        with np.errstate(all="ignore"):  # beyond float32 no line is found
            unlike = np.divide(self._inverse, self._squared, out=self._spare[0])
        return int(np.count_nonzero(unlike > PATIENCE**2)) * len(self._c) <= PATIENCE

    def _lay_out(self, *shape: int) -> None:
        """Let the vectors lie in the memory of the weights, A at its end."""
        memory, size = self._weights.reshape(-1).view(np.float32), shape[0] * shape[1]
        others = memory[: (VECTORS - 1) * size].reshape(VECTORS - 1, *shape)
        self._scores, self._direction, self._change, self._back = others
        self._a = memory[-size:].reshape(shape)

    def run(self, tol: float, max_iter: int) -> RowSearch:
        """Search until the gradient's length falls below tol, or for max_iter iterations.

        Or until only more digits, or other coordinates, can help.
        """
        length = self._look()
        least = FLOOR * length
        while not self.ended(length, tol, max_iter):
            if not (length > least and self.iterations < self._patience and self._step()):
                break
            length = self._look()
        return self

    def layer(self) -> tuple[Float64, Float64]:
        """Return the weights and biases, written over the vectors: the search is over.

        The first weights lie where the other vectors were. Those of a later output reach into A,
        but not beyond its own part, as that has fewer bytes.
        """
        return self._layer_in(self._weights)

    def _layer_now(self) -> tuple[Float64, Float64]:
        return self._layer_in(np.empty_like(self._weights))

    def _layer_in(self, weights: Float64) -> tuple[Float64, Float64]:
        for own, a in zip(weights, self._a, strict=True):
            self._through_features(a - a.mean(dtype=np.float64), own, NOTHING)
        return weights, self._c - weights @ self._origin

    # The gradient -------------------------------------------------------------------------------

    def _look(self) -> float:
        """Report where the search stands, and return the length of the gradient."""
        loss, along_last, *sums = self._over_rows(self._store_slopes, 2 + len(self._c)).tolist()
        threads = len(self._spare)
        square, length = sum_over_rows(self._multiply, len(self._c), CHUNK, 2, threads).tolist()
        last, self._sums = self._sums, np.array(sums)
        along_last += self._stride * float(self._sums @ last)
        square += self._stride * float(self._sums @ self._sums)
        self._beta, self._square = max(0.0, (square - along_last) / self._square), square
        length = float(np.sqrt(length + self._unit * (self._sums @ self._sums)))
        self._objective = loss + self._cost
        self.report(loss, self._objective, length, self._layer_now)
        return length

    def _store_slopes(self, rows: slice, sums: Float64) -> None:
        """Store slope + A; add up the loss, the product with the last gradient, and the slopes."""
        sums[0], slope = self._slopes(rows, self._scores_of(rows))
        own = slope.T + self._a[:, rows]
        sums[1] = np.vdot(self._back[:, rows], own)
        sums[2:] = slope.sum(axis=0)
        self._back[:, rows] = own

    def _multiply(self, j: int, _: int, sums: Float64) -> None:
        """Multiply one output's slope + A with K; sums are the squares of two lengths of it."""
        own, features = self._back[j], self._spare.pop()
        own -= own.mean(dtype=np.float64)
        sums[:] = self._through_features(own, features, own)
        own -= own.mean(dtype=np.float64)
        self._spare.append(features)

    def _through_features(self, rows: Array, features: Array, out: Array) -> tuple[float, float]:
        X = self._block.features
        found: tuple[float, float] = through_features(
            X.indptr, X.indices, X.data, rows, self._inverse, self._squared, features, out
        )
        return found

    # The line -----------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Turn, and go to where the line is flat; return whether there is such a place."""
        self._shift = self._beta * self._shift - self._stride * self._sums
        pull, stretch, slope, square = self._over_rows(self._turn, 4).tolist()
        if self.iterations == 0:
            self._suppose(square / (self._unit * self._task.rows.count) + stretch, slope)
        step = self._flat(pull, stretch, slope + pull)
        if step > 0:
            self._go(step)
            self._cost += step * (pull + step / 2 * stretch)
        return step > 0

    def _go(self, step: float) -> None:
        for j in range(len(self._c)):
            saxpy(self._direction[j], self._a[j], a=step)
            saxpy(self._change[j], self._scores[j], a=step)
        self._c += step * self._shift
        self._guess = step

    def _suppose(self, bend: float, slope: float) -> None:
        """Take the first step for that to where a line that bends so is flat.

        Later ones are about as long. A constant shall bend as the weights do.
        """
        self._guess = -slope / bend
        self._stride *= bend / self._square

    def _turn(self, rows: slice, sums: Float64) -> None:
        """Turn the direction.

        Sums are the penalty's slope and bend along it, the loss's slope, and the squares of how
        the scores change.
        """
        direction, change, a = (each[:, rows] for each in (self._direction, self._change, self._a))
        _, slope = self._slopes(rows, self._scores_of(rows))
        direction *= self._beta
        direction -= slope.T + a
        change *= self._beta
        change -= self._back[:, rows]
        exact = change.astype(np.float64)
        sums[:2] = np.vdot(a, exact), np.vdot(direction, exact)
        exact += self._shift[:, None]
        sums[2:] = np.vdot(slope.T, exact), np.vdot(exact, exact)

    def _flat(self, pull: float, stretch: float, slope: float) -> float:
        """Return a step to where the line, of that slope, is lower and flat; 0 if there is none."""
        low, high, at_low, step = 0.0, np.inf, slope, self._guess
        for _ in range(TRIALS if slope < 0 < step else 0):
            objective, here = self._point(step, pull, stretch)
            lower, bend = objective <= self._objective, (here - at_low) / (step - low)
            if lower and abs(here) <= FLAT * abs(slope):
                return step
            if lower and here < 0:
                low, at_low = step, here
            else:
                high = step
            step -= here / bend if bend > 0 else 0.0
            if not low < step < high:
                step = 2 * low if high == np.inf else (low + high) / 2
        return 0.0

    def _point(self, step: float, pull: float, stretch: float) -> tuple[float, float]:
        """Return the objective after a step, and its slope along the line."""

        def along(rows: slice, sums: Float64) -> None:
            change = np.add(self._change[:, rows].T, self._shift, order="C")
            scores = self._scores_of(rows)
            scores += step * change
            sums[0], slope = self._slopes(rows, scores)
            sums[1] = np.vdot(slope, change)

        loss, slope = self._over_rows(along, 2).tolist()
        cost = self._cost + step * (pull + step / 2 * stretch)
        return loss + cost, slope + pull + step * stretch

    # Some rows ----------------------------------------------------------------------------------

    def _over_rows(self, work: Callable[[slice, Float64], None], width: int) -> Float64:
        """Return the sums of what work tells of some rows at a time."""

        def some(start: int, stop: int, sums: Float64) -> None:
            work(slice(start, stop), sums)

        return sum_over_rows(some, self._task.rows.count, CHUNK // PIECE, width, threads=1)

    def _scores_of(self, rows: slice) -> Float64:
        scores: Float64 = np.add(self._scores[:, rows].T, self._c, order="C")
        return scores

    def _slopes(self, rows: slice, scores: Float64) -> tuple[float, Float64]:
        """Return the loss of some rows, and its slopes written over the scores."""
        targets, weight = self._targets_of(rows)
        found: tuple[float, Float64] = self._task.loss.value_and_grad(
            scores, targets, weight, self._task.total, out=scores
        )
        return found

    def _targets_of(self, rows: slice) -> tuple[Array, Float64 | None]:
        _, targets, weight = self._block
        return targets[rows], None if weight is None else weight[rows]
