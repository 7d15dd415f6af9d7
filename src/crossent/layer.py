"""One layer of neurons, z = X W + b: the objective of its training, and what shapes it.

`Rows` are gone through batch by batch, a batch being a few blocks; in memory there is one batch.
`Objective` is the mean loss over them plus a quadratic `Prior`: two matrix products with the loss's
kernel between them. `Coordinates` make it round, so that a search takes few iterations
whatever the units and correlations of the features. `Memory` is a prior made of earlier rows.

Letters: n rows, D features, J outputs. Parameters are one array (D + 1, J): the weights W and,
below them, the scores c at the origin m of the features: z = (X - m) W + c. The features are never
centred themselves; b = c - m W does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import cholesky, lapack, solve_triangular
from threadpoolctl import ThreadpoolController  # scikit-learn brings it

from crossent import reference
from crossent.distributed import ALONE, Alone
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

    def at(self, rows: slice) -> Block:
        """Return some of the rows, sharing their memory."""
        weight = None if self.weight is None else self.weight[rows]
        return Block(self.features[rows], self.targets[rows], weight)

    def copy(self) -> Block:
        """Return the rows in memory of their own."""
        weight = None if self.weight is None else self.weight.copy()
        return Block(self.features.copy(), self.targets.copy(), weight)


def blocks_of(features: Any, targets: Array, weight: Float64 | None, outputs: int) -> list[Block]:
    """Cut dense rows into blocks that share their memory; sparse rows stay together.

    The cut depends on the shapes alone, never on the number of threads. A block outweighs the sums
    that are made of it, one per parameter.
    """
    if sparse.issparse(features):
        return [Block(features, targets, weight)]
    columns = features.shape[1]
    step = max(1, max(BLOCK_BYTES, 16 * 8 * columns * outputs) // (columns * features.itemsize))
    whole = Block(features, targets, weight)
    return [whole.at(slice(start, start + step)) for start in range(0, len(targets), step)]


@dataclass(frozen=True)
class Rows:
    """The rows to learn from, wherever they lie.

    Attributes
    ----------
    batches : iterable of sequences of blocks
        Gone through anew for every look at the rows: a list of what lies in memory, or something
        that reads them again. Of this process alone, if they are shared out among several.
    count, columns, dtype, sparse
        Shape and kind of the features, in all processes together.
    nbytes : int
        What they would take in memory.
    before : int
        How many rows other processes have before those of this one.
    ranks : Alone
        The processes that the rows are shared out among.
    """

    batches: Iterable[Sequence[Block]]
    count: int
    columns: int
    dtype: Any
    sparse: bool
    nbytes: int
    before: int = 0
    ranks: Alone = ALONE

    @property
    def kept(self) -> bool:
        """Return whether the rows lie in memory."""
        return isinstance(self.batches, list)

    @property
    def step(self) -> int:
        """Return in what steps to take enough rows to know their shape.

        Of wide sparse ones all are taken: few of them have any one feature.
        """
        if self.sparse and self.columns > WHITEN_UP_TO:
            return 1
        return max(1, self.count // (ROWS_PER_FEATURE * self.columns))

    @property
    def some_count(self) -> int:
        """Return how many rows those are."""
        return -(-self.count // self.step)

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks of this process."""
        for batch in self.batches:
            yield from batch

    @cached_property
    def _some(self) -> list[Block]:
        return list(_larger(_evenly(self)))

    def sum(
        self, part: Callable[[Block], Array], shape: tuple[int, ...], of_some: bool = False
    ) -> Float64:
        """Return the sum of what each block gives, over all rows or some, in all processes."""
        total = np.zeros(shape)
        for block in self._some if of_some and self.step > 1 else self.blocks():
            total += part(block)
        return self.ranks.sum(total)


def _evenly(rows: Rows) -> Iterator[Block]:
    """Yield every step-th row; rows that are not kept are copied."""
    before = rows.before
    for block in rows.blocks():
        some = block.at(slice(-before % rows.step, None, rows.step))
        before += len(block.targets)
        yield some if rows.kept else some.copy()


def _larger(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield the same rows with small blocks put together."""
    waiting: list[Block] = []
    for block in blocks:
        waiting.append(block)
        if sum(nbytes_of(each.features) for each in waiting) >= BLOCK_BYTES:
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _together(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    features, targets, weights = zip(*blocks, strict=True)
    stack = sparse.vstack if sparse.issparse(features[0]) else np.concatenate
    weight = None if weights[0] is None else np.concatenate(weights)
    return Block(stack(features), np.concatenate(targets), weight)


def nbytes_of(features: Any) -> int:
    """Return what features take in memory."""
    if sparse.issparse(features):
        return int(features.data.nbytes + features.indices.nbytes + features.indptr.nbytes)
    return int(features.nbytes)


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

    Threads share the blocks of a batch; each takes the products of a block in the features' own
    dtype, with the loss's kernel between them. Sums are float64 and added in the order of the
    rows: the same bits for any number of threads, under `one_blas_thread`. Then the sums of other
    processes are added: every process has the same objective.
    """

    def __init__(
        self, loss: Any, rows: Rows, normalizer: float, origin: Float64, prior: Prior
    ) -> None:
        self.loss, self.rows, self.normalizer = loss, rows, normalizer
        self.origin, self.prior = origin, prior
        self._at: Float64 | None = None
        self._scores: dict[tuple[int, int], Array] = {}

    def value_and_grad(self, parameters: Float64) -> Value:
        """Return the objective at the parameters, in one pass over the rows."""
        if not self.rows.ranks.alike(float(np.vdot(parameters, parameters))):
            raise ValueError(
                "the processes have come to different coefficients; they must run on machines of "
                "one kind, with the same libraries"
            )
        plane = self._plane(parameters)

        def slopes(block: Block, _: tuple[int, int]) -> tuple[float, Array]:
            features, targets, weight = block
            z = scores_of(features, *plane)
            value, slope = self.loss.value_and_grad(z, targets, weight, self.normalizer, out=z)
            return float(value), slope

        loss, gradient = self._sum(parameters.shape, slopes)
        cost, pull = self.prior.value_and_grad(parameters)
        return Value(loss, loss + cost, gradient + pull)

    def hvp(self, parameters: Float64, vector: Float64) -> Float64:
        """Return the Hessian of the objective at the parameters, times a vector like them."""
        plane, scores_at = self._plane(vector), self._scores_at(parameters)

        def slopes(block: Block, place: tuple[int, int]) -> tuple[float, Array]:
            features, targets, weight = block
            change, at = scores_of(features, *plane), scores_at(block, place)
            return 0.0, self.loss.hvp(at, targets, change, weight, self.normalizer)

        return self._sum(vector.shape, slopes)[1] + self.prior.precision * vector

    def affine(self, parameters: Float64) -> tuple[Float64, Float64]:
        """Return W and b = c - m W."""
        return parameters[:-1], parameters[-1] - self.origin @ parameters[:-1]

    def _plane(self, parameters: Float64) -> tuple[Array, Array]:
        """Return W and b in the features' dtype."""
        weights, bias = self.affine(parameters)
        dtype = self.rows.dtype
        return weights.astype(dtype, copy=False), bias.astype(dtype, copy=False)

    def _sum(
        self,
        shape: tuple[int, ...],
        slopes: Callable[[Block, tuple[int, int]], tuple[float, Array]],
    ) -> tuple[float, Float64]:
        """Return the sums over all blocks of the values, and of (X - m)^T slope."""
        total: Float64 | None = None
        for number, batch in enumerate(self.rows.batches):
            own = self._sum_of_batch(number, batch, shape, slopes)
            total = own if total is None else np.add(total, own, out=total)
        total = self.rows.ranks.sum(np.zeros(1 + shape[0] * shape[1]) if total is None else total)
        gradient = total[1:].reshape(shape)
        gradient[:-1] -= np.multiply.outer(self.origin, gradient[-1])
        return float(total[0]), gradient

    @staticmethod
    def _sum_of_batch(
        number: int,
        batch: Sequence[Block],
        shape: tuple[int, ...],
        slopes: Callable[[Block, tuple[int, int]], tuple[float, Array]],
    ) -> Float64:
        def work(i: int, _: int, sums: Float64) -> None:
            sums[0], slope = slopes(batch[i], (number, i))
            back = sums[1:].reshape(shape)
            back[:-1] = _back(batch[i].features, slope)
            back[-1] = np.ones(len(slope), slope.dtype) @ slope  # BLAS: far faster than a sum

        return sum_over_rows(work, len(batch), CHUNK, 1 + shape[0] * shape[1])

    def _scores_at(self, parameters: Float64) -> Callable[[Block, tuple[int, int]], Array]:
        """Return what gives a block's scores; of rows in memory the last are kept."""
        if self._at is None or not np.array_equal(self._at, parameters):
            self._at, self._scores = parameters.copy(), {}
        plane, kept = cache(lambda: self._plane(parameters)), self._scores

        def scores_at(block: Block, place: tuple[int, int]) -> Array:
            if not self.rows.kept:
                return scores_of(block.features, *plane())
            if place not in kept:
                kept[place] = scores_of(block.features, *plane())
            return kept[place]

        return scores_at


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
        total = np.asarray(block.features.sum(axis=0, dtype=np.float64)).ravel()
        return np.append(total, block.features.shape[0])

    total = rows.sum(sums, (rows.columns + 1,), of_some=True)
    return np.asarray(total[:-1] / total[-1])


def coordinates_for(
    rows: Rows, origin: Float64, curvature: float, precision: Float64
) -> Coordinates:
    """Return coordinates that fit the spread of the features around the origin.

    Parameters
    ----------
    origin : (D,) array
        Where the scores c are taken.
    curvature : float
        Second derivative of the loss in a score, about.
    precision : (D + 1,) array
        Second derivative of the prior in the weights of each feature, and in c.
    """
    unit = (curvature + precision[-1]) ** -0.5
    covariance = _covariance(rows, origin)
    variance = covariance if covariance.ndim == 1 else covariance.diagonal()
    deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
    correlation = _correlation(covariance, deviation, rows.some_count)
    if correlation is None:
        return Coordinates(_diagonal(curvature * deviation**2 + precision[:-1]), unit)
    correlation *= curvature
    correlation.flat[:: len(deviation) + 1] += precision[:-1] / deviation**2 + curvature * JITTER
    inverse, _ = lapack.dtrtri(cholesky(correlation, lower=True), lower=1)
    return Coordinates(inverse.T / deviation[:, None], unit)


def _covariance(rows: Rows, origin: Float64) -> Float64:
    """Return the covariance (D, D) around the origin, or but the variances (D,).

    Those are all there is of very many features, and of more features than rows.
    """
    if rows.columns > min(WHITEN_UP_TO, rows.some_count):

        def squares(block: Block) -> Array:
            return _squares(block.features, origin, np.ones((len(block.targets), 1)))[:, 0]

        return rows.sum(squares, (rows.columns,), of_some=True) / rows.some_count

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


def _correlation(covariance: Float64, deviation: Float64, rows: int) -> Float64 | None:
    """Return the correlations, None if there are none, or none that so many rows can show.

    What they show then is noise, and whitening with noise does harm.
    """
    if covariance.ndim == 1:
        return None
    correlation: Float64 = covariance / np.multiply.outer(deviation, deviation)
    columns = len(deviation)
    shown = np.sum(correlation**2) - np.sum(np.diagonal(correlation) ** 2)
    return correlation if shown > 2 * columns * (columns - 1) / rows else None


def _diagonal(curvature: Float64) -> Float64:
    return np.asarray((curvature + JITTER * curvature.mean()) ** -0.5)


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

    def and_rows(self, loss: Any, rows: Rows, weight: float, parameters: Float64) -> Memory:
        """Return the memory of more rows of that weight; evenly taken ones stand for all."""
        bias = parameters[-1] - self.origin @ parameters[:-1]

        def seen(block: Block) -> Array:
            p = outputs_of(loss, scores_of(block.features, parameters[:-1], bias))
            row_weight = _row_weight(block)
            curved = row_weight[:, None] * p * (1 - p)
            squares = _squares(block.features, self.origin, curved)
            total = np.full((1, p.shape[1]), row_weight.sum())
            return np.vstack([squares, curved.sum(axis=0), total])

        sums = rows.sum(seen, (len(parameters) + 1, parameters.shape[1]), of_some=True)
        share = weight / sums[-1, 0] if sums[-1, 0] else 0.0
        curvature = self.curvature + share * sums[:-1]
        return Memory(self.origin, self.scale, curvature, self.weight + weight)
