"""Cross-entropy done right: exact in both tails, fused, the same on every array."""

from crossent.linear import LinearCrossEntropy, linear_cross_entropy
from crossent.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    QuadraticCost,
    SoftmaxBinaryCrossEntropy,
    binary_cross_entropy,
    cross_entropy,
    log_sigmoid,
    log_softmax,
    logsumexp,
    one_hot,
    quadratic_cost,
    sigmoid,
    softmax,
    softmax_binary_cross_entropy,
)
from crossent.scoring import score_batches
from crossent.sums import LossSums, ScoreSums
from crossent.threads import get_num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "LinearCrossEntropy",
    "LossSums",
    "QuadraticCost",
    "ScoreSums",
    "SoftmaxBinaryCrossEntropy",
    "binary_cross_entropy",
    "cross_entropy",
    "get_num_threads",
    "linear_cross_entropy",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "one_hot",
    "quadratic_cost",
    "score_batches",
    "set_num_threads",
    "sigmoid",
    "softmax",
    "softmax_binary_cross_entropy",
]
