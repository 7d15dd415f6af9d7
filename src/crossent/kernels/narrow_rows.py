"""The losses of rows of very few classes with one right class each, a tile of rows at a time.

Rows that short fill whole vectors one after the other, and every class is picked out of them.
"""

import numpy as np

from crossent.kernels.compiler import kernel
from crossent.kernels.halves import scratch_like
from crossent.kernels.intrinsics import borrowed, keep
from crossent.kernels.narrow_tile import SPACE, narrow_tile
from crossent.kernels.rows import fetch_part, in_a_row
from crossent.kernels.tile import LINES, STRETCHES, add_lanes
from crossent.kernels.turning import pick_apart, put_together


@kernel
def narrow_rows(logits, targets, row_weight, options, scale, losses, gradient, sums):
    """Do what `long_rows` does for options None, for rows of at most MOST (turning.py) classes."""
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    classes = logits.shape[1]
    height = SPACE + classes
    scratch, per_lane = scratch_like(logits, height * LINES), np.zeros(STRETCHES * LINES)
    scratch[:] = 0
    rows, lanes = borrowed(scratch).reshape(height, LINES), borrowed(per_lane)
    space, tile = rows[:SPACE], rows[SPACE:]
    memory = in_a_row(logits), targets[:0], in_a_row(gradient)
    for start in range(0, targets.size, LINES):
        stop, place = min(start + LINES, targets.size), start * classes
        fetch_part(targets, stop, LINES)
        pick_apart(logits, start, stop - start, tile)
        narrow_tile(
            tile,
            targets[start:stop],
            row_weight[start:stop],
            scale,
            losses[start:stop],
            gradient,
            space,
            lanes,
            (*memory, place + LINES * classes, place, LINES),
        )
        if gradient.size:
            put_together(tile, gradient, start, stop - start)
    add_lanes(lanes, sums)
    keep(scratch)
    keep(per_lane)
