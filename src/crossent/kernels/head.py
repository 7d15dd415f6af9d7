"""What a linear head needs beside matrix products and the loss's own kernel.

Half types converted where they are multiplied; the few entries of a peaked gradient that a filter
keeps, and the two products with nothing but them; statistics of rows of scores.
"""

import numpy as np

from crossent.kernels.compiler import device, kernel
from crossent.kernels.elementary import F64, exp_of_scaled, tanh
from crossent.kernels.halves import put, read
from crossent.kernels.intrinsics import borrowed, keep, magnitude, maximum, reordered_add, select
from crossent.kernels.rows import largest, limit

BLOCK = 64  # entries that are passed over at a time: nearly all of a peaked gradient


@kernel
def convert(source, out):
    """Store the numbers of one array in another, where either may hold a half type's bits."""
    source, out = borrowed(source), borrowed(out)
    for i in range(source.shape[0]):
        row, to = source[i], out[i]
        for j in range(row.size):
            put(to, j, read(row[j]))


# A filter ---------------------------------------------------------------------------------------


@device
def greatest(block):
    """Return the greatest absolute value, NaN if there is a NaN."""
    found = block.dtype.type(0.0)
    for j in range(block.size):
        found = maximum(found, magnitude(block[j]))
    return found


@device
def absolute_sum(block):
    """Return the sum of absolute values."""
    total = block.dtype.type(0.0)
    for j in range(block.size):
        total = reordered_add(total, magnitude(block[j]))
    return F64(total)


@kernel
def weigh_entries(slope, limits, kept, total, top):
    """Store of each row how many entries exceed its limit; sum and maximum of the others."""
    slope = borrowed(slope)
    for i in range(slope.shape[0]):
        row, tolerance = slope[i], limits[i]
        kept[i], total[i], top[i] = 0, 0.0, 0.0
        for start in range(0, row.size, BLOCK):
            block = row[start : start + BLOCK]
            size = greatest(block)
            if size <= tolerance:
                total[i] += absolute_sum(block)
                top[i] = max(top[i], size)
                continue
            for j in range(block.size):
                size = magnitude(block[j])
                if size <= tolerance:
                    total[i] += size
                    top[i] = max(top[i], size)
                else:
                    kept[i] += 1


@kernel
def pick_entries(slope, limits, starts, classes, values):
    """Store the entries that exceed a row's limit: those of row i from starts[i] on."""
    slope = borrowed(slope)
    for i in range(slope.shape[0]):
        row, k, tolerance = slope[i], starts[i], limits[i]
        for start in range(0, row.size, BLOCK):
            block = row[start : start + BLOCK]
            if greatest(block) <= tolerance:
                continue
            for j in range(block.size):
                if not magnitude(block[j]) <= tolerance:
                    classes[k], values[k] = start + j, block[j]
                    k += 1


@kernel
def times_weight(starts, classes, values, weight, out):
    """Store G W, for the picked entries of G."""
    weight, out = borrowed(weight), borrowed(out)
    for i in range(out.shape[0]):
        total = out[i]
        total[:] = 0.0
        for k in range(starts[i], starts[i + 1]):
            value, row = values[k], weight[classes[k]]
            for d in range(total.size):
                total[d] += value * read(row[d])


@kernel
def add_times_features(starts, classes, values, features, first, stop, out):
    """Add G^T X to the rows of out from class first to stop, for the picked entries of G."""
    features, out = borrowed(features), borrowed(out)
    for i in range(features.shape[0]):
        begin, end = starts[i], starts[i + 1]
        k = begin + np.searchsorted(classes[begin:end], first)
        row = features[i]
        while k < end and classes[k] < stop:
            value, total = values[k], out[classes[k]]
            for d in range(row.size):
                total[d] += value * row[d]
            k += 1


# Statistics -------------------------------------------------------------------------------------


@device
def rank_of(row, target):
    """Return 1 and how many scores stand ahead of the target's; of equal ones the first does."""
    score, ahead = row[target], 1
    for j in range(target):
        ahead += not (row[j] < score)
    for j in range(target + 1, row.size):
        ahead += not (row[j] <= score)
    return ahead


@kernel
def row_statistics(logits, targets, softcap, sharpness, lse, entropy, rank):
    """Store logsumexp and entropy of the scores, and the rank of the target; softcap 0 for none."""
    logits = borrowed(logits)
    scratch = np.empty(logits.shape[1])
    s = borrowed(scratch)
    for i in range(logits.shape[0]):
        row = logits[i]
        for j in range(row.size):
            s[j] = F64(row[j])
            if softcap > 0.0:
                s[j] = softcap * tanh(s[j] * (1.0 / softcap))
        m = largest(s)
        infinite = m == np.inf
        if infinite:
            m = limit(s)
        total, gap = 0.0, 0.0
        for j in range(s.size):
            e = exp_of_scaled(s[j], m, sharpness, s)
            total = reordered_add(total, e)
            gap = reordered_add(gap, select(e > 0.0, e * sharpness * (m - s[j]), 0.0))
        lse[i] = sharpness * m + np.log(total) + (np.inf if infinite else 0.0)
        entropy[i] = np.log(total) + gap / total
        rank[i] = rank_of(row, targets[i])
    keep(scratch)
