"""The linear head on tensors: an operator that autograd differentiates, once and twice.

CPU tensors lend their memory to linear_numpy.py. Where autograd will ask for gradients of a single
number, one pass computes them beside the loss, and the backward pass multiplies them by what comes
from above; for reduction "none", each row having its own factor, the backward pass computes the
scores again. So does a second derivative. Everything else (devices without kernels, `torch.func`,
forward mode, gradients in targets and weights) is computed by torch operations, some rows at a
time, whose scores are computed again when they are differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossent import checks, linear_numpy, torch_linear_plain
from crossent.linear import GRADIENTS, HeadGradients, LinearCrossEntropy
from crossent.torch_linear_tensors import Tensors, tensors_of
from crossent.torch_operators import operator
from crossent.torch_tensors import (
    are_transformed,
    array_of,
    computed_in,
    is_on_cpu,
    is_wanted,
    scaled,
    tensor_of,
)

OPTIONS = {
    "reduction": "str",
    "label_smoothing": "float",
    "ignore_index": "int",
    "z_loss": "float",
    "softcap": "float?",
    "temperature": "float",
    "memory_budget": "int",
    "filter_tolerance": "float?",
}
SCHEMA = (
    "(Tensor features, Tensor weight, Tensor? bias, Tensor targets, Tensor? probabilities,"
    " Tensor? sample_weight, Tensor? class_weight, float? normalizer, Tensor? upstream,"
    f" bool[] wanted, {', '.join(f'{kind} {name}' for name, kind in OPTIONS.items())})"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


# A head taken apart for an operator, and put together again ---------------------------------------


def _options(head: LinearCrossEntropy) -> list[Any]:
    return [head.budget if name == "memory_budget" else getattr(head, name) for name in OPTIONS]


def _new_head(options: tuple[Any, ...], class_weight: Tensor | None = None) -> LinearCrossEntropy:
    given = None if class_weight is None else class_weight.tolist()
    return LinearCrossEntropy(class_weight=given, **dict(zip(OPTIONS, options, strict=True)))


_head = lru_cache(_new_head)  # for those without weights, which may be many


def _call(
    tensors: Tensors, normalizer: float | None, options: tuple[Any, ...]
) -> linear_numpy.Call:
    """Check a call of CPU tensors, and return it on arrays."""
    weights = tensors.class_weight
    head = _head(options) if weights is None else _new_head(options, weights)
    return linear_numpy.prepare(head, *tensors.arrays(), normalizer)


# The operator -------------------------------------------------------------------------------------


def _compute(*arguments: Any) -> tuple[Tensor, ...]:
    """Return the loss, and the gradients wanted in the type that is computed in.

    Arguments are those of the schema; `upstream` has a factor for each row, of reduction "none".
    """
    tensors, (normalizer, upstream, wanted, *options) = _tensors_and_rest(arguments)
    call = _call(tensors, normalizer, tuple(options))
    names = _names(wanted)
    above = None if upstream is None else array_of(upstream.reshape(-1))
    loss, layer = linear_numpy.evaluate(call, names, above)
    found = [
        tensor_of(layer.gradients[name]).to(computed_in(like)).reshape(like.shape)
        if name in names and like is not None
        else _nothing(tensors.features)
        for name, like in zip(GRADIENTS, tensors, strict=False)
    ]
    return tensor_of(loss), *found


def _compute_nothing(*arguments: Any) -> tuple[Tensor, ...]:
    """Return tensors of the right shapes and types, which hold nothing."""
    tensors, (_, _, wanted, reduction, *_) = _tensors_and_rest(arguments)
    features, dtype = tensors.features, computed_in(tensors.features)
    loss = features.new_empty(features.shape[:-1] if reduction == "none" else [], dtype=dtype)
    found = [
        features.new_empty(like.shape, dtype=dtype)
        if want and like is not None
        else _nothing(features)
        for like, want in zip(tensors, wanted, strict=False)
    ]
    return loss, *found


def _tensors_and_rest(arguments: tuple[Any, ...]) -> tuple[Tensors, tuple[Any, ...]]:
    """Return the operator's tensors, and what follows them: normalizer, upstream and options."""
    count = len(Tensors._fields)
    return Tensors(*arguments[:count]), arguments[count:]


def _names(wanted: Iterable[bool]) -> tuple[str, ...]:
    """Return the names of the gradients wanted, each of a tensor that is there."""
    return tuple(name for name, want in zip(GRADIENTS, wanted, strict=False) if want)


def _nothing(features: Tensor) -> Tensor:
    return features.new_empty(0, dtype=computed_in(features))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, (ctx.normalizer, _, ctx.computed, *options) = _tensors_and_rest(inputs)
    ctx.options = tuple(options)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients in features, weight and bias, and nothing for the other arguments."""
    nothing = (None,) * (7 + len(ctx.options))
    if upstream is None:
        return None, None, None, *nothing
    tensors, computed = _tensors_and_rest(ctx.saved_tensors)
    wanted = list(ctx.needs_input_grad[:3])
    call = (tensors, ctx.normalizer, ctx.options)
    if torch.is_grad_enabled():  # the gradients will be differentiated in their turn
        found = _differentiable_gradients(*tensors[:3], upstream, call, wanted)
    elif any(ctx.computed):
        pairs = zip(computed, tensors, strict=False)
        found = tuple(_times(gradient, upstream, like) for gradient, like in pairs)
    else:
        found = _gradients(*call, upstream, wanted)
    return *(g if want else None for g, want in zip(found, wanted, strict=True)), *nothing


def _times(gradient: Tensor, upstream: Tensor, like: Tensor | None) -> Tensor | None:
    """Return gradient * upstream, rounded to the type of the tensor it belongs to."""
    return None if like is None else scaled(gradient, upstream).to(like.dtype)


def _gradients(
    tensors: Tensors,
    normalizer: float | None,
    options: tuple[Any, ...],
    upstream: Tensor,
    wanted: list[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients, their rows multiplied by what comes from above."""
    rows = upstream.expand(tensors.features.shape[:-1])
    found = _operator(*tensors, normalizer, rows, wanted, *options)[1:]
    return tuple(
        g.to(like.dtype) if want and like is not None else None
        for g, like, want in zip(found, tensors[:3], wanted, strict=True)
    )


_operator = operator("linear_loss", SCHEMA, _compute, _compute_nothing, _save, _backward)


class _Gradients(torch.autograd.Function):
    """The gradients as functions of features, weight, bias and what comes from above."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients wanted; what the tensors are stands in the call too."""
        *_, upstream, call, wanted = arguments
        ctx.call, ctx.upstream = call, upstream
        ctx.set_materialize_grads(False)
        tensors, normalizer, options = call
        return _gradients(tensors, normalizer, options, upstream, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the derivatives of <above, gradients>, in closed form."""
        tensors, normalizer, options = ctx.call
        upstream = ctx.upstream
        wide = computed_in(tensors.features)
        changes = [None if t is None else array_of(t.to(wide)) for t in above]
        if changes[0] is not None:
            changes[0] = changes[0].reshape(-1, changes[0].shape[-1])
        names = _names(ctx.needs_input_grad)
        rows = upstream.expand(tensors.features.shape[:-1]).reshape(-1)
        found, slopes = linear_numpy.second_derivative(
            _call(tensors, normalizer, options),
            array_of(rows),
            linear_numpy.Directions(*changes),
            names,
        )
        bent = [
            tensor_of(found[name]).to(like.dtype).reshape(like.shape) if name in names else None
            for name, like in zip(GRADIENTS, tensors, strict=False)
        ]
        of_upstream = tensor_of(slopes if upstream.ndim else slopes.sum()).reshape(upstream.shape)
        return *bent, of_upstream.to(upstream.dtype), None, None


_differentiable_gradients: Callable[..., tuple[Tensor | None, ...]] = _Gradients.apply


# What the head asks for ---------------------------------------------------------------------------


def value(head: LinearCrossEntropy, *arguments: Any, class_weight: Tensor | None = None) -> Tensor:
    """Return the reduced loss, or the losses for reduction "none".

    Arguments are those of `tensors_of`, and the normalizer. `class_weight` stands for a head that
    has none of its own.
    """
    *given, normalizer = arguments
    tensors = tensors_of(head, *given, class_weight=class_weight)
    normalizer = checks.normalizer(normalizer, head.reduction)
    if not _have_kernel(tensors):
        return torch_linear_plain.value(head, tensors, normalizer)
    wanted = [is_wanted(tensor) and head.reduction != "none" for tensor in tensors[:3]]
    loss: Tensor = _operator(*tensors, normalizer, None, wanted, *_options(head))[0]
    return loss


def _have_kernel(tensors: Tensors) -> bool:
    """Return whether the operator can take these tensors, and give autograd all it needs."""
    if not is_on_cpu(tensors.features) or is_wanted(*tensors[3:]):
        return False
    return not are_transformed(*tensors)


def value_and_grad(
    head: LinearCrossEntropy, *arguments: Any, wanted: tuple[str, ...]
) -> tuple[Tensor, HeadGradients]:
    """Return the reduced loss and the gradients wanted; autograd sees neither.

    Arguments are those of `tensors_of`, and the normalizer.
    """
    *given, normalizer = arguments
    tensors = tensors_of(head, *given)
    if not is_on_cpu(tensors.features):
        return torch_linear_plain.gradients(head, tensors, normalizer, wanted)
    loss, found = linear_numpy.value_and_grad(head, *tensors.arrays(), normalizer, wanted=wanted)
    gradients: dict[str, Any] = {
        name: tensor_of(array).to(tensors.features.dtype)
        for name, array in zip(GRADIENTS, found, strict=False)
        if array is not None
    }
    return tensor_of(loss), found._replace(**gradients)
