"""How good predictions are: the numbers that the summary prints and the report draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import crossent

Array = NDArray[Any]
_LOSS = crossent.CrossEntropy(reduction="none")


@dataclass(frozen=True)
class Evaluation:
    """Predictions for rows whose class is known.

    Attributes
    ----------
    labels : list of str
        The classes.
    codes : (n,) array
        The class of each row, as a position in labels.
    log_p : (n, K) array
        ln of the probabilities given.
    rows : (n,) array
        The rows' numbers in the table.
    frequencies : (K,) array
        How frequent each class is among the rows that were learnt from.
    """

    labels: list[str]
    codes: Array
    log_p: Array
    rows: Array
    frequencies: Array

    @cached_property
    def losses(self) -> Array:
        """Return -ln p of the true class, row by row, in nats."""
        return np.asarray(_LOSS.from_log_probabilities(self.log_p, self.codes))

    @property
    def loss(self) -> float:
        """Return the cross-entropy, in nats."""
        return float(self.losses.mean())

    @property
    def baseline(self) -> float:
        """Return the cross-entropy of always predicting the class frequencies, in nats."""
        always = np.broadcast_to(np.log(self.frequencies), self.log_p.shape)
        return float(_LOSS.from_log_probabilities(always, self.codes).mean())

    @cached_property
    def decided(self) -> Array:
        """Return the most probable class of each row."""
        return np.asarray(self.log_p.argmax(axis=1))

    @property
    def right(self) -> Array:
        """Return whether the most probable class is the true one, row by row."""
        return np.asarray(self.decided == self.codes)

    @cached_property
    def confusion(self) -> Array:
        """Return how many rows of each class (down) were taken for each class (across)."""
        count = len(self.labels)
        both = np.bincount(self.codes * count + self.decided, minlength=count * count)
        return both.reshape(count, count)

    def by_class(self) -> list[tuple[str, int, float, float]]:
        """Return label, rows, cross-entropy and accuracy of each class that has rows."""
        rows = np.bincount(self.codes, minlength=len(self.labels))
        losses = np.bincount(self.codes, self.losses, len(self.labels))
        right = np.bincount(self.codes, self.right, len(self.labels))
        return [
            (label, int(rows[k]), float(losses[k] / rows[k]), float(right[k] / rows[k]))
            for k, label in enumerate(self.labels)
            if rows[k]
        ]

    def worst(self, most: int) -> list[tuple[int, str, str, float, float]]:
        """Return the rows that are wrong with most confidence.

        Each with its number, its class, the class it was taken for, the probability of that and
        the probability of the true class.
        """
        wrong = np.flatnonzero(~self.right)
        top = self.log_p[wrong, self.decided[wrong]]
        order = wrong[np.argsort(-top, kind="stable")][:most]
        return [
            (
                int(self.rows[i]),
                self.labels[self.codes[i]],
                self.labels[self.decided[i]],
                math.exp(self.log_p[i, self.decided[i]]),
                math.exp(self.log_p[i, self.codes[i]]),
            )
            for i in order
        ]

    def reliability(self, bins: int = 10) -> list[tuple[float, float, int]]:
        """Return mean confidence, accuracy and rows of each bin of confidence that has rows."""
        confidence = np.exp(self.log_p.max(axis=1))
        place = np.minimum((confidence * bins).astype(int), bins - 1)
        rows = np.bincount(place, minlength=bins)
        means = np.bincount(place, confidence, bins), np.bincount(place, self.right, bins)
        return [
            (float(means[0][b] / rows[b]), float(means[1][b] / rows[b]), int(rows[b]))
            for b in range(bins)
            if rows[b]
        ]
