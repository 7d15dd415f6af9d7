"""`crossent explain`: one row of scores, and every link of the chain rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from crossent.cli import output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LOSSES = {
    "cross_entropy": "CrossEntropy",
    "binary_cross_entropy": "BinaryCrossEntropy",
    "softmax_binary_cross_entropy": "SoftmaxBinaryCrossEntropy",
    "quadratic_cost": "QuadraticCost",
}
STEP = 1e-5  # of the finite differences
WIDEST = 12  # scores for which the whole Jacobian is printed


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("scores")
@click.option(
    "--target",
    required=True,
    help="The class, counted from 0; or a target in [0, 1] for each score: 0,0.5,1.",
)
@click.option("--loss", type=click.Choice(list(LOSSES)), default="cross_entropy", show_default=True)
def explain(scores: str, target: str, loss: str) -> None:
    """Show every link from scores to gradient.

    SCORES are numbers with commas: 2.0,1.0,0.1. Prints the outputs, the one-hot decision, the
    error, every link of the chain rule, the gradient in one step and by finite differences, and
    whether it is output minus target.
    """
    import crossent

    error = getattr(crossent, LOSSES[loss])(reduction="sum")
    s = _numbers("SCORES", scores)
    c = _targets(target, len(s), error.activation_name == "softmax")
    chain = error.chain_rule(s[None], c[None])
    value, fused = error.value_and_grad(s[None], c[None])
    slope = _finite_differences(lambda moved: error(moved[None], c[None]), s)
    softmax = error.activation_name == "softmax"
    _print_links(softmax, s, c, chain, fused[0], slope)
    units = "" if loss == "quadratic_cost" else f" nats = {value / math.log(2):.6g} bits"
    click.echo(f"\nerror  {value:.6g}{units}\n")
    if softmax:
        _print_jacobian(chain.dp_ds[0])
    click.echo(_verdict(loss, chain.p[0], c, fused[0]))


# Reading ----------------------------------------------------------------------------------------


def _numbers(name: str, text: str) -> Array:
    import numpy as np

    try:
        values = np.array([float(word) for word in text.split(",")])
    except ValueError:
        raise ValueError(
            f"{name} is {text!r}; it must be numbers with commas, as 2.0,1.0"
        ) from None
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is {text!r}; all numbers must be finite")
    return values


def _targets(text: str, count: int, softmax: bool) -> Array:
    """Return one target per score, from as many numbers, or from the number of a class."""
    import numpy as np

    if softmax and text.strip().isdigit() and count > 1:
        if int(text) >= count:
            raise ValueError(
                f"--target is {text}; with {count} scores a class must be in [0, {count - 1}]"
            )
        return np.asarray(np.eye(count)[int(text)])
    values = _numbers("--target", text)
    if len(values) != count:
        kind = "a class, or one target for each score" if softmax else "one target for each score"
        raise ValueError(f"--target is {text} and there are {count} scores; it must be {kind}")
    return values


# Printing ---------------------------------------------------------------------------------------


def _finite_differences(error: Callable[[Array], Any], s: Array) -> Array:
    import numpy as np

    steps = STEP * np.eye(len(s))
    return np.array([error(s + step) - error(s - step) for step in steps]) / (2 * STEP)


def _print_links(softmax: bool, s: Array, c: Array, chain: Any, fused: Array, slope: Array) -> None:
    p = chain.p[0]
    if softmax:
        decision = [float(j == p.argmax()) for j in range(len(p))]
        heads = ["class", "score s", "p = softmax", "one-hot", "target c", "dE/dp"]
        links = [s, p, decision, c, chain.dE_dp[0]]
        z, difference = "s", "p - c"
    else:
        heads = ["output", "score z", "a = sigmoid", "decision", "target y", "dE/da", "da/dz"]
        links = [s, p, (s > 0).astype(float), c, chain.dE_dp[0], chain.dp_ds[0]]
        z, difference = "z", "a - y"
    heads += [f"dE/d{z} by the chain", "in one step", "finite differences", difference]
    links += [chain.dE_ds[0], fused, slope, p - c]
    rows = zip(map(str, range(len(s))), *(map(output.number, each) for each in links), strict=True)
    output.table(heads, list(rows))


def _print_jacobian(jacobian: Array) -> None:
    """Print dp_i/ds_j, i down and j across."""
    if len(jacobian) > WIDEST:
        click.echo(f"dp/ds is not shown: it has {jacobian.size} entries.\n")
        return
    heads = ["dp/ds", *(f"s{j}" for j in range(len(jacobian)))]
    rows = [[f"p{i}", *map(output.number, row)] for i, row in enumerate(jacobian)]
    output.table(heads, rows)
    click.echo()


def _verdict(loss: str, p: Array, c: Array, gradient: Array) -> str:
    """Return whether the gradient is output minus target, and why."""
    furthest = float(abs(gradient - (p - c)).max())
    apart = f"by up to {furthest:.3g}" if furthest else "though these scores do not show it"
    if loss == "cross_entropy":
        if math.isclose(c.sum(), 1.0, rel_tol=1e-9):
            return (
                "dE/ds = p - c holds: the softmax's dp_j/ds_k = p_j (1[j = k] - p_k) cancels the "
                "denominators of this error's dE/dp_j = -c_j/p_j, and the targets sum to 1."
            )
        return (
            f"dE/ds = p - c does not hold, {apart}: the targets sum to "
            f"{c.sum():.6g}, and the gradient is (sum of c) p - c."
        )
    if loss == "binary_cross_entropy":
        return (
            "dE/dz = a - y holds: dE/da = (a - y) / (a (1 - a)), and the denominator is just the "
            "sigmoid's da/dz = a (1 - a)."
        )
    if loss == "quadratic_cost":
        return (
            f"dE/dz = a - y does not hold, {apart}: nothing cancels the sigmoid's "
            "da/dz = a (1 - a), which slows learning down where the output is near 0 or 1."
        )
    return _two_term_verdict(p, c, apart)


def _two_term_verdict(p: Array, c: Array, apart: str) -> str:
    twice = len(p) == 2 and math.isclose(c.sum(), 1.0, rel_tol=1e-9)
    exactly = " (it is twice that, as always for two classes)" if twice else ""
    return (
        f"dE/ds = p - c does not hold, {apart}{exactly}: with u = (p - c)/(1 - p) "
        "the gradient is u_k - p_k (sum of u). To reach p - c one has to drop the off-diagonal "
        "terms of dp/ds, as if the outputs did not depend on each other."
    )
