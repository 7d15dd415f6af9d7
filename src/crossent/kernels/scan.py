"""One look over targets, before anything is computed from them."""

from typing import Any

from crossent.kernels.compiler import kernel


@kernel
def scan_indices(targets: Any, classes: Any, ignore_index: Any, sums: Any) -> None:
    """Add to sums how many targets are ignored, and how many are neither that nor a class."""
    ignored, bad = 0, 0
    for i in range(targets.size):
        t = targets[i]
        ignored += t == ignore_index
        bad += (t < 0 or t >= classes) and t != ignore_index
    sums[0] += ignored
    sums[1] += bad


@kernel
def scan_outputs(targets: Any, sums: Any) -> None:
    """Add to sums how many targets, a vector, are not in [0, 1]; NaN is not."""
    bad = 0
    for i in range(targets.size):
        bad += not (targets[i] >= 0.0 and targets[i] <= 1.0)
    sums[0] += bad


@kernel
def scan_probabilities(targets: Any, class_weight: Any, row_weight: Any, sums: Any) -> None:
    """Add to sums the mass of all targets, how many are not in [0, 1], how many rows are one-hot.

    The mass is weighted; NaN is not in [0, 1]. An empty class_weight (C,) or row_weight (N,)
    stands for ones; a row of weight 0 may hold anything.
    """
    for i in range(targets.shape[0]):
        row, mass, bad, ones, zeros = targets[i], 0.0, 0, 0, 0
        for j in range(row.size):
            bad += not (row[j] >= 0.0 and row[j] <= 1.0)
            ones += row[j] == 1.0
            zeros += row[j] == 0.0
            mass += row[j] * (class_weight[j] if class_weight.size else 1.0)
        weight = row_weight[i] if row_weight.size else 1.0
        if weight != 0.0:
            sums[0] += weight * mass
            sums[1] += bad
        sums[2] += ones == 1 and zeros == row.size - 1
