"""How the objective of a layer curves: coordinates in which it is round, and what rows taught.

`Coordinates` suit the spread of the features, so that a search takes few iterations whatever their
units and correlations. `Memory` is a prior made of earlier rows: how strongly they hold each
parameter in place. Letters as in `crossent.layer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import cholesky, lapack, solve_triangular

from crossent.kernels.sparse_rows import add_squares
from crossent.layer import (
    BLOCK_BYTES,
    WHITEN_UP_TO,
    Array,
    Block,
    Float64,
    Prior,
    Rows,
    outputs_of,
    pieces,
    scores_of,
)

JITTER = 1e-6  # of a variance: what float32 cannot tell from 0
PIECE = 256  # rows whose outputs are in memory at a time, at least
PIECES = 64  # of a block, at most


@dataclass(frozen=True)
class Coordinates:
    """A change of variables in which the objective curves about alike in every direction.

    W = T V and c = unit * v, where T T^T is the inverse of curvature * cov(X) + precision. Half
    the squared length of a gradient in (V, v) is then about what is left to gain, in nats. So the
    length means the same for features in any unit, for any number of rows and of parameters.
    """

    basis: Float64  # T, (D, D) upper triangular; or the diagonal of one, (D,)
    unit: float

    def parameters(self, position: Float64) -> Float64:
        """Return the parameters at a position."""
        return self._apply(self.basis, position)

    def gradient(self, gradient: Float64) -> Float64:
        """Return the gradient in the position, given that in the parameters."""
        return self._apply(self.basis.T, gradient)

    def position(self, parameters: Float64) -> Float64:
        """Return the position of parameters."""
        if self.basis.ndim == 1:
            weights = parameters[:-1] / self.basis[:, None]
        else:
            weights = solve_triangular(self.basis, parameters[:-1])
        return np.vstack([weights, parameters[-1] / self.unit])

    def _apply(self, basis: Float64, rows: Float64) -> Float64:
        changed = np.empty_like(rows)
        if basis.ndim == 1:
            np.multiply(basis[:, None], rows[:-1], out=changed[:-1])
        else:
            np.matmul(basis, rows[:-1], out=changed[:-1])
        changed[-1] = self.unit * rows[-1]
        return changed


def centre(rows: Rows) -> Float64:
    """Return a point amid the features: the mean of some rows, taken evenly."""

    def sums(block: Block) -> Array:
        if rows.sparse:  # its own sum would be copied
            return np.asarray(block.features.T @ np.ones(len(block.targets)))
        return np.asarray(block.features.sum(axis=0, dtype=np.float64))

    total = rows.sum(sums, (rows.columns,), of_some=True)
    total /= rows.some_count
    return total


def coordinates_for(
    rows: Rows, origin: Float64, curvature: float, precision: Float64, held: float = 0.0
) -> Coordinates:
    """Return coordinates that fit the spread of the features around the origin.

    Parameters
    ----------
    origin : (D,) array
        Where the scores c are taken.
    curvature : float
        Second derivative of the loss in a score, about.
    precision : (D,) or (1,) array
        Second derivative of the prior in the weights of each feature.
    held : float
        Second derivative of the prior in c.
    """
    unit = (curvature + held) ** -0.5
    covariance = _covariance(rows, origin)
    variance = covariance if covariance.ndim == 1 else covariance.diagonal().copy()
    variance[~(variance > 0)] = 1.0
    correlation = _correlation(covariance, variance, rows.some_count)
    if correlation is None:
        variance *= curvature
        variance += precision
        return Coordinates(_diagonal(variance), unit)
    correlation *= curvature
    correlation.flat[:: rows.columns + 1] += precision / variance + curvature * JITTER
    inverse, _ = lapack.dtrtri(cholesky(correlation, lower=True), lower=1)
    return Coordinates(inverse.T / np.sqrt(variance)[:, None], unit)


def _covariance(rows: Rows, origin: Float64) -> Float64:
    """Return the covariance (D, D) around the origin, or but the variances (D,).

    Those are all there is of very many features, and of more features than rows.
    """
    if rows.columns > min(WHITEN_UP_TO, rows.some_count):

        def squares(block: Block) -> Array:
            return _squares(block.features, origin, np.ones((len(block.targets), 1)))[:, 0]

        variance = rows.sum(squares, (rows.columns,), of_some=True)
        variance /= rows.some_count
        return variance

    def products(block: Block) -> Array:
        total = np.zeros((rows.columns, rows.columns))
        step = max(1, BLOCK_BYTES // (8 * rows.columns))
        for start in range(0, len(block.targets), step):
            some = block.features[start : start + step]
            away = (some.toarray() if rows.sparse else some) - origin
            total += away.T @ away
        return total

    shape = (rows.columns, rows.columns)
    return rows.sum(products, shape, of_some=True) / rows.some_count


def _correlation(covariance: Float64, variance: Float64, rows: int) -> Float64 | None:
    """Return the correlations, None if there are none, or none that so many rows can show.

    What they show then is noise, and whitening with noise does harm.
    """
    if covariance.ndim == 1:
        return None
    deviation = np.sqrt(variance)
    correlation: Float64 = covariance / np.multiply.outer(deviation, deviation)
    columns = len(deviation)
    shown = np.sum(correlation**2) - np.sum(np.diagonal(correlation) ** 2)
    return correlation if shown > 2 * columns * (columns - 1) / rows else None


def _diagonal(curvature: Float64) -> Float64:
    """Return the basis where only the features' own curvatures are known, in their memory."""
    curvature += JITTER * curvature.mean()
    return np.power(curvature, -0.5, out=curvature)


def moments(rows: Rows) -> tuple[Float64, Float64]:
    """Return the weighted mean and variance of the features over all rows."""

    def sums(block: Block) -> Array:
        weight = _row_weight(block)
        return np.append(block.features.T @ weight, weight.sum())

    def squares(block: Block) -> Array:
        return _squares(block.features, mean, _row_weight(block)[:, None])[:, 0]

    total = rows.sum(sums, (rows.columns + 1,))
    mean = total[:-1] / total[-1]
    return mean, rows.sum(squares, (rows.columns,)) / total[-1]


def _row_weight(block: Block) -> Float64:
    if block.weight is None:
        return np.ones(block.features.shape[0])
    return block.weight if block.weight.ndim == 1 else block.weight.mean(axis=1)


def _squares(
    features: Any, origin: Float64, weight: Float64, out: Float64 | None = None
) -> Float64:
    """Return sum_i weight_ij (x_id - origin_d)^2, shape (D, J); sparse features stay sparse."""
    if not sparse.issparse(features):
        away = features - origin
        return np.matmul(np.square(away, out=away).T, weight, out=out)
    squares = np.multiply.outer(origin, weight.sum(axis=0), out=out)
    squares *= origin[:, None]
    add_squares(features.indptr, features.indices, features.data, weight, origin, squares)
    return np.maximum(squares, 0.0, out=squares)


# What earlier rows taught -----------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Rows seen before, as a Gaussian around the parameters that they led to.

    Its precision is the diagonal of the loss's Hessian summed over those rows. Source:
    Spiegelhalter and Lauritzen, Sequential updating of conditional probabilities (1990).

    Attributes
    ----------
    origin : (D,) array
        The point that parameters refer to.
    scale : (D,) or (1,) array
        The unit in which each feature is penalised.
    curvature : (D + 1, J) array, or one that broadcasts to it
        The Hessian's diagonal, but for `share`.
    weight : float
        The rows' weight.
    share : (J,) array
        Multiplies the curvature.
    """

    origin: Float64
    scale: Float64
    curvature: Float64
    weight: float = 0.0
    share: Float64 = field(default_factory=lambda: np.ones(1))

    @property
    def diagonal(self) -> Float64:
        """Return the Hessian's diagonal, (D + 1, J) once rows have been seen."""
        return self.curvature * self.share

    def prior(self, l2: float, parameters: Float64, total: float) -> Prior:
        """Return the penalty together with the memory, for a mean over rows of that total weight.

        At the parameters the objective of the rows seen was least, so the slope of their loss is
        there the penalty's slope reversed.
        """
        penalty = np.zeros((len(self.origin) + 1, 1))
        penalty[:-1, 0] = l2 * self.scale**2
        held = self.diagonal / total
        precision = penalty + held
        pull = (held + penalty * (self.weight / total)) * parameters
        centre = np.divide(pull, precision, out=parameters.copy(), where=precision > 0)
        return Prior(precision, centre)

    def and_rows(
        self, loss: Any, rows: Rows, weight: float, weights: Float64, bias: Float64
    ) -> Memory:
        """Return the memory of more rows of that weight; evenly taken ones stand for all.

        Of the first rows, if they are sparse and have more features than there are rows, it keeps
        how all outputs together curve along each feature, and each output's share of that: two
        vectors instead of a matrix like the weights. Source of the product: Martens and Grosse,
        Optimizing neural networks with Kronecker-factored approximate curvature (2015).
        """
        together = rows.sparse and rows.columns > rows.count and not self.weight
        columns, outputs = rows.columns, len(bias)
        width = 1 if together else outputs

        def seen(block: Block) -> Array:
            found = np.empty(columns * width + outputs + 1)
            curved, found[-outputs - 1 : -1] = _curved(loss, block, weights, bias, together)
            squares = found[: columns * width].reshape(columns, width)
            _squares(block.features, self.origin, curved, out=squares)
            found[-1] = _row_weight(block).sum()
            return found

        sums = rows.sum(seen, (columns * width + outputs + 1,), of_some=True)
        share = np.ones(outputs)
        if together:
            by_output = sums[-outputs - 1 : -1].copy()
            sums[columns] = by_output.sum()
            np.divide(by_output, sums[columns], out=share, where=sums[columns] > 0)
        curvature = sums[: (columns + 1) * width].reshape(columns + 1, width)
        curvature *= weight / sums[-1] if sums[-1] else 0.0
        curvature += self.diagonal
        return Memory(self.origin, self.scale, curvature, self.weight + weight, share)


def _curved(
    loss: Any, block: Block, weights: Float64, bias: Float64, together: bool
) -> tuple[Float64, Float64]:
    """Return w_i p_ij (1 - p_ij), if need be summed over the outputs, and its sum over the rows."""
    curved = np.empty((len(block.targets), 1 if together else len(bias)))
    by_output = np.zeros(len(bias))
    for at in pieces(len(curved), max(PIECE, len(curved) // PIECES)):
        piece = block.at(at)
        p = outputs_of(loss, scores_of(piece.features, weights, bias))
        each = _row_weight(piece)[:, None] * p * (1 - p)
        curved[at] = each.sum(axis=1, keepdims=True) if together else each
        by_output += each.sum(axis=0)
    return curved, by_output
