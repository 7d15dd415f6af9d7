"""One layer of neurons, z = X W + b: the objective of its training, and what shapes it.

`Objective` is the mean loss over blocks of rows plus a quadratic `Prior`: two matrix products with
the loss's kernel between them. `Coordinates` make it round, so that a search takes few iterations
whatever the units and correlations of the features. `Memory` is a prior made of earlier rows.

Letters: n rows, D features, J outputs. Parameters are one array (D + 1, J): the weights W and,
below them, the scores c at the origin m of the features: z = (X - m) W + c. The features are never
centred themselves; b = c - m W does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import cholesky, lapack, solve_triangular
from threadpoolctl import ThreadpoolController  # scikit-learn brings it

from crossent import reference
from crossent.kernels.products import NARROW, add_narrow_back, narrow_scores
from crossent.threads import CHUNK, sum_over_rows

Array = NDArray[Any]
Float64 = NDArray[np.float64]

BLOCK_BYTES = 4 << 20  # of features: still in the cache when the second product comes
WHITEN_UP_TO = 1024  # features: beyond, a D x D matrix costs more than the iterations it saves
ROWS_PER_FEATURE = 10  # rows that are looked at to find the shape of the features
JITTER = 1e-6  # of a variance: what float32 cannot tell from 0


# The objective ----------------------------------------------------------------------------------


class Block(NamedTuple):
    """Some rows: features (n, D), dense or CSR; targets as the loss takes them; weights or None."""

    features: Any
    targets: Array
    weight: Float64 | None


def blocks_of(features: Any, targets: Array, weight: Float64 | None) -> list[Block]:
    """Cut dense rows into blocks that share their memory; sparse rows stay together.

    The cut depends on the shapes alone, never on the number of threads. A block outweighs the sums
    that are made of it, one per parameter.
    """
    if sparse.issparse(features):
        return [Block(features, targets, weight)]
    columns = features.shape[1]
    sums = 8 * columns * (targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1)
    step = max(1, max(BLOCK_BYTES, 16 * sums) // (columns * features.itemsize))
    cuts = [slice(start, start + step) for start in range(0, len(targets), step)]
    return [Block(features[i], targets[i], None if weight is None else weight[i]) for i in cuts]


@dataclass(frozen=True)
class Prior:
    """1/2 sum precision (parameters - centre)^2; both broadcast to (D + 1, J)."""

    precision: Float64
    centre: Float64

    def value_and_grad(self, parameters: Float64) -> tuple[float, Float64]:
        """Return the prior's cost and its gradient."""
        away = parameters - self.centre
        pull = self.precision * away
        return 0.5 * float(np.vdot(pull, away)), pull


class Value(NamedTuple):
    """What one look at all blocks gives: cross-entropy, objective and the latter's gradient."""

    loss: float
    objective: float
    gradient: Float64


class Objective:
    """F = sum_i w_i E(z_i, y_i) / normalizer + prior, for z = (X - m) W + c.

    Threads share the blocks; each takes the products of a block in the features' own dtype, with
    the loss's kernel between them. Sums are float64 and added in the order of the rows: the same
    bits for any number of threads, under `one_blas_thread`.
    """

    def __init__(
        self, loss: Any, blocks: Sequence[Block], normalizer: float, origin: Float64, prior: Prior
    ) -> None:
        self.loss, self.blocks, self.normalizer = loss, blocks, normalizer
        self.origin, self.prior = origin, prior
        self._scores: tuple[Float64 | None, list[Array]] = (None, [])

    def value_and_grad(self, parameters: Float64) -> Value:
        """Return the objective at the parameters, in one pass over the blocks."""
        plane = self._plane(parameters)

        def slopes(i: int) -> tuple[float, Array]:
            features, targets, weight = self.blocks[i]
            z = scores_of(features, *plane)
            value, slope = self.loss.value_and_grad(z, targets, weight, self.normalizer, out=z)
            return float(value), slope

        loss, gradient = self._sum(parameters.shape, slopes)
        cost, pull = self.prior.value_and_grad(parameters)
        return Value(loss, loss + cost, gradient + pull)

    def hvp(self, parameters: Float64, vector: Float64) -> Float64:
        """Return the Hessian of the objective at the parameters, times a vector like them."""
        plane, at = self._plane(vector), self._scores_at(parameters)

        def slopes(i: int) -> tuple[float, Array]:
            features, targets, weight = self.blocks[i]
            change = scores_of(features, *plane)
            return 0.0, self.loss.hvp(at[i], targets, change, weight, self.normalizer)

        return self._sum(vector.shape, slopes)[1] + self.prior.precision * vector

    def affine(self, parameters: Float64) -> tuple[Float64, Float64]:
        """Return W and b = c - m W."""
        return parameters[:-1], parameters[-1] - self.origin @ parameters[:-1]

    def _plane(self, parameters: Float64) -> tuple[Array, Array]:
        """Return W and b in the features' dtype."""
        dtype = self.blocks[0].features.dtype
        weights, bias = self.affine(parameters)
        return weights.astype(dtype), bias.astype(dtype)

    def _sum(
        self, shape: tuple[int, ...], slopes: Callable[[int], tuple[float, Array]]
    ) -> tuple[float, Float64]:
        """Return the sums over the blocks of the values, and of (X - m)^T slope."""

        def work(i: int, _: int, sums: Float64) -> None:
            sums[0], slope = slopes(i)
            back = sums[1:].reshape(shape)
            back[:-1] = _back(self.blocks[i].features, slope)
            back[-1] = np.ones(len(slope), slope.dtype) @ slope  # BLAS: far faster than a sum

        total = sum_over_rows(work, len(self.blocks), CHUNK, 1 + shape[0] * shape[1])
        gradient = total[1:].reshape(shape)
        gradient[:-1] -= np.multiply.outer(self.origin, gradient[-1])
        return float(total[0]), gradient

    def _scores_at(self, parameters: Float64) -> list[Array]:
        """Return the scores of all blocks; those at the last parameters asked for are kept."""
        at, scores = self._scores
        if at is None or not np.array_equal(at, parameters):
            plane = self._plane(parameters)
            scores = [scores_of(block.features, *plane) for block in self.blocks]
            self._scores = parameters.copy(), scores
        return scores


def scores_of(features: Any, weights: Array, bias: Array) -> Array:
    """Return X W + b in the dtype of X, always dense."""
    dtype = features.dtype
    if _is_narrow(features, len(bias)):
        scores = np.empty((len(features), len(bias)), dtype)
        narrow_scores(features, np.ascontiguousarray(weights.T, dtype), bias.astype(dtype), scores)
        return scores
    scores = np.asarray(features @ weights.astype(dtype, copy=False))
    scores += bias.astype(dtype, copy=False)
    return scores


def outputs_of(loss: Any, scores: Array) -> Float64:
    """Return what the loss's activation makes of some scores: too few to compile a kernel for."""
    return np.asarray(getattr(reference, loss.activation_name)(scores))


def _back(features: Any, slope: Array) -> Array:
    """Return X^T slope."""
    if _is_narrow(features, slope.shape[1]):
        sums = np.zeros((slope.shape[1], features.shape[1]), slope.dtype)
        add_narrow_back(features, slope, sums)
        return sums.T
    return np.asarray(features.T @ slope)


def _is_narrow(features: Any, outputs: int) -> bool:
    dense = isinstance(features, np.ndarray)
    return dense and outputs <= NARROW and features.flags.c_contiguous


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread for a while: blocks have threads of their own.

    NumPy and SciPy may each bring a BLAS whose idle threads keep a processor busy, and small
    products were seen to take 40 times as long for it.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> Any:
    return ThreadpoolController()


# Coordinates ------------------------------------------------------------------------------------


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
        return np.vstack([self._apply(self.basis, position[:-1]), self.unit * position[-1]])

    def gradient(self, gradient: Float64) -> Float64:
        """Return the gradient in the position, given that in the parameters."""
        return np.vstack([self._apply(self.basis.T, gradient[:-1]), self.unit * gradient[-1]])

    def position(self, parameters: Float64) -> Float64:
        """Return the position of parameters."""
        if self.basis.ndim == 1:
            weights = parameters[:-1] / self.basis[:, None]
        else:
            weights = solve_triangular(self.basis, parameters[:-1])
        return np.vstack([weights, parameters[-1] / self.unit])

    @staticmethod
    def _apply(basis: Float64, rows: Float64) -> Float64:
        return basis[:, None] * rows if basis.ndim == 1 else basis @ rows


def centre(features: Any) -> Float64:
    """Return a point amid the features: the mean of some rows, taken evenly."""
    return np.asarray(features[_evenly(features)].mean(axis=0, dtype=np.float64)).ravel()


def coordinates_for(
    features: Any, origin: Float64, curvature: float, precision: Float64
) -> Coordinates:
    """Return coordinates that fit the spread of the features around the origin.

    Parameters
    ----------
    features : (n, D) array or CSR matrix
        Only some rows of a dense matrix are read.
    origin : (D,) array
        Where the scores c are taken.
    curvature : float
        Second derivative of the loss in a score, about.
    precision : (D + 1,) array
        Second derivative of the prior in the weights of each feature, and in c.
    """
    unit = (curvature + precision[-1]) ** -0.5
    if sparse.issparse(features):
        ones = np.ones((features.shape[0], 1))
        variance = _squares(features, origin, ones)[:, 0] / len(ones)
        return Coordinates(_diagonal(curvature * variance + precision[:-1]), unit)
    deviation, sample = _standardised(features[_evenly(features)], origin)
    correlation = _correlation(sample) if features.shape[1] <= WHITEN_UP_TO else None
    if correlation is None:
        return Coordinates(_diagonal(curvature * deviation**2 + precision[:-1]), unit)
    correlation *= curvature
    correlation.flat[:: len(deviation) + 1] += precision[:-1] / deviation**2 + curvature * JITTER
    inverse, _ = lapack.dtrtri(cholesky(correlation, lower=True), lower=1)
    return Coordinates(inverse.T / deviation[:, None], unit)


def _correlation(sample: Array) -> Float64 | None:
    """Return the correlations of standardised columns, None if the rows are too few to show any.

    Where there are none, what so many rows show is noise, and whitening with noise does harm.
    """
    rows, columns = sample.shape
    if rows < columns:
        return None
    correlation = (sample.T @ sample).astype(np.float64) / rows
    shown = np.sum(correlation**2) - np.sum(np.diagonal(correlation) ** 2)
    return correlation if shown > 2 * columns * (columns - 1) / rows else None


def _diagonal(curvature: Float64) -> Float64:
    return np.asarray((curvature + JITTER * curvature.mean()) ** -0.5)


def _evenly(features: Any) -> slice:
    """Return enough rows of dense features to know their shape, all rows of sparse ones."""
    if sparse.issparse(features):
        return slice(None)
    return slice(None, None, max(1, features.shape[0] // (ROWS_PER_FEATURE * features.shape[1])))


def _standardised(sample: Array, origin: Float64) -> tuple[Float64, Array]:
    """Return the deviation of the columns from the origin, and the rows over it, in float32."""
    away = np.empty(sample.shape, np.float32)
    np.subtract(sample, origin, out=away, casting="same_kind")
    squares = np.einsum("ij,ij->j", away, away, dtype=np.float64)
    deviation = np.sqrt(np.where(squares > 0, squares / len(sample), 1.0))
    away /= deviation
    return deviation, away


def moments(blocks: Sequence[Block]) -> tuple[Float64, Float64]:
    """Return the weighted mean and variance of the features over all rows."""
    total = sum(float(_row_weight(block).sum()) for block in blocks)
    mean = sum(block.features.T @ _row_weight(block) for block in blocks) / total
    each = [_squares(block.features, mean, _row_weight(block)[:, None]) for block in blocks]
    return mean, np.sum(each, axis=0)[:, 0] / total


def _row_weight(block: Block) -> Float64:
    if block.weight is None:
        return np.ones(block.features.shape[0])
    return block.weight if block.weight.ndim == 1 else block.weight.mean(axis=1)


def _squares(features: Any, origin: Float64, weight: Float64) -> Float64:
    """Return sum_i weight_ij (x_id - origin_d)^2, shape (D, J); sparse features stay sparse."""
    if not sparse.issparse(features):
        away = features - origin
        return np.asarray(np.square(away, out=away).T @ weight)
    m = origin[:, None]
    squares = features.power(2).T @ weight - 2 * m * (features.T @ weight) + m**2 * weight.sum(0)
    return np.asarray(np.maximum(squares, 0.0))


# What earlier rows taught -----------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Rows seen before, as a Gaussian around the parameters that they led to.

    Its precision is the diagonal of the loss's Hessian summed over those rows. Source:
    Spiegelhalter and Lauritzen, Sequential updating of conditional probabilities (1990).

    Attributes
    ----------
    origin, scale : (D,) arrays
        The point that parameters refer to, and the unit in which each feature is penalised.
    curvature : (D + 1, J) array
        The Hessian's diagonal.
    weight : float
        The rows' weight.
    """

    origin: Float64
    scale: Float64
    curvature: Float64
    weight: float = 0.0

    def prior(self, l2: float, parameters: Float64, total: float) -> Prior:
        """Return the penalty together with the memory, for a mean over rows of that total weight.

        At the parameters the objective of the rows seen was least, so the slope of their loss is
        there the penalty's slope reversed.
        """
        penalty = np.append(l2 * self.scale**2, 0.0)[:, None]
        precision = penalty + self.curvature / total
        pull = (self.curvature / total + penalty * (self.weight / total)) * parameters
        centre = np.divide(pull, precision, out=parameters.copy(), where=precision > 0)
        return Prior(precision, centre)

    def and_rows(self, loss: Any, block: Block, weight: float, parameters: Float64) -> Memory:
        """Return the memory of one more block of that weight; evenly taken rows stand for all."""
        some = _evenly(block.features)
        features = block.features[some]
        bias = parameters[-1] - self.origin @ parameters[:-1]
        p = outputs_of(loss, scores_of(features, parameters[:-1], bias))
        row_weight = _row_weight(
            Block(features, p, None if block.weight is None else block.weight[some])
        )
        curved = row_weight[:, None] * p * (1 - p)
        seen = np.vstack([_squares(features, self.origin, curved), curved.sum(axis=0)])
        share = weight / row_weight.sum() if row_weight.any() else 0.0
        return Memory(self.origin, self.scale, self.curvature + share * seen, self.weight + weight)
