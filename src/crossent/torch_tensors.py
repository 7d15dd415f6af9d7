"""Tensors as NumPy arrays and back, their types, and what autograd is about to do with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from crossent import checks

HALF_TYPES = (torch.float16, torch.bfloat16)


def array_of(tensor: Tensor) -> Any:
    """Return the memory of a CPU tensor as a NumPy array."""
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    try:
        import ml_dtypes
    except ModuleNotFoundError:  # then NumPy has no such type
        return tensor.float().numpy()
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def arrays_of(
    logits: Tensor, targets: Tensor, sample_weight: Tensor | None
) -> tuple[Any, Any, Any]:
    """Return the memory of a call's tensors as NumPy arrays."""
    weights = None if sample_weight is None else array_of(sample_weight)
    return array_of(logits), array_of(targets), weights


def tensor_of(array: Any) -> Tensor:
    """Return a tensor with the memory of a NumPy array, or of a NumPy number."""
    array = np.asarray(array)
    if array.itemsize == 2 and array.dtype.name == "bfloat16":  # a name is slow to ask for
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def stand_in(tensor: Tensor | None, batch_axes: int = 0) -> Any:
    """Return an array of the tensor's shape and type that takes no memory."""
    if tensor is None:
        return None
    name = str(tensor.dtype).removeprefix("torch.")
    dtype = getattr(np, "float32" if name == "bfloat16" else name, object)
    return np.broadcast_to(np.zeros((), dtype), tuple(tensor.shape[batch_axes:]))


def values_of(tensor: Tensor) -> Any:
    """Return the values, for an error to name one of them."""
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return wide.cpu().numpy()


def beside(logits: Tensor, targets: Any, sample_weight: Any) -> tuple[Tensor, Tensor | None]:
    """Return targets and sample weights as tensors on the device of the logits."""
    weights = None
    if sample_weight is not None:
        weights = as_tensor(logits, "sample_weight", sample_weight)
    return as_tensor(logits, "targets", targets), weights


def check_tensor(name: str, value: Any) -> None:
    """Raise unless a value is a tensor, where arrays are not taken."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a tensor")


def as_tensor(logits: Tensor, name: str, value: Any, of: str = "logits") -> Tensor:
    """Return an argument as a tensor on the device of the logits; lists and arrays are copied."""
    if not isinstance(value, Tensor):
        try:
            copy = torch.from_numpy(checks.as_array(name, value).copy())
        except TypeError:  # of a type that tensors have not
            copy = torch.from_numpy(checks.as_float64(name, value).copy())
        wide = copy.dtype == torch.float64
        return copy.to(logits.device, widest(logits.device) if wide else copy.dtype)
    if value.device != logits.device:
        raise ValueError(
            f"{name} is on device {value.device}, but {of} is on device {logits.device}; "
            "both must be on the same device"
        )
    return value


def computed_in(logits: Tensor) -> torch.dtype:
    """Return the type of a loss: float64 for float64 scores, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def widest(device: torch.device) -> torch.dtype:
    """Return the widest floating type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def are_probabilities(targets: Tensor, logits: Tensor) -> bool:
    """Return whether softmax targets are probabilities; with no rows a list is neither."""
    return targets.dtype.is_floating_point and targets.ndim == logits.ndim


def is_wanted(*tensors: Tensor | None) -> bool:
    """Return whether autograd will ask for a gradient in one of the tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def is_on_cpu(logits: Tensor) -> bool:
    """Return whether kernels can read the tensor."""
    return logits.device.type == "cpu"


def are_transformed(*tensors: Tensor | None) -> bool:
    """Return whether `torch.func` or forward mode is at work."""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return False
    unpack: Any = forward_ad.unpack_dual
    return any(t is not None and unpack(t).tangent is not None for t in tensors)


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Return gradient * upstream, in place where nobody will ask for the gradient again."""
    traced = type(upstream) is not Tensor  # a compiler's stand-in: it holds no numbers
    if traced or graph_is_kept():
        return gradient * upstream
    try:
        one = float(upstream) == 1.0 if upstream.numel() == 1 else bool((upstream == 1).all())
    except RuntimeError:  # several at once, in a batch that has no single number
        return gradient * upstream
    return gradient if one else gradient.mul_(upstream)


def graph_is_kept() -> bool:
    """Return whether this backward pass leaves its graph, and so what was saved, for another."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
    return bool(ask())
