"""The formulas themselves: numbers anyone can check by hand, each link of the chain, the layer."""

import math
from typing import Any

import numpy as np
import pytest
from mpmath import mp

from crossent import reference

LN2, LN3 = math.log(2), math.log(3)
Z = np.array([[2.0, 1.0, 0.125], [0.0, -1.0, 3.0], [-2.0, 0.5, 0.75], [1.0, 1.0, 1.0]])
C = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5]])


def slope(function: Any, at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Return the Jacobian (..., in) by central differences of 4th order, for rows."""
    columns = []
    for direction in np.eye(at.shape[-1]):
        f = [np.asarray(function(at + k * step * direction)) for k in (-2, -1, 1, 2)]
        columns.append((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step))
    return np.stack(columns, axis=-1)


# By hand ------------------------------------------------------------------------------------------

BY_HAND = [
    (reference.sigmoid(0.0), 0.5),
    (reference.sigmoid([LN3, -LN3]), [0.75, 0.25]),
    (reference.sigmoid([1000.0, -1000.0]), [1.0, 0.0]),
    (reference.sigmoid_prime([0.0, LN3]), [0.25, 0.1875]),
    (reference.softmax([0.0, LN2, math.log(5)]), [0.125, 0.25, 0.625]),
    (reference.softmax([1000.0, 1000.0]), [0.5, 0.5]),
    (reference.one_hot([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]), [[0, 1, 0], [1, 0, 0]]),
    (reference.logsumexp([0.0, LN2, math.log(5)]), math.log(8)),
    (reference.logsumexp([1000.0, 1000.0]), 1000 + LN2),
    (
        reference.binary_cross_entropy([0.5, 0.25, 0.25], [1.0, 0.0, 1.0]),
        [LN2, math.log(4 / 3), 2 * LN2],
    ),
    (reference.binary_cross_entropy([0.0, 1.0, 0.0], [0.0, 1.0, 1.0]), [0.0, 0.0, math.inf]),
    (
        reference.generalised_cross_entropy([[0.5, 0.25, 0.75]], [[1.0, 0.0, 1.0]]),
        [LN2 + 2 * math.log(4 / 3)],
    ),
    (reference.cross_entropy([0.125, 0.25, 0.625], [0.0, 1.0, 0.0]), 2 * LN2),
    (reference.cross_entropy([0.125, 0.25, 0.625], [0.5, 0.5, 0.0]), 2.5 * LN2),
    (reference.cross_entropy([0.0, 1.0], [0.0, 1.0]), 0.0),
    (reference.two_term_cross_entropy([0.25, 0.75], [1.0, 0.0]), 4 * LN2),
    (reference.quadratic_cost([0.5, 0.25], [1.0, 0.0]), 0.15625),
    (
        reference.binary_cross_entropy_dE_da([0.5, 0.25, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]),
        [-2.0, 4 / 3, 1.0, -1.0],
    ),
    (reference.cross_entropy_dE_dp([0.125, 0.25, 0.625], [0.0, 1.0, 0.0]), [0.0, -4.0, 0.0]),
    (reference.two_term_dE_dp([0.25, 0.75], [1.0, 0.0]), [-4.0, 4.0]),
    (reference.quadratic_cost_dE_da([0.5, 0.25], [1.0, 0.0]), [-0.5, 0.25]),
    (reference.softmax_jacobian([0.25, 0.75]), [[0.1875, -0.1875], [-0.1875, 0.1875]]),
    (reference.chain([-4.0, 4.0], [[0.1875, -0.1875], [-0.1875, 0.1875]]), [-1.5, 1.5]),
    (reference.binary_cross_entropy_gradient(0.75, 1.0), -0.25),
    (reference.cross_entropy_gradient([0.25, 0.75], [1.0, 0.0]), [-0.75, 0.75]),
    (reference.cross_entropy_gradient([0.25, 0.75], [1.0, 1.0]), [-0.5, 0.5]),
    (reference.two_term_gradient([0.25, 0.75], [1.0, 0.0]), [-1.5, 1.5]),
    (reference.two_term_gradient([0.25, 0.25, 0.5], [1.0, 0.0, 0.0]), [-13 / 12, 0.25, 5 / 6]),
    (reference.quadratic_cost_gradient(0.75, 1.0), -0.046875),
    (reference.scores([LN3, -LN3], 1.0, 2.0), [0.4, -0.4]),
    (reference.scores([3.0, 1.0]), [3.0, 1.0]),
    (reference.smooth([1.0, 0.0, 0.0, 0.0], 0.2), [0.85, 0.05, 0.05, 0.05]),
    (reference.smooth_binary([1.0, 0.0], 0.2), [0.9, 0.1]),
    (reference.weighted_binary_cross_entropy([0.5, 0.5], [1.0, 0.0], 3.0), [3 * LN2, LN2]),
    (reference.z_loss([0.0, 0.0], 0.5), 0.5 * LN2**2),
    (reference.ratio(np.array([0.0, 1.0, 1.0]), np.array([0.0, 2.0, 0.0])), [0.0, 0.5, math.inf]),
]


@pytest.mark.parametrize("number", range(len(BY_HAND)))
def test_numbers_anyone_can_check(number: int) -> None:
    computed, by_hand = BY_HAND[number]
    assert computed.dtype == np.float64
    np.testing.assert_allclose(computed, by_hand, rtol=4e-16, atol=1e-16)


def test_softcap_by_its_definition() -> None:
    np.testing.assert_allclose(reference.scores([1.0], 2.0, 0.5), [4 * math.tanh(0.5)], rtol=1e-15)


# Against mpmath -----------------------------------------------------------------------------------


def test_errors_in_60_digits() -> None:
    p = reference.softmax(Z)
    with mp.workdps(60):
        for row, c in zip(p, C, strict=True):
            pairs = [(mp.mpf(a), mp.mpf(b)) for a, b in zip(row, c, strict=True)]
            one = -mp.fsum(b * mp.log(a) for a, b in pairs)
            two = one - mp.fsum((1 - b) * mp.log(1 - a) for a, b in pairs)
            half_square = mp.fsum((a - b) ** 2 for a, b in pairs) / 2
            assert abs(reference.cross_entropy(row, c) - one) < 1e-15 * one
            assert abs(reference.two_term_cross_entropy(row, c) - two) < 1e-15 * two
            assert abs(reference.generalised_cross_entropy(row, c) - two) < 1e-15 * two
            assert abs(reference.quadratic_cost(row, c) - half_square) < 1e-15 * half_square


# Links --------------------------------------------------------------------------------------------

P = reference.softmax(Z)


@pytest.mark.parametrize(
    ("error", "link"),
    [
        (reference.binary_cross_entropy, reference.binary_cross_entropy_dE_da),
        (reference.generalised_cross_entropy, reference.binary_cross_entropy_dE_da),
        (reference.cross_entropy, reference.cross_entropy_dE_dp),
        (reference.two_term_cross_entropy, reference.two_term_dE_dp),
        (reference.quadratic_cost, reference.quadratic_cost_dE_da),
    ],
)
def test_derivative_of_each_error(error: Any, link: Any) -> None:
    for p, c in zip(P, C, strict=True):
        difference = slope(lambda p, c=c: error(p, c), p)
        expected = np.diag(link(p, c)) if difference.ndim == 2 else link(p, c)
        np.testing.assert_allclose(difference, expected, rtol=1e-8, atol=1e-9)


def test_derivative_of_each_activation() -> None:
    for z in Z:
        jacobian = slope(reference.softmax, z)
        np.testing.assert_allclose(
            jacobian, reference.softmax_jacobian(reference.softmax(z)), atol=1e-10
        )
        np.testing.assert_allclose(
            slope(reference.sigmoid, z), np.diag(reference.sigmoid_prime(z)), atol=1e-10
        )
    np.testing.assert_array_equal(reference.softmax_jacobian(P).shape, (4, 3, 3))


@pytest.mark.parametrize(
    ("link", "activation", "gradient"),
    [
        (reference.cross_entropy_dE_dp, reference.softmax, reference.cross_entropy_gradient),
        (reference.two_term_dE_dp, reference.softmax, reference.two_term_gradient),
        (
            reference.binary_cross_entropy_dE_da,
            reference.sigmoid,
            reference.binary_cross_entropy_gradient,
        ),
        (reference.quadratic_cost_dE_da, reference.sigmoid, reference.quadratic_cost_gradient),
    ],
)
def test_product_of_the_links_is_the_simplified_gradient(
    link: Any, activation: Any, gradient: Any
) -> None:
    outputs = activation(Z)
    if activation is reference.softmax:
        product = reference.chain(link(outputs, C), reference.softmax_jacobian(outputs))
    else:
        product = link(outputs, C) * reference.sigmoid_prime(Z)
    np.testing.assert_allclose(product, gradient(outputs, C), rtol=1e-13, atol=1e-15)


def test_p_minus_c_holds_for_softmax_with_one_term_and_sigmoid_with_two() -> None:
    distribution, multi_hot = C, np.round(C)
    np.testing.assert_allclose(reference.cross_entropy_gradient(P, distribution), P - C, atol=1e-16)
    a = reference.sigmoid(Z)
    np.testing.assert_array_equal(
        reference.binary_cross_entropy_gradient(a, multi_hot), a - multi_hot
    )
    # dropping the off-diagonal terms of the Jacobian is how texts reach p - c for two terms
    jacobian = reference.softmax_jacobian(P)
    diagonal = reference.two_term_dE_dp(P, C) * np.einsum("...ii->...i", jacobian)
    np.testing.assert_allclose(diagonal, P - C, atol=1e-15)
    assert np.abs(reference.two_term_gradient(P, C) - (P - C)).max() > 0.1


def test_two_term_gradient_of_two_classes_is_twice_p_minus_c() -> None:
    p, c = reference.softmax(Z[:, :2]), np.array([[0.25, 0.75]])
    np.testing.assert_allclose(reference.two_term_gradient(p, c), 2 * (p - c), atol=1e-15)


# The layer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["binary", "quadratic"])
def test_layer_gradients_agree_in_both_forms_and_with_differences(error: str) -> None:
    rng = np.random.default_rng(0)
    X, w, b, y = (
        rng.normal(size=(6, 4)),
        rng.normal(size=(4, 3)),
        rng.normal(size=3),
        rng.random((6, 3)),
    )

    def cost(w: Any, b: Any) -> Any:
        a = reference.sigmoid(X @ w + b)
        if error == "binary":
            return reference.generalised_cross_entropy(a, y).mean()
        return reference.quadratic_cost(a, y).mean()

    z = X @ w + b
    a = reference.sigmoid(z)
    if error == "binary":
        dE_da, dE_dz = (
            reference.binary_cross_entropy_dE_da(a, y),
            reference.binary_cross_entropy_gradient(a, y),
        )
    else:
        dE_da, dE_dz = reference.quadratic_cost_dE_da(a, y), reference.quadratic_cost_gradient(a, y)
    written_out = reference.layer_gradient_with_sigma_prime(X, dE_da, z)
    simplified = reference.layer_gradient(X, dE_dz)
    assert (simplified[0].shape, simplified[1].shape) == ((4, 3), (3,))
    for one, other in zip(written_out, simplified, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    by_weight = slope(lambda flat: cost(flat.reshape(4, 3), b), w.reshape(-1)).reshape(4, 3)
    np.testing.assert_allclose(by_weight, simplified[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(slope(lambda b: cost(w, b), b), simplified[1], rtol=1e-8, atol=1e-10)


def test_layer_gradient_by_hand() -> None:
    weights, bias = reference.layer_gradient([[1.0, 2.0], [3.0, 4.0]], [[0.5], [-0.5]])
    np.testing.assert_array_equal(weights, [[-0.5], [-0.5]])  # (0.5 - 1.5)/2, (1 - 2)/2
    np.testing.assert_array_equal(bias, [0.0])


def test_quadratic_cost_slows_down_where_cross_entropy_does_not() -> None:
    a = reference.sigmoid(np.array([-8.0, -4.0, 0.0]))
    quadratic = np.abs(reference.quadratic_cost_gradient(a, 1.0))
    entropy = np.abs(reference.binary_cross_entropy_gradient(a, 1.0))
    assert (np.diff(quadratic) > 0).all()  # the more wrong, the smaller
    assert (np.diff(entropy) < 0).all()  # the more wrong, the larger
