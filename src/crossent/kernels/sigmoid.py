"""Sigmoid errors, each output on its own: binary cross-entropy and the quadratic cost.

With e = exp(-|z|), sigmoid(|z|) = 1 / (1 + e) and sigmoid(-|z|) = e / (1 + e): 1 - a is never
formed by subtraction. For a target y of weight a = pos_weight * y, and b = 1 - y:

    binary:    a softplus(-z) + b softplus(z),  derivative b sigmoid(z) - a sigmoid(-z)
    quadratic: r^2 / 2,                         derivative r sigmoid(z) sigmoid(-z)

with r = sigmoid(z) - y = b sigmoid(z) - y sigmoid(-z), so that a hard target never cancels. One of
the two softplus is ln(1 + e), the other, on the wrong side, |z| more.
Where it weighs the same for all outputs, the sum of ln(1 + e) is the logarithm of a product.
Letters: n samples of J outputs.
"""

from typing import Any

import numpy as np
from numba import types

from crossent.kernels.compiler import device, device_overload, kernel
from crossent.kernels.elementary import F64, add_exactly, at_least, exp_of_negative, log1p_of_share
from crossent.kernels.halves import put, read, scratch_like
from crossent.kernels.intrinsics import borrowed, fma, keep, magnitude, reordered_add, select
from crossent.kernels.rows import fetch_ahead
from crossent.kernels.sums import sum_of, sum_of_logarithms

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
    """Return the binary cross-entropy without its ln(1 + e), and the derivative of the whole.

    For masses a on 1 and b on 0. Signed like z, what is wrong needs neither |z| nor a last step.
    """
    zero, one = type(z)(0.0), type(e)(1.0)
    up = z >= zero
    wrong, right = select(up, b, -a), select(up, a, -b)
    loss = select(wrong != zero, wrong * z, zero)  # 0 * inf = 0
    return loss, fma(-right, e, wrong) / (one + e)


@device
def quadratic(z, e, a, b):
    """Return half the squared error and its derivative, for a target a and b = 1 - a.

    In float64, because squaring doubles the relative error of r.
    """
    up, down = both_sigmoids(z, e)
    r = b * up - a * down
    return 0.5 * r * r, r * up * down


def block(z, y, pos_weight, pull, smoothing, e, product, losses, out):
    """Store the losses of one block, and its gradient if wanted, times pull = weight * scale.

    e takes exp(-|z|). product is e if the sum of its ln(1 + e) is added later, else None.
    """
    raise AssertionError("kernels are compiled")


@device_overload(block)
def _block(z, y, pos_weight, pull, smoothing, e, product, losses, out):
    def binaries(z, y, pos_weight, pull, smoothing, e, product, losses, out):
        take_exponentials(z, e)
        for i in range(z.size):
            a, b = masses(read(y[i]), losses, weight_at(pos_weight, i), smoothing)
            loss, slope = binary(read(z[i]), e[i], a, b)
            losses[i] = loss if product is not None else fma(a + b, log1p_of_share(e[i]), loss)
            if out is not None:
                put(out, i, pulled(slope, pull, i))

    def quadratics(z, y, pos_weight, pull, smoothing, e, product, losses, out):
        take_exponentials(z, e)
        for i in range(z.size):
            a, b = masses(read(y[i]), e, 1.0, F64(smoothing))
            losses[i], slope = quadratic(F64(read(z[i])), e[i], a, b)
            if out is not None:
                put(out, i, pulled(losses.dtype.type(slope), pull, i))

    return quadratics if isinstance(pos_weight, types.NoneType) else binaries


@device
def masses(y, like, pos_weight, smoothing):
    """Return the masses on 1 and on 0 of a target, in the type of an array."""
    kind = like.dtype.type
    kept, half = kind(1.0) - smoothing, kind(0.5) * smoothing
    a = fma(kind(y), kept, half)
    return a * kind(pos_weight), fma(kind(complement(y, kind(0.0))), kept, half)


def complement(y, zero):
    """Return 1 - y in the wider of two types: taken before it is rounded, little may be left."""
    raise AssertionError("kernels are compiled")


@device_overload(complement)
def _complement(y, zero):
    wide: Any = types.float64 if types.float64 in (y, zero) else types.float32
    return lambda y, zero: wide(1.0) - wide(y)


def weight_at(weights, i):
    """Return a weight, 1 if all are."""
    raise AssertionError("kernels are compiled")


@device_overload(weight_at)
def _weight_at(weights, i):
    if isinstance(weights, types.Array):
        return lambda weights, i: weights[i]
    return lambda weights, i: 1.0


def pulled(slope, pull, i):
    """Return a slope times its pull, which is one number for all or one each."""
    raise AssertionError("kernels are compiled")


@device_overload(pulled)
def _pulled(slope, pull, i):
    def each(slope, pull, i):
        zero = type(slope)(0.0)
        return select(pull[i] != zero, slope * pull[i], zero)  # 0 * NaN is nothing

    return each if isinstance(pull, types.Array) else lambda slope, pull, i: slope * pull


def summed_as_product(pos_weight, weight, losses, e):
    """Return e where ln(1 + e) weighs the same in all losses, and only their sum is wanted."""
    raise AssertionError("kernels are compiled")


@device_overload(summed_as_product)
def _summed_as_product(pos_weight, weight, losses, e):
    ones = isinstance(pos_weight, types.BaseTuple) and isinstance(weight, types.NoneType)
    if ones and isinstance(losses, types.NoneType):
        return lambda pos_weight, weight, losses, e: e
    return lambda pos_weight, weight, losses, e: None


@device
def weigh(each, product, weight, losses):
    """Return the weighted sum of a block's losses, storing them if wanted.

    In float64, where a weight may be larger or smaller than float32 can be; and in a loop of its
    own, since beside float64 a loop over float32 takes half vectors.
    """
    if product is not None:
        return sum_of(each) + sum_of_logarithms(product, each.size)
    if losses is None and weight is None:
        return sum_of(each)
    total = 0.0
    for i in range(each.size):
        w = weight_at(weight, i)
        loss = select(w != 0.0, w * F64(each[i]), 0.0)  # 0 * NaN is nothing
        total = reordered_add(total, loss)
        if losses is not None:
            losses[i] = loss
    return total


def flat(array):
    """Return an array as one vector, all else as it is."""
    raise AssertionError("kernels are compiled")


@device_overload(flat)
def _flat(array):
    if isinstance(array, types.Array):
        return lambda array: array.reshape(array.size)
    return lambda array: array


def part(array, start, stop):
    """Return a stretch of a vector, all else as it is."""
    raise AssertionError("kernels are compiled")


@device_overload(part)
def _part(array, start, stop):
    if isinstance(array, types.Array):
        return lambda array, start, stop: array[start:stop]
    return lambda array, start, stop: array


def repeat(values, like, size):
    """Return values over and over, in memory like another array's; all else as it is."""
    raise AssertionError("kernels are compiled")


@device_overload(repeat)
def _repeat(values, like, size):
    def over_and_over(values, like, size):
        repeated = scratch_like(like, size)
        for start in range(0, size, values.size):
            for j in range(values.size):
                repeated[start + j] = values[j]
        return repeated

    return over_and_over if isinstance(values, types.Array) else lambda values, like, size: values


def new_exponentials(logits, pos_weight):
    """Return memory for a block's exponentials: float64 for the quadratic cost."""
    raise AssertionError("kernels are compiled")


@device_overload(new_exponentials)
def _new_exponentials(logits, pos_weight):
    if isinstance(pos_weight, types.NoneType):
        return lambda logits, pos_weight: np.empty(BLOCK)
    return lambda logits, pos_weight: scratch_like(logits, BLOCK)


def new_weights(weight, scale, like, size):
    """Return memory for outputs' weights, and for these times scale; None and scale for ones."""
    raise AssertionError("kernels are compiled")


@device_overload(new_weights)
def _new_weights(weight, scale, like, size):
    if isinstance(weight, types.NoneType):
        return lambda weight, scale, like, size: (None, scratch_like(like, 0).dtype.type(scale))
    return lambda weight, scale, like, size: (np.empty(size), scratch_like(like, size))


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

    pos_weight (J,) selects the binary cross-entropy, () stands for ones, None for the quadratic
    cost. weight is (n, 1), (n, J), or None for ones. sums[2] takes what rounding sums[0] loses.
    """
    samples, outputs = logits.shape
    limit = min(WIDE_BLOCK if logits.itemsize == 8 else BLOCK, max(logits.size, 1))
    step = max(1, limit // outputs)
    owned = (
        new_weights(weight, scale, logits, step * outputs),
        repeat(pos_weight, logits, step * outputs),
        scratch_like(logits, limit),
        new_exponentials(logits, pos_weight),
    )
    (weights, pull), pattern, each, e = borrowed(owned)
    alpha, product = each.dtype.type(smoothing), summed_as_product(pos_weight, weight, losses, e)
    z, y = borrowed(flat(logits)), borrowed(flat(targets))
    loss, out = borrowed(flat(losses)), borrowed(flat(gradient))
    for start in range(0, samples, step):
        size = min(step, samples - start) * outputs
        if weight is not None:
            fill_weights(weight, start, outputs, scale, weights[:size], pull)
        first = start * outputs
        for lo in range(0, size, limit):
            hi = min(lo + limit, size)
            fetch_ahead(z, first + lo, hi - lo)
            fetch_ahead(y, first + lo, hi - lo)
            fetch_ahead(out, first + lo, hi - lo)
            block(
                z[first + lo : first + hi],
                y[first + lo : first + hi],
                part(pattern, lo, hi),
                part(pull, lo, hi),
                alpha,
                e,
                product,
                each[: hi - lo],
                part(out, first + lo, first + hi),
            )
            stored = part(loss, first + lo, first + hi)
            value = weigh(each[: hi - lo], product, part(weights, lo, hi), stored)
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
