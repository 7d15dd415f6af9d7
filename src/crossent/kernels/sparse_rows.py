"""Products with sparse rows (CSR), given as where each row begins, the columns and the values.

Each takes one output at a time, so that what it scatters into, one number per feature, stays in
the cache. Columns are told to be positive: negative ones would cost a comparison each.
"""

import numpy as np

from crossent.kernels.compiler import kernel


@kernel
def through_features(starts, columns, values, rows, inverse, squared, features, out):
    """Store inverse * (X^T rows) in features, and X features in out, unless that is empty.

    Return the sums of inverse * (X^T rows)^2 and of squared * (X^T rows)^2. out may be rows.
    """
    number = features.dtype.type
    features[:] = 0
    for i in range(rows.size):
        for k in range(starts[i], starts[i + 1]):
            features[np.uint64(columns[k])] += number(values[k]) * rows[i]
    sums = np.zeros(2)
    for d in range(features.size):
        square = np.float64(features[d]) * features[d]
        sums[0] += inverse[d] * square
        sums[1] += squared[d] * square
        features[d] *= inverse[d]
    for i in range(out.size):
        total = number(0)
        for k in range(starts[i], starts[i + 1]):
            total += number(values[k]) * features[np.uint64(columns[k])]
        out[i] = total
    return sums[0], sums[1]


@kernel
def add_squares(starts, columns, values, weight, origin, sums):
    """Add sum_i weight_ij (x_id - origin_d)^2 to sums (D, J), but for weight_ij origin_d^2."""
    for i in range(weight.shape[0]):
        for k in range(starts[i], starts[i + 1]):
            d, x = np.uint64(columns[k]), np.float64(values[k])
            change = x * (x - 2 * origin[d])
            for j in range(weight.shape[1]):
                sums[d, j] += weight[i, j] * change
