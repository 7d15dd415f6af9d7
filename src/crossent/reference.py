"""The formulas, one small function each: NumPy, float64, obvious on sight.

Nothing here is fast and nothing here guards its tails: this is the mathematics as it stands on
paper, the oracle that tests and documentation compare with. Logarithms are natural, so every
error is in nats. Letters: ``z`` or ``s`` scores (logits), ``a`` or ``p`` the outputs that an
activation makes of them, ``y`` or ``c`` the targets, J outputs or C classes on the last axis.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _xlogy(x: Array, y: Array) -> Array:
    """Return x ln y with 0 ln 0 = 0, the limit: an impossible event that did not happen is free."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0, 0.0, x * np.log(y))


def _array(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


# Activations and the decision -------------------------------------------------------------------


def sigmoid(z: ArrayLike) -> Array:
    """Return a = 1 / (1 + exp(-z)), elementwise, in [0, 1].

    Source: Bishop, Pattern Recognition and Machine Learning (2006), eq. 4.59.
    """
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-_array(z))))


def softmax(s: ArrayLike) -> Array:
    """Return p_j = exp(s_j) / sum_k exp(s_k) over the last axis; shape as given.

    The common factor exp(-max s) cancels and only keeps exp from overflowing.
    Source: Bishop (2006), eq. 4.62.
    """
    e = np.exp(_array(s) - np.max(s, axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def one_hot(p: ArrayLike) -> Array:
    """Return the one-hot decision: 1 for the (first) largest of the last axis, else 0."""
    p = _array(p)
    return np.asarray(np.eye(p.shape[-1])[p.argmax(axis=-1)])


def logsumexp(s: ArrayLike) -> Array:
    """Return ln sum_j exp(s_j) over the last axis."""
    m = np.max(s, axis=-1, keepdims=True)
    return np.asarray(m[..., 0] + np.log(np.exp(_array(s) - m).sum(axis=-1)))


# Errors of one sample, in nats ------------------------------------------------------------------


def binary_cross_entropy(a: ArrayLike, y: ArrayLike) -> Array:
    """Return -[y ln a + (1 - y) ln(1 - a)], elementwise, for a in [0, 1] and y in [0, 1].

    Source: Bishop (2006), eq. 4.90, one sample.
    """
    a, y = _array(a), _array(y)
    return -(_xlogy(y, a) + _xlogy(1 - y, 1 - a))


def generalised_cross_entropy(a: ArrayLike, y: ArrayLike) -> Array:
    """Return -sum_j [y_j ln a_j + (1 - y_j) ln(1 - a_j)] over the J outputs on the last axis.

    The binary cross-entropy of several sigmoid outputs at once.
    Source: Nielsen, Neural Networks and Deep Learning (2015), eq. 63, one sample.
    """
    return np.asarray(binary_cross_entropy(a, y).sum(axis=-1))


def cross_entropy(p: ArrayLike, c: ArrayLike) -> Array:
    """Return -sum_j c_j ln p_j over the last axis: the one-term error of a softmax layer.

    Source: Bishop (2006), eq. 4.108, one sample.
    """
    return np.asarray(-_xlogy(_array(c), _array(p)).sum(axis=-1))


def two_term_cross_entropy(p: ArrayLike, c: ArrayLike) -> Array:
    """Return -sum_j [c_j ln p_j + (1 - c_j) ln(1 - p_j)] over the last axis, p a softmax.

    The same sum as `generalised_cross_entropy`; what differs is where p comes from, and with it
    the gradient: see `two_term_gradient`.
    """
    return generalised_cross_entropy(p, c)


def quadratic_cost(a: ArrayLike, y: ArrayLike) -> Array:
    """Return 1/2 sum_j (a_j - y_j)^2 over the last axis.

    Source: Nielsen (2015), eq. 6, one sample.
    """
    return np.asarray(0.5 * ((_array(a) - _array(y)) ** 2).sum(axis=-1))


# The links of the chain rule --------------------------------------------------------------------


def binary_cross_entropy_dE_da(a: ArrayLike, y: ArrayLike) -> Array:
    """Return dE/da = -y/a + (1 - y)/(1 - a), elementwise; a term of weight 0 is 0."""
    a, y = _array(a), _array(y)
    return ratio(1 - y, 1 - a) - ratio(y, a)


def cross_entropy_dE_dp(p: ArrayLike, c: ArrayLike) -> Array:
    """Return dE/dp_j = -c_j / p_j; a term with c_j = 0 is 0."""
    return -ratio(_array(c), _array(p))


def two_term_dE_dp(p: ArrayLike, c: ArrayLike) -> Array:
    """Return dE/dp_j = -c_j / p_j + (1 - c_j) / (1 - p_j); a term of weight 0 is 0."""
    return binary_cross_entropy_dE_da(p, c)


def quadratic_cost_dE_da(a: ArrayLike, y: ArrayLike) -> Array:
    """Return dE/da = a - y, elementwise."""
    return _array(a) - _array(y)


def sigmoid_prime(z: ArrayLike) -> Array:
    """Return da/dz = sigmoid(z) (1 - sigmoid(z)): the factor that slows learning down."""
    a = sigmoid(z)
    return a * (1 - a)


def softmax_jacobian(p: ArrayLike) -> Array:
    """Return dp_i/ds_j = p_i (1[i = j] - p_j), shape (..., C, C), symmetric.

    Source: Bishop (2006), eq. 4.106.
    """
    p = _array(p)
    return np.asarray(p[..., :, None] * (np.eye(p.shape[-1]) - p[..., None, :]))


def chain(dE_dp: ArrayLike, dp_ds: ArrayLike) -> Array:
    """Return dE/ds_j = sum_i dE/dp_i dp_i/ds_j: the chain rule, with every term of the sum."""
    return np.asarray(np.einsum("...i,...ij->...j", _array(dE_dp), _array(dp_ds)))


def ratio(x: Array, y: Array) -> Array:
    """Return x / y with 0 / 0 = 0: a term of weight 0 has no slope."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0, 0.0, x / y)


# The simplified gradients in the scores ---------------------------------------------------------


def binary_cross_entropy_gradient(a: ArrayLike, y: ArrayLike) -> Array:
    """Return dE/dz = a - y: sigmoid and two-term error, where sigma' cancels.

    Source: Nielsen (2015), eq. 60 and 61.
    """
    return _array(a) - _array(y)


def cross_entropy_gradient(p: ArrayLike, c: ArrayLike) -> Array:
    """Return dE/ds = (sum_j c_j) p - c: softmax and one-term error; p - c for a distribution c.

    Source: Bishop (2006), eq. 4.109.
    """
    p, c = _array(p), _array(c)
    return np.asarray(c.sum(axis=-1, keepdims=True) * p - c)


def two_term_gradient(p: ArrayLike, c: ArrayLike) -> Array:
    """Return dE/ds_k = u_k - p_k sum_j u_j with u = (p - c) / (1 - p): softmax, two-term error.

    It is not p - c: that would drop the off-diagonal terms of `softmax_jacobian`. For two classes
    and sum c = 1 it is 2 (p - c). Source: derived in docs/math.md.
    """
    p, c = _array(p), _array(c)
    u = (p - c) / (1 - p)
    return np.asarray(u - p * u.sum(axis=-1, keepdims=True))


def quadratic_cost_gradient(a: ArrayLike, y: ArrayLike) -> Array:
    """Return dE/dz = (a - y) a (1 - a): sigmoid and quadratic cost, where sigma' stays.

    Source: Nielsen (2015), eq. 55 and 56.
    """
    a, y = _array(a), _array(y)
    return (a - y) * a * (1 - a)


# The layer z = X w + b over n samples -----------------------------------------------------------


def layer_gradient(X: ArrayLike, dE_dz: ArrayLike) -> tuple[Array, Array]:
    """Return dC/dw = (1/n) X^T dE/dz, shape (D, J), and dC/db = (1/n) sum dE/dz, shape (J,).

    X has shape (n, D), dE/dz shape (n, J), and C is the mean error. With dE/dz = a - y these are
    the simplified forms in which sigma' does not appear. Source: Nielsen (2015), eq. 61 and 62.
    """
    X, dE_dz = _array(X), _array(dE_dz)
    return X.T @ dE_dz / len(X), np.asarray(dE_dz.mean(axis=0))


def layer_gradient_with_sigma_prime(
    X: ArrayLike, dE_da: ArrayLike, z: ArrayLike
) -> tuple[Array, Array]:
    """Return dC/dw and dC/db of a sigmoid layer with the factor sigma'(z) written out.

    dC/dw = (1/n) X^T (dE/da sigma'(z)); dC/db = (1/n) sum dE/da sigma'(z); shapes as in
    `layer_gradient`. Source: Nielsen (2015), eq. 55 and 56 in general form.
    """
    return layer_gradient(X, _array(dE_da) * sigmoid_prime(z))


# The options ------------------------------------------------------------------------------------


def scores(logits: ArrayLike, softcap: float | None = None, temperature: float = 1.0) -> Array:
    """Return s = softcap tanh(logits / softcap) / temperature: what the softmax sees.

    Source: Gemma Team, Gemma 2 (2024), section 2, for the softcap.
    """
    s = _array(logits)
    if softcap is not None:
        s = softcap * np.tanh(s / softcap)
    return np.asarray(s / temperature)


def smooth(c: ArrayLike, label_smoothing: float) -> Array:
    """Return (1 - alpha) c + alpha / C, C classes on the last axis.

    Source: Szegedy et al., Rethinking the Inception Architecture (2016), section 7.
    """
    c = _array(c)
    return np.asarray((1 - label_smoothing) * c + label_smoothing / c.shape[-1])


def smooth_binary(y: ArrayLike, label_smoothing: float) -> Array:
    """Return (1 - alpha) y + alpha / 2: `smooth` over the two classes of one output."""
    return (1 - label_smoothing) * _array(y) + label_smoothing / 2


def weighted_binary_cross_entropy(a: ArrayLike, y: ArrayLike, pos_weight: Any = 1.0) -> Array:
    """Return -[pos_weight y ln a + (1 - y) ln(1 - a)], elementwise."""
    a, y = _array(a), _array(y)
    return np.asarray(-(pos_weight * _xlogy(y, a) + _xlogy(1 - y, 1 - a)))


def z_loss(s: ArrayLike, coefficient: float) -> Array:
    """Return coefficient * logsumexp(s)^2, per row.

    Source: Chowdhery et al., PaLM (2022), section 5.
    """
    return np.asarray(coefficient * logsumexp(s) ** 2)
