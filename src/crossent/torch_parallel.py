"""Cross-entropy whose classes are shared out among processes, over torch.distributed.

Each process, or rank, holds the scores of a stretch of the classes of all rows. The ranks tell each
other what they were called with (torch_group.py), then what they found out about their own classes
(torch_shards.py); from that every rank computes the same loss, and the gradient in its own scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossent import checks, torch_checks
from crossent.losses import CrossEntropy
from crossent.torch_group import agree, checksum
from crossent.torch_shards import Part, Shard, Sums, gradient, rows_of, second_derivative, sums
from crossent.torch_tensors import (
    are_probabilities,
    beside,
    check_tensor,
    computed_in,
    stand_in,
)


def vocab_parallel_cross_entropy(
    local_logits: Tensor,
    targets: Tensor,
    *,
    group: Any = None,
    sample_weight: Tensor | None = None,
    normalizer: float | None = None,
    **options: Any,
) -> Tensor:
    """Return the cross-entropy of scores whose classes are shared out among processes.

    Rank 0 of the group holds the first classes, rank 1 the next, and so on; shards may differ in
    width, and be empty. Every rank calls this with the same rows and gets the same loss, that of
    `crossent.cross_entropy` over all classes. A backward pass gives each rank the gradient in its
    own scores, and exchanges nothing; a second derivative does once, and adds up over the group
    what every rank made of its gradient. The loss counts once: do not add it up over the group.

    Parameters
    ----------
    local_logits : tensor (..., C_r), float16, bfloat16, float32 or float64
        Scores of this rank's classes, on `axis`.
    targets : tensor
        Class indices counted over all ranks, the same on each; or probabilities of the shape of
        local_logits, those of this rank's classes.
    group : torch.distributed.ProcessGroup, optional
        The processes that share the classes; all processes if None.
    sample_weight : tensor, optional
        Weights >= 0 of the rows, the same on each rank.
    normalizer : float, optional
        Divides the sum in place of what "mean" or "batchmean" divide by.
    options
        Those of `crossent.CrossEntropy`, the same on each rank; class_weight has one entry for
        every class of all ranks.

    Returns
    -------
    tensor
        The loss in nats: float64 for float64 scores, else float32; one per row for reduction
        "none".

    Raises
    ------
    ValueError, TypeError
        On every rank, naming one that is at fault, if arguments of a rank are wrong or those of
        two ranks do not fit together; before anything is computed.
    RuntimeError
        If torch.distributed is not initialised, or this process is not in the group.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> from crossent.torch import vocab_parallel_cross_entropy
    >>> store = dist.HashStore()
    >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)  # a group of one
    >>> local_logits = torch.tensor([[2.0, 1.0, 0.1]], requires_grad=True)
    >>> loss = vocab_parallel_cross_entropy(local_logits, torch.tensor([0]))
    >>> loss.backward()
    >>> print(f"{loss.item():.4f}", [round(g, 4) for g in local_logits.grad[0].tolist()])
    0.4170 [-0.341, 0.2424, 0.0986]
    >>> dist.destroy_process_group()
    """

    def call() -> Call:
        loss = CrossEntropy(**options)
        return checked(loss, local_logits, targets, sample_weight, normalizer)

    own, all_calls = agree(call, group, local_logits)
    shard = Shard.among(all_calls, group)
    return _loss(local_logits, own, part_of(own, shard))


# A call -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """What one rank was called with, checked as far as it can tell alone."""

    loss: CrossEntropy
    logits: Tensor
    targets: Tensor
    sample_weight: Tensor | None
    normalizer: float | None
    axis: int

    def tell(self) -> dict[str, Any]:
        """Return what the other ranks must know; all but the width must be the same on each."""
        soft = are_probabilities(self.targets, self.logits)
        rows = list(self.logits.shape)
        width = rows.pop(self.axis)
        class_weight = self.loss.class_weight
        if class_weight is not None:
            class_weight = checksum(torch.tensor(class_weight, dtype=torch.float64))
        return {
            "width": width,
            "the shape of the rows": rows,
            "the dtype of the scores": str(self.logits.dtype),
            "loss": repr(replace(self.loss, class_weight=None)),
            "class_weight": class_weight,
            "targets": "probabilities" if soft else checksum(self.targets.to(torch.int64)),
            "sample_weight": None if self.sample_weight is None else checksum(self.sample_weight),
            "normalizer": self.normalizer,
        }


def checked(
    loss: CrossEntropy, logits: Any, targets: Any, sample_weight: Any, normalizer: Any
) -> Call:
    """Check what this rank was called with, as far as it can tell alone."""
    check_tensor("local_logits", logits)
    torch_checks.check_logits(logits, None)
    axis = checks.axis(loss.axis, logits.ndim)
    y, w = beside(logits, targets, sample_weight)
    refuse_gradient("targets", y)
    refuse_gradient("sample_weight", w)
    normalizer = checks.normalizer(normalizer, loss.reduction)
    shape = tuple(logits.shape)
    of_rows = shape[:axis] + shape[axis + 1 :]
    if are_probabilities(y, logits):
        checks.targets(stand_in(y), shape, axis)
        if logits.shape[axis]:
            torch_checks.check(loss, logits, y, w, None)
    else:  # of another type here, nobody but this rank would raise
        checks.targets(np.broadcast_to(np.zeros((), stand_in(y).dtype), of_rows), shape, axis)
    checks.sample_weight(stand_in(w), of_rows)
    return Call(loss, logits, y, w, normalizer, axis)


def refuse_gradient(name: str, tensor: Tensor | None) -> None:
    """Raise if a gradient is wanted where a loss over a group has none."""
    if tensor is not None and tensor.requires_grad:
        raise ValueError(f"{name} requires a gradient, but over a group it has none; detach it")


def part_of(call: Call, shard: Shard) -> Part:
    """Check what takes the number of all classes, and return the call as it is computed."""
    loss, y, w = call.loss, call.targets, call.sample_weight
    each = checks.per_output("class_weight", loss.class_weight, shard.classes, "classes", 1.0)
    class_weight = torch.from_numpy(each[shard.first :][: shard.width]).to(y.device)
    if are_probabilities(y, call.logits):
        checks.classes(shard.classes)
        y = rows_of(y, call.axis)
        w = _float64(w, y)
    else:
        shape = list(call.logits.shape)
        shape[call.axis] = shard.classes
        torch_checks.check(loss, call.logits.new_empty(()).expand(shape), y, w, None)
        y = y.reshape(-1).to(torch.int64)
        w = torch.where(y == loss.ignore_index, 0.0, _float64(w, y))
        y = torch.where(y == loss.ignore_index, 0, y)
    alpha = loss.label_smoothing
    gain, base = class_weight * (1.0 - alpha), class_weight * (alpha / shard.classes)
    return Part(loss, shard, y, w, class_weight, gain, base)


def _float64(sample_weight: Tensor | None, y: Tensor) -> Tensor:
    if sample_weight is None:
        return torch.ones(len(y), dtype=torch.float64, device=y.device)
    return sample_weight.reshape(-1).double()


# The loss -----------------------------------------------------------------------------------------


def reduced(part: Part, losses: Tensor, mass: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Return the reduced loss, or the losses for "none", and what the sum was divided by."""
    dtype = computed_in(call.logits)
    if part.loss.reduction == "none":
        shape = list(call.logits.shape)
        del shape[call.axis]
        return losses.reshape(shape).to(dtype), losses.new_ones(())
    divisor = losses.new_tensor(call.normalizer or 1.0)
    if call.normalizer is None and part.loss.reduction != "sum":
        divisor = (mass if part.loss.reduction == "mean" else part.weight).sum()
    return torch.where(divisor == 0, 0.0, losses.sum() / divisor).to(dtype), divisor


class _Loss(torch.autograd.Function):
    """The reduced loss, or the losses for reduction "none"."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, call: Call, part: Part) -> Tensor:
        row = sums(part, rows_of(logits, call.axis))
        value, divisor = reduced(part, row.losses + row.penalties, row.mass, call)
        ctx.save_for_backward(logits)
        ctx.call = (call.axis, part, *without_division_by_0(row, divisor))
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return _slopes(*ctx.saved_tensors, upstream, *ctx.call), None, None


class _Slopes(torch.autograd.Function):
    """The gradient in this rank's scores as a function of them and of what comes from above."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        upstream: Tensor,
        axis: int,
        part: Part,
        row: Sums,
        divisor: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(logits, upstream)
        ctx.call = (axis, part, row, divisor)
        z, factor = rows_of(logits, axis), part.weight * upstream.reshape(-1) / divisor
        slopes = torch.empty_like(z)
        for rows in part.blocks() if part.shard.width else ():
            slopes[rows] = gradient(part, z, rows, row, factor)
        return _as_scores(slopes, logits, axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (logits, upstream), (axis, part, row, divisor) = ctx.saved_tensors, ctx.call
        z, factor = rows_of(logits, axis), part.weight * upstream.reshape(-1) / divisor
        bent, losses = second_derivative(part, z, row, factor, rows_of(above, axis))
        of_upstream = of_above(losses / divisor, upstream)
        return _as_scores(bent, logits, axis), of_upstream, None, None, None, None


_loss: Callable[..., Tensor] = _Loss.apply
_slopes: Callable[..., Tensor] = _Slopes.apply


def without_division_by_0(row: Sums, divisor: Tensor) -> tuple[Sums, Tensor]:
    """Return rows that learn nothing where nothing is left to average, and what divides them."""
    nothing = divisor == 0
    return replace(row, idle=row.idle | nothing), torch.where(nothing, 1.0, divisor)


def of_above(each: Tensor, upstream: Tensor) -> Tensor:
    """Return the derivative in what comes from above, of those of all rows."""
    found = each if upstream.ndim else each.sum()
    return found.reshape(upstream.shape).to(upstream.dtype)


def _as_scores(rows: Tensor, logits: Tensor, axis: int) -> Tensor:
    """Return (N, C) as (..., C, ...)."""
    return rows.reshape(logits.movedim(axis, -1).shape).movedim(-1, axis)
