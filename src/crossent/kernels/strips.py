"""Strips: one working layout for short and for long rows, so that each formula is written once.

A strip is a float64 array of shape (steps, lanes). Formulas run down the steps, all lanes side by
side in vector registers, with one accumulator per lane.

* Short rows (up to TURNED classes): a lane is a row and a step is a class; TILE rows at a time,
  turned on the way in and out, so that no vector is left half empty by a row of three classes.
* Long rows: the strip is one row, cut into steps of LANES classes, -inf (or 0) beyond its end.
  What the lanes have accumulated is then folded into one number, which every lane gets.
"""

import numpy as np

from crossent.kernels.compiler import device
from crossent.kernels.halves import put, read
from crossent.kernels.intrinsics import maximum

TURNED = 256  # classes: longer rows are not
TILE = 144  # whole vectors, but no power of two: columns of one would crowd a few cache sets
LANES = 256  # tells a long row's strip from a tile


@device
def new_strips(number, classes):
    """Return so many strips of zeros for rows of so many classes."""
    if classes <= TURNED:
        return np.zeros((number, classes, TILE))
    return np.zeros((number, (classes + LANES - 1) // LANES, LANES))


@device
def load(rows, strip, beyond):
    """Copy rows into the strip; a long row is followed by `beyond`."""
    if strip.shape[1] == TILE:
        for i in range(rows.shape[0]):
            row = rows[i]
            for j in range(row.size):
                strip[j, i] = read(row[j])
    else:
        row, flat = rows[0], strip.reshape(strip.size)
        for j in range(row.size):
            flat[j] = read(row[j])
        flat[row.size :] = beyond


@device
def store(strip, rows):
    """Copy the strip back into rows."""
    if strip.shape[1] == TILE:
        for i in range(rows.shape[0]):
            row = rows[i]
            for j in range(row.size):
                put(row, j, strip[j, i])
    else:
        row, flat = rows[0], strip.reshape(strip.size)
        for j in range(row.size):
            put(row, j, flat[j])


@device
def filled(classes, strip):
    """Return the strip as one vector, without what lies beyond the end of a long row."""
    return strip.reshape(strip.size)[: strip.size if strip.shape[1] == TILE else classes]


@device
def place(strip, row, column):
    """Return where in the strip a row's column stands."""
    if strip.shape[1] == TILE:
        return column, row
    return column // LANES, column % LANES


@device
def fold(accumulator):
    """Give every lane of a long row the sum of all lanes; short rows have theirs already."""
    if accumulator.size != TILE:
        width = accumulator.size // 2
        while width:  # halves onto halves: few additions in a row, little rounding
            for i in range(width):
                accumulator[i] += accumulator[width + i]
            width //= 2
        accumulator[:] = accumulator[0]


@device
def different(per_lane):
    """Return how many lanes hold different rows; the lanes of a long row all hold the same."""
    return TILE if per_lane.size == TILE else 1


@device
def spread(per_lane):
    """Give every lane of a long row what the first one has."""
    if per_lane.size != TILE:
        per_lane[:] = per_lane[0]


@device
def take_maxima(strip, m):
    """Store every row's maximum in m, NaN if it holds one; a row with +inf becomes its limit."""
    m[:] = -np.inf
    for s in range(strip.shape[0]):
        scores = strip[s]
        for i in range(m.size):
            m[i] = maximum(m[i], scores[i])
    greatest = largest(m)
    if m.size != TILE:
        m[:] = greatest
    if not greatest < np.inf:
        take_limits(strip, m)


@device
def fold_maximum(accumulator):
    """Give every lane of a long row the maximum of all lanes."""
    if accumulator.size != TILE:
        accumulator[:] = largest(accumulator)


@device
def largest(values):
    """Return the maximum, NaN if there is one."""
    m = -np.inf
    for i in range(values.size):
        m = maximum(m, float(read(values[i])))
    return m


@device
def take_limits(strip, m):
    """Replace rows whose maximum is +inf by their limit: that class alone, or NaN if several."""
    found = 0
    for i in range(m.size):
        if m[i] == np.inf:
            infinite = take_limit(strip[:, i])
            found += infinite
            m[i] = 0.0 if infinite == 1 else np.nan
    if m.size != TILE and found:
        m[:] = 0.0 if found == 1 else np.nan


@device
def take_limit(scores):
    """Replace +inf by 0 and all else but NaN by -inf; return how many there were of the first."""
    infinite = 0
    for j in range(scores.size):
        infinite += scores[j] == np.inf
        below = -np.inf if scores[j] == scores[j] else np.nan
        scores[j] = 0.0 if scores[j] == np.inf else below
    return infinite
