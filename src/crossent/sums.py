"""What merges: sums over samples, divided once and last."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


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
