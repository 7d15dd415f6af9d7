"""The PyTorch front end: losses and activations of tensors, differentiable.

CPU tensors lend their memory to the NumPy front end inside an operator, so that autograd,
`torch.compile` and `torch.export` see it: one pass computes the loss and, where autograd will ask
for it, the gradient, which the backward pass multiplies by what comes from above. Everything else
(devices without kernels, `torch.func`, forward mode, derivatives of second order, gradients in
targets and weights) is computed by torch_plain.py.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from crossent import checks, plain, torch_checks, torch_plain
from crossent import numpy as on_arrays
from crossent.sums import LossSums
from crossent.torch_operators import operator
from crossent.torch_tensors import (
    HALF_TYPES,
    are_transformed,
    array_of,
    arrays_of,
    as_tensor,
    beside,
    check_tensor,
    computed_in,
    is_on_cpu,
    is_wanted,
    scaled,
    stand_in,
    tensor_of,
    widest,
)

OPTIONS = {  # what is read of a loss, but for weights of classes or positives: those are tensors
    "name": "str",
    "activation_name": "str",
    "is_plain": "bool",
    "reduction": "str",
    "label_smoothing": "float",
    "ignore_index": "int",
    "axis": "int",
    "z_loss": "float",
    "softcap": "float?",
    "temperature": "float",
}
LACKING = {  # where a loss has no such option
    "ignore_index": 0,
    "axis": -1,
    "z_loss": 0.0,
    "softcap": None,
    "temperature": 1.0,
}
SCHEMA = (
    "(Tensor logits, Tensor targets, Tensor? sample_weight, Tensor? weights, float? normalizer,"
    f" Tensor? upstream, {', '.join(f'{kind} {name}' for name, kind in OPTIONS.items())})"
    " -> (Tensor, Tensor)"
)


# A loss taken apart for an operator, and put together again --------------------------------------


def _options(loss: Any) -> list[Any]:
    """Return the loss as its operator takes it."""
    return [getattr(loss, name, LACKING.get(name)) for name in OPTIONS]


def _new_loss(options: tuple[Any, ...], weights: Tensor | None = None) -> SimpleNamespace:
    """Return what is read of the loss of these options and weights."""
    loss = SimpleNamespace(
        **dict(zip(OPTIONS, options, strict=True)), class_weight=None, pos_weight=None
    )
    if weights is not None:
        name = "class_weight" if loss.activation_name == "softmax" else "pos_weight"
        setattr(loss, name, checks.weights_option(name, weights.tolist()))
    return loss


_loss = lru_cache(_new_loss)  # for those without weights, which may be many


def _weights(loss: Any, logits: Tensor) -> Tensor | None:
    """Return the loss's weights of classes, or of positives, as a tensor beside the logits."""
    given = getattr(loss, "class_weight", None) or getattr(loss, "pos_weight", None)
    if given is None:
        return None
    return torch.tensor(given, dtype=widest(logits.device), device=logits.device)


# The operator of all losses ----------------------------------------------------------------------


def _compute(
    logits: Tensor,
    targets: Tensor,
    sample_weight: Tensor | None,
    weights: Tensor | None,
    normalizer: float | None,
    upstream: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient times upstream, or no gradient without upstream."""
    loss = _loss(options) if weights is None else _new_loss(options, weights)
    arrays = arrays_of(logits, targets, sample_weight)
    if upstream is None:
        return tensor_of(on_arrays.value(loss, *arrays, normalizer)), logits.new_empty(0)
    factor = float(upstream)
    value, gradient = on_arrays.value_and_grad(loss, *arrays, normalizer, None, factor)
    return tensor_of(value), tensor_of(gradient).to(logits.dtype)


def _compute_nothing(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """Return tensors of the right shapes and types, which hold nothing."""
    _, _, _, _, upstream, *options = others
    loss, shape = _loss(tuple(options)), list(logits.shape)
    if loss.activation_name == "softmax":
        del shape[loss.axis]
    value = logits.new_empty(shape if loss.reduction == "none" else [], dtype=computed_in(logits))
    return value, logits.new_empty(0 if upstream is None else logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, targets, sample_weight, weights, ctx.normalizer, _, *ctx.options = inputs
    ctx.set_materialize_grads(False)  # for the gradient that would be as many zeros
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, targets, sample_weight, weights, output[1])


def _backward(ctx: Any, upstream: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the gradient in the logits, and nothing for the other arguments."""
    nothing = (None for _ in range(5 + len(ctx.options)))
    if upstream is None:
        return None, *nothing
    logits, targets, sample_weight, weights, gradient = ctx.saved_tensors
    call = (logits, targets, sample_weight, weights, ctx.normalizer)
    loss = _loss(tuple(ctx.options))
    if torch.is_grad_enabled():  # the gradient will be differentiated in its turn
        z = logits.view_as(logits)  # whose hooks are its own: those of the logits run once
        result = _gradient(torch_plain.value(loss, z, *call[1:]), z, upstream)
    elif gradient.shape == logits.shape and _is_rounded_once(gradient, upstream):
        result = scaled(gradient, _along(loss, upstream))
    else:
        result = _operator(*call, upstream, *ctx.options)[1]
    return result, *nothing


def _is_rounded_once(gradient: Tensor, upstream: Tensor) -> bool:
    """Return whether gradient * upstream has one rounding: a half type has had its own already."""
    if gradient.dtype not in HALF_TYPES:
        return True
    known = type(upstream) is Tensor  # else a compiler's stand-in: it holds no numbers
    return known and abs(math.frexp(float(upstream))[0]) == 0.5  # a power of two moves exponents


def _gradient(value: Tensor, logits: Tensor, upstream: Tensor | None = None) -> Tensor:
    """Return a gradient that can itself be differentiated."""
    return torch.autograd.grad(value, logits, upstream, create_graph=True)[0]


def _along(loss: Any, upstream: Tensor) -> Tensor:
    """Return what comes from above in a shape that broadcasts against the gradient."""
    rows = loss.reduction == "none" and loss.activation_name == "softmax"
    return upstream.unsqueeze(loss.axis) if rows else upstream


_operator = operator("loss", SCHEMA, _compute, _compute_nothing, _save, _backward)


# What the losses ask for ------------------------------------------------------------------------


def value(
    loss: Any,
    logits: Tensor,
    targets: Any,
    sample_weight: Any,
    normalizer: float | None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the reduced loss, or the losses for reduction "none".

    `weights`, of classes or of positives, stand for a loss that has none of its own.
    """
    normalizer = checks.normalizer(normalizer, loss.reduction)
    y, w = beside(logits, targets, sample_weight)
    weights = _weights(loss, logits) if weights is None else as_tensor(logits, "weight", weights)
    if not _have_kernel(logits, y, w, weights):
        zero = torch_checks.check(loss, logits, y, w, weights)
        return torch_plain.value(loss, logits, y, w, weights, normalizer) + zero
    wanted = is_wanted(logits)
    if wanted and logits.dtype in HALF_TYPES and loss.reduction == "none":
        logits = logits.float()  # each loss has its own upstream: round after that
    upstream = torch.ones(()) if wanted and _may_be_rounded(logits) else None
    found: Tensor = _operator(logits, y, w, weights, normalizer, upstream, *_options(loss))[0]
    return found


def _have_kernel(logits: Tensor, *others: Tensor | None) -> bool:
    """Return whether the operator can take these tensors, and give autograd all it needs."""
    if not is_on_cpu(logits) or is_wanted(*others):
        return False
    weights = others[-1]
    return (weights is None or weights.ndim < 2) and not are_transformed(logits, *others)


def _may_be_rounded(logits: Tensor) -> bool:
    """Return whether the gradient may get its type before it is known what comes from above.

    Else it is left to the backward pass. Divided by a large batch, float16 would lose it, which is
    why losses are scaled; those of bfloat16 mostly are not, but a compiler does not see that.
    """
    if logits.dtype == torch.bfloat16:
        return not torch.compiler.is_compiling()
    return logits.dtype != torch.float16


def value_and_grad(
    loss: Any,
    logits: Tensor,
    targets: Any,
    sample_weight: Any,
    normalizer: float | None,
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the reduced loss and its gradient in the logits; autograd sees neither."""
    y, w = beside(logits, targets, sample_weight)
    if out is not None:
        _check_out(out, logits)
    if is_on_cpu(logits):
        buffer = None if out is None else array_of(out)
        found = on_arrays.value_and_grad(loss, *arrays_of(logits, y, w), normalizer, buffer)
        slope = tensor_of(found[1]).to(logits.dtype)
        if out is not None and out.data_ptr() != slope.data_ptr():
            out.copy_(slope)  # bfloat16 without a NumPy type for it
        if out is not None:
            torch.autograd.graph.increment_version(out)  # whoever saved it for later is told
        return tensor_of(found[0]), slope if out is None else out
    z, value = _on_tape(loss, logits, y, w, normalizer)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient if out is None else out.copy_(gradient)


def _check_out(out: Any, logits: Tensor) -> None:
    """Raise unless a gradient can be stored there."""
    check_tensor("out", out)
    if is_wanted(out):
        raise ValueError(
            "out requires a gradient, but autograd does not see what is stored there; detach it"
        )
    if torch._debug_has_internal_overlap(out) == 1:
        raise ValueError("out has elements that share memory; it must have its own for each")
    alike = out.shape == logits.shape and out.dtype == logits.dtype
    if not (alike and out.device == logits.device):
        raise ValueError(f"out has {_likeness(out)}; it must be like logits, {_likeness(logits)}")


def _likeness(tensor: Tensor) -> str:
    """Return what two tensors that are alike share, in words."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"shape {tuple(tensor.shape)}, dtype {dtype} and device {tensor.device}"


def _on_tape(
    loss: Any, logits: Tensor, targets: Tensor, weights: Tensor | None, normalizer: float | None
) -> tuple[Tensor, Tensor]:
    """Return logits of which autograd knows nothing yet, and the loss of them."""
    with torch.enable_grad():
        z = logits.detach().requires_grad_()
        return z, value(loss, z, targets, weights, normalizer)


def hvp(
    loss: Any,
    logits: Tensor,
    targets: Any,
    vector: Any,
    sample_weight: Any,
    normalizer: float | None,
) -> Tensor:
    """Return the Hessian of the reduced loss in the logits, times a vector; not differentiable."""
    y, w = beside(logits, targets, sample_weight)
    v = as_tensor(logits, "vector", vector)
    checks.vector(stand_in(v), tuple(logits.shape))
    if is_on_cpu(logits):
        z, t, weights = arrays_of(logits, y, w)
        product = plain.hvp(loss, z, t, array_of(v), weights, normalizer)
        return tensor_of(product).to(logits.dtype)
    scores, value = _on_tape(loss, logits, y, w, normalizer)
    (gradient,) = torch.autograd.grad(value.sum(), scores, create_graph=True)
    return torch.autograd.grad(gradient, scores, v.to(scores.dtype))[0]


def sums(loss: Any, logits: Tensor, targets: Any, sample_weight: Any) -> LossSums:
    """Return sums that merge with those of other samples."""
    y, w = beside(logits, targets, sample_weight)
    if is_on_cpu(logits):
        return on_arrays.sums(loss, *arrays_of(logits, y, w))
    weights = _weights(loss, logits)
    torch_checks.check(loss, logits, y, w, weights)
    return torch_plain.sums(loss, logits, y, w, weights)


def from_probabilities(
    loss: Any,
    p: Tensor,
    targets: Any,
    sample_weight: Any,
    normalizer: float | None,
    logarithms: bool = False,
) -> Tensor:
    """Return the reduced loss of given outputs (or their logarithms); not differentiable."""
    if is_wanted(p):
        raise ValueError(
            "the probabilities require a gradient, but only losses of logits are differentiable; "
            "give the logits, or detach the probabilities"
        )
    y, w = beside(p, targets, sample_weight)
    arrays = arrays_of(p.cpu(), y.cpu(), None if w is None else w.cpu())
    return tensor_of(plain.from_probabilities(loss, *arrays, normalizer, logarithms)).to(p.device)


def chain_rule(loss: Any, logits: Tensor, targets: Any) -> plain.ChainRule:
    """Return every link of the chain rule, as NumPy arrays in float64."""
    y, _ = beside(logits, targets, None)
    return plain.chain_rule(loss, *arrays_of(logits.cpu(), y.cpu(), None)[:2])


# Activations and decisions ------------------------------------------------------------------------


def _compute_activation(logits: Tensor, name: str, axis: int) -> Tensor:
    """Return the softmax or sigmoid, or its logarithm, or the logsumexp."""
    arguments = [] if "sigmoid" in name else [axis]
    found = getattr(on_arrays, name)(array_of(logits), *arguments)
    return tensor_of(found).contiguous()  # as a compiler is told below


def _activation_of_nothing(logits: Tensor, name: str, axis: int) -> Tensor:
    if name != "logsumexp":
        return logits.new_empty(logits.shape)
    shape = list(logits.shape)
    del shape[axis]
    return logits.new_empty(shape, dtype=computed_in(logits))


def _save_activation(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, ctx.name, ctx.axis = inputs
    ctx.save_for_backward(logits, output)


def _activation_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
    """Return the gradient in the logits, by formulas that can themselves be differentiated."""
    logits, output = ctx.saved_tensors
    if ctx.name == "sigmoid":
        return upstream * output * sigmoid(-logits), None, None
    if ctx.name == "log_sigmoid":
        return upstream * sigmoid(-logits), None, None
    if ctx.name == "logsumexp":
        return upstream.unsqueeze(ctx.axis) * softmax(logits, ctx.axis), None, None
    if ctx.name == "log_softmax":  # g_i - p_i sum g, where 1 - p_i is not found by subtraction
        rest = upstream.sum(ctx.axis, keepdim=True) - upstream
        return -upstream * torch.expm1(output) - softmax(logits, ctx.axis) * rest, None, None
    # Any constant may be taken from g; the winner's leaves its own gradient without cancellation.
    winner = logits.argmax(ctx.axis, keepdim=True)
    g = upstream - upstream.gather(ctx.axis, winner)
    return output * (g - (output * g).sum(ctx.axis, keepdim=True)), None, None


_activation = operator(
    "activation",
    "(Tensor logits, str name, SymInt axis) -> Tensor",
    _compute_activation,
    _activation_of_nothing,
    _save_activation,
    _activation_backward,
)


def _activate(name: str, logits: Tensor, axis: int = -1) -> Tensor:
    dtype = computed_in(logits) if name == "logsumexp" else logits.dtype
    if not is_on_cpu(logits) or are_transformed(logits):
        axis = torch_checks.check_logits(logits, None if "sigmoid" in name else axis)
        return torch_plain.activation(name, logits, axis).to(dtype)
    if is_wanted(logits) and logits.dtype in HALF_TYPES:
        logits = logits.float()  # so that the gradient is rounded once
    found: Tensor = _activation(logits, name, axis).to(dtype)
    return found


def softmax(logits: Tensor, axis: int = -1) -> Tensor:
    """Return the softmax along the axis; dtype as given."""
    return _activate("softmax", logits, axis)


def log_softmax(logits: Tensor, axis: int = -1) -> Tensor:
    """Return the logarithm of the softmax along the axis; dtype as given."""
    return _activate("log_softmax", logits, axis)


def logsumexp(logits: Tensor, axis: int = -1) -> Tensor:
    """Return ln sum exp along the axis; float32 for half types."""
    return _activate("logsumexp", logits, axis)


def sigmoid(logits: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-logits)), elementwise; dtype as given."""
    return _activate("sigmoid", logits)


def log_sigmoid(logits: Tensor) -> Tensor:
    """Return the logarithm of the sigmoid, elementwise; dtype as given."""
    return _activate("log_sigmoid", logits)


def activation(loss: Any, logits: Tensor) -> Tensor:
    """Return the outputs that a loss sees; dtype as given."""
    if loss.activation_name == "sigmoid":
        return sigmoid(logits)
    torch_checks.check_logits(logits, loss.axis)
    wide = logits.to(computed_in(logits))
    scores = torch_plain.scores(wide, loss.softcap, loss.temperature)
    return softmax(scores, loss.axis).to(logits.dtype)


def predict(loss: Any, logits: Tensor) -> Tensor:
    """Return the class of the largest score, or 1 where a sigmoid output is above one half."""
    if loss.activation_name == "sigmoid":
        torch_checks.check_logits(logits, None)
        return (logits > 0).to(torch.int64)
    return logits.argmax(torch_checks.check_logits(logits, loss.axis))


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return rows with 1 at each label, float64 where the device has it."""
    if not labels.is_meta:
        checks.labels(array_of(labels.cpu()), num_classes)
    rows = labels.new_zeros((*labels.shape, num_classes), dtype=widest(labels.device))
    return rows.scatter_(-1, labels.unsqueeze(-1).to(torch.int64), 1.0)
