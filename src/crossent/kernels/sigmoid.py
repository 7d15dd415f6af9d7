"""Sigmoid errors, each output on its own: binary cross-entropy and the quadratic cost.

With e = exp(-|z|), sigmoid(|z|) = 1 / (1 + e) and sigmoid(-|z|) = e / (1 + e): 1 - a is never
formed by subtraction. For a target y of weight a = pos_weight * y, and b = 1 - y:

    binary:    a softplus(-z) + b softplus(z),  derivative b sigmoid(z) - a sigmoid(-z)
    quadratic: r^2 / 2,                         derivative r sigmoid(z) sigmoid(-z)

with r = sigmoid(z) - y = b sigmoid(z) - y sigmoid(-z), so that a hard target never cancels. One of
the two softplus is ln(1 + e), the other, on the wrong side, |z| more.
Letters: n samples of J outputs. An empty weight array stands for ones, an empty losses (n, J) or
gradient (n, J) is not wanted.
"""

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload, kernel
from crossent.kernels.elementary import F64, add_exactly, at_least, exp_of_negative, log1p_of_share
from crossent.kernels.halves import put, read, scratch_like
from crossent.kernels.intrinsics import borrowed, fma, keep, magnitude, reordered_add, select
from crossent.kernels.sums import sum_of

BLOCK = 512  # outputs at a time: with all that is made of them they lie in the nearest cache
WIDE_BLOCK = 256  # float64: a block's sum is added exactly, within it rounding accumulates


@device
def take_exponentials(z, e):
    """Store exp(-|z|), in a loop of its own: with what follows it would lack registers."""
    half = z.size // 2
    for i in range(half):
        near, far = exp_of_minus(z[i], e), exp_of_minus(z[half + i], e)
        e[i], e[half + i] = near, far
    for i in range(2 * half, z.size):
        e[i] = exp_of_minus(z[i], e)


@device
def exp_of_minus(z, like):
    """Return exp(-|z|) in the type of an array."""
    return exp_of_negative(-magnitude(like.dtype.type(read(z))))


@device
def both_sigmoids(z, e):
    """Return sigmoid(z) and sigmoid(-z), given e = exp(-|z|)."""
    zero, one = type(z)(0.0), type(e)(1.0)
    near = one / (one + e)
    far = e * near
    return select(z >= zero, near, far), select(z >= zero, far, near)


@device
def binary(z, e, a, b):
    """Return the binary cross-entropy and its derivative for masses a on 1 and b on 0."""
    zero, one = type(z)(0.0), type(e)(1.0)
    up = z >= zero
    wrong, right = select(up, b, a), select(up, a, b)
    rest = log1p_of_share(e)
    loss = right * rest
    loss = select(wrong != zero, fma(wrong, magnitude(z) + rest, loss), loss)  # 0 * inf = 0
    slope = fma(-right, e, wrong) / (one + e)
    return loss, select(up, slope, zero - slope)  # not -0.0


@device
def quadratic(z, e, a, b):
    """Return half the squared error and its derivative, for a target a and b = 1 - a.

    In float64, because squaring doubles the relative error of r.
    """
    up, down = both_sigmoids(z, e)
    r = b * up - a * down
    return 0.5 * r * r, r * up * down


@device
def block(z, y, pos_weight, pull, smoothing, e, losses, out):
    """Store the losses of one block, and its gradient if wanted, times pull = weight * scale."""
    take_exponentials(z, e)
    kind = losses.dtype.type
    zero, one, half = kind(0.0), kind(1.0), kind(0.5)
    for i in range(z.size):
        c = kind(y[i])
        a = fma(c, one - smoothing, half * smoothing)
        b = fma(one - c, one - smoothing, half * smoothing)
        if pos_weight is None:
            loss, slope = quadratic(F64(read(z[i])), e[i], a, b)
        else:
            loss, slope = binary(read(z[i]), e[i], a * pos_weight[i], b)
        losses[i] = loss
        if out is not None:
            put(out, i, select(pull[i] != zero, kind(slope) * pull[i], zero))  # 0 * NaN is nothing


@device
def weigh(each, weight, losses):
    """Return the weighted sum of a block's losses, storing them if wanted.

    In float64, where a weight may be larger or smaller than float32 can be; and in a loop of its
    own, since beside float64 a loop over float32 takes half vectors.
    """
    if losses is None and weight.size == 0:
        return sum_of(each)
    total = 0.0
    for i in range(each.size):
        loss = select(weight[i] != 0.0, weight[i] * F64(each[i]), 0.0)  # 0 * NaN is nothing
        total = reordered_add(total, loss)
        if losses is not None:
            losses[i] = loss
    return total


def flat(array):
    """Return an array as one vector; None stays None."""
    raise AssertionError("kernels are compiled")


@device_overload(flat)
def _flat(array):
    if isinstance(array, types.NoneType):
        return lambda array: None
    return lambda array: array.reshape(array.size)


def part(array, start, stop):
    """Return a stretch of a vector; None stays None."""
    raise AssertionError("kernels are compiled")


@device_overload(part)
def _part(array, start, stop):
    if isinstance(array, types.NoneType):
        return lambda array, start, stop: None
    return lambda array, start, stop: array[start:stop]


def repeat(values, like):
    """Return values over and over, in an array like another; None stays None."""
    raise AssertionError("kernels are compiled")


@device_overload(repeat)
def _repeat(values, like):
    def over_and_over(values, like):
        repeated = np.empty_like(like)
        for start in range(0, like.size, values.size):
            for j in range(values.size):
                repeated[start + j] = values[j]
        return repeated

    if isinstance(values, types.NoneType):
        return lambda values, like: None
    return over_and_over


def new_exponentials(logits, pos_weight):
    """Return memory for a block's exponentials: float64 for the quadratic cost."""
    raise AssertionError("kernels are compiled")


@device_overload(new_exponentials)
def _new_exponentials(logits, pos_weight):
    if isinstance(pos_weight, types.NoneType):
        return lambda logits, pos_weight: np.empty(BLOCK)
    return lambda logits, pos_weight: scratch_like(logits, BLOCK)


@device
def fill_weights(weight, start, outputs, scale, buffer, pull):
    """Lay the weights of the rows from `start` over the outputs of a block."""
    if weight.shape[1] == outputs:
        each = borrowed(weight).reshape(weight.size)
        for i in range(buffer.size):
            w = each[start * outputs + i]
            buffer[i], pull[i] = w, w * scale
    else:
        for i in range(buffer.size // outputs):
            w = weight[start + i, 0]
            for j in range(i * outputs, (i + 1) * outputs):
                buffer[j], pull[j] = w, w * scale


@kernel
def sigmoid_rows(logits, targets, pos_weight, weight, smoothing, scale, losses, gradient, sums):
    """Add the weighted losses to sums[0]; store losses and gradient (times scale), None: neither.

    pos_weight (J,) selects the binary cross-entropy, None the quadratic cost. weight is (n, 1),
    (n, J), or empty for ones. sums[2] takes what rounding sums[0] loses.
    """
    samples, outputs = logits.shape
    limit = min(WIDE_BLOCK if logits.itemsize == 8 else BLOCK, max(logits.size, 1))
    step = max(1, limit // outputs)
    factors = scratch_like(logits, step * outputs)
    factors[:] = scale
    owned = (
        np.ones(step * outputs if weight.size or losses is not None else 0),
        factors,
        repeat(pos_weight, factors),
        scratch_like(logits, limit),
        new_exponentials(logits, pos_weight),
    )
    weights, pull, pattern, each, e = borrowed(owned)
    alpha = pull.dtype.type(smoothing)
    z, y = borrowed(flat(logits)), borrowed(flat(targets))
    loss, out = borrowed(flat(losses)), borrowed(flat(gradient))
    for start in range(0, samples, step):
        size = min(step, samples - start) * outputs
        if weight.size:
            fill_weights(weight, start, outputs, scale, weights[:size], pull)
        first = start * outputs
        for lo in range(0, size, limit):
            hi = min(lo + limit, size)
            block(
                z[first + lo : first + hi],
                y[first + lo : first + hi],
                part(pattern, lo, hi),
                pull[lo:hi],
                alpha,
                e,
                each[: hi - lo],
                part(out, first + lo, first + hi),
            )
            value = weigh(each[: hi - lo], weights[lo:hi], part(loss, first + lo, first + hi))
            sums[0], sums[2] = add_exactly(sums[0], sums[2], value)
    keep(owned)


@kernel
def sigmoid_each(logits, logarithm, out):
    """Store sigmoid(z), or its logarithm -softplus(-z), of one long vector."""
    for i in range(logits.size):
        z = read(logits[i])
        e = exp_of_negative(-magnitude(z))
        up, _ = both_sigmoids(z, e)
        put(out, i, select(logarithm, -(at_least(-z, type(z)(0.0)) + log1p_of_share(e)), up))
