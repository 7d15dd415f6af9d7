"""The losses of short rows, a tile of them at a time.

A short row would leave most of a vector empty. So as many as a tile has lanes are turned on the
way in, and their gradient is turned back on the way out. Rows much shorter than a vector lie side
by side in a line of the tile: line i holds rows i k, i k + 1, ..., so that the classes of the q-th
of each make a tile of their own.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload, kernel
from crossent.kernels.halves import scratch_like
from crossent.kernels.hard_tile import hard_tile
from crossent.kernels.intrinsics import borrowed, keep
from crossent.kernels.mass_tile import mass_tile
from crossent.kernels.rows import fetch_part, in_a_row
from crossent.kernels.tile import LINES, STRETCHES, add_lanes
from crossent.kernels.turning import VECTOR, turn_in, turn_out

SHORT = 192  # classes: longer rows fill vectors by themselves


@device
def side_by_side(logits):
    """Return how many rows a vector takes, at least 1."""
    itemsize = 8 if logits.itemsize == 8 else 4  # half types are computed in float32
    return max(1, VECTOR // itemsize // logits.shape[1])


def do_tile(tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon):
    """Report the losses of a tile of scores; turn it into their gradient if that is wanted."""
    raise AssertionError("kernels are compiled")


@device_overload(do_tile)
def _do_tile(
    tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon
):
    return hard_tile if isinstance(options, types.NoneType) else mass_tile


def new_space(logits, options):
    """Return the memory that a tile needs beside the tile itself."""
    raise AssertionError("kernels are compiled")


@device_overload(new_space)
def _new_space(logits, options):
    def of_masses(logits, options):
        base, softcap, classes = options[1], options[3], logits.shape[1]
        near = new_near(logits, softcap)
        return (
            near,
            new_tile(base, classes),
            np.zeros(LINES, np.uint64),
            new_tile(softcap, classes),
            new_tile(softcap, classes),
            new_spare(base, near),
        )

    if isinstance(options, types.NoneType):
        return lambda logits, options: new_near(logits, options)
    return of_masses


def new_spare(base, near):
    """Return what adds up the masses of all classes but one, none if base is None."""
    raise AssertionError("kernels are compiled")


@device_overload(new_spare)
def _new_spare(base, near):
    if isinstance(base, types.NoneType):
        return lambda base, near: None
    return lambda base, near: (sums_of_others(base), shares_of(base, near), near[2])


@device
def sums_of_others(values):
    """Return for every value the sum of all others."""
    found, before, after = np.zeros(values.size), 0.0, 0.0
    for j in range(values.size):
        last = values.size - 1 - j
        found[j] += before
        found[last] += after
        before, after = before + values[j], after + values[last]
    return found


@device
def shares_of(values, like):
    """Return numbers >= 0 divided by the largest, which may be none of the type they get."""
    shares, top = np.zeros(values.size, like.dtype), values.max()
    for j in range(values.size):
        shares[j] = values[j] / top if top > 0.0 else 0.0
    return shares


def new_near(logits, softcap):
    """Return rows for numbers of the scores' own type: float64 if they are capped."""
    raise AssertionError("kernels are compiled")


@device_overload(new_near)
def _new_near(logits, softcap):
    if isinstance(softcap, types.NoneType):
        return lambda logits, softcap: scratch_like(logits, 4 * LINES).reshape(4, LINES)
    return lambda logits, softcap: np.empty((4, LINES))


def new_tile(wanted, classes):
    """Return a float64 tile, None if `wanted` is None."""
    raise AssertionError("kernels are compiled")


@device_overload(new_tile)
def _new_tile(wanted, classes):
    if isinstance(wanted, types.NoneType):
        return lambda wanted, classes: None
    return lambda wanted, classes: np.zeros((classes, LINES))


def new_masses(targets, size):
    """Return memory for a tile of masses, none for class indices."""
    raise AssertionError("kernels are compiled")


@device_overload(new_masses)
def _new_masses(targets, size):
    if targets.ndim == 1:
        return lambda targets, size: np.empty(0)
    return lambda targets, size: np.zeros(size, targets.dtype)


def turn_targets_in(targets, first, k, start, count, masses):
    """Turn the masses of a tile's rows into it; of class indices ask for the next tile's."""
    raise AssertionError("kernels are compiled")


@device_overload(turn_targets_in)
def _turn_targets_in(targets, first, k, start, count, masses):
    def indices(targets, first, k, start, count, masses):
        fetch_part(targets, first + (start + count) * k, count * k)

    def probabilities(targets, first, k, start, count, masses):
        rows = (targets.shape[0] - first) // k
        lines = targets[first : first + rows * k].reshape(rows, k * targets.shape[1])
        turn_in(lines, start, count, masses)

    return indices if targets.ndim == 1 else probabilities


def targets_of(targets, masses, a, b, k, q, classes):
    """Return the targets of the q-th rows of a tile's lines: indices, or the tile's masses."""
    raise AssertionError("kernels are compiled")


@device_overload(targets_of)
def _targets_of(targets, masses, a, b, k, q, classes):
    if targets.ndim == 1:
        return lambda targets, masses, a, b, k, q, classes: targets[a:b:k]
    return lambda targets, masses, a, b, k, q, classes: masses[q * classes : (q + 1) * classes]


@kernel
def short_rows(logits, targets, row_weight, options, scale, losses, gradient, sums):
    """Do what `long_rows` does, a tile of rows at a time; gain and base have an entry a class.

    gain None stands for ones, for masses that are taken as they are. base None stands for zeros,
    where nothing caps the scores and targets are class indices: no other class has mass then.
    """
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    classes = logits.shape[1]
    height = max(classes, VECTOR // 4) + VECTOR // 4
    scratch, mass_scratch = (
        scratch_like(logits, height * LINES),
        new_masses(targets, height * LINES),
    )
    scratch[:] = 0
    per_lane, owned = np.zeros(STRETCHES * LINES), new_space(logits, options)
    tiles = borrowed(scratch).reshape(height, LINES)
    lanes, space = borrowed(per_lane), borrowed(owned)
    masses = borrowed(mass_scratch).reshape(-1, LINES)
    memory, first = (in_a_row(logits), in_a_row(targets), in_a_row(gradient)), 0
    for k in (side_by_side(logits), 1):  # all rows that fill lines, then the few that are left
        rows = (logits.shape[0] - first) // k * k
        lines = logits[first : first + rows].reshape(rows // k, k * classes)
        slopes = gradient[first : first + rows]
        slopes = slopes.reshape(slopes.shape[0] // k, k * classes)
        for start in range(0, rows // k, LINES):
            count = min(LINES, rows // k - start)
            turn_in(lines, start, count, tiles)
            turn_targets_in(targets, first, k, start, count, masses)
            for q in range(k):
                a, b = first + start * k + q, first + (start + count) * k
                place = (first + start * k + q * LINES) * classes
                soon = (*memory, place + LINES * k * classes, place, LINES)
                do_tile(
                    tiles[q * classes : (q + 1) * classes],
                    targets_of(targets, masses, a, b, k, q, classes),
                    row_weight[a:b:k],
                    options,
                    scale,
                    count,
                    losses[a:b:k],
                    gradient,
                    space,
                    lanes,
                    soon,
                )
            if gradient.size:
                turn_out(tiles, slopes, start, count)
        first += rows
    add_lanes(lanes, sums)
    keep(scratch)
    keep(mass_scratch)
    keep(owned)
    keep(per_lane)
