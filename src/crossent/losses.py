"""The losses: what the options mean, and where an array of each framework goes.

A loss is a frozen set of options, checked when it is made. Its methods check their arrays, and
answer in kind: NumPy in, NumPy out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from crossent import checks
from crossent.sums import LossSums

if TYPE_CHECKING:
    from crossent.plain import ChainRule

LEAST = 1e-300  # of what scores are divided by: 1 / it is finite


def _framework(array_type: Any) -> str:
    """Return the package that an array's type comes from, or that its type is derived from."""
    module: str = array_type.__module__
    if module in ("numpy", "torch"):  # at once; torch.compile warns of a cache
        return module
    packages = {kind.__module__.partition(".")[0] for kind in array_type.__mro__}
    return next((name for name in ("torch", "jax", "jaxlib") if name in packages), "numpy")


def framework_of(array: Any, name: str) -> str:
    """Return "torch" or "numpy": who computes on arrays of this type."""
    framework = _framework(type(array))
    if framework not in ("torch", "numpy"):
        raise TypeError(
            f"{name} is a {framework} {type(array).__name__}; "
            "it must be a NumPy array, a torch tensor or a list of numbers"
        )
    return framework


def _front_end(array: Any) -> Any:
    """Return the module that computes on arrays of this type; imported when first needed."""
    if framework_of(array, "logits") == "torch":
        import crossent.torch_front_end

        return crossent.torch_front_end
    return _numpy()


@cache
def _numpy() -> Any:
    """Return the NumPy front end, looked up among what is imported only once."""
    import crossent.numpy

    return crossent.numpy


def _plain(array: Any) -> Any:
    """Return the module that needs no kernel for arrays of this type."""
    if _framework(type(array)) == "torch":
        return _front_end(array)
    import crossent.plain

    return crossent.plain


class _Loss:
    """What all losses do, on logits of shape (..., C) or (n, J)."""

    name: ClassVar[str]
    activation_name: ClassVar[str]
    reduction: str
    is_plain: bool = False  # a class index means that one class alone, on the logits as they are

    def __call__(
        self, logits: Any, targets: Any, sample_weight: Any = None, normalizer: Any = None
    ) -> Any:
        """Return the loss in nats.

        Parameters
        ----------
        logits : array, float16, bfloat16, float32 or float64
            Scores. A list of numbers is taken as float64.
        targets : array
            Class indices, or probabilities of the logits' shape (see the class).
        sample_weight : array, optional
            Weights >= 0, one per row (for sigmoid losses: per sample or per output). A row of
            weight 0 takes no part, whatever its scores hold.
        normalizer : float, optional
            Divides the sum in place of what "mean" or "batchmean" divide by: the weight of all
            batches together when gradients are accumulated, as a mean of means is wrong.

        Returns
        -------
        float or array
            float64 for float64 logits, else float32. One loss per row (sigmoid: per output) for
            reduction "none".

        Raises
        ------
        ValueError, TypeError
            For a wrong shape or dtype, an index out of range, a probability outside [0, 1], a
            weight that is negative or not finite; before anything is computed.
        """
        return _front_end(logits).value(self, logits, targets, sample_weight, normalizer)

    def value_and_grad(
        self,
        logits: Any,
        targets: Any,
        sample_weight: Any = None,
        normalizer: Any = None,
        *,
        out: Any = None,
    ) -> tuple[Any, Any]:
        """Return the loss and its gradient in the logits, in one pass.

        Arguments are those of a call. The gradient has the logits' shape and dtype and is stored
        in `out` if that is given; `out` may be the logits themselves. For reduction "none" it is
        the gradient of the sum.
        """
        result: tuple[Any, Any] = _front_end(logits).value_and_grad(
            self, logits, targets, sample_weight, normalizer, out
        )
        return result

    def hvp(
        self,
        logits: Any,
        targets: Any,
        vector: Any,
        sample_weight: Any = None,
        normalizer: Any = None,
    ) -> Any:
        """Return the Hessian of the loss in the logits times `vector`, in closed form.

        `vector` and the result have the logits' shape; the other arguments are those of a call.
        """
        return _plain(logits).hvp(self, logits, targets, vector, sample_weight, normalizer)

    def sums(self, logits: Any, targets: Any, sample_weight: Any = None) -> LossSums:
        """Return the sums the mean is made of, which merge with those of other samples."""
        result: LossSums = _front_end(logits).sums(self, logits, targets, sample_weight)
        return result

    def activation(self, logits: Any) -> Any:
        """Return the outputs that this loss sees: probabilities of the logits' shape and dtype."""
        return _front_end(logits).activation(self, logits)

    def predict(self, logits: Any) -> Any:
        """Return the decision: the class of the largest score, or 0 and 1 output by output."""
        return _front_end(logits).predict(self, logits)

    def from_probabilities(
        self, probabilities: Any, targets: Any, sample_weight: Any = None, normalizer: Any = None
    ) -> Any:
        """Return the loss of given probabilities. Nothing is clipped: ln 0 is -inf.

        An impossible event that happens costs infinity; one that does not costs nothing. Softmax
        rows must sum to 1 within 1e-4 (float16: 1e-2, bfloat16: 1e-1). Options that act on logits
        must be off.
        """
        return _plain(probabilities).from_probabilities(
            self, probabilities, targets, sample_weight, normalizer
        )

    def from_log_probabilities(
        self,
        log_probabilities: Any,
        targets: Any,
        sample_weight: Any = None,
        normalizer: Any = None,
    ) -> Any:
        """Return the loss of given ln p, which keep what p rounds away; see from_probabilities."""
        return _plain(log_probabilities).from_probabilities(
            self, log_probabilities, targets, sample_weight, normalizer, logarithms=True
        )

    def chain_rule(self, logits: Any, targets: Any) -> ChainRule:
        """Return every link of dE/ds = dE/dp dp/ds for each row, in float64.

        The error is that of one row, unreduced and without sample weight. Softcap and temperature
        belong to dp_ds, class weights and smoothing to dE_dp.
        """
        result: ChainRule = _plain(logits).chain_rule(self, logits, targets)
        return result

    @property
    def logit_options(self) -> dict[str, float | None]:
        """Return the options that act on logits rather than on probabilities."""
        return {}


def _set(loss: Any, **values: Any) -> None:
    """Store checked options in a frozen loss."""
    for name, value in values.items():
        object.__setattr__(loss, name, value)


@dataclass(frozen=True)
class CrossEntropy(_Loss):
    r"""Softmax and the one-term error: -sum_j c_j ln p_j with p = softmax(s).

    Its gradient in the scores is (sum_j c_j) p - c, that is p - c for a distribution c.
    With all options, for target masses t_j = class_weight_j ((1 - alpha) c_j + alpha / C):

        loss = sum_j t_j (logsumexp(s) - s_j) + z_loss * logsumexp(s)^2
        s    = softcap tanh(logits / softcap) / temperature

    Logits have shape (..., C) with the classes on `axis`; targets are class indices of the rows'
    shape, or probabilities of the logits' shape.

    Parameters
    ----------
    class_weight : sequence of C numbers >= 0, optional
        Multiplies each class's part of the error.
    ignore_index : int, default -100
        Rows whose class index is this one take no part.
    label_smoothing : float in [0, 1], default 0
        alpha: the share of the target that is spread over all classes.
    z_loss : float >= 0, default 0
        Adds z_loss * logsumexp^2, which keeps the scores from drifting.
    softcap : float >= 1e-300, optional
        Bounds the scores to (-softcap, softcap).
    temperature : float >= 1e-300, default 1
        Divides the scores.
    reduction : {"mean", "sum", "none", "batchmean"}
        "mean" divides by the sum of sample_weight * sum_j c_j class_weight_j (c before
        smoothing), "batchmean" by the sum of sample_weight. Nothing left to average gives 0.
    axis : int, default -1
        The axis of the classes.

    Examples
    --------
    >>> import crossent
    >>> loss = crossent.CrossEntropy()
    >>> value, gradient = loss.value_and_grad([[2.0, 1.0, 0.1]], [0])
    >>> print(f"{value:.4f}", gradient.round(4))
    0.4170 [[-0.341   0.2424  0.0986]]

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning (2006), eq. 4.108 and 4.109.
    """

    class_weight: Any = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    temperature: float = 1.0
    reduction: str = "mean"
    axis: int = -1

    name: ClassVar[str] = "cross_entropy"
    activation_name: ClassVar[str] = "softmax"

    def __post_init__(self) -> None:
        softcap = self.softcap
        if softcap is not None:
            softcap = checks.number("softcap", softcap, LEAST, math.inf)
        _set(
            self,
            class_weight=checks.weights_option("class_weight", self.class_weight),
            ignore_index=checks.whole_number("ignore_index", self.ignore_index),
            label_smoothing=checks.number("label_smoothing", self.label_smoothing, 0.0, 1.0),
            z_loss=checks.number("z_loss", self.z_loss, 0.0, math.inf),
            softcap=softcap,
            temperature=checks.number("temperature", self.temperature, LEAST, math.inf),
            axis=checks.whole_number("axis", self.axis),
        )
        checks.reduction(self.reduction)
        as_they_are = {"z_loss": 0.0, "softcap": None, "temperature": 1.0}
        _set(self, is_plain=not self.label_smoothing and self.logit_options == as_they_are)

    @property
    def logit_options(self) -> dict[str, float | None]:
        """Return the options that act on logits rather than on probabilities."""
        return {"z_loss": self.z_loss, "softcap": self.softcap, "temperature": self.temperature}


@dataclass(frozen=True)
class SoftmaxBinaryCrossEntropy(_Loss):
    """Softmax and the two-term error: -sum_j [c_j ln p_j + (1 - c_j) ln(1 - p_j)].

    Its gradient in the scores is u_k - p_k sum_j u_j with u = (p - c) / (1 - p). It is not p - c,
    which drops the off-diagonal terms of the softmax Jacobian; for two classes and sum c = 1 it
    is 2 (p - c). Shapes and targets as for `CrossEntropy`.

    Parameters
    ----------
    ignore_index, label_smoothing, axis
        As for `CrossEntropy`.
    reduction : {"mean", "sum", "none", "batchmean"}
        "mean" and "batchmean" both divide by the sum of sample_weight: the second term counts
        every class of a row, whatever its targets sum to.

    Examples
    --------
    >>> import crossent
    >>> loss = crossent.SoftmaxBinaryCrossEntropy()
    >>> value, gradient = loss.value_and_grad([[2.0, 1.0, 0.1]], [0])
    >>> print(f"{value:.4f}", gradient.round(4))
    0.7984 [[-0.6239  0.4584  0.1656]]

    References
    ----------
    Derived in docs/math.md.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"
    axis: int = -1

    name: ClassVar[str] = "softmax_binary_cross_entropy"
    activation_name: ClassVar[str] = "softmax"
    class_weight: ClassVar[None] = None
    softcap: ClassVar[None] = None
    temperature: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _set(
            self,
            ignore_index=checks.whole_number("ignore_index", self.ignore_index),
            label_smoothing=checks.number("label_smoothing", self.label_smoothing, 0.0, 1.0),
            axis=checks.whole_number("axis", self.axis),
        )
        checks.reduction(self.reduction)


@dataclass(frozen=True)
class BinaryCrossEntropy(_Loss):
    """Sigmoid and the two-term error of each output: -[y ln a + (1 - y) ln(1 - a)].

    a = sigmoid(z), and the gradient in the scores is a - y. Several outputs make the generalised
    cross-entropy, the sum over outputs: reduction "batchmean" averages it over the samples.

    Logits of shape (n, J) are n samples of J outputs (leading axes count as samples), (n,) are n
    samples of one output. Targets have the logits' shape: 0 and 1, or probabilities.

    Parameters
    ----------
    pos_weight : sequence of J numbers >= 0, or one, optional
        Multiplies the first term: what missing a positive costs.
    label_smoothing : float in [0, 1], default 0
        alpha: y becomes (1 - alpha) y + alpha / 2.
    reduction : {"mean", "sum", "none", "batchmean"}
        "mean" divides by the weight of all outputs, "batchmean" by that of all samples.

    Examples
    --------
    >>> import crossent
    >>> loss = crossent.BinaryCrossEntropy()
    >>> value, gradient = loss.value_and_grad([0.0, 2.0], [1, 0])
    >>> print(f"{value:.4f}", gradient.round(4))
    1.4100 [-0.25    0.4404]

    References
    ----------
    Nielsen, Neural Networks and Deep Learning (2015), eq. 57, 61 and 63.
    """

    pos_weight: Any = None
    label_smoothing: float = 0.0
    reduction: str = "mean"

    name: ClassVar[str] = "binary_cross_entropy"
    activation_name: ClassVar[str] = "sigmoid"

    def __post_init__(self) -> None:
        _set(
            self,
            pos_weight=checks.weights_option("pos_weight", self.pos_weight),
            label_smoothing=checks.number("label_smoothing", self.label_smoothing, 0.0, 1.0),
        )
        checks.reduction(self.reduction)


@dataclass(frozen=True)
class QuadraticCost(_Loss):
    """Sigmoid and the quadratic cost: 1/2 sum_j (a_j - y_j)^2, for comparison.

    Its gradient in the scores, (a - y) a (1 - a), keeps the factor sigma' = a (1 - a) that
    cross-entropy cancels: a neuron that is wrong and certain hardly learns. Shapes, targets and
    reductions as for `BinaryCrossEntropy`.

    Examples
    --------
    >>> import crossent
    >>> value, gradient = crossent.QuadraticCost().value_and_grad([4.0], [0.0])
    >>> print(f"{value:.4f}", gradient.round(4))
    0.4822 [0.0173]

    References
    ----------
    Nielsen, Neural Networks and Deep Learning (2015), eq. 6, 55 and 56.
    """

    reduction: str = "mean"

    name: ClassVar[str] = "quadratic_cost"
    activation_name: ClassVar[str] = "sigmoid"
    label_smoothing: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        checks.reduction(self.reduction)


# Functions --------------------------------------------------------------------------------------


# Made once, not checked anew for every call.
_WITHOUT_OPTIONS: dict[Any, Any] = {
    kind: kind()
    for kind in (CrossEntropy, SoftmaxBinaryCrossEntropy, BinaryCrossEntropy, QuadraticCost)
}


def _loss(kind: Any, options: dict[str, Any]) -> Any:
    return kind(**options) if options else _WITHOUT_OPTIONS[kind]


def cross_entropy(
    logits: Any, targets: Any, *, sample_weight: Any = None, normalizer: Any = None, **options: Any
) -> Any:
    """Return `CrossEntropy(**options)(logits, targets, sample_weight, normalizer)`.

    >>> import crossent
    >>> print(f"{crossent.cross_entropy([[2.0, 1.0, 0.1]], [0]):.4f}")
    0.4170
    """
    return _loss(CrossEntropy, options)(logits, targets, sample_weight, normalizer)


def binary_cross_entropy(
    logits: Any, targets: Any, *, sample_weight: Any = None, normalizer: Any = None, **options: Any
) -> Any:
    """Return `BinaryCrossEntropy(**options)(logits, targets, sample_weight, normalizer)`.

    >>> import crossent
    >>> print(f"{crossent.binary_cross_entropy([0.0], [1]):.4f}")
    0.6931
    """
    return _loss(BinaryCrossEntropy, options)(logits, targets, sample_weight, normalizer)


def softmax_binary_cross_entropy(
    logits: Any, targets: Any, *, sample_weight: Any = None, normalizer: Any = None, **options: Any
) -> Any:
    """Return `SoftmaxBinaryCrossEntropy(**options)(logits, targets, sample_weight, normalizer)`.

    >>> import crossent
    >>> print(f"{crossent.softmax_binary_cross_entropy([[2.0, 1.0, 0.1]], [0]):.4f}")
    0.7984
    """
    return _loss(SoftmaxBinaryCrossEntropy, options)(logits, targets, sample_weight, normalizer)


def quadratic_cost(
    logits: Any, targets: Any, *, sample_weight: Any = None, normalizer: Any = None, **options: Any
) -> Any:
    """Return `QuadraticCost(**options)(logits, targets, sample_weight, normalizer)`.

    >>> import crossent
    >>> print(f"{crossent.quadratic_cost([0.0], [1]):.4f}")
    0.1250
    """
    return _loss(QuadraticCost, options)(logits, targets, sample_weight, normalizer)


def softmax(logits: Any, axis: int = -1) -> Any:
    """Return p_j = exp(s_j) / sum_k exp(s_k) along the axis, of the logits' shape and dtype.

    >>> import crossent
    >>> print(crossent.softmax([2.0, 1.0, 0.1]).round(4))
    [0.659  0.2424 0.0986]
    """
    return _front_end(logits).softmax(logits, axis)


def log_softmax(logits: Any, axis: int = -1) -> Any:
    """Return ln softmax along the axis, right where softmax rounds to 0 or 1.

    >>> import crossent
    >>> print(crossent.log_softmax([0.0, -40.0]))
    [-4.24835426e-18 -4.00000000e+01]
    """
    return _front_end(logits).log_softmax(logits, axis)


def logsumexp(logits: Any, axis: int = -1) -> Any:
    """Return ln sum_j exp(s_j) along the axis; float64 for float64 logits, else float32.

    >>> import crossent
    >>> print(f"{crossent.logsumexp([1000.0, 1000.0]):.4f}")
    1000.6931
    """
    return _front_end(logits).logsumexp(logits, axis)


def sigmoid(logits: Any) -> Any:
    """Return 1 / (1 + exp(-z)), elementwise, of the logits' shape and dtype.

    >>> import crossent
    >>> print(crossent.sigmoid([0.0, 4.0]).round(4))
    [0.5   0.982]
    """
    return _front_end(logits).sigmoid(logits)


def log_sigmoid(logits: Any) -> Any:
    """Return ln sigmoid(z) = -ln(1 + exp(-z)), right where sigmoid rounds to 1.

    >>> import crossent
    >>> print(crossent.log_sigmoid([40.0, -40.0]))
    [-4.24835426e-18 -4.00000000e+01]
    """
    return _front_end(logits).log_sigmoid(logits)


def one_hot(labels: Any, num_classes: int) -> Any:
    """Return float64 rows with 1 at each label and 0 elsewhere, of shape labels.shape + (C,).

    Raises ValueError, naming it, for a label outside [0, num_classes).

    >>> import crossent
    >>> print(crossent.one_hot([2, 0], 3))
    [[0. 0. 1.]
     [1. 0. 0.]]
    """
    return _front_end(labels).one_hot(labels, num_classes)
