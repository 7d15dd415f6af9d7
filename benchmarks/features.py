"""The same questions to every library: no cell of the answers is typed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

import crossent
from benchmarks.peers import installed

Ask = Callable[..., tuple[Any, Any]]  # (scores, targets) -> mean loss, its gradient or None
ABSENT = "-"


@dataclass(frozen=True)
class Library:
    """How one library is asked.

    Attributes
    ----------
    timed : tuple
        Its contestants in the timings, and what to call each of them.
    softmax, sigmoid : callable or None
        The mean loss of scores and targets.
    ignoring : callable or None
        The same of softmax, with a third argument that says which rows take part.
    calls : tuple of callables
        Whose parameters are its options.
    """

    name: str
    timed: tuple[tuple[str, str], ...]
    softmax: Ask
    sigmoid: Ask | None
    ignoring: Ask | None
    calls: tuple[Callable[..., Any], ...]
    linear: bool


def libraries() -> Iterator[Library]:
    """Yield this library and those that are installed."""
    yield _ours()
    if installed("torch"):
        yield _torch()
    if installed("jax") and installed("optax"):
        yield _jax()
    if installed("sklearn"):
        yield _sklearn()


# How to ask -------------------------------------------------------------------------------------


def _ours() -> Library:
    def ignoring(scores: Any, targets: Any, part: Any) -> tuple[Any, Any]:
        return crossent.CrossEntropy().value_and_grad(scores, np.where(part, targets, -100))

    return Library(
        "crossent",
        (("crossent", ""),),
        crossent.CrossEntropy().value_and_grad,
        crossent.BinaryCrossEntropy().value_and_grad,
        ignoring,
        (crossent.CrossEntropy, crossent.CrossEntropy.__call__),
        hasattr(crossent, "linear_cross_entropy"),
    )


def _torch() -> Library:
    import torch
    from torch.nn import functional

    def ask(loss: Callable[..., Any], scores: Any, targets: Any) -> tuple[Any, Any]:
        z = torch.from_numpy(scores).requires_grad_()
        value = loss(z, torch.from_numpy(np.asarray(targets)))
        return value.item(), torch.autograd.grad(value, z)[0].numpy()

    def softmax(scores: Any, targets: Any) -> tuple[Any, Any]:
        return ask(functional.cross_entropy, scores, targets)

    return Library(
        f"PyTorch {torch.__version__.partition('+')[0]}",
        (("torch eager", ""), ("torch.compile", "compiled ")),
        softmax,
        lambda z, y: ask(functional.binary_cross_entropy_with_logits, z, y),
        lambda z, y, part: softmax(z, np.where(part, y, -100)),
        (functional.cross_entropy,),
        hasattr(functional, "linear_cross_entropy"),
    )


def _jax() -> Library:
    import jax
    import optax

    def ask(loss: Callable[..., Any], z: Any, y: Any, **options: Any) -> tuple[Any, Any]:
        mean = jax.value_and_grad(lambda z: loss(z, np.asarray(y), **options).mean())
        return mean(jax.numpy.asarray(z))

    def softmax(z: Any, y: Any, **options: Any) -> tuple[Any, Any]:
        index = np.ndim(y) < np.ndim(z)
        by_class = optax.softmax_cross_entropy_with_integer_labels
        return ask(by_class if index else optax.softmax_cross_entropy, z, y, **options)

    return Library(
        f"JAX {jax.__version__}, optax {optax.__version__}",
        (("JAX optax", ""),),
        softmax,
        lambda z, y: ask(optax.sigmoid_binary_cross_entropy, z, y),
        lambda z, y, part: softmax(z, y, where=np.repeat(part[:, None], z.shape[1], axis=1)),
        (optax.softmax_cross_entropy,),
        False,
    )


def _sklearn() -> Library:
    """The metric, which takes probabilities; what is timed is its private loss."""
    from scipy.special import softmax
    from sklearn.metrics import log_loss

    def ask(scores: Any, targets: Any) -> tuple[Any, Any]:
        with np.errstate(invalid="ignore"):
            p = softmax(scores, axis=1)
        labels = np.arange(scores.shape[1]) if np.ndim(targets) == 1 else None
        return log_loss(targets, p, labels=labels), None

    name = f"scikit-learn {version('scikit-learn')}"
    return Library(name, (("sklearn _loss", ""),), ask, None, None, (log_loss,), False)


# What is asked ----------------------------------------------------------------------------------


def _row(*scores: float) -> np.ndarray:
    return np.array(scores, dtype=np.float32)


SURE = _row(18, 0, 0)[None]
ORDINARY = _row(1, 2, 3)[None]
HALF_NAN = np.stack([_row(np.nan, np.nan, np.nan), _row(1, 2, 3)])
LOSS, SLOPE = 0, 1  # of the first score

QUESTIONS: tuple[tuple[str, str, tuple[Any, ...], int], ...] = (
    ("loss of scores (18, 0, 0) for class 0, float32", "softmax", (SURE, [0]), LOSS),
    ("its slope in the first score", "softmax", (SURE, [0]), SLOPE),
    ("loss of a sigmoid, z = -20 for target 0", "sigmoid", (_row(-20), _row(0)), LOSS),
    ("slope of a sigmoid, z = 20 for target 1", "sigmoid", (_row(20), _row(1)), SLOPE),
    ("loss of scores (inf, 0) for class 0", "softmax", (_row(np.inf, 0)[None], [0]), LOSS),
    ("loss of scores (1, 2, 3) for class 5", "softmax", (ORDINARY, [5]), LOSS),
    ("the same for class -1", "softmax", (ORDINARY, [-1]), LOSS),
    ("for probabilities (0.5, 0.5, 0)", "softmax", (ORDINARY, _row(0.5, 0.5, 0)[None]), LOSS),
    ("for probabilities (2, -1, 0)", "softmax", (ORDINARY, _row(2, -1, 0)[None]), LOSS),
    ("mean when all rows are ignored", "ignoring", (ORDINARY, [0], np.array([False])), LOSS),
    (
        "slope in an ignored row of NaN",
        "ignoring",
        (HALF_NAN, [0, 0], np.array([False, True])),
        SLOPE,
    ),
)

# What a signature names besides options: the data, the shape of the answer, the deprecated.
_NO_OPTIONS = {
    *("self", "input", "target", "logits", "targets", "labels", "y_true", "y_proba", "y_pred"),
    *("axis", "reduction", "reduce", "size_average", "normalize"),
}


def answers(library: Library) -> list[str]:
    """Return what a library answers to every question of `questions`."""
    names = [name for call in library.calls for name in inspect.signature(call).parameters]
    options = ", ".join(name for name in names if name not in _NO_OPTIONS)
    return [
        *(_answer(getattr(library, kind), given, what) for _, kind, given, what in QUESTIONS),
        options,
        "yes" if library.linear else "no",
    ]


def questions() -> list[str]:
    """Return the questions, in the order of their answers."""
    return [
        *(text for text, *_ in QUESTIONS),
        "options of the softmax loss",
        "layer and loss in one, for large vocabularies",
    ]


def _answer(ask: Ask | None, given: tuple[Any, ...], what: int) -> str:
    """Return a number, the name of the error that was raised, or that there is no such thing."""
    if ask is None:
        return ABSENT
    try:
        found = ask(*given)[what]
    except Exception as error:
        return type(error).__name__
    return ABSENT if found is None else f"{float(np.asarray(found).flat[0]) + 0.0:.3g}"
