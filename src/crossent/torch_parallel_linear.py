"""The linear head whose classes are shared out among processes.

Each rank holds the weight of a stretch of the classes, and all features. The scores of some rows at
a time are computed, summed up over the group as in torch_parallel.py, overwritten by their
gradient, and multiplied back. The gradient of the features is a sum over the ranks; those of
weight and bias belong to each rank alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossent import checks, torch_checks, torch_parallel, torch_shards
from crossent.linear import GRADIENTS, LinearCrossEntropy
from crossent.torch_group import agree, checksum
from crossent.torch_linear_tensors import tensors_of
from crossent.torch_parallel import Call
from crossent.torch_shards import Part, Shard, Sums
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
            told["the dtype of the probabilities"] = str(self.pair[1].dtype)
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

    def direction(self, change: Tensor | None, of: Any) -> Any:
        """Return a change of a tensor in the type that is computed in; None stands for none."""
        if of is None:
            return None
        return torch.zeros_like(of, dtype=self.dtype) if change is None else change.to(self.dtype)

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
        x, weight, bias = _rows(tensors[0]), *tensors[1:]
        gradients = self._no_gradients(x, weight, wanted)
        sums: list[Sums] = []
        for i, rows in enumerate(self.chunks()):
            part, part_x = self.part_of(rows), x[rows].to(self.dtype)
            scores = self.scores(part_x, weight, bias)
            sums.append(torch_shards.sums(part, scores) if known is None else known[i])
            if not wanted:
                continue
            for block in part.blocks():
                scores[block] = torch_shards.gradient(part, scores, block, sums[-1], factor[rows])
            self.take_back(rows, part_x, scores, weight, gradients)
        if "features" in gradients:
            dist.all_reduce(gradients["features"], group=self.part.shard.group)
        return sums, gradients

    def bend(
        self,
        tensors: tuple[Tensor, Tensor, Tensor | None],
        directions: Directions,
        wanted: tuple[str, ...],
        factor: Tensor,
        known: list[Sums],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return how the gradients change in the directions, and by how much each row's loss does.

        Formulas are those of `linear_numpy.second_derivative`.
        """
        x, weight, bias = _rows(tensors[0]), *tensors[1:]
        gradients, losses = self._no_gradients(x, weight, wanted), torch.zeros_like(factor)
        for rows, row in zip(self.chunks(), known, strict=True):
            part, part_x, own = self.part_of(rows), x[rows].to(self.dtype), directions.of(rows)
            scores, change = self.scores(part_x, weight, bias), own.scores(self, part_x, weight)
            bent, losses[rows] = torch_shards.second_derivative(
                part, scores, row, factor[rows], change
            )
            self.take_back(rows, part_x, bent, weight, gradients)
            for block in part.blocks():
                scores[block] = torch_shards.gradient(part, scores, block, row, factor[rows])
            own.take_back(self, rows, scores, gradients)
        if "features" in gradients:
            dist.all_reduce(gradients["features"], group=self.part.shard.group)
        return gradients, losses

    def _no_gradients(
        self, x: Tensor, weight: Tensor, wanted: tuple[str, ...]
    ) -> dict[str, Tensor]:
        shapes = {"features": x.shape, "weight": weight.shape, "bias": weight.shape[:1]}
        return {name: x.new_zeros(shapes[name], dtype=self.dtype) for name in wanted}


class Directions(NamedTuple):
    """Changes of features (N, D), weight and bias."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    def of(self, rows: Tensor) -> Directions:
        """Return the changes with the features of some rows alone."""
        return self._replace(features=self.features[rows])

    def scores(self, layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
        """Return how the scores of some rows change."""
        return layer.scores(self.features, weight, None) + layer.scores(x, self.weight, self.bias)

    def take_back(
        self, layer: Layer, rows: Tensor, slope: Tensor, found: dict[str, Tensor]
    ) -> None:
        """Add what the gradient in some rows of scores brings where the layer changes under it."""
        if "features" in found:
            found["features"][rows] += layer.times_weight(slope, self.weight)
        if "weight" in found:
            found["weight"].addmm_(slope.T, self.features)


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
        nothing = divisor == 0
        ctx.sums = [replace(row, idle=row.idle | nothing) for row in ctx.sums]
        ctx.divisor = torch.where(nothing, 1.0, divisor)
        if at_once:
            ctx.gradients = {n: each.masked_fill_(nothing, 0.0) for n, each in gradients.items()}
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if ctx.gradients is None or torch.is_grad_enabled():
            call = (ctx.layer, ctx.wanted, ctx.sums, ctx.divisor)
            return *_slopes(*tensors, upstream, *call), None, None
        factor = upstream.double() / ctx.divisor
        found = {name: each * factor for name, each in ctx.gradients.items()}
        return *_like(tensors, found), None, None


class _Slopes(torch.autograd.Function):
    """The gradients as functions of features, weight, bias and what comes from above."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        *tensors, upstream, layer, wanted, sums, divisor = arguments
        ctx.save_for_backward(*tensors, upstream)
        ctx.call = (layer, wanted, sums, divisor)
        factor = layer.part.weight * upstream.reshape(-1) / divisor
        return _like(tensors, layer.run(tuple(tensors), wanted, factor, sums)[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, upstream = ctx.saved_tensors
        layer, wanted, sums, divisor = ctx.call
        x, weight, bias = map(layer.direction, above, tensors)
        factor = layer.part.weight * upstream.reshape(-1) / divisor
        directions = Directions(_rows(x), weight, bias)
        found, losses = layer.bend(tensors, directions, wanted, factor, sums)
        of_upstream = torch_parallel.of_above(losses / divisor, upstream)
        return *_like(tensors, found), of_upstream, None, None, None, None


def _rows(features: Tensor) -> Tensor:
    """Return features (..., D) as (N, D)."""
    return features.reshape(-1, features.shape[-1])


def _like(tensors: Iterable[Tensor | None], found: dict[str, Tensor]) -> tuple[Tensor | None, ...]:
    """Return gradients in the shapes and types of the tensors that they belong to."""
    return tuple(
        found[name].reshape(like.shape).to(like.dtype)
        if name in found and like is not None
        else None
        for name, like in zip(GRADIENTS, tensors, strict=True)
    )


_loss: Callable[..., Tensor] = _Head.apply
_slopes: Callable[..., tuple[Tensor | None, ...]] = _Slopes.apply
