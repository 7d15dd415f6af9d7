"""One layer of neurons, z = X W + b: its rows, and the objective of its training.

`Rows` are gone through batch by batch, a batch being a few blocks; in memory there is one batch.
`Objective` is the mean loss over them plus a quadratic `Prior`: two matrix products with the loss's
kernel between them.

Letters: n rows, D features, J outputs. Parameters are one array (D + 1, J): the weights W and,
below them, the scores c at the origin m of the features: z = (X - m) W + c. The features are never
centred themselves; b = c - m W does it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
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
    return [whole.at(rows) for rows in pieces(len(targets), step)]


def pieces(rows: int, step: int) -> list[slice]:
    """Cut so many rows into pieces of some."""
    return [slice(start, start + step) for start in range(0, rows, step)]


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
        total: Float64 | None = None
        for block in self._some if of_some and self.step > 1 else self.blocks():
            own = part(block)
            total = own if total is None else np.add(total, own, out=total)
        return self.ranks.sum(np.zeros(shape) if total is None else total)


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
        gradient += pull
        return Value(loss, loss + cost, gradient)

    def hvp(self, parameters: Float64, vector: Float64) -> Float64:
        """Return the Hessian of the objective at the parameters, times a vector like them."""
        plane, scores_at = self._plane(vector), self._scores_at(parameters)

        def slopes(block: Block, place: tuple[int, int]) -> tuple[float, Array]:
            features, targets, weight = block
            change, at = scores_of(features, *plane), scores_at(block, place)
            return 0.0, self.loss.hvp(at, targets, change, weight, self.normalizer)

        product = self._sum(vector.shape, slopes)[1]
        product += self.prior.precision * vector
        return product

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
    weights = weights.astype(dtype, copy=False)
    if sparse.issparse(features) and weights.flags.f_contiguous:  # the product would copy it
        scores = np.stack([features @ column for column in weights.T], axis=1)
    else:
        scores = np.asarray(features @ weights)
    scores += bias.astype(dtype, copy=False)
    return scores


def parameters_of(weights: Float64, bias: Float64, origin: Float64) -> Float64:
    """Return a layer (J, D) and (J,) as an objective has it, its scores taken at an origin."""
    return np.vstack([weights.T, bias + weights @ origin])


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


_lock = threading.Lock()
_inside = 0  # how many keep BLAS to one thread
_limit: Any = None  # what the first of them set


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread for a while: blocks have threads of their own.

    NumPy and SciPy may each bring a BLAS whose idle threads keep a processor busy, and small
    products were seen to take 40 times as long for it. Of several at once, in threads of this
    process, the last one gives BLAS its threads back.
    """
    global _limit, _inside
    with _lock:
        if not _inside:
            _limit = _libraries().limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _limit.restore_original_limits()


@cache
def _libraries() -> Any:
    return ThreadpoolController()
