"""The output layer of a large vocabulary: its loss without ever holding its scores.

The options, and where arrays of each framework go: linear_numpy.py, torch_linear.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from crossent import checks
from crossent.losses import CrossEntropy, framework_of

BUDGET = "64MB"
GRADIENTS = ("features", "weight", "bias")


class Dropped(NamedTuple):
    """Bounds on what a filter left out, as norms of the difference from the exact gradients.

    The square root of the sum of the squared differences of all entries is at most this. The loss
    and the gradient in the bias are always exact.
    """

    features: float
    weight: float


class HeadGradients(NamedTuple):
    """The gradients of a head, None where one was not wanted.

    Attributes
    ----------
    features, weight, bias : array or None
        Of the shape and dtype of the argument each belongs to.
    dropped : Dropped or None
        What `filter_tolerance` left out at most; None if there is no filter.
    """

    features: Any
    weight: Any
    bias: Any
    dropped: Dropped | None


@dataclass(frozen=True)
class LinearCrossEntropy:
    r"""Cross-entropy of the scores X W^T + b, which are computed a few rows at a time.

    The loss of `CrossEntropy` for logits = features @ weight.T + bias, and its gradients

        dX = G W,   dW = G^T X,   db = sum_i G_i,   G the gradient in the logits,

    without ever holding more scores than `memory_budget` allows: for some rows at a time the
    scores are computed, overwritten by their gradient, and multiplied back. Rows that are ignored
    or of weight 0 are dropped before the products. How many rows go together changes a result by
    rounding only, and the same call gives the same bits every time.

    Features have shape (..., D), the weight (V, D), the bias (V,), all of one dtype; float16 and
    bfloat16 are computed in float32, and their gradients rounded once. Targets are one of

    * class indices of the rows' shape (...);
    * probabilities (..., V);
    * a pair (indices, probabilities), each (..., k): the k classes of a row that have probability,
      as a teacher's best k. All others have 0; a class that stands twice has the sum.

    Parameters
    ----------
    class_weight, ignore_index, label_smoothing, z_loss, softcap, temperature, reduction
        As for `CrossEntropy`.
    memory_budget : int or str, default "64MB"
        Bytes that scores, and target probabilities laid out beside them, may take: a number, or
        text as "64MB" (powers of 1000) or "1GiB" (powers of 1024).
    filter_tolerance : float >= 0, optional
        Leaves out of dX and dW what lies in scores whose gradient is at most this, before it is
        divided by what "mean" divides by; the gradients then tell how much that is at most. Where
        too little can be left out to be worth it, nothing is.

    Examples
    --------
    >>> import numpy as np
    >>> import crossent
    >>> rng = np.random.default_rng(0)
    >>> features, weight = rng.normal(size=(4, 3)), rng.normal(size=(1000, 3))
    >>> head = crossent.LinearCrossEntropy(label_smoothing=0.1, memory_budget="16kB")
    >>> loss, gradients = head.value_and_grad(features, weight, [7, 8, 9, -100])
    >>> print(f"{loss:.4f}", gradients.features.shape, gradients.weight.shape, gradients.bias)
    7.4177 (4, 3) (1000, 3) None
    """

    class_weight: Any = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    temperature: float = 1.0
    reduction: str = "mean"
    memory_budget: int | str = BUDGET
    filter_tolerance: float | None = None
    loss: CrossEntropy = field(init=False, repr=False, compare=False)
    budget: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        loss = CrossEntropy(
            class_weight=self.class_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            temperature=self.temperature,
            reduction=self.reduction,
        )
        tolerance = self.filter_tolerance
        if tolerance is not None:
            tolerance = checks.number("filter_tolerance", tolerance, 0.0, math.inf)
        for name, value in (
            ("class_weight", loss.class_weight),
            ("filter_tolerance", tolerance),
            ("loss", loss),
            ("budget", checks.byte_count("memory_budget", self.memory_budget)),
        ):
            object.__setattr__(self, name, value)

    def __call__(
        self,
        features: Any,
        weight: Any,
        targets: Any,
        bias: Any = None,
        sample_weight: Any = None,
        normalizer: float | None = None,
    ) -> Any:
        """Return the loss in nats; a tensor's can be differentiated.

        Parameters
        ----------
        features : array (..., D)
            What the layer is given, one row per decision.
        weight : array (V, D)
            The layer's weight, of the features' dtype.
        targets : array, or pair of arrays
            Class indices, probabilities, or (indices, probabilities); see the class.
        bias : array (V,), optional
            Added to the scores.
        sample_weight : array (...), optional
            Weights >= 0 of the rows; a row of weight 0 takes no part, whatever it holds.
        normalizer : float, optional
            Divides the sum in place of what "mean" or "batchmean" divide by.

        Raises
        ------
        ValueError, TypeError
            For a wrong shape or dtype, a target or weight out of range, a budget below one row;
            before anything is computed.
        """
        return _front_end(features).value(
            self, features, weight, targets, bias, sample_weight, normalizer
        )

    def value_and_grad(
        self,
        features: Any,
        weight: Any,
        targets: Any,
        bias: Any = None,
        sample_weight: Any = None,
        normalizer: float | None = None,
        *,
        wanted: tuple[str, ...] = GRADIENTS,
    ) -> tuple[Any, HeadGradients]:
        """Return the loss and its gradients, those that are `wanted`.

        Arguments are those of a call. Leave "features" or "weight" out of `wanted` and neither its
        product nor its memory is spent. For reduction "none" it is the gradient of the sum.
        """
        checks.names("wanted", wanted, GRADIENTS)
        result: tuple[Any, HeadGradients] = _front_end(features).value_and_grad(
            self, features, weight, targets, bias, sample_weight, normalizer, wanted=wanted
        )
        return result


def _front_end(features: Any) -> Any:
    """Return the module that computes on arrays of this type."""
    framework = framework_of(features, "features")
    if framework == "torch":
        import crossent.torch_linear

        return crossent.torch_linear
    import crossent.linear_numpy

    return crossent.linear_numpy


def linear_cross_entropy(
    features: Any,
    weight: Any,
    targets: Any,
    *,
    bias: Any = None,
    sample_weight: Any = None,
    normalizer: float | None = None,
    group: Any = None,
    **options: Any,
) -> Any:
    """Return `LinearCrossEntropy(**options)(features, weight, targets, bias, ...)`.

    The cross-entropy of the scores features @ weight.T + bias, without ever holding all of them.
    With a torch.distributed `group`, weight and bias (and probabilities over all classes) are those
    of this process's classes, and the loss that of all: see docs/parallel.md.

    >>> import crossent
    >>> print(f"{crossent.linear_cross_entropy([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [1]):.4f}")
    0.3133
    """
    arguments = (features, weight, targets, bias, sample_weight, normalizer)
    if group is not None:
        import crossent.torch_parallel_linear as over_group

        return over_group.value(options, *arguments, group=group)
    return LinearCrossEntropy(**options)(*arguments)
