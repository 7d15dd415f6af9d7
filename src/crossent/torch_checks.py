"""The checks of tensors: what the NumPy front end would raise, on any device, also under vmap.

Shapes and types are checked on arrays that take no memory. Values are looked at where they lie, by
operators, which also see them under `torch.vmap`, and copied only for an error to name one of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossent import checks
from crossent.torch_tensors import are_probabilities, computed_in, stand_in, values_of


def check(
    loss: Any,
    logits: Tensor,
    targets: Tensor,
    sample_weight: Tensor | None,
    weights: Tensor | None,
) -> Tensor:
    """Raise what the NumPy front end would raise, else return 0, for the loss to add.

    Added, no compiler can drop it; being an operator, it looks at values under `torch.vmap` too.
    """
    arguments = (logits, targets, sample_weight, weights)
    detached = [None if given is None else given.detach() for given in arguments]
    softmax = loss.activation_name == "softmax"
    axis = checks.axis(loss.axis, logits.ndim) if softmax else None
    ignore_index = loss.ignore_index if softmax else 0
    zero: Tensor = _check(*detached, axis, ignore_index, 0)
    return zero


@torch.library.custom_op("crossent::check", mutates_args=())
def _check(
    logits: Tensor,
    targets: Tensor,
    sample_weight: Tensor | None,
    weights: Tensor | None,
    axis: int | None,
    ignore_index: int,
    batch_axes: int,
) -> Tensor:
    """Check shapes and values; axis None stands for a sigmoid loss.

    Every tensor begins with so many batch axes, which are no part of the loss's own shapes.
    """
    arguments = (logits, targets, sample_weight, weights, axis, ignore_index, batch_axes)
    zero: Tensor = _check_shapes(*arguments)
    if sample_weight is not None and not _are_weights(sample_weight):
        checks.sample_weight(values_of(sample_weight), tuple(sample_weight.shape))
    if weights is not None and not _are_weights(weights):
        name = "pos_weight" if axis is None else "class_weight"
        checks.weights_option(name, values_of(weights).reshape(-1))
    if axis is None or are_probabilities(targets, logits):
        along = -1 if axis is None else batch_axes + axis
        _check_probabilities(targets, sample_weight, along)
    else:
        _check_indices(targets, logits.shape[batch_axes + axis], ignore_index)
    return zero


@_check.register_fake
def _check_shapes(logits: Tensor, *others: Any) -> Tensor:
    """Check what takes no values to know; arguments are those of `_check`."""
    *tensors, axis, _, batch_axes = others
    z, y, w, v = (stand_in(tensor, batch_axes) for tensor in (logits, *tensors))
    shape = checks.logits(z).shape
    if axis is None:
        checks.binary_targets(y, shape)
        checks.sample_weight(w, shape[:-1] if len(shape) > 1 else shape, shape)
        name, count, of = "pos_weight", shape[-1] if len(shape) > 1 else 1, "outputs"
    else:
        checks.classes(shape[axis])
        checks.targets(y, shape, axis)
        checks.sample_weight(w, shape[:axis] + shape[axis + 1 :])
        name, count, of = "class_weight", shape[axis], "classes"
    if v is not None and v.ndim < 2:  # of more axes only a module makes them, which checks that
        checks.per_output(name, v, count, of)
    return logits.new_zeros((), dtype=computed_in(logits))


def _check_indices(targets: Tensor, classes: int, ignore_index: int) -> None:
    y = targets.to(torch.int64)  # 8 bits hold neither every number of classes nor every index
    allowed = (y >= 0) & (y < classes) | (y == ignore_index)
    if not bool(allowed.all()):
        raise checks.bad_index(values_of(targets), classes, ignore_index)


def _check_probabilities(targets: Tensor, sample_weight: Tensor | None, axis: int) -> None:
    y = targets if targets.is_floating_point() else targets.to(torch.int64)
    allowed = (y >= 0) & (y <= 1)
    if sample_weight is not None:
        of_rows = sample_weight.ndim < targets.ndim
        allowed |= (sample_weight.unsqueeze(axis) if of_rows else sample_weight) == 0
    if not bool(allowed.all()):
        raise checks.bad_probability(values_of(targets), taking_part=values_of(~allowed))


def _are_weights(weights: Tensor) -> bool:
    return bool((weights.isfinite() & (weights >= 0)).all())


@_check.register_vmap
def _check_batch(
    info: Any, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[Tensor, None]:
    *tensors, axis, ignore_index, batch_axes = arguments
    batched = [
        given
        if given is None
        else given.unsqueeze(0).expand(info.batch_size, *given.shape)
        if dim is None
        else given.movedim(dim, 0)
        for given, dim in zip(tensors, in_dims, strict=False)
    ]
    zero: Tensor = _check(*batched, axis, ignore_index, batch_axes + 1)
    return zero, None


def check_logits(logits: Tensor, axis: int | None) -> int:
    """Check the logits of an activation, and return the axis counted from 0 (None: -1)."""
    if logits.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        checks.logits(stand_in(logits))
    if axis is None:
        return -1
    axis = checks.axis(axis, logits.ndim)
    checks.classes(logits.shape[axis])
    return axis


@torch.library.custom_op("crossent::check_pair", mutates_args=())
def check_pair(
    indices: Tensor, probabilities: Tensor, sample_weight: Tensor | None, classes: int
) -> Tensor:
    """Raise what is wrong with a pair of targets, else return 0, also under vmap."""
    y = checks.top_indices(values_of(indices), (*indices.shape[:-1], classes))
    part = True if sample_weight is None else values_of(sample_weight != 0)[..., None]
    checks.top_probabilities(values_of(probabilities), y.shape, part)
    return probabilities.new_zeros(())


@check_pair.register_fake
def _no_pair(indices: Tensor, probabilities: Tensor, *_: Any) -> Tensor:
    return probabilities.new_zeros(())


@check_pair.register_vmap
def _check_pairs(
    info: Any, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[Tensor, None]:
    """Check every member of a batch by itself."""
    pairs = list(zip(arguments[:3], in_dims, strict=False))
    for i in range(info.batch_size):
        check_pair(*(t if dim is None else t.select(dim, i) for t, dim in pairs), arguments[3])
    return arguments[1].new_zeros(()), None
