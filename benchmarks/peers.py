"""The same work done by other libraries; one that is not installed is left out, by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import crossent
from benchmarks.measure import Call, Prepare


@dataclass(frozen=True)
class Work:
    """The mean of a loss over some scores, with its gradient or without.

    Attributes
    ----------
    kind : str
        "index" or "dense" for softmax with class indices or probabilities, or "sigmoid".
    """

    kind: str
    logits: np.ndarray
    targets: np.ndarray
    gradient: bool = True

    @property
    def bytes_moved(self) -> int:
        return (1 + self.gradient) * self.logits.nbytes + self.targets.nbytes


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


MISSING = [
    name for name in ("torch", "jax", "optax", "sklearn", "tensorflow") if not installed(name)
]


def peers(work: Work) -> dict[str, Prepare]:
    """Return every way of other libraries to do the work."""
    ways: dict[str, Prepare] = {}
    if installed("torch"):
        ways["torch eager"] = partial(_torch, work, compiled=False)
        ways["torch.compile"] = partial(_torch, work, compiled=True)
    if installed("jax") and installed("optax"):
        ways["JAX optax"] = partial(_jax, work)
    if installed("tensorflow"):
        ways["TensorFlow"] = partial(_tensorflow, work)
    if installed("sklearn") and work.logits.dtype in (np.float32, np.float64):
        ways |= _sklearn(work)
    return ways


# PyTorch ----------------------------------------------------------------------------------------


def import_torch() -> Any:
    """Return PyTorch, set to as many threads as we use."""
    import torch

    torch.set_num_threads(crossent.get_num_threads())
    return torch


def _tensor(torch: Any, array: np.ndarray) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def torch_loss(kind: str, compiled: bool) -> Callable[..., Any]:
    """Return PyTorch's own loss for a kind of work."""
    torch = import_torch()
    functional = torch.nn.functional
    sigmoid = kind == "sigmoid"
    loss = functional.binary_cross_entropy_with_logits if sigmoid else functional.cross_entropy
    if not compiled:
        return loss
    torch.compiler.reset()  # or it would generalise over the shapes of earlier cases
    return torch.compile(loss)


def tensors(work: Work) -> tuple[Any, Any]:
    """Return scores and targets, in the arrays' memory."""
    torch = import_torch()
    z = _tensor(torch, work.logits).requires_grad_(work.gradient)
    return z, _tensor(torch, work.targets)


def _torch(work: Work, compiled: bool) -> Call:
    torch, loss = import_torch(), torch_loss(work.kind, compiled)
    z, y = tensors(work)
    if work.gradient:
        return lambda: torch.autograd.grad(loss(z, y), z)
    return torch.no_grad()(lambda: loss(z, y))


# JAX --------------------------------------------------------------------------------------------


def _jax(work: Work) -> Call:
    """Compiled, with optax."""
    import jax
    import optax

    losses = {
        "index": optax.softmax_cross_entropy_with_integer_labels,
        "dense": optax.softmax_cross_entropy,
        "sigmoid": optax.sigmoid_binary_cross_entropy,
    }
    # without it float64 would silently become float32
    jax.config.update("jax_enable_x64", work.logits.dtype == np.float64)

    def mean(z: Any, y: Any) -> Any:
        return losses[work.kind](z, y).mean()

    compute = jax.jit(jax.value_and_grad(mean) if work.gradient else mean)
    z, y = jax.numpy.asarray(work.logits), jax.numpy.asarray(work.targets)
    return lambda: jax.block_until_ready(compute(z, y))


# TensorFlow -------------------------------------------------------------------------------------


def _tensorflow(work: Work) -> Call:
    """Traced into a graph."""
    import tensorflow as tf

    losses = {
        "index": tf.nn.sparse_softmax_cross_entropy_with_logits,
        "dense": tf.nn.softmax_cross_entropy_with_logits,
        "sigmoid": tf.nn.sigmoid_cross_entropy_with_logits,
    }
    z, y = tf.constant(work.logits), tf.constant(work.targets)

    @tf.function
    def compute(z: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            mean = tf.reduce_mean(losses[work.kind](labels=y, logits=z))
        return (mean, tape.gradient(mean, z)) if work.gradient else mean

    return lambda: compute(z, y)


# scikit-learn -----------------------------------------------------------------------------------


def _sklearn(work: Work) -> dict[str, Prepare]:
    """Return its metric for values, its private loss module for gradients."""
    if work.kind == "dense":
        return {}
    if work.gradient:
        return {"sklearn _loss": partial(_sklearn_gradient, work)}
    return {"sklearn log_loss": partial(_sklearn_log_loss, work)} if work.kind == "index" else {}


def _sklearn_log_loss(work: Work) -> Call:
    """Given probabilities."""
    from sklearn.metrics import log_loss

    p = crossent.softmax(work.logits)
    labels = np.arange(work.logits.shape[1])
    return lambda: log_loss(work.targets, p, labels=labels)


def _sklearn_gradient(work: Work) -> Call:
    """The one its own classifiers use: losses and gradients per row, into memory given."""
    from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss

    softmax = work.kind == "index"
    loss = HalfMultinomialLoss(work.logits.shape[1]) if softmax else HalfBinomialLoss()
    y = work.targets.astype(work.logits.dtype)
    losses, gradient = np.empty(len(y), work.logits.dtype), np.empty_like(work.logits)
    return lambda: loss.loss_gradient(
        y,
        work.logits,
        loss_out=losses,
        gradient_out=gradient,
        n_threads=crossent.get_num_threads(),
    )
