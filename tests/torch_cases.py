"""The table of cases as tensors, and the two ways of computing them: kernels, plain operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.rows import LOSSES
from cases import CASES, Case
from crossent import torch_checks, torch_plain
from crossent import torch_front_end as front_end

LAYOUTS = ("C", "Fortran", "every other")  # the others no tensor can have
TENSOR_CASES = tuple(case for case in CASES if case.layout in LAYOUTS)


def tensor(array: NDArray[Any] | None) -> Tensor | None:
    """Return a tensor over the memory of an array."""
    if array is None:
        return None
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array(value: Tensor) -> NDArray[Any]:
    """Return the memory of a tensor, bits and all; bfloat16 as an array of that type."""
    value = value.detach()
    if value.dtype != torch.bfloat16:
        return value.numpy()
    import ml_dtypes

    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def tensors(case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logits that require a gradient, targets and sample weights."""
    z, y, w = map(tensor, case.arrays())
    assert z is not None
    assert y is not None
    return z.requires_grad_(), y, w


def loss_of(case: Case, **changed: Any) -> Any:
    return LOSSES[case.loss](**{**case.options, **changed})


def by_kernel(loss: Any, z: Tensor, y: Any, w: Any = None, normalizer: Any = None) -> Tensor:
    """Return the loss as a call computes it."""
    result: Tensor = loss(z, y, w, normalizer)
    if z.requires_grad and type(z) is Tensor:
        assert "crossent_loss" in str(result.grad_fn)
    return result


def by_plain(loss: Any, z: Tensor, y: Any, w: Any = None, normalizer: Any = None) -> Tensor:
    """Return the loss as devices without kernels compute it."""
    weights = front_end._weights(loss, z)
    zero = torch_checks.check(loss, z, y, w, weights)
    return torch_plain.value(loss, z, y, w, weights, normalizer) + zero


WAYS = (by_kernel, by_plain)


def gradient(value: Tensor, z: Tensor, **options: Any) -> Tensor:
    """Return the gradient of the sum of the losses."""
    return torch.autograd.grad(value.sum(), z, **options)[0]


class Recorder(TorchDispatchMode):
    """Keeps the names of operations, and how many bytes the memory has that each makes anew."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(function.name())
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in given:
            self.sizes.append(result.untyped_storage().nbytes())
        return result
