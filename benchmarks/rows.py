"""Rows of scores that are hard to get right, and how far off a loss is on them.

Used by tests/test_accuracy.py, which holds the bounds, and by accuracy.py, which writes down
what was measured. Long rows repeat 2000 values, as the oracle computes equal ones once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

import crossent
from benchmarks import oracle

Array = NDArray[Any]

LOSSES = {
    "cross_entropy": crossent.CrossEntropy,
    "softmax_binary_cross_entropy": crossent.SoftmaxBinaryCrossEntropy,
    "binary_cross_entropy": crossent.BinaryCrossEntropy,
    "quadratic_cost": crossent.QuadraticCost,
}
SPREADS = (1.0, 30.0, 100.0)
JUST_LOST = {
    "float16": -8.0,
    "float32": -16.65,
    "float64": -36.75,
}  # exp of it is just under half an ulp of 1


# Scores: a row per family and spread -------------------------------------------------------------


def uniform(classes: int, spread: float, rng: Any) -> Array:
    """Scores anywhere in [-spread, spread]."""
    return rng.choice(rng.uniform(-spread, spread, 2000), classes, replace=classes > 2000)


def bell(classes: int, spread: float, rng: Any) -> Array:
    """Scores as a normal distribution has them."""
    values = np.clip(rng.normal(0.0, spread / 3, 2000), -spread, spread)
    return rng.choice(values, classes, replace=classes > 2000)


def falling(classes: int, spread: float, rng: Any) -> Array:
    """Sorted, so that a running sum begins with the large and adds ever smaller ones."""
    return -np.sort(-uniform(classes, spread, rng))


def certain(classes: int, spread: float, rng: Any) -> Array:
    """One score far above many equal ones: what they add up to is the whole loss."""
    return np.where(np.arange(classes) == rng.integers(classes), spread, 0.0)


def apart(classes: int, spread: float, rng: Any) -> Array:
    """One score at +spread, the others just above -spread."""
    row = uniform(classes, 0.5, rng) - (spread - 0.5)
    row[rng.integers(classes)] = spread
    return row


def tied(classes: int, spread: float, rng: Any) -> Array:
    """All scores equal."""
    return np.full(classes, spread)


FAMILIES = (uniform, bell, falling, certain, apart, tied)


def beside(classes: int, dtype: str) -> Array:
    """Rows of some 0 and then many so small that each is lost beside 1; together they count."""
    counts = [large for large in (1, 2, 64, 256) if large < classes]
    return np.where(np.arange(classes) < np.array(counts)[:, None], 0.0, JUST_LOST[dtype])


def scores(classes: int, dtype: str, spreads: Any, rng: Any) -> Array:
    """Return rows of scores (N, classes)."""
    rows = [family(classes, spread, rng) for family in FAMILIES for spread in spreads]
    return np.vstack([rows, beside(classes, dtype)]).astype(dtype)


# Targets -----------------------------------------------------------------------------------------


def class_targets(z: Array, rng: Any) -> Array:
    """Return class indices, in turn of a row's greatest score, of its smallest, and any."""
    choices = np.stack([z.argmax(axis=1), z.argmin(axis=1), rng.integers(z.shape[1], size=len(z))])
    return choices[np.arange(len(z)) % 3, np.arange(len(z))]


def soft_targets(z: Array, rng: Any) -> Array:
    """Return probabilities, in turn any, nearly certain of the prediction, nearly as predicted."""
    anything = np.array([shares(row, rng) for row in z])
    certain = 1e-6 * anything
    certain[np.arange(len(z)), z.argmax(axis=1)] += 1 - 1e-6
    predicted = 0.01 * anything + 0.99 * softmax(z.astype(np.float64), axis=1)
    choices = np.stack([anything, certain, predicted])
    return choices[np.arange(len(z)) % 3, np.arange(len(z))].astype(z.dtype)


def shares(row: Array, rng: Any) -> Array:
    """Return a random distribution in which equal scores have equal probabilities."""
    values, kind = np.unique(row, return_inverse=True)
    share = rng.exponential(size=len(values))[kind]
    return share / share.sum()


def draw(loss: str, kind: str, classes: int, dtype: str, spreads: Any) -> tuple[Array, Array]:
    """Return rows of scores, and targets of the kind "hard" or "soft"; short rows meet three."""
    rng = np.random.default_rng(classes)
    z = scores(classes, dtype, spreads, rng)
    z = np.repeat(z, 3, axis=0) if classes < 1000 else z
    if kind == "soft":
        return z, soft_targets(z, rng)
    if loss in oracle.SIGMOID:
        return z, rng.integers(2, size=z.shape).astype(dtype)
    return z, class_targets(z, rng)


# How far off -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Worst errors of losses and gradients, in ulps.

    value, gradient : relative to the true number. A difference is not asked to be better than
    8 ulp of float64 in the larger of the two numbers subtracted: no float64 knows more.
    value_terms, gradient_terms : relative to that larger number (for the value of the quadratic
    cost, to half its square).
    """

    value: float
    gradient: float
    value_terms: float
    gradient_terms: float


def errors(loss: str, z: Array, targets: Array, **options: Any) -> Errors:
    """Return the worst errors of a loss and its gradient."""
    options = {"reduction": "none", **options}
    value, gradient = LOSSES[loss](**options).value_and_grad(z, targets)
    true = oracle.truth(loss, options, z, targets)
    far = oracle.ulps(gradient, true.gradient)
    if z.dtype != np.float64:
        known = oracle.ulps(gradient.astype(np.float64), true.gradient, true.larger_term)
        far = np.where(known <= 8, 0.0, far)
    return Errors(
        float(oracle.ulps(value, true.value).max()),
        float(far.max()),
        float(oracle.ulps(value, true.value, true.larger_value).max()),
        float(oracle.ulps(gradient, true.gradient, true.larger_term).max()),
    )
