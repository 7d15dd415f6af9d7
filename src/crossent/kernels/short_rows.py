"""The losses of short rows, a tile of them at a time.

A short row would leave most of a vector empty. So as many as a tile has lanes are turned on the
way in, and their gradient is turned back on the way out. In between, options decide what computes
the tile: `hard_tile` for None, `narrow_tile` for () at most MOST classes, `mass_tile` for others.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device_overload, kernel
from crossent.kernels.halves import scratch_like
from crossent.kernels.hard_tile import hard_tile
from crossent.kernels.intrinsics import borrowed, keep
from crossent.kernels.mass_row import shares_of, sums_of_others
from crossent.kernels.mass_tile import mass_tile
from crossent.kernels.narrow_tile import SPACE, narrow_tile
from crossent.kernels.rows import fetch_ahead, in_a_row
from crossent.kernels.tile import BESIDE, FEW_LINES, LINES, PENALTY, ROOM, STRETCHES, add_lanes
from crossent.kernels.turning import VECTOR, turn_in, turn_out

SHORT = 192  # classes: longer rows fill vectors by themselves


def do_tile(tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon):
    """Report the losses of a tile of scores; turn it into their gradient if that is wanted."""
    raise AssertionError("kernels are compiled")


@device_overload(do_tile)
def _do_tile(
    tile, targets, row_weight, options, scale, count, losses, gradient, space, lanes, soon
):
    if isinstance(options, types.NoneType):
        return hard_tile
    return mass_tile if len(options) else narrow_tile


def new_space(logits, options, lines):
    """Return the memory that a tile needs beside the tile itself."""
    raise AssertionError("kernels are compiled")


@device_overload(new_space)
def _new_space(logits, options, lines):
    def of_masses(logits, options, lines):
        base, softcap, classes = options[1], options[3], logits.shape[1]
        near = new_near(logits, softcap, lines)
        return (
            near,
            new_tile(base, classes, lines),
            np.zeros(lines, np.uint64),
            new_tile(softcap, classes, lines),
            new_tile(softcap, classes, lines),
            new_spare(base, near),
        )

    if isinstance(options, types.NoneType):
        return lambda logits, options, lines: (
            new_near(logits, None, lines),
            scratch_like(logits, ROOM),
        )
    if not len(options):
        return lambda logits, options, lines: (
            scratch_like(logits, SPACE * lines).reshape(SPACE, lines),
            scratch_like(logits, ROOM),
        )
    return of_masses


def new_spare(base, near):
    """Return what adds up the masses of all classes but one, none if base is None."""
    raise AssertionError("kernels are compiled")


@device_overload(new_spare)
def _new_spare(base, near):
    if isinstance(base, types.NoneType):
        return lambda base, near: None
    return lambda base, near: (sums_of_others(base), shares_of(base, near), near[2])


def new_near(logits, softcap, lines):
    """Return rows for numbers of the scores' own type: float64 if they are capped."""
    raise AssertionError("kernels are compiled")


@device_overload(new_near)
def _new_near(logits, softcap, lines):
    if isinstance(softcap, types.NoneType):
        return lambda logits, softcap, lines: scratch_like(logits, 4 * lines).reshape(4, lines)
    return lambda logits, softcap, lines: np.empty((4, lines))


def new_tile(wanted, classes, lines):
    """Return a float64 tile, None if `wanted` is None."""
    raise AssertionError("kernels are compiled")


@device_overload(new_tile)
def _new_tile(wanted, classes, lines):
    if isinstance(wanted, types.NoneType):
        return lambda wanted, classes, lines: None
    return lambda wanted, classes, lines: np.zeros((classes, lines + BESIDE))


def new_masses(targets, size):
    """Return memory for a tile of masses, none for class indices."""
    raise AssertionError("kernels are compiled")


@device_overload(new_masses)
def _new_masses(targets, size):
    if targets.ndim == 1:
        return lambda targets, size: np.empty(0)
    return lambda targets, size: np.zeros(size, targets.dtype)


def turn_targets_in(targets, start, count, masses):
    """Return a tile's targets: masses turned into memory for them, or indices as they are.

    Indices that follow are asked for.
    """
    raise AssertionError("kernels are compiled")


@device_overload(turn_targets_in)
def _turn_targets_in(targets, start, count, masses):
    def indices(targets, start, count, masses):
        fetch_ahead(targets, start, count)
        return targets[start : start + count]

    def probabilities(targets, start, count, masses):
        turn_in(targets, start, count, masses)
        return masses[: targets.shape[1]]

    return indices if targets.ndim == 1 else probabilities


@kernel
def short_rows(logits, targets, row_weight, options, scale, losses, gradient, sums):
    """Do what `long_rows` does, a tile of rows at a time; gain and base have an entry a class.

    options () are None's for at most MOST (turning.py) classes.
    gain None stands for ones, for masses that are taken as they are. base None stands for zeros,
    where nothing caps the scores and targets are class indices: no other class has mass then.
    """
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    row_weight, losses = borrowed(row_weight), borrowed(losses)
    rows, classes = logits.shape
    lines = FEW_LINES if rows <= FEW_LINES else LINES
    height, width = classes + VECTOR // 4, lines + BESIDE  # squares are turned whole
    scratch = scratch_like(logits, height * width)
    mass_scratch = new_masses(targets, height * width)
    scratch[:] = 0
    per_lane, owned = np.empty(STRETCHES * LINES), new_space(logits, options, lines)
    per_lane[PENALTY:] = 0.0  # with one term, nobody stores a second
    turned = borrowed(scratch).reshape(height, width)
    lanes, space = borrowed(per_lane), borrowed(owned)
    masses = borrowed(mass_scratch).reshape(-1, width)
    memory = in_a_row(logits), in_a_row(targets), in_a_row(gradient)
    for start in range(0, rows, lines):
        stop, place = min(start + lines, rows), start * classes
        turn_in(logits, start, stop - start, turned)
        do_tile(
            turned[:classes],
            turn_targets_in(targets, start, stop - start, masses),
            row_weight[start:stop],
            options,
            scale,
            stop - start,
            losses[start:stop],
            gradient,
            space,
            lanes,
            (*memory, place, place),
        )
        if gradient.size:
            turn_out(turned, gradient, start, stop - start)
    add_lanes(min(rows, lines), lanes, sums)
    keep(scratch)
    keep(mass_scratch)
    keep(owned)
    keep(per_lane)
