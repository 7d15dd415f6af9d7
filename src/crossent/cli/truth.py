"""The true loss and gradient of a row, to 40 digits: what `crossent check` holds kernels to.

Python's decimal arithmetic, with so many digits that the formulas can stand as on paper: 40 beyond
what the scores of a row can cancel. No line is shared with the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

Numbers = list[Decimal]
SIGMOID = ("BinaryCrossEntropy", "QuadraticCost")  # losses whose outputs stand each on its own


@dataclass(frozen=True)
class Truth:
    """Losses of a row (one for softmax), its gradient, and the larger term of each derivative."""

    losses: Numbers
    gradient: Numbers
    larger: Numbers


def truth(loss: str, options: Mapping[str, Any], logits: list[float], masses: Numbers) -> Truth:
    """Return what a loss (class and options) must answer for one row, in 40 digits.

    `masses` are the target masses of the classes before smoothing.
    """
    reach = 2 * max(abs(z) for z in logits) / math.log(10)
    with localcontext(prec=40 + math.ceil(2 * reach)):
        z = [Decimal(x) for x in logits]
        option = {name: Decimal(value) for name, value in options.items()}
        if loss in SIGMOID:
            return _sigmoid_truth(loss, z, masses, option.get("pos_weight", Decimal(1)))
        alpha = option.get("label_smoothing", Decimal(0))
        t = [(1 - alpha) * c + alpha / len(z) for c in masses]
        s, slope = _scores(z, option)
        row = _one_term if loss == "CrossEntropy" else _two_terms
        error, gradient, larger = row(s, t, option.get("z_loss", Decimal(0)))
        gradient, larger = (
            [g * d for g, d in zip(part, slope, strict=True)] for part in (gradient, larger)
        )
        return Truth([error], gradient, larger)


def _scores(z: Numbers, option: dict[str, Decimal]) -> tuple[Numbers, Numbers]:
    """Return softcap tanh(z / softcap) / temperature and its derivative."""
    temperature, softcap = option.get("temperature", Decimal(1)), option.get("softcap")
    if softcap is None:
        return [x / temperature for x in z], [1 / temperature] * len(z)
    e = [(2 * x / softcap).exp() for x in z]
    scores = [softcap * (x - 1) / (x + 1) / temperature for x in e]
    return scores, [4 * x / (x + 1) ** 2 / temperature for x in e]


def _softmax(s: Numbers) -> tuple[Numbers, Decimal]:
    """Return p and ln sum exp."""
    e = [x.exp() for x in s]
    total = sum(e, Decimal(0))
    return [x / total for x in e], total.ln()


def _x_log_y(x: Decimal, y: Decimal) -> Decimal:
    return x * y.ln() if x else x


def _one_term(s: Numbers, t: Numbers, z_loss: Decimal) -> tuple[Decimal, Numbers, Numbers]:
    """-sum t ln p + z_loss lse^2, and (sum t + 2 z_loss lse) p - t."""
    p, lse = _softmax(s)
    pull = sum(t, 2 * z_loss * lse)
    loss = z_loss * lse**2 - sum(map(_x_log_y, t, p), Decimal(0))
    pairs = list(zip(p, t, strict=True))
    return loss, [pull * a - b for a, b in pairs], [max(abs(pull * a), b) for a, b in pairs]


def _two_terms(s: Numbers, c: Numbers, _: Decimal) -> tuple[Decimal, Numbers, Numbers]:
    """-sum [c ln p + (1 - c) ln(1 - p)], and u - p sum u with u = (p - c) / (1 - p)."""
    p, _lse = _softmax(s)
    pairs = list(zip(p, c, strict=True))
    loss = -sum((_x_log_y(b, a) + _x_log_y(1 - b, 1 - a) for a, b in pairs), Decimal(0))
    odds = [(1 - b) * a / (1 - a) for a, b in pairs]  # u = odds - c
    up, down = sum(odds, Decimal(0)), sum(c, Decimal(0))
    gradient = [o - b - a * (up - down) for o, (a, b) in zip(odds, pairs, strict=True)]
    larger = [max(o + a * down, b + a * up) for o, (a, b) in zip(odds, pairs, strict=True)]
    return loss, gradient, larger


def _sigmoid_truth(loss: str, z: Numbers, y: Numbers, pos_weight: Decimal) -> Truth:
    """-[w y ln a + (1 - y) ln(1 - a)] or (a - y)^2 / 2, output by output, with a = sigmoid(z)."""
    losses, gradient, larger = [], [], []
    for x, target in zip(z, y, strict=True):
        e = x.exp()
        up, down = e / (1 + e), 1 / (1 + e)
        if loss == "QuadraticCost":
            terms, factor = ((1 - target) * up, target * down), up * down
            losses.append((terms[0] - terms[1]) ** 2 / 2)
        else:
            terms, factor = ((1 - target) * up, pos_weight * target * down), Decimal(1)
            losses.append(-pos_weight * _x_log_y(target, up) - _x_log_y(1 - target, down))
        gradient.append((terms[0] - terms[1]) * factor)
        larger.append(max(terms) * factor)
    return Truth(losses, gradient, larger)
