"""Softmax cross-entropy of long rows, one row at a time, while it is in the cache.

Letters: N rows, C classes; m a row's maximum; x one class that is summed apart: the target where
there is one, else the winner. `others` is the sum of exp(s_j - m) over all classes but x, `own`
is x's, `total` their sum. Summed apart, neither the loss of a confident right answer nor its
gradient -others / total is a difference of nearly equal numbers.

With target masses t (see soft.py), R = sum of t_j and D = sum of t_j (m - s_j) over j != x, and
lse = logsumexp(s), every term of the loss is >= 0:

    loss = t_x (lse - s_x) + R (lse - m) + D
    gradient_j = (R + t_x) p_j - t_j,   gradient_x = R p_x - t_x others / total

Three passes over a row: the maximum, the exponentials with their sums, the gradient. The first
reads the scores from memory, the last writes the gradient; between them all stays in the cache.
Targets alone need float32 for float32 scores; masses are computed in float64, because then the
gradient is a difference of given numbers.
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
    log1p,
    raised_exp,
    tanh,
)
from crossent.kernels.halves import put, read, scratch_like
from crossent.kernels.intrinsics import borrowed, keep, larger, magnitude, reordered_add, select
from crossent.kernels.strips import take_limit

LANES = 64  # rows are padded to a multiple, so that no loop over them has a slow remainder
BLOCK = 2048  # scores at a time
TINY = 2.0**-126  # the smallest normal float32
WIDE_BLOCK = 256  # float64 scores: a block's sum is added exactly, within it rounding accumulates


# Masses: None, one for every class but x, or one per class --------------------------------------


def mass_at(masses: Any, j: Any) -> Any:
    """Return the mass of class j."""
    raise AssertionError("kernels are compiled")


@overload(mass_at, strict=False)
def _mass_at(masses: Any, j: Any) -> Any:
    if isinstance(masses, types.Array):
        return lambda masses, j: F64(masses[j])
    return lambda masses, j: masses


def masses_between(masses: Any, start: Any, stop: Any) -> Any:
    """Return the masses of a stretch of classes."""
    raise AssertionError("kernels are compiled")


@overload(masses_between, strict=False)
def _masses_between(masses: Any, start: Any, stop: Any) -> Any:
    if isinstance(masses, types.Array):
        return lambda masses, start, stop: masses[start:stop]
    return lambda masses, start, stop: masses


# The passes -------------------------------------------------------------------------------------


@device
def largest(row: Any) -> Any:
    """Return the maximum of the numbers; NaN may be passed over, as its exponential is NaN too."""
    m = type(read(row[0]))(-np.inf)
    for j in range(row.size):
        m = larger(m, read(row[j]))
    return m


@device
def exponentiate(scores: Any, m: Any, work: Any) -> None:
    """Store exp(scores - m), raised, in work. The two arrays may not overlap."""
    for j in range(work.size):
        work[j] = raised_exp(read(scores[j]), m)


@device
def sum_of(values: Any) -> Any:
    """Return the sum in float64, in its own loop: beside float64, float32 gets half vectors."""
    total = 0.0
    for j in range(values.size):
        total = reordered_add(total, F64(values[j]))
    return total


@device
def lowering(work: Any) -> Any:
    """Return what undoes the raising of `raised_exp`."""
    return 2.0**-64 if work.itemsize == 4 else 1.0


@device
def exponentiate_masses(
    scores: Any, m: Any, sharpness: Any, masses: Any, like: Any, work: Any
) -> Any:
    """Store exp(sharpness (scores - m)) in work; return its sum, R and D / sharpness."""
    total, rest, gap = 0.0, 0.0, 0.0
    for j in range(work.size):
        x = read(scores[j])
        e = exp_of_scaled(x, m, sharpness, like)
        work[j] = e
        t = mass_at(masses, j)
        total = reordered_add(total, e)
        rest = reordered_add(rest, t)
        gap = reordered_add(gap, select(t != 0.0, t * (m - F64(x)), 0.0))  # 0 * inf = 0
    return total, rest, gap


@device
def edit(scores: Any, excluded: Any, size: Any, buffer: Any) -> Any:
    """Return a copy of a block, `size` long, -inf at the excluded class and beyond the end."""
    for j in range(scores.size):
        buffer[j] = read(scores[j])
    buffer[scores.size : size] = -np.inf
    if 0 <= excluded < scores.size:
        buffer[excluded] = -np.inf
    return buffer[:size]


@device
def edit_masses(masses: Any, excluded: Any, filled: Any, size: Any, buffer: Any) -> Any:
    """Return a copy of a block's masses, 0 at the excluded class and beyond the end."""
    for j in range(filled):
        buffer[j] = mass_at(masses, j)
    buffer[filled:size] = 0.0
    if 0 <= excluded < filled:
        buffer[excluded] = 0.0
    return buffer[:size]


@device
def block_size(row: Any) -> Any:
    """Return how many scores to take at a time."""
    return WIDE_BLOCK if row.itemsize == 8 else BLOCK


@device
def exponentiate_others(row: Any, m: Any, target: Any, buffer: Any, work: Any) -> Any:
    """Store exp(row - m), raised, in work, 0 for the target, and return the sum."""
    others, lost, step = 0.0, 0.0, block_size(row)
    whole = row.size // LANES * LANES
    for start in range(0, work.size, step):
        stop = min(start + step, work.size)
        exponentiate(row[start:whole], m, work[start : min(stop, whole)])
        if whole < stop:
            exponentiate(edit(row[whole:], -1, LANES, buffer), m, work[whole:stop])
        if start <= target < stop:
            work[target] = 0.0
        others, lost = add_exactly(others, lost, sum_of(work[start:stop]) * lowering(work))
    return others + lost


@device
def add_up(
    row: Any,
    m: Any,
    excluded: Any,
    sharpness: Any,
    masses: Any,
    like: Any,
    buffer: Any,
    spare: Any,
    work: Any,
) -> Any:
    """Store exponentials in work, 0 for the excluded class; return others, R and D."""
    others, rest, gap, step = 0.0, 0.0, 0.0, block_size(row)
    e_lost, r_lost, d_lost = 0.0, 0.0, 0.0
    start = 0
    while start < work.size:
        stop = min(start + step, next_edit(start, excluded, row.size, work.size))
        if stop > start:
            block = masses_between(masses, start, stop)
            scores, part = row[start:stop], work[start:stop]
            e, r, d = exponentiate_masses(scores, m, sharpness, block, like, part)
        else:
            stop = start + LANES
            scores = edit(row[start:stop], excluded - start, LANES, buffer)
            block = masses_between(masses, start, stop)
            mass = edit_masses(block, excluded - start, min(stop, row.size) - start, LANES, spare)
            e, r, d = exponentiate_masses(scores, m, sharpness, mass, like, work[start:stop])
        others, e_lost = add_exactly(others, e_lost, e)
        rest, r_lost = add_exactly(rest, r_lost, r)
        gap, d_lost = add_exactly(gap, d_lost, d)
        start = stop
    return others + e_lost, rest + r_lost, (gap + d_lost) * sharpness


@device
def next_edit(start: Any, excluded: Any, classes: Any, end: Any) -> Any:
    """Return where, from start on, LANES scores must first be edited before use, `end` if nowhere.

    The excluded class is among them, or the row's end: a loop cut short there would be slow.
    """
    first = end
    for place in (excluded, classes):
        chunk = place // LANES * LANES
        if start <= chunk < first:
            first = chunk
    return first


@device
def scale_row(work: Any, factor: Any, out: Any) -> None:
    """Store factor * work in out; a factor too small for work's type is kept in float64."""
    if magnitude(factor) < TINY:
        write(work, factor, out)
    else:
        write(work, work.dtype.type(factor), out)


@device
def write(work: Any, factor: Any, out: Any) -> None:
    """Store factor * work in out."""
    for j in range(out.size):
        put(out, j, work[j] * factor)


@device
def write_masses(work: Any, a: Any, b: Any, masses: Any, out: Any) -> None:
    """Store a * work - b * masses in out."""
    for j in range(out.size):
        put(out, j, a * work[j] - b * mass_at(masses, j))


@device
def write_capped(work: Any, a: Any, b: Any, masses: Any, slope: Any, out: Any) -> None:
    """Store (a * work - b * masses) * slope in out."""
    for j in range(out.size):
        put(out, j, (a * work[j] - b * mass_at(masses, j)) * slope[j])


@device
def finish(gap: Any, others: Any, own: Any) -> Any:
    """Return the loss, -ln(own / (others + own)), where gap = m - score of the target >= 0."""
    return gap + log1p(others if gap == 0.0 else (others - 1.0) + own)


# One right class, no option that spreads it -----------------------------------------------------


@device
def loss_below(row: Any, m: Any, target: Any, buffer: Any, work: Any) -> Any:
    """Return loss, others, own of a row with maximum m; work keeps the others' exponentials."""
    score = read(row[target])
    others = exponentiate_others(row, m, target, buffer, work)
    own = exp_of_scaled(score, F64(m), 1.0, work)
    return finish(F64(m) - F64(score), others, own), others, own


@device
def hard_row(row: Any, target: Any, buffer: Any, replaced: Any, work: Any) -> Any:
    """Return loss, others, own of any row; one that holds +inf is replaced by its limit."""
    m = largest(row)
    if m != np.inf:
        return loss_below(row, m, target, buffer, work)
    m = take_limit_of(row, replaced)
    return loss_below(replaced, m, target, buffer, work)


@device
def take_limit_of(row: Any, replaced: Any) -> Any:
    """Store the limit of a row that holds +inf in replaced and return its maximum."""
    for j in range(row.size):
        replaced[j] = read(row[j])
    return limit(replaced)


@device
def limit(work: Any) -> Any:
    """Replace a row that holds +inf by its limit and return the new maximum: 0, or NaN."""
    if take_limit(work) > 1:
        work[:] = np.nan
    return largest(work)


@kernel
def hard_rows(
    logits: Any, targets: Any, row_weight: Any, scale: Any, losses: Any, gradient: Any, sums: Any
) -> None:
    """Add the weighted losses to sums[0]; store losses (unscaled) and gradient (times scale).

    An empty row_weight (N,) stands for ones; empty losses (N,) or gradient (N, C) are not wanted.
    sums[2] takes what rounding sums[0] loses, so that a million rows add no error of their own.
    """
    logits, gradient = borrowed(logits), borrowed(gradient)
    padded = (logits.shape[1] + LANES - 1) // LANES * LANES
    scratch = scratch_like(logits, padded + BLOCK + logits.shape[1])
    work, buffer = borrowed(scratch)[:padded], borrowed(scratch)[padded : padded + BLOCK]
    replaced = borrowed(scratch)[padded + BLOCK :]
    for i in range(logits.shape[0]):
        weight = row_weight[i] if row_weight.size else 1.0
        loss, others, own = 0.0, 0.0, 1.0
        if weight != 0.0:
            loss, others, own = hard_row(logits[i], targets[i], buffer, replaced, work)
            loss *= weight
        sums[0], sums[2] = add_exactly(sums[0], sums[2], loss)
        if losses.size:
            losses[i] = loss
        if gradient.size and weight != 0.0:
            factor = weight * scale / (others + own)
            scale_row(work, factor * lowering(work), gradient[i])
            put(gradient[i], targets[i], -others * factor)
        elif gradient.size:
            gradient[i] = 0  # the bits of every type's zero
    keep(scratch)


# Target masses ----------------------------------------------------------------------------------


@device
def cap(row: Any, softcap: Any, scores: Any, slope: Any) -> None:
    """Store softcap tanh(row / softcap) in scores and its derivative in slope."""
    for j in range(row.size):
        t, slope[j] = tanh(F64(read(row[j])) * (1.0 / softcap))
        scores[j] = softcap * t


@device
def winner(row: Any, m: Any) -> Any:
    """Return the first class whose score is m (the last if none is: a row with NaN)."""
    for start in range(0, row.size, 256):  # counted whole, a block takes vectors; a search does not
        block = row[start : start + 256]
        found = 0
        for j in range(block.size):
            found += read(block[j]) == m
        if found:
            return start + position(block, m)
    return row.size - 1


@device
def position(block: Any, m: Any) -> Any:
    """Return where m stands."""
    j = 0
    while read(block[j]) != m:
        j += 1
    return j


def excluded_class(targets: Any, i: Any, row: Any, m: Any) -> Any:
    """Return the class to sum apart: the target, or for masses the winner."""
    raise AssertionError("kernels are compiled")


@overload(excluded_class, strict=False)
def _excluded_class(targets: Any, i: Any, row: Any, m: Any) -> Any:
    if targets.ndim == 1:
        return lambda targets, i, row, m: targets[i]
    return lambda targets, i, row, m: winner(row, m)


def row_masses(targets: Any, i: Any, gain: Any, base: Any, spare: Any) -> Any:
    """Return the masses of a row's classes, gain * c + base; a target index adds its own."""
    raise AssertionError("kernels are compiled")


@overload(row_masses, strict=False, jit_options={"error_model": "numpy"})
def _row_masses(targets: Any, i: Any, gain: Any, base: Any, spare: Any) -> Any:
    if targets.ndim == 1:
        return lambda targets, i, gain, base, spare: base
    if isinstance(gain, types.NoneType):
        return lambda targets, i, gain, base, spare: targets[i]

    def probabilities(targets: Any, i: Any, gain: Any, base: Any, spare: Any) -> Any:
        c = targets[i]
        for j in range(c.size):
            spare[j] = mass_at(gain, j) * c[j] + mass_at(base, j)
        return spare

    return probabilities


def own_mass(targets: Any, gain: Any, masses: Any, x: Any) -> Any:
    """Return the mass of the class that is summed apart."""
    raise AssertionError("kernels are compiled")


@overload(own_mass, strict=False)
def _own_mass(targets: Any, gain: Any, masses: Any, x: Any) -> Any:
    if targets.ndim == 1:
        return lambda targets, gain, masses, x: mass_at(masses, x) + mass_at(gain, x)
    return lambda targets, gain, masses, x: mass_at(masses, x)


@device
def finish_masses(
    gap: Any, own_mass: Any, others: Any, own: Any, rest: Any, rest_gap: Any, m: Any, z_loss: Any
) -> Any:
    """Return the loss, the z-loss, and the factors of p and of the excluded class, unweighted."""
    log_rest = log1p(select(gap == 0.0, others, (others - 1.0) + own))
    lse, total = m + log_rest, others + own
    loss = rest * log_rest + rest_gap
    loss += select(own_mass != 0.0, own_mass * (gap + log_rest), 0.0)
    pull = 2.0 * z_loss * lse
    own_slope = (rest + pull) * (own / total) - own_mass * (others / total)
    return loss, z_loss * lse * lse, (rest + own_mass + pull) / total, own_slope


@kernel
def mass_rows(
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
    """Do what `hard_rows` does for masses gain * c + base; z-losses go to sums[1] and sums[3].

    c are class indices (N,) or masses (N, C); gain and base are one number or one per class, gain
    None for masses taken as they are. softcap is None or a number, sharpness 1 / temperature.
    """
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    classes = logits.shape[1]
    padded = (classes + LANES - 1) // LANES * LANES
    scratch = np.empty(padded + 3 * classes + BLOCK)
    work, spare = borrowed(scratch)[:padded], borrowed(scratch)[padded : padded + classes]
    capped = borrowed(scratch)[padded + classes : padded + 2 * classes]
    slope_row = borrowed(scratch)[padded + 2 * classes : padded + 3 * classes]
    mass_buffer = borrowed(scratch)[padded + 3 * classes :]
    copies = scratch_like(logits, classes)
    replaced = borrowed(copies)
    buffer = new_buffer(logits, softcap)
    for i in range(logits.shape[0]):
        weight = row_weight[i] if row_weight.size else 1.0
        if weight == 0.0:
            losses[i : i + 1] = 0.0  # empty where it is not wanted
            gradient[i : i + 1] = 0
            continue
        scores = prepare(logits[i], softcap, replaced, capped, slope_row)
        m = largest(scores)
        x = excluded_class(targets, i, scores, m)
        masses = row_masses(targets, i, gain, base, spare)
        others, rest, rest_gap = add_up(
            scores, F64(m), x, sharpness, masses, replaced, buffer, mass_buffer, work
        )
        score = read(scores[x])
        own = exp_of_scaled(score, F64(m), sharpness, replaced)
        gap = sharpness * (F64(m) - F64(score))
        mass = own_mass(targets, gain, masses, x)
        if rest + mass == 0.0 and z_loss == 0.0:  # nothing to learn, whatever the scores hold
            losses[i : i + 1] = 0.0
            gradient[i : i + 1] = 0
            continue
        loss, penalty, a, own_slope = finish_masses(
            gap, mass, others, own, rest, rest_gap, sharpness * F64(m), z_loss
        )
        if z_loss > 0.0 and softcap is None and m == 0.0 and largest(logits[i]) == np.inf:
            penalty = np.inf  # the limit hides how high the scores were
        sums[0], sums[2] = add_exactly(sums[0], sums[2], weight * loss)
        sums[1], sums[3] = add_exactly(sums[1], sums[3], weight * penalty)
        if losses.size:
            losses[i] = weight * (loss + penalty)
        if gradient.size:
            b = weight * scale * sharpness
            if softcap is None:
                write_masses(work, a * b, b, masses, gradient[i])
                put(gradient[i], x, own_slope * b)
            else:
                write_capped(work, a * b, b, masses, slope_row, gradient[i])
                put(gradient[i], x, own_slope * b * slope_row[x])
    keep(scratch)
    keep(copies)


def new_buffer(logits: Any, softcap: Any) -> Any:
    """Return space for a block of scores: float64 if they are capped."""
    raise AssertionError("kernels are compiled")


@overload(new_buffer, strict=False)
def _new_buffer(logits: Any, softcap: Any) -> Any:
    if isinstance(softcap, types.NoneType):
        return lambda logits, softcap: scratch_like(logits, BLOCK)
    return lambda logits, softcap: np.empty(BLOCK)


def prepare(row: Any, softcap: Any, replaced: Any, capped: Any, slope: Any) -> Any:
    """Return the row's scores before temperature: capped, or as they are but for +inf's limit."""
    raise AssertionError("kernels are compiled")


@overload(prepare, strict=False)
def _prepare(row: Any, softcap: Any, replaced: Any, capped: Any, slope: Any) -> Any:
    def as_they_are(row, softcap, replaced, capped, slope):  # type: ignore[no-untyped-def]
        if largest(row) != np.inf:
            return row
        take_limit_of(row, replaced)
        return replaced

    def widened(row, softcap, replaced, capped, slope):  # type: ignore[no-untyped-def]
        for j in range(row.size):
            replaced[j] = read(row[j])
        if largest(replaced) == np.inf:
            limit(replaced)
        return replaced

    def bounded(row, softcap, replaced, capped, slope):  # type: ignore[no-untyped-def]
        cap(row, softcap, capped, slope)
        return capped

    if not isinstance(softcap, types.NoneType):
        return bounded
    return widened if isinstance(row.dtype, types.Integer) else as_they_are
