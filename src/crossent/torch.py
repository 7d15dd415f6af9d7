"""What there is for PyTorch by name: `nn.Module`s like torch's own, and what takes tensors only.

All other functions and losses of `crossent` take tensors as they take arrays.
"""

from crossent.torch_linear_statistics import HeadStatistics, head_statistics
from crossent.torch_modules import BCEWithLogitsLoss, CrossEntropyLoss, LinearCrossEntropyLoss
from crossent.torch_parallel import vocab_parallel_cross_entropy

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HeadStatistics",
    "LinearCrossEntropyLoss",
    "head_statistics",
    "vocab_parallel_cross_entropy",
]
