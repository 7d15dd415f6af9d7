"""What long rows need, whether one class is right or masses are spread: passes, limits, sums.

Letters: N rows, C classes; m a row's maximum; x one class that is summed apart: the target where
there is one, else the winner. `others` is the sum of exp(s_j - m) over all classes but x, `own`
is x's, `total` their sum. Summed apart, neither the loss of a confident right answer nor its
gradient -others / total is a difference of nearly equal numbers.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload
from crossent.kernels.elementary import F64, log1p
from crossent.kernels.halves import read
from crossent.kernels.intrinsics import LINE, SPAN, STREAM, STREAMS, fetch_streams, larger, select
from crossent.kernels.strips import take_limit

LANES = 64  # rows are padded to a multiple, so that no loop over them has a slow remainder
BLOCK = 256  # scores at a time: a block's sum is added exactly, within it rounding accumulates
TINY = 2.0**-126  # the smallest normal float32


@device
def largest(row):
    """Return the maximum of the numbers; NaN may be passed over, as its exponential is NaN too."""
    m = type(read(row[0]))(-np.inf)
    for j in range(row.size):
        m = larger(m, read(row[j]))
    return m


@device
def lowering(work):
    """Return what undoes the raising of `raised_exp`."""
    return 2.0**-64 if work.itemsize == 4 else 1.0


@device
def padded(classes):
    """Return the room that a row takes."""
    return (classes + LANES - 1) // LANES * LANES


@device
def room(work, start, stop):
    """Return the part of work for a stretch of a row: its end, where work is shorter than that."""
    place = min(start, work.size - (stop - start))
    return work[place : place + stop - start]


def in_a_row(array):
    """Return the numbers of a matrix as one stretch of memory; of a vector, none."""
    raise AssertionError("kernels are compiled")


@device_overload(in_a_row)
def _in_a_row(array):
    if array.ndim == 1:
        return lambda array: array[:0]
    return lambda array: array.reshape(array.size)


@device
def fetch_share(soon, start, size):
    """Ask for a share of the memory that is touched soon, to compute while it comes.

    soon is scores, masses and gradient in a row, and from where on a share is a span ahead: in the
    first two, and in the gradient. Asked for at once, all would be waited for.
    """
    scores, masses, gradient, coming, place = soon[:5]
    fetch_ahead(scores, coming + start, size)
    fetch_ahead(masses, coming + start, size)
    fetch_ahead(gradient, place + start, size)


def fetch_ahead(memory, start, size):
    """Ask for a share of the next span of memory while a stretch of this one is computed on.

    A line from each of its streams in turn: by itself a processor looks ahead within one page for
    each stream, and that is too little memory on its way to keep up with what it computes.
    """
    raise AssertionError("kernels are compiled")


@device_overload(fetch_ahead)
def _fetch_ahead(memory, start, size):
    if isinstance(memory, types.NoneType):
        return lambda memory, start, size: None
    line, span = LINE * 8 // memory.dtype.bitwidth, SPAN * 8 // memory.dtype.bitwidth
    step, stream = (STREAMS * line).bit_length() - 1, STREAM.bit_length() - 1  # // would be slow

    def lines(memory, start, size):
        followed = memory.size - span  # what begins beyond is asked for by nobody, or by another
        for k in range(start >> step, min(start + size, followed) >> step):
            fetch_streams(memory, ((k >> stream) + 1) * span + (k & (STREAM - 1)) * line)

    return lines


@device
def edit(scores, excluded, size, buffer):
    """Return a copy of a block, `size` long, -inf at the excluded class and beyond the end."""
    for j in range(scores.size):
        buffer[j] = read(scores[j])
    buffer[scores.size : size] = -np.inf
    if 0 <= excluded < scores.size:
        buffer[excluded] = -np.inf
    return buffer[:size]


def mass_at(masses, j):
    """Return the mass of class j."""
    raise AssertionError("kernels are compiled")


@device_overload(mass_at)
def _mass_at(masses, j):
    if isinstance(masses, types.Array):
        return lambda masses, j: F64(masses[j])
    return lambda masses, j: masses


@device
def finish(gap, others, own):
    """Return the loss, -ln(own / (others + own)), where gap = m - score of the target >= 0."""
    return gap + log_of_rest(gap, others, own)


@device
def log_of_rest(gap, others, own):
    """Return ln(others + own), where the larger of the two is about 1: others if gap > 0."""
    return log1p(rest_of_total(gap, others, own))


@device
def rest_of_total(gap, others, own):
    """Return others + own - 1, of which no digit is lost."""
    return select(gap == 0.0, others, (others - type(gap)(1.0)) + own)


@device
def finish_masses(gap, own_mass, others, own, log_rest, rest, rest_gap, m, z_loss):
    """Return the loss, the z-loss, and the factors of p and of the excluded class, unweighted."""
    lse, share = m + log_rest, 1.0 / (others + own)
    loss = rest * log_rest + rest_gap
    loss += select(own_mass != 0.0, own_mass * (gap + log_rest), 0.0)
    half = select(z_loss != 0.0, z_loss * lse, 0.0)  # 0 * inf = 0
    penalty, pull = select(half != 0.0, half * lse, 0.0), 2.0 * half
    own_slope = (rest + pull) * (own * share) - own_mass * (others * share)
    return loss, penalty, (rest + own_mass + pull) * share, own_slope


@device
def take_limit_of(row, replaced):
    """Store the limit of a row that holds +inf in replaced and return its maximum."""
    for j in range(row.size):
        replaced[j] = read(row[j])
    return limit(replaced)


@device
def limit(work):
    """Replace a row that holds +inf by its limit and return the new maximum: 0, or NaN."""
    if take_limit(work) > 1:
        work[:] = np.nan
    return largest(work)
