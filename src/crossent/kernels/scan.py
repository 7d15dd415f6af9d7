"""One look over targets, before anything is computed from them."""

from crossent.kernels.compiler import device, kernel
from crossent.kernels.elementary import I32, U64, add_exactly
from crossent.kernels.halves import read
from crossent.kernels.intrinsics import reordered_add, select
from crossent.kernels.rows import BLOCK, fetch_ahead, in_a_row
from crossent.kernels.sums import sum_of


@kernel
def scan_indices(targets, classes, ignore_index, row_weight, class_weight, sums):
    """Add up what the targets that are classes weigh, in sums[0], and what rounding loses, in [2].

    sums[1] takes how many are ignored, sums[3] how many are neither that nor a class. An empty
    row_weight (N,) or class_weight (C,) stands for ones.
    """
    ignored, bad = 0, 0
    for i in range(targets.size):
        t = targets[i]
        ignored += t == ignore_index
        bad += (t < 0 or t >= classes) and t != ignore_index
    sums[1] += ignored
    sums[3] += bad
    if bad == 0 and (row_weight.size or class_weight.size):
        for start in range(0, targets.size, BLOCK):
            y, w = targets[start : start + BLOCK], row_weight[start : start + BLOCK]
            weight = block_weight(y, ignore_index, w, class_weight)
            sums[0], sums[2] = add_exactly(sums[0], sums[2], weight)
    else:
        sums[0] += targets.size - ignored


@device
def block_weight(targets, ignore_index, row_weight, class_weight):
    """Return what a block of targets weighs, all of them classes or ignored."""
    total = 0.0
    if class_weight.size:
        for i in range(targets.size):
            _, _, both = weigh(targets, i, ignore_index, row_weight, class_weight)
            total = reordered_add(total, both)
    else:  # apart, as this takes vectors
        for i in range(targets.size):
            weight = select(targets[i] != ignore_index, row_weight[i], 0.0)
            total = reordered_add(total, weight)
    return total


@device
def weigh(targets, i, ignore_index, row_weight, class_weight):
    """Return a class, 0 if it is ignored; its row's weight, then 0; and that times the class's."""
    taken = targets[i] != ignore_index
    x = select(taken, targets[i], 0)
    weight = select(taken, row_weight[i] if row_weight.size else 1.0, 0.0)
    return x, weight, weight * class_weight[U64(x)] if class_weight.size else weight


@kernel
def weigh_indices(targets, ignore_index, row_weight, class_weight, indices, weights):
    """Store class indices, 0 where one is ignored, and each row's weight, 0 where it takes no part.

    weights (2, N) takes row_weight, and row_weight * class_weight[target]; without class weights
    (1, N) is enough. An empty row_weight (N,) or class_weight (C,) stands for ones.
    """
    for i in range(targets.size):
        indices[i], weight, both = weigh(targets, i, ignore_index, row_weight, class_weight)
        weights[0, i] = weight
        if class_weight.size:
            weights[1, i] = both


@device
def any_outside(values):
    """Return 1 if one of a vector's numbers is not in [0, 1], else 0; NaN is not."""
    bad = I32(0)  # as many bits as a float32, for vectors of both
    for i in range(values.size):
        value = read(values[i])
        bad = max(bad, select((value >= 0.0) & (value <= 1.0), I32(0), I32(1)))
    return bad


@kernel
def scan_shares(values, sums):
    """Let sums[0] be above 0 if one of a vector's numbers is not in [0, 1]."""
    for start in range(0, values.size, BLOCK):
        fetch_ahead(values, start, BLOCK)
        sums[0] += any_outside(values[start : start + BLOCK])


@kernel
def widen(values, numbers, sums):
    """Store the numbers (N, C) that a half type's bits stand for; sums stays as it is."""
    source, target = in_a_row(values), in_a_row(numbers)
    for start in range(0, source.size, BLOCK):
        fetch_ahead(source, start, BLOCK)
        fetch_ahead(target, start, BLOCK)
        for i in range(start, min(start + BLOCK, source.size)):
            target[i] = read(source[i])


@kernel
def scan_masses(values, sums):
    """Add to sums[0] the total of a vector; sums[1] is above 0 if some are not in [0, 1].

    sums[2] takes what rounding sums[0] loses.
    """
    for start in range(0, values.size, BLOCK):
        fetch_ahead(values, start, BLOCK)
        block = values[start : start + BLOCK]
        sums[0], sums[2] = add_exactly(sums[0], sums[2], sum_of(block))
        sums[1] += any_outside(block)


@kernel
def scan_weighted_masses(targets, class_weight, row_weight, sums):
    """Do what `scan_masses` does for rows: their weighted total, and only those of weight > 0.

    An empty class_weight (C,) or row_weight (N,) stands for ones.
    """
    for i in range(targets.shape[0]):
        row, mass = targets[i], 0.0
        weight = row_weight[i] if row_weight.size else 1.0
        if weight == 0.0:
            continue
        for j in range(row.size):
            each = class_weight[j] if class_weight.size else 1.0
            mass = reordered_add(mass, row[j] * each)
        sums[0], sums[2] = add_exactly(sums[0], sums[2], weight * mass)
        sums[1] += any_outside(row)


@kernel
def take_indices(targets, indices, sums):
    """Store where each row has its 1, and add to sums[0] how many rows are one-hot."""
    for i in range(targets.shape[0]):
        row, ones, zeros, at = targets[i], 0, 0, 0
        for j in range(row.size):
            ones += row[j] == 1.0
            zeros += row[j] == 0.0
            at += j * (row[j] == 1.0)
        sums[0] += ones == 1 and zeros == row.size - 1
        indices[i] = at
