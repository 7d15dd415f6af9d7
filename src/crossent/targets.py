"""What kernels are told of targets and weights: laid out, checked and counted."""

from __future__ import annotations

import numpy as np

from crossent import checks
from crossent.kernels import scan
from crossent.layout import Array, as_rows, bits, writable
from crossent.threads import sum_over_parts


def index_targets(
    targets: Array, classes: int, ignore_index: int, weights: Array, class_weight: Array
) -> tuple[Array, int | None, float]:
    """Return checked indices, the one that is ignored if any is, and what the others weigh."""
    flat = targets if targets.ndim == 1 else targets.reshape(-1)
    flat = writable(np.ascontiguousarray(flat))

    def look(y: Array, each: Array, sums: Array) -> None:
        scan.scan_indices(y, classes, ignore_index, each, class_weight, sums)

    weight, ignored, lost, bad = sum_over_parts(look, flat, weights, width=4).tolist()
    if bad:
        raise checks.bad_index(targets, classes, ignore_index)
    return flat, ignore_index if ignored else None, weight + lost


def row_weights(
    y: Array, ignored: int | None, weights: Array, class_weight: Array
) -> tuple[Array, Array, Array]:
    """Return indices that are all classes, sample weights, and those times class weights.

    Weights are 0 where an index was ignored, and empty if all are 1.
    """
    if ignored is None and not class_weight.size:
        return y, weights, weights
    indices, both = np.empty(len(y), np.int64), np.empty((2 if class_weight.size else 1, len(y)))
    index = -1 if ignored is None else ignored
    scan.weigh_indices(y, index, weights, class_weight, indices, both)
    return indices, both[0], both[-1]


def mass_targets(
    targets: Array, weights: Array, class_weight: Array, axis: int
) -> tuple[Array, float]:
    """Check the masses of the rows that take part; return them and their weighted sum.

    If every row is one-hot, its class index is returned in its place: the same loss, faster.
    """
    y = _widened(as_rows(targets, axis))
    plain = not (class_weight.size or weights.size)

    def look(rows: Array, each: Array, sums: Array) -> None:
        if plain:
            scan.scan_masses(rows.reshape(-1), sums)
        else:
            scan.scan_weighted_masses(rows, class_weight, each, sums)

    mass, bad, lost = sum_over_parts(look, y, weights, width=3)
    if bad:
        row_shape = targets.shape[:axis] + targets.shape[axis + 1 :]
        part = np.expand_dims(weights.reshape(row_shape) != 0, axis) if weights.size else True
        raise checks.bad_probability(targets, taking_part=part)
    indices = _one_hot_indices(y)
    return (y if indices is None else indices), float(mass + lost)


def _widened(y: Array) -> Array:
    """Return masses of a half type in float32, as kernels take them; NumPy's own way is slow."""
    if y.dtype.itemsize != 2:
        return y
    numbers = np.empty(y.shape, np.float32)
    sum_over_parts(scan.widen, bits(y), numbers)
    return numbers


def _one_hot_indices(y: Array) -> Array | None:
    """Return the class of each row if all rows are one-hot."""
    if not len(y) or np.count_nonzero(y[0]) != 1:
        return None
    indices = np.empty(len(y), np.int64)
    (one_hot,) = sum_over_parts(scan.take_indices, y, indices, width=1)
    return indices if one_hot == len(y) else None


def check_outputs(y: Array, targets: Array, weights: Array | None) -> None:
    """Check the targets of the outputs that take part."""
    if sum_over_parts(scan.scan_shares, bits(y.reshape(-1)), width=1)[0]:
        part = True if weights is None else weights != 0
        if weights is not None and weights.shape != targets.shape:
            part = np.expand_dims(part, -1)
        if (~((targets >= 0) & (targets <= 1)) & part).any():
            raise checks.bad_probability(targets, taking_part=part)
