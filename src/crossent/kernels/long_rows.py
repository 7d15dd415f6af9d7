"""The losses of long rows, one row at a time, while it is in the cache.

Three passes over a row: the maximum, the exponentials with their sums, the gradient. The first
reads the scores from memory, the last writes the gradient; between them all stays in the cache.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device_overload, kernel
from crossent.kernels.elementary import add_exactly
from crossent.kernels.halves import scratch_like
from crossent.kernels.hard_row import hard_row
from crossent.kernels.intrinsics import SPAN, borrowed, keep
from crossent.kernels.mass_row import mass_row, new_shares
from crossent.kernels.rows import BLOCK, in_a_row, padded
from crossent.kernels.softmax_row import softmax_row

FAR = 512  # classes: that far ahead the processor does not look by itself


def do_row(row, targets, i, options, factor, gradient, space, soon):
    """Return the loss and the z-loss of row i; store its gradient times factor if there is room."""
    raise AssertionError("kernels are compiled")


@device_overload(do_row)
def _do_row(row, targets, i, options, factor, gradient, space, soon):
    if isinstance(options, types.Boolean):
        return softmax_row
    return hard_row if of_one_class(options) else mass_row


def of_one_class(options):
    """Return whether options of a type spread no mass: all is the right class's, or nobody's."""
    if isinstance(options, (types.NoneType, types.Boolean)):
        return True
    return isinstance(options[1], types.NoneType)


def new_space(logits, targets, options, work_size):
    """Return the memory that a row needs beside itself and its gradient."""
    raise AssertionError("kernels are compiled")


@device_overload(new_space)
def _new_space(logits, targets, options, work_size):
    def hard(logits, targets, options, work_size):
        return (
            scratch_like(logits, work_size),
            scratch_like(logits, BLOCK),
            scratch_like(logits, logits.shape[1]),
        )

    def spread(logits, targets, options, work_size):
        classes, buffer = logits.shape[1], new_buffer(logits, options[3])
        return (
            np.empty(work_size),
            buffer,
            scratch_like(logits, classes),
            np.empty(classes),
            np.empty(classes),
            np.empty(classes),
            new_shares(targets, options[1], classes, buffer),
        )

    return hard if of_one_class(options) else spread


def new_buffer(logits, softcap):
    """Return space for a block of scores: float64 if they are capped."""
    raise AssertionError("kernels are compiled")


@device_overload(new_buffer)
def _new_buffer(logits, softcap):
    if isinstance(softcap, types.NoneType):
        return lambda logits, softcap: scratch_like(logits, FAR)
    return lambda logits, softcap: np.empty(FAR)


@kernel
def long_rows(logits, targets, row_weight, options, scale, losses, gradient, sums):
    """Add weighted losses to sums[0], z-losses to sums[1]; store losses, and gradient times scale.

    An empty row_weight (N,) stands for ones; empty losses (N,) or gradient (N, C) are not wanted.
    options None is for class indices alone; else they are gain, base, z_loss, softcap (None for
    none), and sharpness, which is 1 / temperature: what `mass_row` takes, or `hard_row`, if base is
    None because no class but the right one has mass. sums[2] and sums[3] take what rounding the
    others loses, so that a million rows add no error of their own.

    options True or False: gradient takes the softmax, or its logarithm, and nothing else counts.
    """
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    classes = logits.shape[1]
    width = padded(classes)  # all of a row, or what is summed up at a time
    owned = new_space(logits, targets, options, width if gradient.size else min(width, FAR))
    # float64 sums have no digits to spare for what rounding accumulates within a block: with masses
    # the processor's registers tell how many partial sums a block has, perhaps only four.
    exact = BLOCK // 2 if options is None else BLOCK // 4
    step = exact if logits.itemsize == 8 else BLOCK if classes >= FAR else FAR
    ahead = SPAN // logits.itemsize  # a longer row's maximum must find all of the row there
    space, memory = borrowed(owned), (in_a_row(logits), in_a_row(targets), in_a_row(gradient))
    for i in range(logits.shape[0]):
        weight = row_weight[i] if row_weight.size else 1.0
        slope = gradient[i : i + 1]  # none where it is not wanted
        place = i * classes
        soon = (*memory, place + max(classes - ahead, 0), place, step)
        loss, penalty = 0.0, 0.0
        if weight != 0.0:
            factor = weight * scale
            loss, penalty = do_row(logits[i], targets, i, options, factor, slope, space, soon)
        else:
            slope[:] = 0  # the bits of every type's zero
        sums[0], sums[2] = add_exactly(sums[0], sums[2], weight * loss)
        sums[1], sums[3] = add_exactly(sums[1], sums[3], weight * penalty)
        if losses.size:
            losses[i] = weight * (loss + penalty)
    keep(owned)
