"""The linear head whose classes are shared out among processes.

Each rank holds the weight of a stretch of the classes, and all features. The scores of some rows at
a time are computed, summed up over the group as in torch_parallel.py, overwritten by their
gradient, and multiplied back. The gradient of the features is a sum over the ranks; those of
weight and bias belong to each rank alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from crossent import checks, torch_checks, torch_parallel
from crossent.linear import LinearCrossEntropy
from crossent.torch_group import agree, checksum
from crossent.torch_linear_tensors import tensors_of
from crossent.torch_parallel import Call, Part, Shard, Sums
from crossent.torch_tensors import computed_in, is_wanted, stand_in

WIDENED = 1 << 20  # numbers of a half type's weight at a time, as float32 beside the budget


def value(options: dict[str, Any], features: Any, *arguments: Any, group: Any) -> Tensor:
    """Return the loss of a head with these options, whose weight and bias are this rank's.

    The other arguments are those of `_checked`.
    """

    def prepare() -> HeadCall:
        return _checked(options, features, *arguments)

    own, all_calls = agree(prepare, group, features)
    shard = Shard.among(all_calls, group)
    part = _part(own, shard)
    bytes_per_row = max(shard.widths) * own.bytes_per_score
    step = checks.budget_for_rows(own.head.budget, bytes_per_row)
    tensors = {"features": own.features, "weight": own.weight, "bias": own.bias}
    wanted = tuple(name for name, tensor in tensors.items() if is_wanted(tensor))
    return _loss(*tensors.values(), Layer(own, part, step), wanted)


# Checks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadCall:
    """What one rank was called with: the call of the loss, and where its scores come from.

    Attributes
    ----------
    pair : indices and probabilities (N, k), or None
        The classes of a row that have probability, counted over all ranks.
    """

    head: LinearCrossEntropy
    features: Tensor
    weight: Tensor
    bias: Tensor | None
    call: Call
    pair: tuple[Tensor, Tensor] | None

    @property
    def bytes_per_score(self) -> int:
        """What a score takes of the budget."""
        size = computed_in(self.features).itemsize
        return size + (0 if self.pair is None else 8)

    def tell(self) -> dict[str, Any]:
        """Return what the other ranks must know."""
        told = self.call.tell()
        told["loss"] = repr(replace(self.head, class_weight=None))
        told["features"] = f"{list(self.features.shape)} of checksum {_bits(self.features)}"
        told["the wish for a gradient of features"] = is_wanted(self.features)
        if self.pair is not None:
            told["targets"] = " and ".join(map(checksum, self.pair))
        return told


def _bits(tensor: Tensor) -> int:
    """Return a sum over the bits of a tensor, which needs no copy of it."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(kind).sum())


def _checked(
    options: dict[str, Any],
    features: Any,
    weight: Any,
    targets: Any,
    bias: Any,
    sample_weight: Any,
    normalizer: Any,
) -> HeadCall:
    if not isinstance(features, Tensor):
        raise TypeError(f"features is a {type(features).__name__}; over a group it is a tensor")
    head = LinearCrossEntropy(**options)
    if head.filter_tolerance is not None:
        raise ValueError(
            f"filter_tolerance is {head.filter_tolerance}, but over a group gradients are exact; "
            "leave it out"
        )
    tensors = tensors_of(head, features, weight, targets, bias, sample_weight)
    x, w, b, y, p, s, _ = tensors
    checks.head(*map(stand_in, (x, w, b)))
    logits = x.new_empty(()).expand(*x.shape[:-1], len(w))  # takes no memory
    pair = None if p is None else (y, p)
    if pair is not None:
        torch_parallel.refuse_gradient("probabilities of targets", p)
        y = y.new_zeros(x.shape[:-1], dtype=torch.int64)
    call = torch_parallel.checked(head.loss, logits, y, s, normalizer)
    return HeadCall(head, x, w, b, call, pair)


def _part(own: HeadCall, shard: Shard) -> Part:
    """Return the call as it is computed; the targets of a pair are laid out later."""
    part = torch_parallel.part_of(own.call, shard)
    if own.pair is None:
        return part
    w = own.call.sample_weight
    torch_checks.check_pair(*own.pair, w, shard.classes)
    weight = part.weight.new_ones(len(part.weight)) if w is None else w.reshape(-1).double()
    return replace(part, y=weight.new_empty(len(weight), 0), weight=weight)


# The layer ----------------------------------------------------------------------------------------


class Layer:
    """The scores of some rows at a time, and the gradients that come back."""

    def __init__(self, own: HeadCall, part: Part, step: int) -> None:
        self.call, self.part, self.pair, self.step = own.call, part, own.pair, step
        self.dtype = computed_in(own.features)

    def chunks(self) -> Iterator[Tensor]:
        """Yield indices of rows that take part, as many as the budget has room for."""
        yield from torch.split(self.part.weight.nonzero()[:, 0], self.step)

    def part_of(self, rows: Tensor) -> Part:
        """Return the part of some rows, with their targets laid out."""
        part = self.part.of(rows)
        if self.pair is None:
            return part
        indices, p = (each.flatten(0, -2)[rows] for each in self.pair)
        x = indices.long() - part.shard.first
        here = (x >= 0) & (x < part.shard.width)
        y = part.weight.new_zeros(len(rows), part.shard.width)
        y.scatter_add_(1, torch.where(here, x, 0), torch.where(here, p.double(), 0.0))
        return replace(part, y=y.clamp_(max=1.0))  # rounding may exceed it

    def scores(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W^T + b."""
        out = x.new_empty(len(x), len(weight))
        for part, w in _widened(weight, self.dtype):
            torch.mm(x, w.T, out=out[:, part])
        return out if bias is None else out.add_(bias)

    def times_weight(self, slope: Tensor, weight: Tensor) -> Tensor:
        """Return slope W."""
        out = slope.new_zeros(len(slope), weight.shape[1])
        for part, w in _widened(weight, self.dtype):
            out.addmm_(slope[:, part], w)
        return out

    def take_back(
        self, rows: Tensor, x: Tensor, slope: Tensor, weight: Tensor, found: dict[str, Tensor]
    ) -> None:
        """Add to the gradients what that of some rows of scores brings."""
        if "features" in found:
            found["features"][rows] = self.times_weight(slope, weight)
        if "weight" in found:
            found["weight"].addmm_(slope.T, x)
        if "bias" in found:
            found["bias"] += slope.sum(0)

    def run(
        self,
        tensors: tuple[Tensor, Tensor, Tensor | None],
        wanted: tuple[str, ...],
        factor: Tensor,
        known: list[Sums] | None = None,
    ) -> tuple[list[Sums], dict[str, Tensor]]:
        """Return what the rows that take part are made of, and the gradients times a factor each.

        Sums that are known are not exchanged again.
        """
        features, weight, bias = tensors
        x = features.reshape(-1, features.shape[-1])
        shapes = {"features": x.shape, "weight": weight.shape, "bias": weight.shape[:1]}
        gradients = {name: x.new_zeros(shapes[name], dtype=self.dtype) for name in wanted}
        sums: list[Sums] = []
        for i, rows in enumerate(self.chunks()):
            part, part_x = self.part_of(rows), x[rows].to(self.dtype)
            scores = self.scores(part_x, weight, bias)
            sums.append(torch_parallel.sums(part, scores) if known is None else known[i])
            if not wanted:
                continue
            for block in part.blocks():
                scores[block] = torch_parallel.gradient(part, scores, block, sums[-1], factor[rows])
            self.take_back(rows, part_x, scores, weight, gradients)
        if "features" in gradients:
            dist.all_reduce(gradients["features"], group=self.part.shard.group)
        return sums, gradients


def _widened(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Return parts of a weight in the type that is computed in, few enough to widen."""
    step = len(weight) if weight.dtype == dtype else max(1, WIDENED // max(1, weight.shape[1]))
    for start in range(0, len(weight), step):
        yield slice(start, start + step), weight[start : start + step].to(dtype)


class _Head(torch.autograd.Function):
    """The reduced loss with its gradients, or the losses for "none", computed again backward."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layer: Layer,
        wanted: tuple[str, ...],
    ) -> Tensor:
        part, tensors = layer.part, (features, weight, bias)
        ctx.save_for_backward(*tensors)
        ctx.layer, ctx.wanted, ctx.gradients = layer, wanted, None
        at_once = wanted if part.loss.reduction != "none" else ()
        ctx.sums, gradients = layer.run(tensors, at_once, part.weight)
        losses, mass = torch.zeros_like(part.weight), torch.zeros_like(part.weight)
        for rows, row in zip(layer.chunks(), ctx.sums, strict=True):
            losses[rows], mass[rows] = row.losses + row.penalties, row.mass
        value, divisor = torch_parallel.reduced(part, losses, mass, layer.call)
        if at_once:
            ctx.sums, ctx.divisor, ctx.gradients = None, divisor, gradients
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        torch_parallel.refuse_second_derivatives()
        tensors, layer = ctx.saved_tensors, ctx.layer
        if ctx.gradients is None:
            factor = layer.part.weight * upstream.reshape(-1)
            _, found = layer.run(tensors, ctx.wanted, factor, ctx.sums)
        elif ctx.divisor == 0:  # nothing left to average
            found = {name: torch.zeros_like(each) for name, each in ctx.gradients.items()}
        else:
            factor = upstream.double() / ctx.divisor
            found = {name: each * factor for name, each in ctx.gradients.items()}
        names = ("features", "weight", "bias")
        slopes = (
            found[name].reshape(like.shape).to(like.dtype) if name in found else None
            for name, like in zip(names, tensors, strict=True)
        )
        return *slopes, None, None


_loss: Callable[..., Tensor] = _Head.apply
