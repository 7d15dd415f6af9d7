"""Worst errors against mpmath, as a table: `python -m benchmarks.accuracy [--update-docs]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import oracle
from benchmarks.pages import DOCS, fill
from benchmarks.peers import installed
from benchmarks.rows import LOSSES, SPREADS, draw, errors

HEAD = (
    "| loss | targets | type | classes | value | gradient | bound | torch value | torch gradient |"
)


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    yield HEAD
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|"
    for loss in LOSSES:
        for kind in ("hard", "soft"):
            for dtype, bound in (("float32", 4), ("float64", 8)):
                for classes in (2, 3, 10, 1000, 50257):
                    if classes < 50257 or loss not in oracle.SIGMOID:
                        yield line(loss, kind, dtype, classes, bound)


def line(loss: str, kind: str, dtype: str, classes: int, bound: int) -> str:
    """Measure one row of the table."""
    z, targets = draw(loss, kind, classes, dtype, SPREADS if classes < 1000 else SPREADS[-1:])
    if classes == 50257:  # uniform, falling, certain, many small beside 64 large
        z, targets = z[[0, 2, 3, 8]], targets[[0, 2, 3, 8]]
    found = errors(loss, z, targets)
    terms = relative_to_terms(loss, kind, dtype)
    value, gradient = (
        (found.value_terms, found.gradient_terms) if terms else (found.value, found.gradient)
    )
    star = "*" if terms else ""
    peer = torch_errors(loss, kind, z, targets)
    numbers = f"{value:.2f}{star} | {gradient:.2f}{star} | {bound}"
    return f"| {loss} | {kind} | {dtype} | {classes} | {numbers} | {peer} |"


def relative_to_terms(loss: str, kind: str, dtype: str) -> bool:
    """Return whether a gradient is a difference that no number of its type can hold better."""
    if loss in oracle.SIGMOID:
        return kind == "soft"
    return dtype == "float64" and (kind == "soft" or loss == "softmax_binary_cross_entropy")


def torch_errors(loss: str, kind: str, z: Any, targets: Any) -> str:
    """Measure torch's own loss where it has one, with class indices or 0 and 1."""
    if kind != "hard" or not installed("torch"):
        return "|"
    import torch

    functions = {
        "cross_entropy": torch.nn.functional.cross_entropy,
        "binary_cross_entropy": torch.nn.functional.binary_cross_entropy_with_logits,
    }
    if loss not in functions:
        return "|"
    scores = torch.tensor(z, requires_grad=True)
    losses = functions[loss](scores, torch.tensor(targets), reduction="none")
    losses.sum().backward()
    true = oracle.truth(loss, {"reduction": "none"}, z, targets)
    value = oracle.ulps(losses.detach().numpy(), true.value).max()
    gradient = oracle.ulps(np.asarray(scores.grad), true.gradient).max()
    return f"{value:.3g} | {gradient:.3g}"


def main() -> None:
    lines = []
    for text in table():
        print(text, flush=True)
        lines.append(text)
    if "--update-docs" in sys.argv:
        fill(DOCS / "accuracy.md", "measured", "\n".join(lines))


if __name__ == "__main__":
    main()
