"""Predictions judged batch by batch: probabilities or scores of any number of rows, as sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent import checks
from crossent.layout import Array, writable
from crossent.sums import MOST_INFINITE, ScoreSums
from crossent.threads import sum_over_rows

OUTPUTS = ("probabilities", "logits")
PIECE = 1 << 22  # scores that are judged at a time
LEAST_ROWS = 64  # in a piece, however many classes there are
NO_WEIGHT = np.empty(0)
NO_ADDRESS = np.empty(0, np.int64)


def score_batches(
    batches: Iterable[Sequence[Any]],
    outputs: str,
    *,
    ignore_index: int = -100,
    renormalize: bool = False,
    clip: float = 0.0,
    top: int = 5,
    bins: int = 15,
) -> ScoreSums:
    """Return what predictions are judged by, as sums over the rows of all batches.

    Memory holds one batch at a time. The result has the same bits whatever the number of threads.

    Parameters
    ----------
    batches : iterable of (predictions, targets) or (predictions, targets, sample_weight)
        Predictions of shape (n, C), or (n,) for the second of two classes; float16, bfloat16,
        float32 or float64. Targets are class indices of shape (n,), weights >= 0 of shape (n,).
        A row of weight 0 takes no part, whatever it holds.
    outputs : {"probabilities", "logits"}
        What the predictions are: probabilities, or scores that a softmax (of one column: a
        sigmoid) turns into such.
    ignore_index : int, default -100
        Rows whose target is this one take no part.
    renormalize : bool, default False
        Divide probabilities by their sum, which may then be any other than 0. Without it a row
        whose sum is not 1 within 1e-4 (float16: 1e-2, bfloat16: 1e-1) is an error.
    clip : float in [0, 1), default 0
        A probability below this one costs as much as this one. At 0, an impossible event that
        happened costs infinity.
    top : int, default 5
        The largest k of the top-k accuracies.
    bins : int, default 15
        Of the expected calibration error.

    Returns
    -------
    ScoreSums
        They add up over parts, of this machine and of others.

    Raises
    ------
    ValueError, TypeError
        For a target that is no class, a probability outside [0, 1], NaN; naming batch and row.

    Examples
    --------
    >>> import crossent
    >>> p, labels = [[0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]], [0, 1, 1]
    >>> sums = crossent.score_batches([(p, labels)], "probabilities")
    >>> f"{sums.loss:.4f} {sums.accuracy:.4f} {sums.top_accuracy[1]:.4f} {sums.brier:.4f}"
    '0.5946 0.6667 1.0000 0.3267'
    """
    rule = Scoring(outputs, renormalize, clip, top, bins)
    ignore_index = checks.whole_number("ignore_index", ignore_index)
    total = sum(
        rule.sums(piece)
        for number, batch in enumerate(batches)
        for piece in _pieces(batch, number, outputs, ignore_index)
    )
    if isinstance(total, int):
        raise ValueError("batches is empty; there must be at least one")
    return total


@dataclass(frozen=True)
class Rows:
    """Some rows as the kernel takes them, and what to call them in a message.

    Attributes
    ----------
    predictions : array (n, C), or list of C arrays (n,)
        All float32, or all float64, and contiguous.
    keys, low, codes : arrays (n,) int64, int and (T,) int32
        The class of row i is codes[keys[i] - low], or minus a state (see kernels/score.py).
    weight : array (n,)
        Empty for ones.
    tolerance : float
        How far from 1 a row of probabilities may sum.
    source, start : int
        Which batch or file, and the number of the first row in it.
    row, column, label : callables
        The name of row i, the name of column j, the label of row i.
    classes : str
        What labels may be.
    """

    predictions: Array | list[Array]
    keys: Array
    low: int
    codes: Array
    weight: Array
    tolerance: float
    source: int
    start: int
    row: Callable[[int], str]
    column: Callable[[int], str]
    label: Callable[[int], object]
    classes: str

    def prediction(self, i: int) -> list[float]:
        """Return the predictions of a row."""
        if isinstance(self.predictions, list):
            return [float(column[i]) for column in self.predictions]
        return [float(x) for x in self.predictions[i]]


@dataclass(frozen=True)
class Scoring:
    """How predictions are judged; the options are those of `score_batches`, checked once."""

    outputs: str
    renormalize: bool = False
    clip: float = 0.0
    top: int = 5
    bins: int = 15

    def __post_init__(self) -> None:
        if self.outputs not in OUTPUTS:
            raise ValueError(f"outputs is {self.outputs!r}; it must be one of {OUTPUTS}")
        if checks.number("clip", self.clip, 0.0, 1.0) == 1.0:
            raise ValueError(f"clip is {self.clip}; it must be below 1")
        if self.renormalize and self.outputs == "logits":
            raise ValueError(
                "renormalize is set, but logits have a softmax that sums to 1; unset it"
            )
        for name, value in (("top", self.top), ("bins", self.bins)):
            if checks.whole_number(name, value) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    def zero(self, classes: int) -> ScoreSums:
        """Return the sums over no rows."""
        return ScoreSums.zero(classes, self.bins, min(self.top, classes))

    def sums(self, rows: Rows, threads: int | None = None) -> ScoreSums:
        """Return the sums over some rows; what is wrong with the first bad one is raised."""
        from crossent.kernels import score  # it brings in the compiler

        table, addresses = _memory_of(rows.predictions)
        states = np.zeros(len(rows.keys), np.int8)
        zero = self.zero(table.shape[1])

        def work(start: int, stop: int, sums: Array) -> None:
            score.score_rows(
                *(table, addresses, start, stop, rows.keys, rows.low, rows.codes, rows.weight),
                *(self.outputs == "logits", self.renormalize, float(self.clip), rows.tolerance),
                *(states, *zero.views(sums)),
            )

        values = sum_over_rows(work, len(rows.keys), table.shape[1], zero.values.size, threads)
        sums = ScoreSums(zero.classes, zero.bins, zero.top, values)
        if not sums.views()[3][2:].any():
            return sums
        bad = np.flatnonzero(states > score.IGNORED)
        if len(bad):
            raise self._error(rows, int(bad[0]), int(states[bad[0]]))
        infinite = np.flatnonzero(states == score.INFINITE)[:MOST_INFINITE].tolist()
        places = tuple((rows.source, rows.start + i) for i in infinite)
        return ScoreSums(zero.classes, zero.bins, zero.top, values, places)

    def _error(self, rows: Rows, i: int, state: int) -> ValueError:
        """Return what is wrong with a row, in a sentence."""
        from crossent.kernels import score

        where, values = rows.row(i), rows.prediction(i)
        if state == score.MISSING:
            return ValueError(f"{where} has no label; ignore_missing leaves such rows out")
        if state == score.UNKNOWN:
            return ValueError(
                f"the label of {where} is {rows.label(i)!r}; it must be {rows.classes}"
            )
        if state == score.NOT_ONE and self.renormalize:
            return ValueError(
                f"the probabilities of {where} sum to {sum(values)}; what they are divided by must "
                "be finite and above 0"
            )
        if state == score.NOT_ONE:
            return ValueError(
                f"the probabilities of {where} sum to {sum(values)}; they must sum to 1 "
                f"(to {rows.tolerance:g}) unless renormalize is set"
            )
        if self.outputs == "logits":
            return ValueError(
                f"the logits of {where} have no softmax: {values[:10]}; there must be no NaN, not "
                "more than one +inf, and not only -inf"
            )
        high = np.finfo(float).max if self.renormalize else 1.0
        j = max(j for j, value in enumerate(values) if not 0 <= value <= high)
        allowed = "finite, at least 0" if self.renormalize else "in [0, 1]"
        return ValueError(
            f"{rows.column(j)} of {where} is {values[j]}; a probability must be {allowed}"
        )


def _memory_of(predictions: Array | list[Array]) -> tuple[Array, Array]:
    """Return predictions as the kernel takes them: rows, or columns by their addresses."""
    if isinstance(predictions, list):
        addresses = [column.__array_interface__["data"][0] for column in predictions]
        return np.empty((0, len(addresses)), predictions[0].dtype), np.array(addresses, np.int64)
    return predictions, NO_ADDRESS


# Arrays -----------------------------------------------------------------------------------------


def _pieces(batch: Sequence[Any], number: int, outputs: str, ignore_index: int) -> Iterable[Rows]:
    """Return the rows of a batch of arrays, not too many at a time."""
    if not 2 <= len(batch) <= 3:
        raise ValueError(
            f"batch {number} has {len(batch)} members; it must be (predictions, targets) "
            "or (predictions, targets, sample_weight)"
        )
    predictions, tolerance = _predictions(batch[0], number, outputs)
    keys, classes = _class_indices(batch[1], number, predictions.shape), predictions.shape[1]
    given = checks.sample_weight(batch[2] if len(batch) == 3 else None, keys.shape)
    weight = NO_WEIGHT if given is None else np.array(given)
    if (keys == ignore_index).any():
        weight = (keys != ignore_index) * (weight if weight.size else 1.0)
    step = rows_in_piece(classes)

    def piece(start: int) -> Rows:
        rows = slice(start, start + step)
        return Rows(
            predictions[rows],
            keys[rows],
            0,
            np.arange(classes, dtype=np.int32),
            weight[rows],
            tolerance,
            number,
            start,
            lambda i: f"row {start + i} of batch {number}",
            lambda j: f"class {j}",
            lambda i: int(keys[start + i]),
            f"in [0, {classes - 1}] or the ignore_index {ignore_index}",
        )

    return map(piece, range(0, max(len(keys), 1), step))


def rows_in_piece(classes: int) -> int:
    """Return how many rows to judge at a time."""
    return max(PIECE // classes, LEAST_ROWS)


def _predictions(value: Any, number: int, outputs: str) -> tuple[Array, float]:
    """Return predictions (n, C) in float32 or float64, and how far from 1 a row may sum."""
    array = checks.logits(value, f"predictions of batch {number}")
    if array.ndim not in (1, 2) or (array.shape[-1:] == (0,) and array.ndim == 2):
        raise ValueError(
            f"predictions of batch {number} has shape {array.shape}; it must have shape (n, C), "
            "or (n,) for the second of two classes"
        )
    tolerance = checks.sum_tolerance(array.dtype.name)
    if array.ndim == 1:
        array = np.column_stack(second_of_two(array, outputs))
    elif array.dtype.itemsize == 2:
        array = array.astype(np.float32)
    return writable(np.ascontiguousarray(array)), tolerance


def second_of_two(given: Array, outputs: str) -> list[Array]:
    """Return predictions for both classes from those for the second, in float64."""
    second = given.astype(np.float64)
    return [np.zeros_like(second) if outputs == "logits" else 1.0 - second, second]


def _class_indices(value: Any, number: int, shape: tuple[int, ...]) -> Array:
    targets = checks.targets(value, shape, 1)
    if targets.dtype != np.int64:
        raise TypeError(
            f"targets of batch {number} has dtype {targets.dtype}; it must be class indices"
        )
    return writable(np.ascontiguousarray(targets))
