"""What merges: sums over samples, divided once and last."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
MOST_INFINITE = 10  # rows of infinite loss whose positions are kept


@dataclass(frozen=True)
class LossSums:
    """Sums over some samples; add those of several parts to get those of the whole.

    A mean of means is wrong as soon as the parts differ in size or weight; sums are not.

    Attributes
    ----------
    sum : float
        Weighted sum of the losses, in nats, without the z-loss.
    z_loss : float
        Weighted sum of the z-losses.
    weight : float
        What the mean divides by: the sum of sample_weight * sum_j c_j class_weight_j for softmax
        losses, of the weights of all outputs for sigmoid losses. 0 if nothing was left to average.
    samples : float
        What "batchmean" divides by: the sum of sample_weight.
    rows : int
        Decisions made: one per row for softmax losses, one per output for sigmoid losses.
    correct : int
        Decisions that agree with the target.
    ignored : int
        Rows (or outputs) that took no part: ignored, or of weight 0.

    Examples
    --------
    >>> a = LossSums(sum=2.0, weight=4.0, samples=4.0, rows=4, correct=3)
    >>> b = LossSums(sum=1.0, weight=1.0, samples=1.0, rows=1, correct=0)
    >>> (a + b).mean, (a + b).accuracy
    (0.6, 0.6)
    """

    sum: float = 0.0
    z_loss: float = 0.0
    weight: float = 0.0
    samples: float = 0.0
    rows: int = 0
    correct: int = 0
    ignored: int = 0

    def __add__(self, other: LossSums) -> LossSums:
        """Return the sums over the samples of both."""
        if not isinstance(other, LossSums):
            return NotImplemented
        return LossSums(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )

    def __radd__(self, other: object) -> LossSums:
        """Let `sum` of several begin with 0."""
        return self if other == 0 else NotImplemented

    @property
    def mean(self) -> float:
        """Return (sum + z_loss) / weight in nats, 0 if there was nothing to average."""
        return (self.sum + self.z_loss) / self.weight if self.weight else 0.0

    @property
    def bits(self) -> float:
        """Return the mean in bits: nats / ln 2."""
        return self.mean / math.log(2)

    @property
    def perplexity(self) -> float:
        """Return exp of the mean cross-entropy, without the z-loss."""
        mean = self.sum / self.weight if self.weight else 0.0
        return math.exp(mean) if mean < 709 else math.inf

    @property
    def accuracy(self) -> float:
        """Return the share of decisions that agree with the target, 0 if there were none."""
        return self.correct / self.rows if self.rows else 0.0


@dataclass(frozen=True, eq=False)
class ScoreSums:
    """What predictions are judged by, as sums over their rows; add those of parts for the whole.

    Everything below is made of one float64 array, `values`, so that sums of several processes are
    merged by adding up that array; `infinite_rows` are merged beside it. A number of rows is exact
    up to 2**53. Shares and means are weighted by the rows' weights.

    Attributes
    ----------
    classes, bins, top : int
        How many classes there are, bins of confidence, and places that count as a hit.
    values : (4 classes + 3 bins + top + 8,) array
        See `views`.
    infinite_rows : tuple of (source, row)
        The first MOST_INFINITE rows whose loss is infinite: which batch or file, and the row in it.

    Examples
    --------
    >>> import crossent
    >>> batch = [[0.75, 0.25], [0.5, 0.5]], [0, 1]
    >>> whole = crossent.score_batches([batch, batch], "probabilities")
    >>> whole.rows, round(whole.loss, 4), whole.accuracy
    (4, 0.4904, 0.5)
    """

    classes: int
    bins: int
    top: int
    values: Float64
    infinite_rows: tuple[tuple[int, int], ...] = ()

    @classmethod
    def zero(cls, classes: int, bins: int, top: int) -> ScoreSums:
        """Return the sums over no rows."""
        return cls(classes, bins, top, np.zeros(4 * classes + 3 * bins + top + 8))

    def views(self, values: Float64 | None = None) -> tuple[Float64, Float64, Float64, Float64]:
        """Return the parts of such an array, its own by default.

        (classes, 4): weight, loss, weight of right decisions, rows; (bins, 3): weight, confidence,
        weight of right decisions; (top,): weight of the rows whose class is among the first k + 1;
        (8,): the Brier score, then rows by state: fine, of infinite loss, ignored, four errors.
        """
        flat = self.values if values is None else values
        a, b = 4 * self.classes, 4 * self.classes + 3 * self.bins
        c = b + self.top
        return flat[:a].reshape(-1, 4), flat[a:b].reshape(-1, 3), flat[b:c], flat[c:]

    def __add__(self, other: ScoreSums) -> ScoreSums:
        """Return the sums over the rows of both."""
        if not isinstance(other, ScoreSums):
            return NotImplemented
        if (self.classes, self.bins, self.top) != (other.classes, other.bins, other.top):
            raise ValueError(
                f"these sums are over {self.classes} classes, {self.bins} bins and the top "
                f"{self.top}, the others over {other.classes}, {other.bins} and {other.top}; "
                "they must be alike to be added"
            )
        rows = tuple(sorted(self.infinite_rows + other.infinite_rows)[:MOST_INFINITE])
        return ScoreSums(self.classes, self.bins, self.top, self.values + other.values, rows)

    def __radd__(self, other: object) -> ScoreSums:
        """Let `sum` of several begin with 0."""
        return self if other == 0 else NotImplemented

    @property
    def weight(self) -> float:
        """Return the weight of all rows that took part: what means are divided by."""
        return float(self.class_weight.sum())

    @property
    def loss(self) -> float:
        """Return the mean cross-entropy in nats, 0 if there was nothing to average."""
        return self._mean(self.views()[0][:, 1].sum())

    @property
    def bits(self) -> float:
        """Return the same in bits: nats / ln 2."""
        return self.loss / math.log(2)

    @property
    def perplexity(self) -> float:
        """Return exp of the loss."""
        return math.exp(self.loss) if self.loss < 709 else math.inf

    @property
    def accuracy(self) -> float:
        """Return the share of rows whose class has the largest probability, the first of equals."""
        return self._mean(self.views()[0][:, 2].sum())

    @property
    def top_accuracy(self) -> Float64:
        """Return, for k = 1 to top, the share of rows whose class is among the first k."""
        return np.asarray(self.views()[2] / (self.weight or 1.0))

    @property
    def brier(self) -> float:
        """Return the mean of sum_j (p_j - y_j)^2, from 0 to 2: for two classes twice (p - y)^2."""
        return self._mean(self.views()[3][0])

    @property
    def calibration_error(self) -> float:
        """Return the expected calibration error.

        Rows are put into bins of equal width by their largest probability, the confidence; the
        error is the mean distance of confidence and accuracy, bin by bin, weighted by the rows.
        (Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian
        binning, 2015.)
        """
        per_bin = self.views()[1]
        return self._mean(np.abs(per_bin[:, 1] - per_bin[:, 2]).sum())

    @property
    def reliability(self) -> list[tuple[float, float, float]]:
        """Return mean confidence, accuracy and weight of each bin that has rows."""
        return [(c / w, right / w, w) for w, c, right in self.views()[1].tolist() if w > 0]

    @property
    def class_weight(self) -> Float64:
        """Return the weight of the rows of each class."""
        return self.views()[0][:, 0]

    @property
    def class_rows(self) -> NDArray[np.int64]:
        """Return how many rows of each class took part."""
        return self.views()[0][:, 3].astype(np.int64)

    @property
    def class_loss(self) -> Float64:
        """Return the mean loss of the rows of each class, NaN for one without rows."""
        return self._per_class(1)

    @property
    def class_accuracy(self) -> Float64:
        """Return the share of each class that is recognised, NaN for one without rows."""
        return self._per_class(2)

    @property
    def baseline(self) -> float:
        """Return the loss of the best constant prediction: the entropy of the class frequencies."""
        shares = self.class_weight[self.class_weight > 0] / (self.weight or 1.0)
        return float(-(shares * np.log(shares)).sum()) + 0.0  # no minus before a zero

    @property
    def rows(self) -> int:
        """Return how many rows took part."""
        return int(self.views()[3][1:3].sum())

    @property
    def infinite(self) -> int:
        """Return how many of them have an infinite loss."""
        return int(self.views()[3][2])

    @property
    def ignored(self) -> int:
        """Return how many rows took no part."""
        return int(self.views()[3][3])

    def _mean(self, total: Any) -> float:
        return float(total) / self.weight if self.weight else 0.0

    def _per_class(self, column: int) -> Float64:
        per_class = self.views()[0]
        empty = np.full(self.classes, np.nan)
        weight = per_class[:, 0]
        return np.asarray(np.divide(per_class[:, column], weight, empty, where=weight > 0))
