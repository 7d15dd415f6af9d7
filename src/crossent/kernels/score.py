"""Predictions judged, a tile of rows at a time: loss, rank, confidence, Brier score, added up.

Letters: N rows, C classes. A tile is turned on the way in, so that lane i of every vector is row i
and no vector is left half empty by a row of three classes (as in tile.py). Every row ends in a
state: FINE and INFINITE ones take part, IGNORED ones do not, and any later state is an error that
the caller puts into words.
"""

import math

import numpy as np

from crossent.kernels.compiler import device, kernel
from crossent.kernels.elementary import F64, I32, U64, exp_of_difference, log1p
from crossent.kernels.halves import scratch_like
from crossent.kernels.hard_tile import exponentiate_tile
from crossent.kernels.intrinsics import (
    LINE,
    add_four,
    add_three,
    borrowed,
    element_at,
    fetch_at,
    fma,
    keep,
    larger,
    magnitude,
    reordered_add,
    select,
)
from crossent.kernels.rows import fetch_ahead, finish, in_a_row, limit, lowering
from crossent.kernels.turning import VECTOR, turn_in, turn_out

FINE, INFINITE, IGNORED, MISSING, UNKNOWN, OUTSIDE, NOT_ONE = range(7)
LANES = 192  # of a tile: whole rounds of loops, which take four vectors of float32 at a time
LEAST_LANES = 16  # a vector of float32
TILE_SCORES = 1 << 16  # so that tiles of long rows, of fewer lanes, stay in the cache
LARGEST = 1.7976931348623157e308


@kernel
def score_rows(
    rows,
    addresses,
    start,
    stop,
    keys,
    low,
    classes,
    row_weight,
    are_logits,
    renormalize,
    clip,
    tolerance,
    states,
    per_class,
    per_bin,
    hits,
    rest,
):
    """Add what rows start to stop contribute; write the states of those that are not FINE.

    Predictions are rows (N, C), or, where `addresses` (C,) is not empty, columns that begin at
    those addresses in memory; `rows` (0, C) then only tells their type and number. The class of a
    row is classes[keys[i] - low], or minus its state if it has none. An empty row_weight (N,)
    stands for ones.

    per_class (C, 4) takes weight, loss, weight of right decisions, and rows; per_bin (B, 3)
    weight, confidence, and weight of right decisions; hits (K,) the weight of rows whose class is
    among the first k + 1; rest the Brier score, then how many rows are in each state.
    """
    rows, keys = borrowed(rows), borrowed(keys)
    columns = rows.shape[1]
    lanes = min(max(TILE_SCORES // columns, LEAST_LANES), LANES)
    height = 4 + columns + VECTOR // 4  # squares are turned whole
    tile = scratch_like(rows, height * lanes).reshape(height, lanes)
    wide, turned = np.zeros((16, lanes)), np.zeros((lanes, 8))
    small = np.zeros((5, lanes), np.int32)
    for j in range(tile.shape[0]):
        for i in range(lanes):
            tile[j, i] = 0
    work, narrow = borrowed(tile)[4 : 4 + columns], borrowed(tile)
    own, greatest, least, partial = narrow[0], narrow[1], narrow[2], narrow[3]
    double, integer = borrowed(wide), borrowed(small)
    loss, confidence, brier, weight = double[0], double[1], double[2], double[3]
    total, squares = double[4], double[5]
    others, lost = double[6], double[7]  # of scores
    whole, inverse = double[6], double[7]  # of probabilities
    terms, entries = double[8:], borrowed(turned)
    code, target, rank, place, state = integer[0], integer[1], integer[2], integer[3], integer[4]
    memory = in_a_row(rows)
    nothing = (memory[:0], keys[:0], keys[:0], 0, 0)
    for first in range(start, stop, lanes):
        last = min(first + lanes, stop)
        if addresses.size:
            gather(rows, addresses, first, last, work)
        else:
            turn_in(rows, first, last - first, borrowed(tile)[4:])
        take_classes(keys[first:last], low, classes, work, code, target, own)
        soon = (memory, rows, addresses, last, min(lanes, stop - last))
        count_above(work, own, target, rank, soon)
        if are_logits:
            take_maxima(work, greatest, last - first)
            take_targets(work, target, own)
            exponentiate_tile(work, greatest, None, partial, others, lost, nothing)
            add_up_squares(work, squares)
            judge_scores(greatest, own, others, squares, clip, loss, confidence, brier, state)
        else:
            for i in range(lanes):
                tile[4 + columns, i] = 0  # where a square may have left another row's
            survey(borrowed(tile)[4:], columns, total, squares, greatest, least)
            take_wholes(total, renormalize, whole, inverse)
            bound = LARGEST if renormalize else 1.0
            check_probabilities(total, greatest, least, inverse, bound, tolerance, state)
            judge_probabilities(
                own, greatest, squares, whole, inverse, clip, loss, confidence, brier
            )
        load_row_weight(row_weight, first, last, weight)
        if settle(code, weight, loss, confidence, brier, state):
            for i in range(last - first):
                states[first + i] = state[i]
                rest[1 + state[i]] += 1.0
        else:
            rest[1] += last - first
        bins = F64(per_bin.shape[0])
        for i in range(lanes):
            place[i] = I32(min(confidence[i] * bins, bins - 1.0))
        rest[0] += weighted_sum(brier, weight)
        for k in range(hits.size):
            hits[k] += weight_up_to(rank, k, weight)
        take_terms(weight, loss, confidence, rank, state, terms)
        turn_out(terms, entries, 0, lanes)
        for i in range(last - first):
            add_four(per_class, target[i], entries, i, 0)
            add_three(per_bin, place[i], entries, i, 4)
    keep(tile)
    keep(wide)
    keep(turned)
    keep(small)


# What a tile holds ------------------------------------------------------------------------------


@device
def gather(like, addresses, first, last, work):
    """Copy a stretch of every column into work."""
    for j in range(work.shape[0]):
        lane, address = work[j], addresses[j]
        for i in range(last - first):
            lane[i] = element_at(like, address, first + i)


@device
def take_classes(keys, low, classes, work, code, target, own):
    """Store the class of every row, or minus its state; as target 0 for none; and its entry."""
    for i in range(code.size):
        code[i] = -IGNORED
    for i in range(keys.size):
        k = U64(keys[i] - low)
        code[i] = classes[k] if k < U64(classes.size) else -UNKNOWN
    for i in range(code.size):
        target[i] = max(code[i], I32(0))
        own[i] = work[U64(target[i]), U64(i)]


@device
def count_above(work, own, target, rank, soon):
    """Store how many classes come before the target: larger ones, and equal ones to its left."""
    for i in range(rank.size):
        rank[i] = 0
    for j in range(work.shape[0]):
        fetch_class(soon, j)
        entry, column = work[j], I32(j)
        for i in range(rank.size):
            tie = select(column < target[i], entry[i] == own[i], False)
            rank[i] += select(entry[i] > own[i], I32(1), select(tie, I32(1), I32(0)))


@device
def fetch_class(soon, j):
    """Ask for as much of the next tile as one class has there, to compute while it comes."""
    memory, rows, addresses, first, count = soon
    if addresses.size:
        for i in range(first, first + count, LINE // rows.itemsize):
            fetch_at(rows, addresses[j], i)
    else:
        fetch_ahead(memory, first * rows.shape[1] + j * count, count)


@device
def load_row_weight(row_weight, first, last, weight):
    """Store the weights of the rows, 1 if there are none."""
    if row_weight.size:
        for i in range(last - first):
            weight[i] = row_weight[first + i]
    else:
        for i in range(weight.size):
            weight[i] = 1.0


# Probabilities ----------------------------------------------------------------------------------


@device
def survey(work, columns, total, squares, greatest, least):
    """Store every row's sum, sum of squares, maximum, and maximum of -p; NaN is in the sum.

    Two classes at a time; where their number is odd, work has zeros beyond the last.
    """
    for i in range(total.size):
        total[i], squares[i] = 0.0, 0.0
    for i in range(total.size):
        greatest[i], least[i] = work[0, i], -work[0, i]
    for j in range(0, columns, 2):
        p, q = work[j], work[j + 1]
        for i in range(total.size):
            x, y = F64(p[i]), F64(q[i])
            total[i] += x + y
            squares[i] = fma(x, x, fma(y, y, squares[i]))
        for i in range(greatest.size):
            greatest[i] = larger(larger(p[i], q[i]), greatest[i])
            least[i] = larger(larger(-p[i], -q[i]), least[i])


@device
def take_wholes(total, renormalize, whole, inverse):
    """Store what the probabilities of a row are divided by, 1 unless renormalized; and 1 / that."""
    for i in range(whole.size):
        whole[i], inverse[i] = 1.0, 1.0
    if renormalize:
        for i in range(whole.size):
            whole[i], inverse[i] = total[i], 1.0 / total[i]


@device
def check_probabilities(total, greatest, least, inverse, bound, tolerance, state):
    """Store FINE, OUTSIDE for an entry outside [0, bound], NOT_ONE for a row with another sum."""
    for i in range(state.size):
        sums_to_one = magnitude(total[i] * inverse[i] - 1.0) <= tolerance
        inside = select(least[i] <= 0.0, greatest[i] <= bound, False)
        inside = select(total[i] == total[i], inside, False)
        state[i] = select(inside, select(sums_to_one, I32(FINE), I32(NOT_ONE)), I32(OUTSIDE))


@device
def judge_probabilities(own, greatest, squares, whole, inverse, clip, loss, confidence, brier):
    """Store -ln p of the target, the largest p, and sum (p - y)^2.

    ln p is taken of (1 - p) / p, which keeps both tails: 1 - p is exact from one half up.
    """
    overflows = 0
    for i in range(loss.size):
        least_p = clip * whole[i]
        x = select(F64(own[i]) > least_p, F64(own[i]), least_p)
        loss[i] = log1p((whole[i] - x) / x)
        overflows += select(x > 0.0, loss[i] == np.inf, False)
    for i in range(loss.size):
        confidence[i] = F64(greatest[i]) * inverse[i]
        p = F64(own[i]) * inverse[i]
        brier[i] = squares[i] * inverse[i] * inverse[i] - 2.0 * p + 1.0
    if overflows:
        for i in range(loss.size):
            if own[i] > 0.0 and loss[i] == np.inf:
                loss[i] = math.log(whole[i]) - math.log(F64(own[i]))


# Scores -----------------------------------------------------------------------------------------


@device
def take_maxima(work, m, rows):
    """Store the maxima of so many rows, whatever NaN is among them; replace +inf by its limit."""
    for i in range(m.size):
        m[i] = work[0, i]
    for j in range(work.shape[0]):
        scores = work[j]
        for i in range(m.size):
            m[i] = select(scores[i] > m[i], scores[i], m[i])
    for i in range(rows):
        if m[i] == np.inf:
            m[i] = limit(work[:, i])


@device
def take_targets(work, target, own):
    """Take the targets' scores out of work, into own."""
    for i in range(own.size):
        own[i] = work[U64(target[i]), U64(i)]
        work[U64(target[i]), U64(i)] = -np.inf


@device
def add_up_squares(work, squares):
    """Store every row's sum of squared exponentials, the target's left out, lowered again."""
    lower = lowering(work)
    for i in range(squares.size):
        squares[i] = 0.0
    for j in range(work.shape[0]):
        e = work[j]
        for i in range(squares.size):
            x = F64(e[i]) * lower
            squares[i] = fma(x, x, squares[i])


@device
def judge_scores(m, score, others, squares, clip, loss, confidence, brier, state):
    """Store the same for p = exp / total, whose maximum is 1 / total; OUTSIDE where it is NaN."""
    most = -math.log(clip) if clip > 0.0 else np.inf
    for i in range(loss.size):
        own = exp_of_difference(F64(score[i]), F64(m[i]))
        loss[i] = finish(F64(m[i]) - F64(score[i]), others[i], own)
        confidence[i] = 1.0 / (others[i] + own)
    for i in range(loss.size):
        share = others[i] * confidence[i]
        brier[i] = squares[i] * confidence[i] * confidence[i] + share * share
        state[i] = select(loss[i] >= 0.0, I32(FINE), I32(OUTSIDE))
        loss[i] = select(loss[i] > most, most, loss[i])


# Adding up --------------------------------------------------------------------------------------


@device
def settle(code, weight, loss, confidence, brier, state):
    """Settle every row's state, zero what takes no part; return whether any is not FINE."""
    worst = 0
    for i in range(state.size):
        judged = select(loss[i] < np.inf, state[i], max(state[i], I32(INFINITE)))
        judged = select(code[i] < 0, -code[i], judged)
        state[i] = select(weight[i] == 0.0, I32(IGNORED), judged)
        worst = max(worst, state[i])
    if worst:
        for i in range(state.size):
            if state[i] > INFINITE:
                weight[i], loss[i], confidence[i], brier[i] = 0.0, 0.0, 0.0, 0.0
    return worst


@device
def weighted_sum(values, weight):
    """Return the sum of weight times value."""
    total = 0.0
    for i in range(values.size):
        total = reordered_add(total, weight[i] * values[i])
    return total


@device
def weight_up_to(rank, k, weight):
    """Return the weight of the rows with at most k classes before the target."""
    total = 0.0
    for i in range(rank.size):
        total = reordered_add(total, select(rank[i] <= k, weight[i], 0.0))
    return total


@device
def take_terms(weight, loss, confidence, rank, state, terms):
    """Store what every row adds: four numbers to its class, then three to its bin."""
    for i in range(weight.size):
        right = select(rank[i] == 0, weight[i], 0.0)
        terms[0, i] = weight[i]
        terms[1, i] = weight[i] * loss[i]
        terms[2, i] = right
        terms[3, i] = select(state[i] <= INFINITE, 1.0, 0.0)
        terms[4, i] = weight[i]
        terms[5, i] = weight[i] * confidence[i]
        terms[6, i] = right
