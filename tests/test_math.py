"""The identities of docs/math.md at random points, in 50 digits: derivative by derivative.

The page's blocks run in test_docs.py. Here every gradient and Hessian that it states is held to
derivatives that mpmath takes of the definition, with all options at once.
"""

import mpmath as mp
import numpy as np
import pytest

import crossent

CLASSES = 4
MASSES = {"hard": (0, 1, 0, 0), "soft": (0.5, 0.2, 0.3, 0), "not a distribution": (1, 1, 0.5, 0)}


def scores_of(logits, softcap, temperature):
    return [softcap * mp.tanh(z / softcap) / temperature for z in logits]


def softmax_of(s):
    e = [mp.exp(each) for each in s]
    return [each / sum(e) for each in e]


def one_term(logits, c, weights, alpha, zeta, softcap, temperature):
    """Return the definition with every option, as it stands on the page."""
    s = scores_of(logits, softcap, temperature)
    t = [w * ((1 - alpha) * each + alpha / len(c)) for w, each in zip(weights, c, strict=True)]
    lse = mp.log(sum(mp.exp(each) for each in s))
    return zeta * lse**2 - sum(
        mass * mp.log(p) for mass, p in zip(t, softmax_of(s), strict=True) if mass
    )


def two_term(logits, c):
    error = mp.mpf(0)
    for mass, p in zip(c, softmax_of(logits), strict=True):
        error -= mass * mp.log(p) + (1 - mass) * mp.log(1 - p)
    return error


def derivatives(error, at):
    """Return the gradient and the Hessian of an error at a point, numerically in 50 digits."""
    with mp.workdps(50):
        at = [mp.mpf(float(z)) for z in at]
        unit = np.eye(len(at), dtype=int).tolist()
        gradient = [mp.diff(lambda *z: error(z), at, e) for e in map(tuple, unit)]
        hessian = [
            [
                mp.diff(lambda *z: error(z), at, tuple(map(sum, zip(e, f, strict=True))))
                for f in unit
            ]
            for e in unit
        ]
        return np.array(gradient, float), np.array(hessian, float)


@pytest.fixture
def logits():
    return np.random.default_rng(3).normal(0, 2, CLASSES)


def hold(loss, error, logits, targets):
    """Assert that value, gradient and Hessian of a loss are those of the definition."""
    row, c = logits[None], np.array(targets, float)[None]
    gradient, hessian = derivatives(error, logits)
    value, computed = loss.value_and_grad(row, c)
    with mp.workdps(50):
        np.testing.assert_allclose(value, float(error([mp.mpf(float(z)) for z in logits])), 1e-13)
    np.testing.assert_allclose(computed[0], gradient, rtol=1e-11, atol=1e-13)
    products = [loss.hvp(row, c, e[None])[0] for e in np.eye(len(logits))]
    np.testing.assert_allclose(products, hessian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("masses", MASSES)
def test_one_term_error_with_every_option(masses, logits):
    options = {"label_smoothing": 0.1, "z_loss": 0.02, "softcap": 5.0, "temperature": 1.5}
    weights = [1.0, 2.0, 0.5, 3.0]
    loss = crossent.CrossEntropy(class_weight=weights, reduction="sum", **options)
    alpha, zeta, softcap, temperature = map(mp.mpf, options.values())

    def error(z):
        return one_term(z, MASSES[masses], weights, alpha, zeta, softcap, temperature)

    hold(loss, error, logits, MASSES[masses])


@pytest.mark.parametrize("masses", MASSES)
def test_two_term_error(masses, logits):
    loss = crossent.SoftmaxBinaryCrossEntropy(reduction="sum")
    hold(loss, lambda z: two_term(z, MASSES[masses]), logits, MASSES[masses])


def test_sigmoid_errors(logits):
    y = MASSES["soft"]

    def sigmoid(z):
        return 1 / (1 + mp.exp(-z))

    def binary(z):
        pairs = zip(y, map(sigmoid, z), strict=True)
        return -sum(3 * t * mp.log(a) + (1 - t) * mp.log(1 - a) for t, a in pairs)

    def quadratic(z):
        return sum((a - t) ** 2 for t, a in zip(y, map(sigmoid, z), strict=True)) / 2

    hold(crossent.BinaryCrossEntropy(pos_weight=[3.0], reduction="sum"), binary, logits, y)
    hold(crossent.QuadraticCost(reduction="sum"), quadratic, logits, y)


@pytest.mark.parametrize("classes", [3, 5, 50])
def test_p_minus_c_is_not_the_gradient_of_the_two_term_error(classes):
    s = np.random.default_rng(classes).normal(size=(1, classes))
    loss = crossent.SoftmaxBinaryCrossEntropy()
    _, gradient = loss.value_and_grad(s, [0])
    mistake = loss.activation(s) - np.eye(classes)[[0]]
    assert np.abs(gradient - mistake).max() > 0.01
    quotient = gradient / mistake
    assert quotient.max() / quotient.min() > 1.001  # nor does it point the same way


def test_for_two_classes_the_two_term_gradient_is_twice_p_minus_c():
    s = np.random.default_rng(0).normal(0, 3, (20, 2))
    c = np.random.default_rng(1).dirichlet([1, 1], 20)
    loss = crossent.SoftmaxBinaryCrossEntropy(reduction="sum")
    _, gradient = loss.value_and_grad(s, c)
    np.testing.assert_allclose(gradient, 2 * (loss.activation(s) - c), rtol=1e-10, atol=1e-14)
