"""How good predictions are: the numbers that the summary prints and the report draws."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

import crossent

Array = NDArray[Any]
_LOSS = crossent.CrossEntropy(reduction="none")

SHOWN = 30  # classes of the confusion matrix
BINS = 10  # of confidence
WORST = 20  # rows that are kept


class Wrong(NamedTuple):
    """A row that was taken for a wrong class: the surer, the worse."""

    p: float  # of the class decided for
    row: int
    code: int
    decided: int
    p_of_truth: float


@dataclass(frozen=True)
class Evaluation:
    """What predictions for rows of known class add up to; add those of several batches.

    Attributes
    ----------
    labels : list of str
        The classes.
    frequencies : (K,) array
        How frequent each class is among the rows that were learnt from.
    rows, losses, right : (K,) arrays
        Of each class: rows, their -ln p in nats, and how many of them were decided for rightly.
    confusion : (SHOWN, SHOWN) array
        How many rows of each class (down) were taken for each class (across), the first of them.
    confidence : (3, BINS) array
        Of the rows in each bin of confidence: the confidence, how many are right, how many.
    surest : tuple of Wrong
        Those that are wrong with most confidence.
    """

    labels: list[str]
    frequencies: Array
    rows: Array
    losses: Array
    right: Array
    confusion: Array
    confidence: Array
    surest: tuple[Wrong, ...]

    @classmethod
    def of(
        cls, labels: list[str], frequencies: Array, log_p: Array, codes: Array, numbers: Array
    ) -> Self:
        """Return that of some rows.

        Parameters
        ----------
        log_p : (n, K) array
            ln of the probabilities given.
        codes, numbers : (n,) arrays
            The class of each row, and its number in the table.
        """
        classes, decided = log_p.shape[1], log_p.argmax(axis=1)
        right = decided == codes
        losses = np.asarray(_LOSS.from_log_probabilities(log_p, codes))
        confidence = np.exp(log_p.max(axis=1))
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        return cls(
            labels,
            frequencies,
            np.bincount(codes, minlength=classes),
            np.bincount(codes, losses, classes),
            np.bincount(codes[right], minlength=classes),
            _confusion(codes, decided, min(classes, SHOWN)),
            np.stack([np.bincount(place, each, BINS) for each in (confidence, right, None)]),
            _worst(log_p, codes, decided, numbers),
        )

    def __add__(self, other: Evaluation) -> Evaluation:
        """Return that of the rows of both."""
        sums = ("rows", "losses", "right", "confusion", "confidence")
        added = {name: getattr(self, name) + getattr(other, name) for name in sums}
        return replace(self, **added, surest=_first(self.surest + other.surest))

    @property
    def count(self) -> int:
        """Return how many rows there are."""
        return int(self.rows.sum())

    @property
    def loss(self) -> float:
        """Return the cross-entropy, in nats."""
        return float(self.losses.sum() / self.count)

    @property
    def baseline(self) -> float:
        """Return the cross-entropy of always predicting the class frequencies, in nats."""
        there = self.rows > 0
        return float(-(self.rows[there] @ np.log(self.frequencies[there])) / self.count)

    def by_class(self) -> list[tuple[str, int, float, float]]:
        """Return label, rows, cross-entropy and accuracy of each class that has rows."""
        each = zip(self.labels, self.rows, self.losses, self.right, strict=True)
        return [(name, int(n), float(loss / n), float(hit / n)) for name, n, loss, hit in each if n]

    def worst(self, most: int) -> list[tuple[int, str, str, float, float]]:
        """Return the rows that are wrong with most confidence, up to WORST.

        Each with its number, its class, the class it was taken for, the probability of that and
        the probability of the true class.
        """
        names = self.labels
        return [(row, names[code], names[taken], p, q) for p, row, code, taken, q in self.surest][
            :most
        ]

    def reliability(self) -> list[tuple[float, float, int]]:
        """Return mean confidence, accuracy and rows of each bin of confidence that has rows."""
        return [(float(c / n), float(r / n), int(n)) for c, r, n in self.confidence.T if n]


def _confusion(codes: Array, decided: Array, shown: int) -> Array:
    some = (codes < shown) & (decided < shown)
    both = np.bincount(codes[some] * shown + decided[some], minlength=shown * shown)
    return both.reshape(shown, shown)


def _worst(log_p: Array, codes: Array, decided: Array, numbers: Array) -> tuple[Wrong, ...]:
    wrong = np.flatnonzero(decided != codes)
    top = log_p[wrong, decided[wrong]]
    rows = wrong[np.argsort(-top, kind="stable")][:WORST]
    return tuple(
        Wrong(
            math.exp(log_p[i, decided[i]]),
            int(numbers[i]),
            int(codes[i]),
            int(decided[i]),
            math.exp(log_p[i, codes[i]]),
        )
        for i in rows
    )


def _first(worst: tuple[Wrong, ...]) -> tuple[Wrong, ...]:
    return tuple(sorted(worst, key=lambda each: (-each.p, each.row))[:WORST])
