"""Activations of rows: the softmax, its logarithm, and the logarithm of the sum of exponentials.

Letters: N rows, C classes; m a row's maximum, total = sum of exp(s_j - m). Computed in float64
whatever the logits' type, in strips (see strips.py), and rounded once.
"""

import numpy as np

from crossent.kernels.compiler import device, kernel
from crossent.kernels.elementary import add_exactly, exp_of_difference, log1p, tanh
from crossent.kernels.intrinsics import borrowed, keep, select
from crossent.kernels.strips import (
    different,
    filled,
    fold,
    largest,
    load,
    new_strips,
    store,
    take_maxima,
)


@kernel
def softmax_rows(logits, softcap, temperature, logarithm, lse, out):
    """Store logsumexp in lse (N,) and the softmax, or its logarithm, in out (N, C) if not empty."""
    logits, out = borrowed(logits), borrowed(out)
    scratch = new_strips(1, logits.shape[1])
    work = borrowed(scratch)[0]
    per_lane = np.empty((5, work.shape[1]))
    lanes = borrowed(per_lane)
    m, sums, lost, log_total = lanes[0], lanes[1:3], lanes[3], lanes[4]
    step = different(m)
    for start in range(0, logits.shape[0], step):
        stop = min(start + step, logits.shape[0])
        load(logits[start:stop], work, -np.inf)
        soften(filled(logits.shape[1], work), softcap, 1.0 / temperature)
        take_maxima(work, m)
        add_up(work, m, logarithm, sums, lost)
        for i in range(m.size):
            log_total[i] = log1p(sums[0, i] + (sums[1, i] - 1.0))
        for i in range(stop - start):
            infinite = softcap is None and reaches_infinity(logits[start + i], m[i])
            lse[start + i] = np.inf if infinite else m[i] + log_total[i]
        if out.size:
            finish(work, m, sums, log_total, logarithm)
            store(work, out[start:stop])
    keep(scratch)
    keep(per_lane)


@device
def soften(scores, softcap, sharpness):
    """Replace logits by softcap tanh(logits / softcap) * sharpness; None caps nothing."""
    if softcap is not None:
        for i in range(scores.size):
            scores[i] = softcap * tanh(scores[i] * (1.0 / softcap))
    if sharpness != 1.0:
        for i in range(scores.size):
            scores[i] *= sharpness


@device
def add_up(work, m, logarithm, sums, lost):
    """Add up exp(work - m), with sums[0] of what is below m, and sums[1] of m itself.

    Apart, so that the logarithm of a total near 1 is exact. Replace work by it, unless it is the
    logarithm that will be wanted.
    """
    sums[:] = 0.0
    lost[:] = 0.0
    less, ties = sums[0], sums[1]
    for s in range(work.shape[0]):
        scores = work[s]
        for i in range(m.size):
            x = scores[i]
            e = exp_of_difference(x, m[i])
            ties[i] += select(x == m[i], 1.0, 0.0)
            less[i], lost[i] = add_exactly(less[i], lost[i], select(x == m[i], 0.0, e))
            scores[i] = select(logarithm, x, e)
    for i in range(m.size):
        less[i] += lost[i]
    for k in range(2):
        fold(sums[k])


@device
def reaches_infinity(row, m):
    """Return whether +inf is the maximum of a row, of whose limit m is the maximum: 0, or NaN."""
    return (m != m or m == 0.0) and largest(row) == np.inf


@device
def finish(work, m, sums, log_total, logarithm):
    """Replace scores by ln p = (s - m) - ln(total), or exponentials by p = exp(s - m) / total."""
    for s in range(work.shape[0]):
        values = work[s]
        if logarithm:
            for i in range(m.size):
                values[i] = (values[i] - m[i]) - log_total[i]
        else:
            for i in range(m.size):
                values[i] /= sums[0, i] + sums[1, i]
