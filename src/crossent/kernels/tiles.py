"""Softmax cross-entropy of short rows, a tile of them at a time.

Letters as in rows.py. A tile is turned on the way in, so that lane i of every vector is row i and
no vector is left half empty by a row of three classes; log and exp then run down whole tiles, not
row by row. Rows much shorter than a vector lie side by side in a line of the tile: line i holds
rows i k, i k + 1, ..., so that the classes of the q-th of each make a tile of their own.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from crossent.kernels.compiler import device, kernel
from crossent.kernels.elementary import (
    F64,
    add_exactly,
    exp_of_scaled,
    raised_exp,
)
from crossent.kernels.halves import scratch_like
from crossent.kernels.intrinsics import borrowed, keep, magnitude, select
from crossent.kernels.rows import (
    TINY,
    cap,
    finish,
    finish_masses,
    largest,
    limit,
    lowering,
    new_buffer,
)
from crossent.kernels.turning import VECTOR, turn_in, turn_out

LINES = 144  # whole vectors, but no power of two: columns of one would crowd a few cache sets
SHORT = 144  # classes: longer rows fill vectors by themselves
FOLD = 4  # classes whose partial sum is then folded into float64: each addition costs half an ulp
WIDE_FOLD = 8  # float64: classes whose sum is then added exactly

# What formulas read and write for each row of a tile lies in one array, in stretches that begin
# here: were they arrays of their own, the compiler could not tell that they do not overlap.

M, SCORE, REACHED, WEIGHT, OWN_MASS, LOSS, PENALTY, PULL, PUSH, OWN_SLOPE = range(
    0, 10 * LINES, LINES
)
OTHERS, REST, GAP = range(10 * LINES, 13 * LINES, LINES)
TOTAL, LOST = 3 * LINES, 6 * LINES  # beyond a sum: that of all classes before, what rounding lost
LOSS_SUM, LOSS_LOST = 19 * LINES, 21 * LINES  # two each: losses, z-losses
STRETCHES = 23


@device
def side_by_side(logits: Any) -> Any:
    """Return how many rows a vector takes, at least 1."""
    itemsize = 8 if logits.itemsize == 8 else 4  # half types are computed in float32
    return max(1, VECTOR // itemsize // logits.shape[1])


@device
def take_maxima(tile: Any, count: Any, m: Any, reached: Any) -> None:
    """Store the rows' maxima; replace rows that hold +inf by their limit, and mark them."""
    m[:] = -np.inf
    reached[:] = 0.0
    for j in range(tile.shape[0]):
        scores = tile[j]
        for i in range(m.size):
            m[i] = select(scores[i] > m[i], scores[i], m[i])
    if largest(m[:count]) == np.inf:
        for i in range(count):
            if m[i] == np.inf:
                m[i] = limit(tile[:, i])
                reached[i] = np.inf


@device
def load_weights(row_weight: Any, count: Any, weight: Any) -> None:
    """Store the weights of the rows, 1 if there are none."""
    if row_weight.size:
        for i in range(count):
            weight[i] = row_weight[i]
    else:
        weight[:] = 1.0


@device
def report(count: Any, lanes: Any, losses: Any) -> None:
    """Add LOSS and PENALTY to the sums of each lane, exactly; store them, added up."""
    for k in (0, PENALTY - LOSS):
        for i in range(count):
            total, lost = lanes[LOSS_SUM + k + i], lanes[LOSS_LOST + k + i]
            total, lost = add_exactly(total, lost, lanes[LOSS + k + i])
            lanes[LOSS_SUM + k + i], lanes[LOSS_LOST + k + i] = total, lost
    for i in range(losses.size):
        losses[i] = lanes[LOSS + i] + lanes[PENALTY + i]


@device
def add_lanes(lanes: Any, sums: Any) -> None:
    """Add the lanes' losses to sums[0], z-losses to sums[1], what rounding loses to the others."""
    for i in range(LINES):
        for k in range(2):
            place = k * (PENALTY - LOSS) + i
            total, lost = lanes[LOSS_SUM + place], lanes[LOSS_LOST + place]
            sums[k], sums[k + 2] = add_exactly(sums[k], sums[k + 2] + lost, total)


@device
def leave_out(weight: Any, tile: Any) -> None:
    """Let rows of weight 0 have no gradient, whatever their scores hold: 0 times NaN is NaN."""
    for j in range(tile.shape[0]):
        values = tile[j]
        for i in range(values.size):
            values[i] = select(weight[i] != 0.0, values[i], tile.dtype.type(0.0))


# One right class, no option that spreads it -----------------------------------------------------


@device
def take_targets(targets: Any, tile: Any, score: Any) -> None:
    """Take the targets' scores out of the tile."""
    for i in range(targets.size):
        score[i] = tile[targets[i], i]
        tile[targets[i], i] = -np.inf


@device
def exponentiate_tile(tile: Any, m: Any, partial: Any, others: Any, lost: Any) -> None:
    """Replace the tile by exp(tile - m), raised; sum over the classes, a few and then exactly."""
    others[:] = 0.0
    lost[:] = 0.0
    for start in range(0, tile.shape[0], FOLD):
        partial[:] = 0.0
        for j in range(start, min(start + FOLD, tile.shape[0])):
            scores = tile[j]
            for i in range(partial.size):
                e = raised_exp(scores[i], m[i])
                scores[i] = e
                partial[i] += e
        for i in range(others.size):
            others[i], lost[i] = add_exactly(others[i], lost[i], F64(partial[i]))
    for i in range(others.size):
        others[i] = (others[i] + lost[i]) * lowering(tile)


@device
def finish_tile(m: Any, score: Any, others: Any, loss: Any, total: Any) -> None:
    """Store the loss and the sum of exponentials of every row."""
    for i in range(loss.size):
        own = exp_of_scaled(score[i], F64(m[i]), 1.0, score)
        loss[i] = finish(F64(m[i]) - F64(score[i]), others[i], own)
        total[i] = others[i] + own


@device
def weigh_tile(count: Any, scale: Any, lanes: Any) -> None:
    """Weigh the losses; turn sums of exponentials into what these are multiplied by."""
    for i in range(count):
        weight = lanes[WEIGHT + i]
        lanes[LOSS + i] = select(weight != 0.0, weight * lanes[LOSS + i], 0.0)
        lanes[PULL + i] = weight * scale / lanes[PULL + i]


@device
def scale_tile(tile: Any, factor: Any, near: Any, count: Any) -> None:
    """Multiply by factor; where it is too small for the tile's type, in float64."""
    tiny, lower = 0, lowering(tile)
    for i in range(count):
        near[i] = factor[i] * lower
        tiny += 0.0 < magnitude(factor[i]) * lower < TINY
    if tiny:
        multiply(tile, factor, lower)
    else:
        multiply(tile, near, tile.dtype.type(1.0))


@device
def multiply(tile: Any, factor: Any, lower: Any) -> None:
    """Multiply every row by its factor and by lower."""
    for j in range(tile.shape[0]):
        values = tile[j]
        for i in range(values.size):
            values[i] = values[i] * (factor[i] * lower)


@device
def hard_tile(
    tile: Any,
    targets: Any,
    row_weight: Any,
    scale: Any,
    losses: Any,
    gradient: Any,
    near: Any,
    lanes: Any,
) -> None:
    """Do the work of `hard_tiles` for one tile of scores, which becomes their gradient."""
    m, score, partial, count = near[0], near[1], near[2], targets.size
    weight, others = lanes[WEIGHT : WEIGHT + LINES], lanes[OTHERS : OTHERS + LINES]
    loss, factor = lanes[LOSS : LOSS + LINES], lanes[PULL : PULL + LINES]
    take_maxima(tile, count, m, partial)
    take_targets(targets, tile, score)
    load_weights(row_weight, count, weight)
    exponentiate_tile(tile, m, partial, others, factor)
    finish_tile(m, score, others, loss, factor)
    weigh_tile(count, scale, lanes)
    report(count, lanes, losses)
    if gradient.size:
        scale_tile(tile, factor, partial, count)
        for i in range(count):
            tile[targets[i], i] = -lanes[OTHERS + i] * lanes[PULL + i]
        if row_weight.size:
            leave_out(weight, tile)


@kernel
def hard_tiles(
    logits: Any, targets: Any, row_weight: Any, scale: Any, losses: Any, gradient: Any, sums: Any
) -> None:
    """Do what `hard_rows` does, a tile of rows at a time."""
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    classes = logits.shape[1]
    scratch = scratch_like(logits, (3 + max(classes, VECTOR // 4) + VECTOR // 4) * LINES)
    scratch[:] = 0
    per_lane = np.zeros(STRETCHES * LINES)
    near, lanes = borrowed(scratch).reshape(-1, LINES)[:3], borrowed(per_lane)
    work = borrowed(scratch).reshape(-1, LINES)[3:]
    first = 0
    for k in (side_by_side(logits), 1):  # all rows that fill lines, then the few that are left
        rows = (logits.shape[0] - first) // k * k
        lines = logits[first : first + rows].reshape(rows // k, k * classes)
        slopes = gradient[first : first + rows]
        slopes = slopes.reshape(slopes.shape[0] // k, k * classes)
        for start in range(0, rows // k, LINES):
            count = min(LINES, rows // k - start)
            turn_in(lines, start, count, work)
            for q in range(k):
                a, b = first + start * k + q, first + (start + count) * k
                hard_tile(
                    work[q * classes : (q + 1) * classes],
                    targets[a:b:k],
                    row_weight[a:b:k],
                    scale,
                    losses[a:b:k],
                    gradient,
                    near,
                    lanes,
                )
            if gradient.size:
                turn_out(work, slopes, start, count)
        first += rows
    add_lanes(lanes, sums)
    keep(scratch)
    keep(per_lane)


# Target masses ----------------------------------------------------------------------------------
#
def cap_tile(tile: Any, softcap: Any, capped: Any, slope: Any) -> Any:
    """Return the scores: capped, their derivative in slope, or as they are if softcap is None."""
    raise AssertionError("kernels are compiled")


@overload(cap_tile, strict=False)
def _cap_tile(tile: Any, softcap: Any, capped: Any, slope: Any) -> Any:
    def bounded(tile, softcap, capped, slope):  # type: ignore[no-untyped-def]
        for j in range(tile.shape[0]):
            cap(tile[j], softcap, capped[j], slope[j])
        return capped

    if isinstance(softcap, types.NoneType):
        return lambda tile, softcap, capped, slope: tile
    return bounded


def take_excluded(targets: Any, scores: Any, m: Any, winners: Any, excluded: Any) -> None:
    """Store every row's class to sum apart: the target, or for masses the first winner."""
    raise AssertionError("kernels are compiled")


@overload(take_excluded, strict=False, jit_options={"error_model": "numpy"})
def _take_excluded(targets: Any, scores: Any, m: Any, winners: Any, excluded: Any) -> Any:
    def given(targets: Any, scores: Any, m: Any, winners: Any, excluded: Any) -> None:
        for i in range(targets.size):
            excluded[i] = targets[i]

    def first(targets: Any, scores: Any, m: Any, winners: Any, excluded: Any) -> None:
        last = scores.shape[0] - 1
        winners[:] = last  # where none is the winner: in a row with NaN
        for k in range(scores.shape[0]):
            row, number = scores[last - k], winners.dtype.type(last - k)
            for i in range(winners.size):
                winners[i] = select(row[i] == m[i], number, winners[i])
        for i in range(winners.size):
            excluded[i] = winners[i]

    return given if targets.ndim == 1 else first


def mass_of(targets: Any, i: Any, j: Any, gain: Any, base: Any) -> Any:
    """Return row i's mass of class j, gain * c + base; an index does not count its target here."""
    raise AssertionError("kernels are compiled")


@overload(mass_of, strict=False, jit_options={"error_model": "numpy"})
def _mass_of(targets: Any, i: Any, j: Any, gain: Any, base: Any) -> Any:
    if targets.ndim == 1:
        return lambda targets, i, j, gain, base: base
    return lambda targets, i, j, gain, base: gain * F64(targets[j, i]) + base


def own_mass_of(targets: Any, i: Any, j: Any, gain: Any, base: Any) -> Any:
    """Return row i's mass of class j, the one summed apart."""
    raise AssertionError("kernels are compiled")


@overload(own_mass_of, strict=False, jit_options={"error_model": "numpy"})
def _own_mass_of(targets: Any, i: Any, j: Any, gain: Any, base: Any) -> Any:
    if targets.ndim == 1:
        return lambda targets, i, j, gain, base: gain + base
    return lambda targets, i, j, gain, base: mass_of(targets, i, j, gain, base)


@device
def add_up_tile(
    scores: Any,
    targets: Any,
    gain: Any,
    base: Any,
    spread: Any,
    sharpness: Any,
    excluded: Any,
    like: Any,
    work: Any,
    lanes: Any,
) -> None:
    """Store exponentials in work; add up OTHERS, REST and GAP over all but the excluded class."""
    lanes[OTHERS:LOSS_SUM] = 0.0
    for j in range(scores.shape[0]):
        add_others(scores[j], sharpness, j, excluded, like, work[j], lanes)
        if spread:
            add_masses(scores[j], targets, j, gain[j], base[j], excluded, lanes)
        if like.itemsize == 8 and j % WIDE_FOLD == WIDE_FOLD - 1:
            put_by(lanes)
    if like.itemsize == 8:
        put_by(lanes)
        for k in range(OTHERS, OTHERS + TOTAL):
            lanes[k] = lanes[k + TOTAL] + lanes[k + LOST]


@device
def put_by(lanes: Any) -> None:
    """Add the sums of a few classes to those of all before them, exactly."""
    for k in range(OTHERS, OTHERS + TOTAL):
        total, lost = add_exactly(lanes[k + TOTAL], lanes[k + LOST], lanes[k])
        lanes[k + TOTAL], lanes[k + LOST], lanes[k] = total, lost, 0.0


@device
def add_others(
    scores: Any, sharpness: Any, j: Any, excluded: Any, like: Any, work: Any, lanes: Any
) -> None:
    """Store the exponentials of class j, and add them where it is not the excluded class."""
    for i in range(work.size):
        e = exp_of_scaled(scores[i], lanes[M + i], sharpness, like)
        work[i] = e
        lanes[OTHERS + i] += select(excluded[i] == j, 0.0, e)


@device
def add_masses(
    scores: Any, targets: Any, j: Any, gain: Any, base: Any, excluded: Any, lanes: Any
) -> None:
    """Add the masses t of class j and t (m - s), where it is not the excluded class."""
    for i in range(excluded.size):
        t = select(excluded[i] == j, 0.0, mass_of(targets, i, j, gain, base))
        lanes[REST + i] += t
        cost = t * (lanes[M + i] - F64(scores[i]))
        lanes[GAP + i] += select(t != 0.0, cost, 0.0)  # 0 * inf = 0


@device
def finish_mass_tile(
    count: Any, sharpness: Any, z_loss: Any, scale: Any, like: Any, lanes: Any
) -> None:
    """Turn sums into losses and z-losses, and the factors PULL of p, PUSH of t, OWN_SLOPE."""
    for i in range(count):
        m, score, own_mass = lanes[M + i], lanes[SCORE + i], lanes[OWN_MASS + i]
        others, rest, gap = lanes[OTHERS + i], lanes[REST + i], lanes[GAP + i]
        own = exp_of_scaled(score, m, sharpness, like)
        loss, penalty, pull, slope = finish_masses(
            sharpness * (m - score),
            own_mass,
            others,
            own,
            rest,
            sharpness * gap,
            sharpness * m,
            z_loss,
        )
        learns = select(rest + own_mass == 0.0, z_loss != 0.0, True)  # whatever the scores hold
        w = select(learns, lanes[WEIGHT + i], 0.0)
        penalty = select(z_loss != 0.0, penalty + lanes[REACHED + i], 0.0)
        lanes[LOSS + i] = select(w != 0.0, w * loss, 0.0)
        lanes[PENALTY + i] = select(w != 0.0, w * penalty, 0.0)
        b = w * scale * sharpness
        lanes[PULL + i] = pull * b
        lanes[PUSH + i] = b
        lanes[OWN_SLOPE + i] = slope * b
        lanes[WEIGHT + i] = w


@device
def write_gradient(
    work: Any, targets: Any, j: Any, gain: Any, base: Any, slope: Any, lanes: Any, out: Any
) -> None:
    """Store PULL * work - PUSH * mass for class j, times the derivative of a softcap."""
    for i in range(out.size):
        mass = mass_of(targets, i, j, gain, base)
        value = lanes[PULL + i] * work[i] - lanes[PUSH + i] * mass
        out[i] = value * derivative(slope, i, j)


def derivative(slope: Any, i: Any, j: Any) -> Any:
    """Return the derivative of a softcap at row i's class j, 1 if there is none."""
    raise AssertionError("kernels are compiled")


@overload(derivative, strict=False)
def _derivative(slope: Any, i: Any, j: Any) -> Any:
    if isinstance(slope, types.NoneType):
        return lambda slope, i, j: 1.0
    return lambda slope, i, j: slope[j, i]


def new_tile(wanted: Any, classes: Any) -> Any:
    """Return a float64 tile, None if `wanted` is None."""
    raise AssertionError("kernels are compiled")


@overload(new_tile, strict=False)
def _new_tile(wanted: Any, classes: Any) -> Any:
    if isinstance(wanted, types.NoneType):
        return lambda wanted, classes: None
    return lambda wanted, classes: np.zeros((classes, LINES))


def turn_targets_in(targets: Any, first: Any, k: Any, start: Any, count: Any, masses: Any) -> None:
    """Turn the masses of a tile's rows into it; class indices stay where they are."""
    raise AssertionError("kernels are compiled")


@overload(turn_targets_in, strict=False, jit_options={"error_model": "numpy"})
def _turn_targets_in(targets: Any, first: Any, k: Any, start: Any, count: Any, masses: Any) -> Any:
    def probabilities(
        targets: Any, first: Any, k: Any, start: Any, count: Any, masses: Any
    ) -> None:
        rows = (targets.shape[0] - first) // k
        lines = targets[first : first + rows * k].reshape(rows, k * targets.shape[1])
        turn_in(lines, start, count, masses)

    if targets.ndim == 1:
        return lambda targets, first, k, start, count, masses: None
    return probabilities


def targets_of(targets: Any, masses: Any, a: Any, b: Any, k: Any, q: Any, classes: Any) -> Any:
    """Return the targets of the q-th rows of a tile's lines: indices, or the tile's masses."""
    raise AssertionError("kernels are compiled")


@overload(targets_of, strict=False)
def _targets_of(targets: Any, masses: Any, a: Any, b: Any, k: Any, q: Any, classes: Any) -> Any:
    if targets.ndim == 1:
        return lambda targets, masses, a, b, k, q, classes: targets[a:b:k]
    return lambda targets, masses, a, b, k, q, classes: masses[q * classes : (q + 1) * classes]


@device
def mass_tile(
    tile: Any,
    targets: Any,
    row_weight: Any,
    gain: Any,
    base: Any,
    z_loss: Any,
    softcap: Any,
    sharpness: Any,
    scale: Any,
    count: Any,
    losses: Any,
    gradient: Any,
    capped: Any,
    slope: Any,
    work: Any,
    excluded: Any,
    near: Any,
    lanes: Any,
) -> None:
    """Do the work of `mass_tiles` for one tile of scores, which becomes their gradient."""
    m, winners, weight = near[:LINES], near[LINES : 2 * LINES], lanes[WEIGHT : WEIGHT + LINES]
    scores = cap_tile(tile, softcap, capped, slope)
    take_maxima(scores, count, m, lanes[REACHED : REACHED + LINES])
    load_weights(row_weight, count, weight)
    take_excluded(targets, scores, m, winners, excluded)
    for i in range(LINES):
        lanes[M + i] = m[i]
    for i in range(count):
        x = excluded[i]
        lanes[SCORE + i] = scores[x, i]
        lanes[OWN_MASS + i] = own_mass_of(targets, i, x, gain[x], base[x])
    spread = targets.ndim == 2 or base.any()  # else only the excluded class has mass
    add_up_tile(scores, targets, gain, base, spread, sharpness, excluded, tile, work, lanes)
    finish_mass_tile(count, sharpness, z_loss, scale, tile, lanes)
    report(count, lanes, losses)
    if gradient.size:
        for j in range(tile.shape[0]):
            write_gradient(work[j], targets, j, gain[j], base[j], slope, lanes, tile[j])
        for i in range(count):
            tile[excluded[i], i] = lanes[OWN_SLOPE + i] * derivative(slope, i, excluded[i])
        leave_out(weight, tile)


@kernel
def mass_tiles(
    logits: Any,
    targets: Any,
    row_weight: Any,
    gain: Any,
    base: Any,
    z_loss: Any,
    softcap: Any,
    sharpness: Any,
    scale: Any,
    losses: Any,
    gradient: Any,
    sums: Any,
) -> None:
    """Do what `mass_rows` does, a tile of rows at a time; gain and base have one entry a class."""
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    classes = logits.shape[1]
    height = max(classes, VECTOR // 4) + VECTOR // 4
    scratch, mass_scratch = (
        scratch_like(logits, height * LINES),
        new_masses(targets, height * LINES),
    )
    scratch[:] = 0
    wide, indices = np.zeros((classes, LINES)), np.zeros(LINES, np.int64)
    per_lane = np.zeros(STRETCHES * LINES)
    capped, slope = new_tile(softcap, classes), new_tile(softcap, classes)
    work, excluded, lanes = borrowed(wide), borrowed(indices), borrowed(per_lane)
    buffer = new_buffer(logits, softcap)
    near = borrowed(buffer)
    tiles = borrowed(scratch).reshape(height, LINES)
    masses = borrowed(mass_scratch).reshape(-1, LINES)
    first = 0
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
                mass_tile(
                    tiles[q * classes : (q + 1) * classes],
                    targets_of(targets, masses, a, b, k, q, classes),
                    row_weight[a:b:k],
                    gain,
                    base,
                    z_loss,
                    softcap,
                    sharpness,
                    scale,
                    count,
                    losses[a:b:k],
                    gradient,
                    capped,
                    slope,
                    work,
                    excluded,
                    near,
                    lanes,
                )
            if gradient.size:
                turn_out(tiles, slopes, start, count)
        first += rows
    add_lanes(lanes, sums)
    keep(scratch)
    keep(mass_scratch)
    keep(wide)
    keep(indices)
    keep(buffer)
    keep(per_lane)


def new_masses(targets: Any, size: Any) -> Any:
    """Return memory for a tile of masses, none for class indices."""
    raise AssertionError("kernels are compiled")


@overload(new_masses, strict=False)
def _new_masses(targets: Any, size: Any) -> Any:
    if targets.ndim == 1:
        return lambda targets, size: np.empty(0)
    return lambda targets, size: np.zeros(size, targets.dtype)
