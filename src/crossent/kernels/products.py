"""The two products of a narrow layer, X W + b and X^T slope, for a few outputs.

A general product packs X into panels first, which for a handful of outputs costs more than the
product itself. Here every row is read where it lies, two at a time so that what was loaded of W is
used twice. Gain over BLAS, on one core: 2.1 times for 3 outputs, 1.7 for 5, 1.2 for 10; from about
16 outputs on BLAS is faster.
"""

from crossent.kernels.compiler import device, kernel
from crossent.kernels.intrinsics import fma, reordered_add

NARROW = 12  # outputs up to which these beat BLAS


@device
def dot(x, w):
    """Return sum_d x_d w_d, in any order."""
    total = x.dtype.type(0.0)
    for d in range(x.size):
        total = reordered_add(total, x[d] * w[d])
    return total


@kernel
def narrow_scores(features, weights, bias, scores):
    """Store X W + b in scores (n, J), for weights (J, D)."""
    pairs = features.shape[0] // 2
    for i in range(pairs):
        x, y = features[2 * i], features[2 * i + 1]
        for j in range(bias.size):
            w = weights[j]
            of_x, of_y = x.dtype.type(0.0), x.dtype.type(0.0)
            for d in range(w.size):
                of_x = reordered_add(of_x, x[d] * w[d])
                of_y = reordered_add(of_y, y[d] * w[d])
            scores[2 * i, j] = of_x + bias[j]
            scores[2 * i + 1, j] = of_y + bias[j]
    for i in range(2 * pairs, features.shape[0]):
        for j in range(bias.size):
            scores[i, j] = dot(features[i], weights[j]) + bias[j]


@kernel
def add_narrow_back(features, slope, sums):
    """Add X^T slope, transposed, to sums (J, D)."""
    pairs = features.shape[0] // 2
    for i in range(pairs):
        x, y = features[2 * i], features[2 * i + 1]
        for j in range(sums.shape[0]):
            of_x, of_y, total = slope[2 * i, j], slope[2 * i + 1, j], sums[j]
            for d in range(total.size):
                total[d] = fma(of_x, x[d], fma(of_y, y[d], total[d]))
    for i in range(2 * pairs, features.shape[0]):
        for j in range(sums.shape[0]):
            of_x, x, total = slope[i, j], features[i], sums[j]
            for d in range(total.size):
                total[d] = fma(of_x, x[d], total[d])
