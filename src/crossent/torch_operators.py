"""Functions of tensors as operators of PyTorch, which autograd, compilers and tracers see.

Where nobody looks on, the same functions are called as an autograd function, or by themselves where
nothing is differentiated: PyTorch's dispatcher takes longer than a small loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossent.torch_tensors import is_wanted


def operator(
    name: str, schema: str, compute: Any, compute_nothing: Any, save: Any, backward: Any
) -> Any:
    """Return a differentiable function of CPU tensors, registered as crossent::name.

    Parameters
    ----------
    name, schema : str
        What it is called, and the types of what it takes and returns.
    compute, compute_nothing : callables
        They return the outputs, and tensors of the same shapes and types that hold nothing.
    save, backward : callables
        As for `torch.library.register_autograd`.
    """
    registered = torch.library.custom_op(
        f"crossent::{name}", compute, mutates_args=(), device_types="cpu", schema=schema
    )
    registered.register_fake(compute_nothing)
    registered.register_autograd(backward, setup_context=save)
    direct = _autograd_function(name, compute, save, backward)

    def call(*inputs: Any) -> Any:
        if _is_watched(inputs[0]):
            return registered(*inputs)
        wanted = is_wanted(*(each for each in inputs if isinstance(each, Tensor)))
        return (direct if wanted else compute)(*inputs)

    return call


def _autograd_function(name: str, compute: Any, save: Any, backward: Any) -> Any:
    def forward(ctx: Any, *inputs: Any) -> Any:  # with `setup_context` torch would look them up
        output = compute(*inputs)
        save(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(f"crossent_{name}", (torch.autograd.Function,), methods)
    return function.apply


def _is_watched(tensor: Tensor) -> bool:
    """Return whether a compiler, a tracer, a mode or a subclass of Tensor is to see operators."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    return modes > 0 or type(tensor) not in (Tensor, torch.nn.Parameter)
