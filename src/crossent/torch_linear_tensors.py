"""The tensors of a call of the linear head."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent import checks
from crossent.linear import LinearCrossEntropy
from crossent.linear_targets import is_pair
from crossent.torch_tensors import array_of, as_tensor, check_tensor, widest


class Tensors(NamedTuple):
    """The tensors of a call; `probabilities` belong to targets that are pairs."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    probabilities: Tensor | None
    sample_weight: Tensor | None
    class_weight: Tensor | None

    def arrays(self) -> tuple[Any, Any, Any, Any, Any]:
        """Return features, weight, targets, bias and sample weights as NumPy arrays."""
        arrays = (None if t is None else array_of(t) for t in self)
        features, weight, bias, targets, probabilities, sample_weight, _ = arrays
        pair = targets if probabilities is None else (targets, probabilities)
        return features, weight, pair, bias, sample_weight


def tensors_of(
    head: LinearCrossEntropy,
    features: Tensor,
    weight: Any,
    targets: Any,
    bias: Any,
    sample_weight: Any,
    *,
    class_weight: Tensor | None = None,
) -> Tensors:
    """Return all arguments as tensors on the device of the features."""
    check_tensor("features", features)
    pair = is_pair(targets, features.ndim)
    indices, probabilities = targets if pair else (targets, None)
    if class_weight is None and head.class_weight is not None:
        class_weight = torch.tensor(head.class_weight, dtype=widest(features.device))
        class_weight = class_weight.to(features.device)
    given = {
        "weight": weight,
        "bias": bias,
        "targets": indices,
        "probabilities of targets": probabilities,
        "sample_weight": sample_weight,
        "class_weight": class_weight,
    }
    beside = (
        None if each is None else as_tensor(features, name, each, "features")
        for name, each in given.items()
    )
    tensors = Tensors._make([features, *beside])
    device = features.device.type
    mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if mixed:
        return _autocast(tensors)
    _of_one_type(tensors)
    return tensors


def _of_one_type(tensors: Tensors) -> None:
    """Raise unless weight and bias have the floating type of the features.

    `checks.head` does not see it of a bfloat16 that is stood in for.
    """
    x = tensors.features
    if not (x.ndim and x.dtype.is_floating_point):
        return  # which `checks.head` does see
    for name, tensor in (("weight", tensors.weight), ("bias", tensors.bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            kinds = (str(t.dtype).removeprefix("torch.") for t in (tensor, x))
            raise checks.other_type(name, *kinds)


def _autocast(tensors: Tensors) -> Tensors:
    """Return features, weight and bias in the widest type among them: autocast mixes them."""
    layer = [t for t in tensors[:3] if t is not None]
    dtype = layer[0].dtype
    for tensor in layer[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    cast = (None if t is None else t.to(dtype) for t in tensors[:3])
    return Tensors._make([*cast, *tensors[3:]])
