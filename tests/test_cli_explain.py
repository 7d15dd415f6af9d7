"""`crossent explain`: its numbers against reference.py, its verdict against the numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from crossent import reference
from crossent.cli.explain import LOSSES
from crossent.cli.group import commands


def explain(*arguments: str) -> str:
    done = CliRunner().invoke(commands, ["explain", *arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def table(text: str) -> dict[str, NDArray[np.float64]]:
    """Return the first table by its heads, which stand at least two spaces apart."""
    lines = [re.split(r"  +", line.strip()) for line in text.split("\n\n")[0].splitlines()]
    columns = np.array(lines[1:], dtype=float).T
    return dict(zip(lines[0], columns, strict=True))


def test_softmax_link_by_link() -> None:
    shown = explain("2.0,1.0,0.1", "--target", "0")
    links, s, c = table(shown), np.array([2.0, 1.0, 0.1]), np.array([1.0, 0, 0])
    p = reference.softmax(s)
    gradient = reference.cross_entropy_gradient(p, c)
    expected = {
        "class": [0, 1, 2],
        "score s": s,
        "p = softmax": p,
        "one-hot": [1, 0, 0],
        "target c": c,
        "dE/dp": reference.cross_entropy_dE_dp(p, c),
        "dE/ds by the chain": gradient,
        "in one step": gradient,
        "finite differences": gradient,
        "p - c": p - c,
    }
    assert list(links) == list(expected)
    for name, values in expected.items():
        assert links[name] == pytest.approx(values, rel=1e-5), name
    error = reference.cross_entropy(p, c)
    assert f"error  {error:.6g} nats = {error / np.log(2):.6g} bits" in shown
    jacobian = reference.softmax_jacobian(p)
    for i, row in enumerate(jacobian):
        line = next(line for line in shown.splitlines() if line.startswith(f"p{i}"))
        assert [float(cell) for cell in line.split()[1:]] == pytest.approx(row, rel=1e-5)


def test_sigmoid_link_by_link() -> None:
    links = table(explain("-1,2", "--target", "0,0.5", "--loss", "quadratic_cost"))
    z, y = np.array([-1.0, 2.0]), np.array([0, 0.5])
    a, slope = reference.sigmoid(z), reference.sigmoid_prime(z)
    assert links["a = sigmoid"] == pytest.approx(a, rel=1e-5)
    assert links["decision"].tolist() == [0, 1]
    assert links["dE/da"] == pytest.approx(a - y, rel=1e-5)
    assert links["da/dz"] == pytest.approx(slope, rel=1e-5)
    for name in ("dE/dz by the chain", "in one step", "finite differences"):
        assert links[name] == pytest.approx((a - y) * slope, rel=1e-5)


CASES = [
    (loss, scores, target)
    for loss in LOSSES
    for scores, target in [("0.3,-2,1", "0,1,0"), ("0.5,4", "0.25,0.75"), ("1,2,3", "0.5,0.9,0.1")]
]


@pytest.mark.parametrize(("loss", "scores", "target"), CASES)
def test_the_verdict_is_what_the_numbers_say(loss: str, scores: str, target: str) -> None:
    shown = explain(scores, "--target", target, "--loss", loss)
    links = table(shown)
    difference = links["p - c"] if "p - c" in links else links["a - y"]
    furthest = np.abs(links["in one step"] - difference).max()
    holds = furthest < 1e-5
    assert (" holds: " in shown) == holds
    if not holds:
        said = float(re.findall(r"does not hold, by up to (\S+?)[:(, ]", shown)[0])
        assert said == pytest.approx(furthest, rel=1e-2)
    twice = np.abs(links["in one step"] - 2 * difference).max() < 1e-5
    assert ("it is twice that" in shown) == (twice and not holds)


@pytest.mark.parametrize(
    ("loss", "scores", "target"),
    [("quadratic_cost", "0", "0.5"), ("softmax_binary_cross_entropy", "1,1", "0.5,0.5")],
)
def test_what_does_not_hold_may_not_show(loss: str, scores: str, target: str) -> None:
    shown = explain(scores, "--target", target, "--loss", loss)
    assert "does not hold, though these scores do not show it" in shown


def test_the_tail_is_kept_in_every_column() -> None:
    shown = explain("60,0,0", "--target", "0")
    for name in ("in one step", "finite differences"):
        assert table(shown)[name][0] == pytest.approx(-2 * np.exp(-60), rel=1e-5)
    assert "error  1.7513e-26 nats" in shown


def test_many_scores_leave_out_the_jacobian() -> None:
    shown = explain(",".join(map(str, range(20))), "--target", "3")
    assert "dp/ds is not shown: it has 400 entries." in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1,x", "--target", "0"], "SCORES is '1,x'; it must be numbers with commas, as 2.0,1.0"),
        (["", "--target", "0"], "SCORES is ''; it must be numbers with commas"),
        (["1,inf", "--target", "0"], "SCORES is '1,inf'; all numbers must be finite"),
        (["1,2", "--target", "2"], "--target is 2; with 2 scores a class must be in [0, 1]"),
        (
            ["1,2", "--target", "-1"],
            "--target is -1 and there are 2 scores; it must be a class, or",
        ),
        (["1,2", "--target", "0,1,0"], "--target is 0,1,0 and there are 2 scores"),
        (["1,2", "--target", "0,1.5"], "targets[0, 1] is 1.5; a probability must be in [0, 1]"),
        (
            ["1,2", "--target", "1", "--loss", "binary_cross_entropy"],
            "--target is 1 and there are 2 scores; it must be one target for each score",
        ),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(commands, ["explain", *arguments])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"crossent: {message}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
