"""One long row turned into its softmax, or the logarithm of that. Letters as in rows.py.

In the scores' own type: nothing is subtracted from an exponential, and x is the winner, so that
what a confident row leaves to the others keeps its digits.
"""

import numpy as np

from crossent.kernels.compiler import device
from crossent.kernels.elementary import F64, I32, log1p
from crossent.kernels.halves import put, read
from crossent.kernels.hard_row import exponentiate_others, scale_row
from crossent.kernels.intrinsics import select
from crossent.kernels.rows import largest, take_limit_of


@device
def place_of(scores, m):
    """Return the last place of m among the scores, 0 if there is none."""
    place = I32(0)
    for j in range(scores.size):
        place = max(place, select(read(scores[j]) == m, I32(j), I32(0)))
    return place


@device
def soften(scores, m, logarithm, space, soon, out):
    """Store p = exp(s - m) / total of scores, or ln p = (s - m) - ln(total)."""
    work, buffer, _ = space
    winner = place_of(scores, m)
    others, lower = exponentiate_others(scores, m, winner, None, buffer, work, soon)
    if logarithm:
        log_total = log1p(others)
        for j in range(out.size):
            put(out, j, (F64(read(scores[j])) - F64(m)) - log_total)
    else:
        share = 1.0 / (1.0 + others)
        scale_row(work, share * lower, out)
        put(out, winner, share)


def softmax_row(row, targets, i, options, factor, gradient, space, soon):
    """Store the softmax of a row, or its logarithm if options say so; return two losses of none.

    One that holds +inf is replaced by its limit.
    """
    m, replaced = largest(row), space[2]
    if m != np.inf:
        soften(row, m, options, space, soon, gradient[0])
    else:
        m = take_limit_of(row, replaced)
        soften(replaced, m, options, space, soon, gradient[0])
    return 0.0, 0.0
