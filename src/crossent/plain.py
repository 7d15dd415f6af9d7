"""What is asked for less often, in float64 NumPy: Hessian products, given probabilities, the chain.

Everything here takes a checked `Problem` apart (see numpy.py), so that targets, weights and
reductions mean what they mean there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossent import checks, reference
from crossent.kernels.hessian import bend_rows
from crossent.layout import Array, result_type
from crossent.numpy import Problem, divide_by, logsumexp, prepare, sigmoid, softmax
from crossent.threads import sum_over_parts

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class ChainRule:
    """Every link of the chain rule of one error, for each row of scores, in float64.

    Attributes
    ----------
    p : array, shape of the logits
        The outputs: sigmoid or softmax.
    dE_dp : array, shape of the logits
        Derivative of the error in the outputs.
    dp_ds : array, (..., C, C) for softmax, shape of the logits for sigmoid
        Derivative of the outputs in the logits: the full Jacobian, or sigma' output by output.
    dE_ds : array, shape of the logits
        Their product: the derivative of the error in the logits. NaN where an output that has a
        target underflows to 0, so that its dE_dp is infinite; `value_and_grad` knows it there too.
    """

    p: Float64
    dE_dp: Float64
    dp_ds: Float64
    dE_ds: Float64


# Targets as masses ------------------------------------------------------------------------------


def _masses(loss: Any, problem: Problem) -> Float64:
    """Return the target mass of every class after smoothing and class weights, (N, C)."""
    classes = problem.logits.shape[1]
    y = problem.targets
    if y.ndim == 1:  # not rows of an identity, which for many classes is larger than the scores
        y = (y[:, None] == np.arange(classes)).astype(np.float64)
    c = reference.smooth(y, loss.label_smoothing)
    return c * checks.per_output("class_weight", loss.class_weight, classes, "classes", 1.0)


def _left(loss: Any, problem: Problem) -> Float64:
    """Return what the masses of a loss without class weights leave of 1, (N, C).

    Not subtracted from it: the target of a smoothed row leaves little.
    """
    classes, alpha = problem.logits.shape[1], loss.label_smoothing
    y = problem.targets
    others = (y[:, None] != np.arange(classes)).astype(np.float64) if y.ndim == 1 else 1 - y
    return np.asarray((1 - alpha) * others + (alpha - alpha / classes))


def _binary_masses(loss: Any, problem: Problem) -> tuple[Float64, Float64]:
    """Return the masses on 1 and on 0 of every output, (n, J)."""
    y = reference.smooth_binary(problem.targets, loss.label_smoothing)
    outputs = problem.logits.shape[1]
    return y * checks.per_output("pos_weight", loss.pos_weight, outputs, "outputs", 1.0), 1 - y


def _column(weights: Array) -> Any:
    """Return weights that broadcast against (N, C)."""
    return (weights if weights.ndim == 2 else weights[:, None]) if weights.size else 1.0


def _back(problem: Problem, rows: Array, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return (N, C) in the shape of the logits; a NumPy number if that is a single one."""
    moved = shape[: problem.axis] + shape[problem.axis + 1 :] + shape[problem.axis :][:1]
    with np.errstate(over="ignore"):  # beyond its type a number is inf
        array = rows.astype(dtype, copy=False).reshape(moved)
    return np.moveaxis(array, -1, problem.axis) if shape else array[()]


# Hessian times vector ---------------------------------------------------------------------------


def hvp(
    loss: Any, logits: Any, targets: Any, vector: Any, sample_weight: Any, normalizer: Any
) -> Array:
    """Return the Hessian of the reduced loss in the logits, times a vector, in closed form."""
    logits = checks.logits(logits)
    vector = checks.vector(vector, logits.shape)
    problem = prepare(loss, logits, targets, sample_weight)
    divisor = divide_by(loss.reduction, problem, normalizer)
    v = (
        np.moveaxis(vector, problem.axis, -1).reshape(problem.logits.shape)
        if logits.ndim
        else vector.reshape(1, 1)
    )
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        product = _PRODUCTS[loss.name](loss, problem, v)
        product *= _column(problem.weights) / divisor if divisor else 0.0
    if problem.weights.size:
        product = np.where(_column(problem.weights) == 0, 0.0, product)
    result: Array = _back(problem, product, logits.shape, logits.dtype)
    return result


def _cross_entropy_product(loss: Any, problem: Problem, v: Float64) -> Float64:
    """H v = s' [k (p u - p (p . u)) + 2 zeta (p . u) p] + dE/ds s'' v, with u = s' v."""
    s, slope, curvature = _scores(loss, problem.logits)
    p, u = softmax(s), slope * v
    from_lse = 2 * loss.z_loss * logsumexp(s) if loss.z_loss else np.zeros(len(s))
    product = _change_of_softmax(p, u, _row_masses(loss, problem) + from_lse)
    if loss.z_loss:
        product += 2 * loss.z_loss * (p * u).sum(axis=1, keepdims=True) * p
    product *= slope
    if loss.softcap is not None:
        pull = _difference(_masses(loss, problem), p) + from_lse[:, None] * p
        product += pull * curvature * v
    return product


def _row_masses(loss: Any, problem: Problem) -> Float64:
    """Return the mass of every row, (N,): what `_masses` sums to."""
    y, alpha = problem.targets, loss.label_smoothing
    weight = checks.per_output(
        "class_weight", loss.class_weight, problem.logits.shape[1], "classes", 1.0
    )
    own = weight[y] if y.ndim == 1 else y @ weight
    return np.asarray((1 - alpha) * own + alpha * weight.mean())


def _change_of_softmax(p: Float64, u: Float64, factor: Float64) -> Float64:
    """Return p (u - p . u), each row times a factor."""
    change = np.empty_like(p)
    sum_over_parts(lambda *parts: bend_rows(*parts[:-1]), p, u, factor, change)
    return change


def _scores(loss: Any, logits: Array) -> tuple[Float64, Any, Any]:
    """Return the scores and their first and second derivative in the logits."""
    s = reference.scores(logits, loss.softcap, loss.temperature)
    if loss.softcap is None:
        return s, 1.0 / loss.temperature, 0.0
    z = logits.astype(np.float64) / loss.softcap
    slope = 4 * sigmoid(2 * z) * sigmoid(-2 * z) / loss.temperature  # 1 - tanh^2, where that is 0
    return s, slope, -2 * np.tanh(z) * slope / loss.softcap


def _winner(p: Float64) -> Any:
    """Return the class of the largest p, (N, 1)."""
    return p.argmax(axis=1)[:, None]


def _complement(p: Float64) -> Float64:
    """Return 1 - p, the winner's as the sum of the others."""
    q, winner = 1 - p, _winner(p)
    others = np.where(np.arange(p.shape[1]) == winner, 0.0, p).sum(axis=1, keepdims=True)
    np.put_along_axis(q, winner, others, axis=1)
    return q


def _difference(t: Float64, p: Float64) -> Float64:
    """Return (sum t) p - t = p (sum of the other t) - t (1 - p)."""
    wins = np.arange(p.shape[1]) == _winner(p)
    rest = np.where(wins, 0.0, t).sum(axis=1, keepdims=True)
    winner = p * rest - t * _complement(p)
    return np.asarray(np.where(wins, winner, p * t.sum(axis=1, keepdims=True) - t))


def _two_term_product(loss: Any, problem: Problem, v: Float64) -> Float64:
    """Differentiate E = sum c_j (lse - s_j) + sum (1 - c_j) (lse - lse of all classes but j).

    The Hessian of a logsumexp times v is p (v - p . v), over all classes or over all but j, where
    the mean of v is m_j. What is left of the difference is summed apart for the winner w, whose
    1 - p may be too small to divide by: r is the softmax without it.
    """
    c = _masses(loss, problem)
    s = problem.logits.astype(np.float64)
    p = softmax(s)
    w = _winner(p)
    wins = np.arange(p.shape[1]) == w
    q, r = _complement(p), softmax(np.where(wins, -np.inf, s))
    r = np.where(np.isnan(r), 0.0, r)  # all others are -inf; a NaN of the row is in p as well
    mean = ((p * v).sum(axis=1, keepdims=True) - p * v) / q
    mean = np.where(wins, np.where(wins, 0.0, r * v).sum(axis=1, keepdims=True), mean)
    left = _left(loss, problem)
    odds = np.where(wins, 0.0, left * p / q)
    pull = np.where(wins, 0.0, left * p * (mean - v)) + odds * mean
    others = pull.sum(axis=1, keepdims=True) - pull
    others -= (odds.sum(axis=1, keepdims=True) - odds) * v
    own = (c.sum(axis=1, keepdims=True) + 1 - c) * q * (v - mean)
    c_w, p_w, v_w, mean_w = (np.take_along_axis(a, w, axis=1) for a in (c, p, v, mean))
    far = (1 - c_w) * p_w * (p * (mean_w - v_w) + r * (mean_w - v))
    return np.asarray(p * (own + others) + np.where(wins, 0.0, far))


def _binary_product(loss: Any, problem: Problem, v: Float64) -> Float64:
    """H v = (a + b) sigma' v for masses a on 1 and b on 0."""
    a, b = _binary_masses(loss, problem)
    up, down = _both_sigmoids(problem.logits)
    return np.asarray((a + b) * up * down * v)


def _quadratic_product(loss: Any, problem: Problem, v: Float64) -> Float64:
    """H v = sigma' (sigma' + (a - y) (1 - 2 a)) v."""
    up, down = _both_sigmoids(problem.logits)
    error = (1 - problem.targets) * up - problem.targets * down
    return np.asarray(up * down * (up * down + error * (down - up)) * v)


def _both_sigmoids(z: Array) -> tuple[Float64, Float64]:
    """Return sigmoid(z) and sigmoid(-z) = 1 - sigmoid(z) in float64."""
    z = z.astype(np.float64)
    return sigmoid(z), sigmoid(-z)


_PRODUCTS = {
    "cross_entropy": _cross_entropy_product,
    "softmax_binary_cross_entropy": _two_term_product,
    "binary_cross_entropy": _binary_product,
    "quadratic_cost": _quadratic_product,
}


# Given probabilities ----------------------------------------------------------------------------


def from_probabilities(
    loss: Any, p: Any, targets: Any, sample_weight: Any, normalizer: Any, logarithms: bool = False
) -> Any:
    """Return the reduced loss of given outputs (or their logarithms), nothing clipped."""
    checks.acts_on_logits(**loss.logit_options)
    given = checks.logits(p, "log_probabilities" if logarithms else "probabilities")
    problem = prepare(loss, given.astype(np.float64), targets, sample_weight)
    check = checks.log_probabilities if logarithms else checks.probabilities
    check(given, *_axis_and_part(problem, given.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = problem.logits if logarithms else np.log(problem.logits)
        errors = _errors(loss, problem, log_p, None if logarithms else problem.logits)
    return _reduce(loss, problem, errors, normalizer, result_type(given.dtype))


def _axis_and_part(problem: Problem, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the axis that must sum to 1, if there is one, and which entries take part."""
    part = np.broadcast_to(_column(problem.weights) != 0, problem.logits.shape)
    return (problem.axis if problem.flat_losses else None), _back(problem, part, shape, bool)


def _errors(loss: Any, problem: Problem, log_p: Float64, p: Float64 | None) -> Float64:
    """Return the errors of all rows (softmax) or outputs (sigmoid), from ln p and p if known."""
    if loss.name == "quadratic_cost":
        y, a = problem.targets, np.exp(log_p) if p is None else p
        return np.asarray(0.5 * ((1 - y) * a + y * (np.expm1(log_p) if p is None else p - 1)) ** 2)
    if loss.name == "binary_cross_entropy":
        a, b = _binary_masses(loss, problem)
        return -(_weigh(a, log_p) + _weigh(b, _log_complement(log_p, p)))
    if problem.targets.ndim == 1 and loss.name == "cross_entropy" and not loss.label_smoothing:
        weight = checks.per_output(
            "class_weight", loss.class_weight, log_p.shape[1], "classes", 1.0
        )
        y = problem.targets
        return -_weigh(weight[y], log_p[np.arange(len(y)), y])
    c = _masses(loss, problem)
    errors = -_weigh(c, log_p).sum(axis=1)
    if loss.name == "softmax_binary_cross_entropy":
        errors -= _weigh(_left(loss, problem), _log_complement(log_p, p)).sum(axis=1)
    return np.asarray(errors)


def _weigh(mass: Float64, log_p: Float64) -> Float64:
    """Return mass * ln p with 0 * -inf = 0."""
    return np.where(mass == 0, 0.0, mass * log_p)


def _log_complement(log_p: Float64, p: Float64 | None) -> Float64:
    """Return ln(1 - p), from p where it is known."""
    if p is not None:
        return np.log1p(-p)
    near = log_p > -0.5  # there 1 - p is small: expm1 keeps it
    return np.where(near, np.log(-np.expm1(log_p)), np.log1p(-np.exp(log_p)))


def _reduce(loss: Any, problem: Problem, errors: Float64, normalizer: Any, dtype: Any) -> Any:
    weights = problem.weights
    if weights.size:
        weights = np.broadcast_to(weights, errors.shape)
        with np.errstate(invalid="ignore"):
            errors = np.where(weights == 0, 0.0, weights * errors)
    divisor = divide_by(loss.reduction, problem, normalizer)
    with np.errstate(over="ignore"):  # a loss beyond float32 is inf
        if loss.reduction == "none":
            return errors.astype(dtype).reshape(problem.losses_shape)[()]
        return dtype(errors.sum() / divisor) if divisor else dtype(0.0)


# The chain rule ---------------------------------------------------------------------------------


def chain_rule(loss: Any, logits: Any, targets: Any) -> ChainRule:
    """Return every link of the chain rule, each computed on its own, and their product."""
    checks.no_z_loss(getattr(loss, "z_loss", 0.0))
    logits = checks.logits(logits)
    problem = prepare(loss, logits, targets, None)
    links = _softmax_links if loss.activation_name == "softmax" else _sigmoid_links
    with np.errstate(invalid="ignore"):  # where p underflows to 0, dE/dp dp/ds is inf times 0
        p, dE_dp, dp_ds, dE_ds = links(loss, problem)
    if problem.weights.size:  # ignored rows have no error
        dE_dp, dE_ds = (np.where(_column(problem.weights) == 0, 0.0, a) for a in (dE_dp, dE_ds))
    back = [_back(problem, rows, logits.shape, np.float64) for rows in (p, dE_dp, dE_ds)]
    if loss.activation_name == "softmax":
        rows = problem.losses_shape
        return ChainRule(back[0], back[1], dp_ds.reshape(rows + dp_ds.shape[1:]), back[2])
    return ChainRule(back[0], back[1], _back(problem, dp_ds, logits.shape, np.float64), back[2])


def _softmax_links(loss: Any, problem: Problem) -> tuple[Float64, Float64, Float64, Float64]:
    c = _masses(loss, problem)
    s, slope, _ = _scores(loss, problem.logits)
    p = softmax(s)
    q, classes = _complement(p), np.arange(p.shape[1])
    dE_dp = -reference.ratio(c, p)
    if loss.name == "softmax_binary_cross_entropy":
        dE_dp = dE_dp + reference.ratio(1 - c, q)
    dp_ds = reference.softmax_jacobian(p)
    dp_ds[:, classes, classes] = p * q  # where p rounds to 1 the slope of the winner is not 0
    dp_ds *= np.broadcast_to(slope, p.shape)[:, None, :]
    return p, dE_dp, dp_ds, reference.chain(dE_dp, dp_ds)


def _sigmoid_links(loss: Any, problem: Problem) -> tuple[Float64, Float64, Float64, Float64]:
    up, down = _both_sigmoids(problem.logits)
    if loss.name == "quadratic_cost":
        dE_da = (1 - problem.targets) * up - problem.targets * down  # = a - y
    else:
        positive, negative = _binary_masses(loss, problem)
        dE_da = reference.ratio(negative, down) - reference.ratio(positive, up)
    return up, dE_da, up * down, dE_da * (up * down)
