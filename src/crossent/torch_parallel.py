"""Cross-entropy whose classes are shared out among processes, over torch.distributed.

Each process, or rank, holds the scores of a stretch of the classes of all rows. Letters as in
kernels/rows.py: x the class that is summed apart, which is the target where there is one, else the
winner; m a row's maximum. What a rank finds out about its own classes refers to its own maximum;
all ranks exchange that once, and each refers it to the maximum of all and adds it up:

    others  sum of exp(s_j - m) over all classes but x
    gap     m - s_x, infinity on ranks that do not hold x
    and where targets have masses t: t_x, and over all classes but x
    rest, rest_gap    sum of t_j, sum of t_j (m - s_j)

All of these are sums of numbers >= 0, so no rank needs a difference of nearly equal ones. A rank
whose winner is not the winner of all gives it back to the others. The gradient needs nothing more:
what a row is made of is known on every rank.

Sums are float64. Scores with target masses are too, as there the gradient is a difference of given
numbers; with class indices alone they stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from crossent import checks, torch_checks, torch_plain
from crossent.losses import CrossEntropy
from crossent.torch_group import agree, checksum, exchange
from crossent.torch_tensors import are_probabilities, beside, computed_in, stand_in

BLOCK = 2**18  # scores at a time: what is made of them stays in the cache
GPU_BLOCK = 2**25


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
    own scores, and exchanges nothing. The loss counts once: do not add it up over the group.

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
        return {
            "width": width,
            "the shape of the rows": rows,
            "the dtype of the scores": str(self.logits.dtype),
            "loss": repr(replace(self.loss, class_weight=None)),
            "class_weight": class_weight and checksum(torch.tensor(class_weight)),
            "targets": "probabilities" if soft else checksum(self.targets.to(torch.int64)),
            "sample_weight": None if self.sample_weight is None else checksum(self.sample_weight),
            "normalizer": self.normalizer,
        }


def checked(
    loss: CrossEntropy, logits: Any, targets: Any, sample_weight: Any, normalizer: Any
) -> Call:
    """Check what this rank was called with, as far as it can tell alone."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"local_logits is a {type(logits).__name__}; it must be a tensor")
    torch_checks.check_logits(logits, None)
    axis = checks.axis(loss.axis, logits.ndim)
    y, w = beside(logits, targets, sample_weight)
    refuse_gradient("targets", y)
    refuse_gradient("sample_weight", w)
    normalizer = checks.normalizer(normalizer, loss.reduction)
    if are_probabilities(y, logits):
        checks.targets(stand_in(y), tuple(logits.shape), axis)
        if logits.shape[axis]:
            torch_checks.check(loss, logits, y, w, None)
    return Call(loss, logits, y, w, normalizer, axis)


def refuse_gradient(name: str, tensor: Tensor | None) -> None:
    """Raise if a gradient is wanted where a loss over a group has none."""
    if tensor is not None and tensor.requires_grad:
        raise ValueError(f"{name} requires a gradient, but over a group it has none; detach it")


# A rank's part ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """The classes of this rank among those of all."""

    group: Any
    rank: int
    widths: tuple[int, ...]

    @classmethod
    def among(cls, told: list[dict[str, Any]], group: Any) -> Shard:
        """Return the shard of this rank, from what all ranks told."""
        return cls(group, dist.get_rank(group), tuple(each["width"] for each in told))

    @property
    def classes(self) -> int:
        """How many there are on all ranks."""
        return sum(self.widths)

    @property
    def first(self) -> int:
        """The first class of this rank."""
        return sum(self.widths[: self.rank])

    @property
    def width(self) -> int:
        """How many classes this rank has."""
        return self.widths[self.rank]

    def owner(self, classes: Tensor) -> Tensor:
        """Return the rank that holds each class."""
        ends = torch.tensor(self.widths, device=classes.device).cumsum(0)
        return torch.searchsorted(ends, classes, right=True)


@dataclass(frozen=True)
class Part:
    """A checked call as this rank computes it, N rows of scores (N, width).

    Attributes
    ----------
    y : int64 tensor (N,) or floating tensor (N, width)
        Class indices over all ranks, or probabilities of this rank's classes.
    weight : float64 tensor (N,)
        Sample weights, 0 where a row takes no part.
    class_weight, gain, base : float64 tensors (width,)
        Weights of this rank's classes, and what makes masses of targets: gain * c + base.
    """

    loss: CrossEntropy
    shard: Shard
    y: Tensor
    weight: Tensor
    class_weight: Tensor
    gain: Tensor
    base: Tensor

    @property
    def is_soft(self) -> bool:
        """Whether targets are probabilities."""
        return self.y.ndim == 2

    @property
    def is_hard(self) -> bool:
        """Whether a class index means that one class alone, on the scores as they are."""
        return not self.is_soft and self.loss.is_plain

    def of(self, rows: Tensor) -> Part:
        """Return the part of some rows."""
        return replace(self, y=self.y[rows], weight=self.weight[rows])

    def blocks(self) -> Iterator[slice]:
        """Yield rows whose scores stay in the cache while something is made of them."""
        size = BLOCK if self.y.device.type == "cpu" else GPU_BLOCK
        step = max(1, size // max(1, self.shard.width))
        for start in range(0, len(self.y), step):
            yield slice(start, start + step)


def part_of(call: Call, shard: Shard) -> Part:
    """Check what takes the number of all classes, and return the call as it is computed."""
    loss, y, w = call.loss, call.targets, call.sample_weight
    each = checks.per_output("class_weight", loss.class_weight, shard.classes, "classes", 1.0)
    class_weight = torch.from_numpy(each[shard.first :][: shard.width]).to(y.device)
    if are_probabilities(y, call.logits):
        checks.classes(shard.classes)
        y = _rows(y, call.axis)
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


def _rows(tensor: Tensor, axis: int) -> Tensor:
    """Return (..., C, ...) as (N, C)."""
    moved = tensor.movedim(axis, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1])


# What a rank finds out about its classes ----------------------------------------------------------


def _taken(part: Part, logits: Tensor, rows: slice) -> Tensor:
    """Return some rows in the type they are computed in; what takes no part may hold anything."""
    z = logits[rows].to(computed_in(logits) if part.is_hard else torch.float64)
    idle = part.weight[rows] == 0
    return z.masked_fill(idle[:, None], 0.0) if bool(idle.any()) else z


def _referred(s: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores, in their limit where m (n, 1) is +inf, and what exponentials refer to."""
    infinite = m == math.inf
    if bool(infinite.any()):
        alone = (s == math.inf).sum(1, keepdim=True) == 1
        limit = torch.where(s == math.inf, torch.where(alone, 0.0, math.nan), -math.inf)
        s = torch.where(infinite, limit.to(s.dtype), s)
    return s, torch.where(m.isinf(), 0.0, m)


def _set_apart(part: Part, s: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Return the class to sum apart, counted in this shard, and whether it is in it: (n, 1)."""
    if part.is_soft:
        x = s.argmax(1, keepdim=True)
        return x, torch.ones_like(x, dtype=torch.bool)
    x = part.y[rows, None] - part.shard.first
    here = (x >= 0) & (x < part.shard.width)
    return torch.where(here, x, 0), here


def _put(values: Tensor, x: Tensor, here: Tensor, value: float | Tensor) -> Tensor:
    """Write a value at x, where x is here, and return the values (n, width)."""
    return values.scatter_(1, x, torch.where(here, value, values.gather(1, x)))


def _exp(distance: Tensor) -> Tensor:
    """Return exp(-distance), for distances that nobody needs any more."""
    return distance.neg_().exp_()  # on a CPU many times as fast as into other memory


def _masses(part: Part, rows: slice) -> Tensor:
    """Return target masses of some rows, in memory of their own; an index is to add its gain."""
    if part.is_soft:
        return part.gain * part.y[rows] + part.base
    return part.base.repeat(len(part.y[rows]), 1)


def _statistics(part: Part, logits: Tensor, rows: slice) -> Tensor:
    """Return m, others, gap, own mass (then rest, rest_gap, mass before smoothing): (4 or 7, n)."""
    z = _taken(part, logits, rows)
    s = torch_plain.scores(z, part.loss.softcap, part.loss.temperature)
    m = s.amax(1, keepdim=True)
    s, top = _referred(s, m)
    x, here = _set_apart(part, s, rows)
    own_score = s.gather(1, x).double()
    others = _put(_exp(top - s), x, here, 0.0).sum(1, keepdim=True, dtype=torch.float64)
    gap = torch.where(here, top.double() - own_score, math.inf)
    if part.is_hard:
        return _columns(m, others, gap, torch.where(here, part.gain[x], 0.0))
    t = _masses(part, rows)
    own = torch.where(here, t.gather(1, x) + (0.0 if part.is_soft else part.gain[x]), 0.0)
    t = _put(t, x, here, 0.0)
    rest_gap = torch_plain.weigh(t, top - s).sum(1, keepdim=True)
    if part.is_soft:
        mass = (part.y[rows] * part.class_weight).sum(1, keepdim=True)
    else:
        mass = torch.where(here, part.class_weight[x], 0.0)
    return _columns(m, others, gap, own, t.sum(1, keepdim=True), rest_gap, mass)


def _columns(*columns: Tensor) -> Tensor:
    return torch.cat([column.double() for column in columns], 1).T


def _nothing(part: Part) -> Tensor:
    """Return the statistics of no classes."""
    numbers = [-math.inf, 0.0, math.inf, *[0.0] * (1 if part.is_hard else 4)]
    return part.weight.new_tensor(numbers)[:, None].expand(-1, len(part.y))


# What all ranks know of a row ---------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """What rows are made of over all classes: tensors (N,), float64 but for owner and idle.

    Attributes
    ----------
    top : maximum
    losses, penalties, mass : weighted losses, z-losses, and masses of targets before smoothing
    owner : rank that holds the class that was summed apart
    slope : the gradient is slope * exp(s - top) - t
    own_slope : the gradient of the class that was summed apart
    idle : whether there is nothing to learn, whatever the scores hold
    """

    top: Tensor
    losses: Tensor
    penalties: Tensor
    mass: Tensor
    owner: Tensor
    slope: Tensor
    own_slope: Tensor
    idle: Tensor


def sums(part: Part, logits: Tensor) -> Sums:
    """Return what rows (N, width) are made of over all ranks: one exchange."""
    found = _nothing(part)
    if part.shard.width and len(logits):
        found = torch.cat([_statistics(part, logits, rows) for rows in part.blocks()], 1)
    found = exchange(found, part.shard.group)
    if part.is_hard:
        none, mass = torch.zeros_like(found[:, :2]), found[:, 3:]
        found = torch.cat([found, none, mass], 1)
    return _combined(part, found)


def _combined(part: Part, found: Tensor) -> Sums:
    """Refer what the ranks found (ranks, 7, N) to the maximum of all, and add it up."""
    m, others, gap, own_mass, rest, rest_gap, mass = found.unbind(1)
    top, best = m.max(0)
    owner = best if part.is_soft else part.shard.owner(part.y)
    apart = torch.arange(len(m), device=m.device)[:, None] == owner
    shift = torch.where(m == top, 0.0, top - m)
    reach = shift + gap  # from each rank's x to the top
    others = (torch.exp(-shift) * others + torch.where(apart, 0.0, torch.exp(-reach))).sum(0)
    given_back = torch.where(apart, 0.0, torch_plain.weigh(own_mass, reach))
    rest_gap = (rest_gap + torch_plain.weigh(rest, shift) + given_back).sum(0)
    rest = (rest + torch.where(apart, 0.0, own_mass)).sum(0)
    own_mass = own_mass.gather(0, owner[None])[0]
    without_limit = (top == -math.inf) | ((m == math.inf).sum(0) > 1)
    gap = torch.where(without_limit, math.nan, reach.gather(0, owner[None])[0])
    row = (top, others, gap, own_mass, rest, rest_gap, part.weight * mass.sum(0))
    return _finished(part, owner, *row)


def _finished(
    part: Part,
    owner: Tensor,
    top: Tensor,
    others: Tensor,
    gap: Tensor,
    own_mass: Tensor,
    rest: Tensor,
    rest_gap: Tensor,
    mass: Tensor,
) -> Sums:
    z_loss, own = part.loss.z_loss, torch.exp(-gap)
    log_rest = torch.log1p(torch.where(gap == 0, others, (others - 1.0) + own))
    total, lse = others + own, top + log_rest
    losses = torch_plain.weigh(own_mass, gap) + (own_mass + rest) * log_rest + rest_gap
    penalties = z_loss * lse * lse if z_loss else torch.zeros_like(lse)
    pull = torch.where(top == math.inf, 0.0, 2.0 * z_loss * lse)  # the limit has no slope
    own_slope = (rest + pull) * (own / total) - own_mass * (others / total)
    idle = (part.weight == 0) | ((rest + own_mass == 0) & (z_loss == 0))
    losses, penalties = (torch.where(idle, 0.0, part.weight * each) for each in (losses, penalties))
    slope = (rest + own_mass + pull) / total
    return Sums(top, losses, penalties, mass, owner, slope, own_slope, idle)


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


def gradient(part: Part, logits: Tensor, rows: slice, row: Sums, factor: Tensor) -> Tensor:
    """Return the gradient in some rows, each times its factor."""
    with torch.enable_grad():
        z = _taken(part, logits, rows).detach().requires_grad_()
        scores = torch_plain.scores(z, part.loss.softcap, part.loss.temperature)
    f, slope, own_slope = (
        each[rows, None] for each in (factor, factor * row.slope, factor * row.own_slope)
    )
    s, top = _referred(scores.detach(), row.top[rows, None].to(z.dtype))
    x, here = _set_apart(part, s, rows)
    here = here & (row.owner[rows, None] == part.shard.rank)
    g = _exp(top - s).mul_(slope.to(z.dtype))
    if not part.is_hard:
        g -= f * _masses(part, rows)
    g = _put(g, x, here, own_slope.to(z.dtype))
    (g,) = torch.autograd.grad(scores, z, g)
    return g.masked_fill(row.idle[rows, None], 0.0)


def refuse_second_derivatives() -> None:
    """Raise in a backward pass whose result would be differentiated: it would count as constant."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a loss over a group has first derivatives only, but create_graph=True asks for more"
        )


class _Loss(torch.autograd.Function):
    """The reduced loss, or the losses for reduction "none"."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, call: Call, part: Part) -> Tensor:
        row = sums(part, _rows(logits, call.axis))
        value, ctx.divisor = reduced(part, row.losses + row.penalties, row.mass, call)
        ctx.save_for_backward(logits)
        ctx.axis, ctx.part, ctx.row = call.axis, part, row
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivatives()
        (logits,), axis, part, row = ctx.saved_tensors, ctx.axis, ctx.part, ctx.row
        z = _rows(logits, axis)
        factor = part.weight * upstream.reshape(-1) / ctx.divisor
        row = replace(row, idle=row.idle | (ctx.divisor == 0))
        slopes = torch.empty_like(z)
        for rows in part.blocks() if part.shard.width else ():
            slopes[rows] = gradient(part, z, rows, row, factor)
        shape = logits.movedim(axis, -1).shape
        return slopes.reshape(shape).movedim(-1, axis), None, None


_loss: Callable[..., Tensor] = _Loss.apply
