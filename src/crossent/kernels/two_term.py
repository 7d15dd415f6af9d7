"""The two-term softmax error.

With t_j the mass of class j after smoothing, p = softmax(s), q = 1 - p:

    loss = -sum_j [t_j ln p_j + (1 - t_j) ln q_j]
    d loss / d s_k = u_k - p_k sum_j u_j,    u = (p - t) / (1 - p)

Every term of the loss is >= 0, so nothing cancels. Differences such as p - t are computed in
float64 whatever the logits' type. For a winner that takes nearly all, 1 - p = others / total is
summed, not subtracted: the tail of a confident answer stays exact.

Rows are worked on in strips (see strips.py). Targets are class indices (N,) or masses (N, C). An
empty row_weight (N,) stands for ones; empty losses (N,) or gradient (N, C) are not wanted.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload, kernel
from crossent.kernels.elementary import add_exactly, exp_of_difference, log1p
from crossent.kernels.intrinsics import borrowed, keep, maximum, select
from crossent.kernels.strips import (
    different,
    filled,
    fold,
    fold_maximum,
    load,
    new_strips,
    place,
    spread,
    store,
    take_maxima,
)

# Rows of the array of what `add_up` adds up, one column per lane.
LESS, TIES, REST, WHOLE, GAP = range(5)
FOLD = 8  # steps whose partial sums are then added exactly


def load_masses(targets, mass, left, smoothing):
    """Store the rows' masses, and what they leave of 1.

    That is not subtracted: the target of a smoothed row leaves little.
    """
    raise AssertionError("kernels are compiled")


def unload_masses(targets, mass, left, base):
    """Take out what the next rows must not find."""
    raise AssertionError("kernels are compiled")


@device_overload(load_masses)
def _load_masses(targets, mass, left, smoothing):
    def indices(targets, mass, left, smoothing):
        for i in range(targets.size):  # all other classes have theirs already
            s, lane = place(mass, i, targets[i])
            left[s, lane] = smoothing - mass[s, lane]
            mass[s, lane] += 1.0 - smoothing

    def probabilities(targets, mass, left, smoothing):
        load(targets, mass, 0.0)
        classes = targets.shape[1]
        c, rest, base = filled(classes, mass), filled(classes, left), smoothing / classes
        for i in range(c.size):
            rest[i] = (1.0 - smoothing) * (1.0 - c[i]) + (smoothing - base)
            c[i] = (1.0 - smoothing) * c[i] + base

    return indices if isinstance(targets.dtype, types.Integer) else probabilities


@device_overload(unload_masses)
def _unload_masses(targets, mass, left, base):
    def indices(targets, mass, left, base):
        for i in range(targets.size):
            s, lane = place(mass, i, targets[i])
            mass[s, lane], left[s, lane] = base, 1.0 - base

    def probabilities(targets, mass, left, base):
        pass

    return indices if isinstance(targets.dtype, types.Integer) else probabilities


@device
def load_weights(row_weight, start, stop, weight):
    """Give every row its weight, 1 if there are none."""
    for i in range(stop - start):
        weight[i] = row_weight[start + i] if row_weight.size else 1.0
    spread(weight)


@device
def add_up(work, mass, m, sums, partial, lost):
    """Replace work by exp(work - m) and add up, row by row.

    LESS = sum of exp and REST = sum of t, both over s_j < m; TIES = how many s_j = m;
    WHOLE = sum of t; GAP = sum of t (m - s), where no mass costs nothing: 0 * inf = 0.
    """
    sums[:] = 0.0
    lost[:] = 0.0
    for start in range(0, work.shape[0], FOLD):
        partial[:] = 0.0
        add_up_few(work[start : start + FOLD], mass[start : start + FOLD], m, partial)
        for k in range(sums.shape[0]):
            add_each_exactly(sums[k], lost[k], partial[k])
    for k in range(sums.shape[0]):
        add_each(sums[k], lost[k])
        fold(sums[k])


@device
def add_each(total, x):
    """Add x to total, lane by lane: Numba's own array assignment takes seconds to compile."""
    for i in range(total.size):
        total[i] += x[i]


@device
def add_each_exactly(total, lost, x):
    """Add x to total, lane by lane, and to lost what that rounds away."""
    for i in range(total.size):
        total[i], lost[i] = add_exactly(total[i], lost[i], x[i])


@device
def add_up_few(work, mass, m, sums):
    """Do the work of `add_up` for a few steps, over which little rounding accumulates."""
    less, ties, rest, whole, gap = sums[LESS], sums[TIES], sums[REST], sums[WHOLE], sums[GAP]
    for s in range(work.shape[0]):
        scores, t = work[s], mass[s]
        for i in range(m.size):
            x = scores[i]
            e = exp_of_difference(x, m[i])
            scores[i] = e
            highest = x == m[i]
            less[i] += select(highest, 0.0, e)
            ties[i] += select(highest, 1.0, 0.0)
            rest[i] += select(highest, 0.0, t[i])
            whole[i] += t[i]
            gap[i] += select(t[i] != 0.0, t[i] * (m[i] - x), 0.0)


@device
def finish(sums, weight, scale, loss, factor):
    """Turn sums into the rows' weighted first terms and the factor of their gradients."""
    for i in range(different(weight)):
        log_total = log1p(sums[LESS, i] + (sums[TIES, i] - 1.0))
        loss[i] = weight[i] * (sums[WHOLE, i] * log_total + sums[GAP, i])
        factor[i] = weight[i] * scale
    spread(factor)


@device
def report(weight, loss, start, stop, losses, sums):
    """Add losses to sums[0], what rounding loses to sums[2]; store them."""
    for i in range(stop - start):
        value = loss[i] if weight[i] != 0.0 else 0.0
        sums[0], sums[2] = add_exactly(sums[0], sums[2], value)
        if losses.size:
            losses[start + i] = value


@device
def store_gradient(work, weight, rows):
    """Store the strip, 0 for rows of weight 0 whatever their scores hold."""
    store(work, rows)
    for i in range(rows.shape[0]):
        if weight[i] == 0.0:
            rows[i] = 0  # the bits of every type's zero


@device
def take_second_maxima(work, m, second):
    """Store the largest score of every row in m, and the largest below it in second."""
    m[:] = -np.inf
    second[:] = -np.inf
    for s in range(work.shape[0]):
        for i in range(m.size):
            m[i] = maximum(m[i], work[s, i])
    fold_maximum(m)
    for s in range(work.shape[0]):
        for i in range(m.size):
            x = work[s, i]
            second[i] = maximum(second[i], select(x == m[i], -np.inf, x))
    fold_maximum(second)


@device
def divide_others(work, m, second, sums, share, distance):
    """Store the softmax over all but the winner, and -ln of its denominator against the winner.

    Taken against the second maximum they neither underflow nor overflow, however far the winner
    is ahead: distance = -ln sum over j != winner of exp(s_j - m).
    """
    take_second_maxima(work, m, second)
    sums[:] = 0.0
    for s in range(work.shape[0]):
        for i in range(m.size):
            x = work[s, i]
            e = select(x == m[i], 0.0, exp_of_difference(x, second[i]))
            e = select(second[i] == -np.inf, 0.0, e)  # all others are impossible
            share[s, i] = e
            sums[i] += e
    fold(sums)
    for i in range(m.size):
        distance[i] = np.inf if sums[i] == 0.0 else (m[i] - second[i]) - log1p(sums[i] - 1.0)
        sums[i] = 1.0 if sums[i] == 0.0 else sums[i]
    for s in range(work.shape[0]):
        divide_each(share[s], sums)


@device
def divide_each(values, divisor):
    """Divide, lane by lane."""
    for i in range(values.size):
        values[i] /= divisor[i]


@device
def add_up_complements(work, mass, left, others, total, distance, complement, pull, lost):
    """Add up the second term, sum of (1 - c) (-ln(1 - p)), and the u of all but the winner.

    With odds o = p / (1 - p): -ln(1 - p) = ln(1 + o) and u = (p - c) / (1 - p) = (1 - c) o - c.
    1 - p = (total - exp) / total, and others / total for the winner, -ln(others) = distance.
    """
    complement[:] = 0.0
    pull[:] = 0.0
    lost[:] = 0.0
    for s in range(work.shape[0]):
        e, c, spare = work[s], mass[s], left[s]
        for i in range(total.size):
            wins = e[i] == 1.0 and others[i] < 0.5
            odds = e[i] / select(wins, 1.0, total[i] - e[i])
            rest = spare[i]
            cost = select(wins, log1p(others[i]) + distance[i], log1p(odds))
            term = select(rest != 0.0, rest * cost, 0.0)
            complement[i], lost[0, i] = add_exactly(complement[i], lost[0, i], term)
            term = select(wins, 0.0, rest * odds - c[i])
            pull[i], lost[1, i] = add_exactly(pull[i], lost[1, i], term)
    add_each(complement, lost[0])
    add_each(pull, lost[1])
    fold(complement)
    fold(pull)


@device
def winner_pull(work, mass, left, others, pull):
    """Store others * u of the winner, 0 if there is none: (1 - c) exp - c others."""
    pull[:] = 0.0
    for s in range(work.shape[0]):
        e, c, spare = work[s], mass[s], left[s]
        for i in range(others.size):
            wins = e[i] == 1.0 and others[i] < 0.5
            pull[i] += select(wins, spare[i] - c[i] * others[i], 0.0)
    fold(pull)


@device
def combine_two_terms(work, mass, left, share, others, total, pull, winner, factor):
    """Replace work by factor * [(1 - c_k) p_k - c_k (1 - p_k) - p_k sum of u_j over j != k]."""
    for s in range(work.shape[0]):
        e, c, spare, part = work[s], mass[s], left[s], share[s]
        for i in range(total.size):
            wins = e[i] == 1.0 and others[i] < 0.5
            remaining = select(wins, others[i], total[i] - e[i])
            p, q = e[i] / total[i], remaining / total[i]
            own = select(wins, 0.0, spare[i] * (p / q) - c[i])
            # p u of the winner: others * u is at most 1, while u itself may overflow
            near = wins or winner[i] == 0.0
            far = select(near, 0.0, part[i] * (winner[i] / total[i]))
            e[i] = factor[i] * (spare[i] * p - c[i] * q - p * (pull[i] - own) - far)


@kernel
def two_term_rows(logits, targets, row_weight, smoothing, scale, losses, gradient, sums):
    """Add the weighted losses to sums[0]; store losses (unscaled) and gradient (times scale).

    sums[2] takes what rounding sums[0] loses.
    """
    logits, targets, gradient = borrowed(logits), borrowed(targets), borrowed(gradient)
    classes = logits.shape[1]
    scratch, base = new_strips(4, classes), smoothing / classes
    strips = borrowed(scratch)
    work, mass, left, share = strips[0], strips[1], strips[2], strips[3]
    filled(classes, mass)[:] = base
    filled(classes, left)[:] = 1.0 - base
    per_lane = np.ones((26, work.shape[1]))
    lanes = borrowed(per_lane)
    m, loss, complement, weight, factor = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    row_sums, partial, lost = lanes[5:10], lanes[10:15], lanes[15:20]
    others, total, pull, winner = lanes[20], lanes[21], lanes[22], lanes[23]
    distance, second = lanes[24], lanes[25]
    step = different(m)
    for start in range(0, logits.shape[0], step):
        stop = min(start + step, logits.shape[0])
        load(logits[start:stop], work, -np.inf)
        divide_others(work, m, second, others, share, distance)
        take_maxima(work, m)
        load_masses(targets[start:stop], mass, left, smoothing)
        load_weights(row_weight, start, stop, weight)
        add_up(work, mass, m, row_sums, partial, lost)
        finish(row_sums, weight, scale, loss, factor)
        for i in range(m.size):
            others[i] = row_sums[LESS, i] + (row_sums[TIES, i] - 1.0)
            total[i] = row_sums[LESS, i] + row_sums[TIES, i]
        add_up_complements(work, mass, left, others, total, distance, complement, pull, lost)
        for i in range(m.size):
            loss[i] += complement[i] * weight[i]
        report(weight, loss, start, stop, losses, sums)
        if gradient.size:
            winner_pull(work, mass, left, others, winner)
            combine_two_terms(work, mass, left, share, others, total, pull, winner, factor)
            store_gradient(work, weight, gradient[start:stop])
        unload_masses(targets[start:stop], mass, left, base)
    keep(scratch)
    keep(per_lane)
