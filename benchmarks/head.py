"""The linear head: beside its three matrix products alone, and beside torch's own chunked one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import crossent
from benchmarks.measure import MEMORY, Call, Case, Prepare, Target
from benchmarks.peers import import_torch, installed
from crossent.kernels.blas import multiply

PRODUCTS = ("three products (BLAS)", "three products (torch)")
ROWS_AT_A_TIME = 512
TOLERANCE = 2.0**-12


BESIDE = 16e6  # bytes that a call may take beside inputs, gradients and its budget


def table() -> Iterator[tuple[str, Callable[[bool], Case]]]:
    """Yield the cases by name."""
    long = (
        Target("crossent", "<=", 1.05, "products"),
        Target("crossent, 75% ignored", "<=", 0.35, "crossent"),
        _faster(1.3),
    )
    yield "head_4096x768x32768", partial(_layer, 4096, 768, 32768, long)
    yield "head_2048x256x50257", partial(_layer, 2048, 256, 50257, (_faster(3.0),))
    yield "head_peaked_4096x768x32768", _peaked


def _faster(times: float) -> Target:
    return Target("torch, chunked", ">=", times, "crossent, tensors")


# Arrays -----------------------------------------------------------------------------------------


def _arrays(rows: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, weight, and labels; scores have variance 4."""
    rng = np.random.default_rng(0)
    features = 2 * rng.standard_normal((rows, width), dtype=np.float32)
    weight = rng.standard_normal((classes, width), dtype=np.float32) / np.float32(width**0.5)
    return features, weight, rng.integers(classes, size=rows)


# Ways -------------------------------------------------------------------------------------------


def _products(features: np.ndarray, weight: np.ndarray) -> dict[str, Prepare]:
    """The scores, and what a gradient in them brings to features and weight."""
    ways = {PRODUCTS[0]: partial(_blas_products, features, weight)}
    if installed("torch"):
        ways[PRODUCTS[1]] = partial(_torch_products, features, weight)
    return ways


def _blas_products(features: np.ndarray, weight: np.ndarray) -> Call:
    scores = np.zeros((ROWS_AT_A_TIME, len(weight)), np.float32)

    def call() -> None:
        back, weight_back = np.empty_like(features), np.zeros_like(weight)
        for start in range(0, len(features), ROWS_AT_A_TIME):
            x = features[start : start + ROWS_AT_A_TIME]
            z = scores[: len(x)]
            multiply(x, weight.T, z)
            multiply(z, weight, back[start : start + len(x)])
            multiply(z.T, x, weight_back, add=True)

    return call


def _torch_products(features: np.ndarray, weight: np.ndarray) -> Call:
    torch = import_torch()
    x_all, w = torch.from_numpy(features), torch.from_numpy(weight)
    scores = torch.zeros(ROWS_AT_A_TIME, len(w))

    def call() -> None:
        back, weight_back = torch.empty_like(x_all), torch.zeros_like(w)
        for start in range(0, len(x_all), ROWS_AT_A_TIME):
            x = x_all[start : start + ROWS_AT_A_TIME]
            z = scores[: len(x)]
            torch.mm(x, w.t(), out=z)
            torch.mm(z, w, out=back[start : start + len(x)])
            weight_back.addmm_(z.t(), x)

    return call


def _ours(head: Any, *call: Any, **options: Any) -> Prepare:
    return lambda: lambda: head.value_and_grad(*call, **options)


def _tensors(features: np.ndarray, weight: np.ndarray, labels: np.ndarray, loss: Any) -> Call:
    """Forward and backward of a loss of tensors."""
    torch = import_torch()
    x, w = (torch.from_numpy(array).requires_grad_() for array in (features, weight))
    y = torch.from_numpy(labels)
    return lambda: torch.autograd.grad(loss(x, w, y), (x, w))


def _torchs_own(*arrays: np.ndarray, chunked: bool) -> Call:
    torch = import_torch()
    options = torch.nn.LinearCrossEntropyOptions() if chunked else None
    return _tensors(
        *arrays,
        lambda x, w, y: torch.nn.functional.linear_cross_entropy(x, w, y, options=options),
    )


# Cases ------------------------------------------------------------------------------------------


def _layer(rows: int, width: int, classes: int, targets: tuple[Target, ...], quick: bool) -> Case:
    rows = max(1, rows // 16) if quick else rows
    features, weight, labels = _arrays(rows, width, classes)
    ignored = np.where(np.arange(rows) % 4 != 0, -100, labels)
    pair = (labels[:, None], np.full((rows, 1), 0.5))
    half = [array.astype(np.float16) for array in (features, weight)]
    head = crossent.LinearCrossEntropy()
    most = (features.nbytes + weight.nbytes + head.budget + BESIDE) / 1e6
    weighed = [Target(name, "<=", most, MEMORY) for name in ("crossent", "crossent, tensors")]
    ways = {
        "crossent": _ours(head, features, weight, labels),
        **_products(features, weight),
        "crossent, value only": lambda: lambda: head(features, weight, labels),
        "crossent, 75% ignored": _ours(head, features, weight, ignored),
        "crossent, weight frozen": _ours(head, features, weight, labels, wanted=("features",)),
        "crossent, pairs": _ours(head, features, weight, pair),
        "crossent, float16": _ours(head, *half, labels),
    }
    if installed("torch"):
        call = (features, weight, labels)
        ways["crossent, tensors"] = partial(_tensors, *call, crossent.linear_cross_entropy)
        ways["torch, chunked"] = partial(_torchs_own, *call, chunked=True)
        ways["torch, all scores"] = partial(_torchs_own, *call, chunked=False)
    return Case(
        2 * (features.nbytes + weight.nbytes),
        ways,
        (*targets, *weighed),
        groups={"products": PRODUCTS},
        limit="products",
    )


def _peaked(quick: bool) -> Case:
    """A row's own class has most of its probability, as in a model that has been trained.

    Some 50 of the 32768 entries of a row's gradient exceed the tolerance.
    """
    features, weight, labels = _arrays(256 if quick else 4096, 768, 32768)
    features += 14 * weight[labels]
    exact = crossent.LinearCrossEntropy()
    filtered = crossent.LinearCrossEntropy(filter_tolerance=TOLERANCE)
    return Case(
        2 * (features.nbytes + weight.nbytes),
        {
            "crossent": _ours(exact, features, weight, labels),
            "crossent, filtered": _ours(filtered, features, weight, labels),
            **_products(features, weight),
        },
        (Target("crossent, filtered", "<=", 0.75, "products"),),
        groups={"products": PRODUCTS},
        limit="products",
        checks={
            "what the filter dropped is within its bound": partial(
                _is_within_bound, exact, filtered, features, weight, labels
            )
        },
    )


def _is_within_bound(exact: Any, filtered: Any, *call: Any) -> bool:
    true, found = exact.value_and_grad(*call)[1], filtered.value_and_grad(*call)[1]
    rounding = 1e-5  # of the products, which add up in another order
    return all(
        np.linalg.norm(getattr(found, name) - getattr(true, name))
        <= getattr(found.dropped, name) + rounding * np.linalg.norm(getattr(true, name))
        for name in ("features", "weight")
    )
