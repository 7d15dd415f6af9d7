"""A rank's share of the classes of a loss: what it finds out about them, and their gradient.

Letters as in kernels/rows.py: x the class that is summed apart, which is the target where there is
one, else the winner; m a row's maximum. What a rank finds out about its own classes refers to its
own maximum; all ranks exchange that once, and each refers it to the maximum of all and adds it up:

    others  sum of exp(s_j - m) over all classes but x
    gap     m - s_x, infinity on ranks that do not hold x
    and where targets have masses t: t_x, and over all classes but x
    rest, rest_gap    sum of t_j, sum of t_j (m - s_j)

All of these are sums of numbers >= 0, so no rank needs a difference of nearly equal ones. A rank
whose winner is not the winner of all gives it back to the others. The gradient needs nothing more:
what a row is made of is known on every rank. A second derivative needs one more exchange.

Sums are float64. Scores with target masses are too, as there the gradient is a difference of given
numbers; with class indices alone they stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from crossent import torch_plain
from crossent.losses import CrossEntropy
from crossent.torch_group import exchange
from crossent.torch_tensors import computed_in

BLOCK = 2**18  # scores at a time: what is made of them stays in the cache
GPU_BLOCK = 2**25


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


def rows_of(tensor: Tensor, axis: int) -> Tensor:
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
    total : sum of exp(s - top) over all classes
    own_share, rest_share : probability of the class that was summed apart, and of all others
    """

    top: Tensor
    losses: Tensor
    penalties: Tensor
    mass: Tensor
    owner: Tensor
    slope: Tensor
    own_slope: Tensor
    idle: Tensor
    total: Tensor
    own_share: Tensor
    rest_share: Tensor


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
    own_share, rest_share = own / total, others / total
    own_slope = (rest + pull) * own_share - own_mass * rest_share
    idle = (part.weight == 0) | ((rest + own_mass == 0) & (z_loss == 0))
    losses, penalties = (torch.where(idle, 0.0, part.weight * each) for each in (losses, penalties))
    slope = (rest + own_mass + pull) / total
    shares = (total, own_share, rest_share)
    return Sums(top, losses, penalties, mass, owner, slope, own_slope, idle, *shares)


# Derivatives --------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Some rows of scores (n, width), and what derivatives in them are made of.

    `scores` are those that the loss sees, differentiable in `z`; `e` is exp(scores - top); `x` is
    the class that was summed apart, where it is `here`.
    """

    z: Tensor
    scores: Tensor
    e: Tensor
    x: Tensor
    here: Tensor


def _block(part: Part, logits: Tensor, rows: slice, row: Sums) -> Block:
    with torch.enable_grad():
        z = _taken(part, logits, rows).detach().requires_grad_()
        scores = torch_plain.scores(z, part.loss.softcap, part.loss.temperature)
    s, top = _referred(scores.detach(), row.top[rows, None].to(z.dtype))
    x, here = _set_apart(part, s, rows)
    return Block(z, scores, _exp(top - s), x, here & (row.owner[rows, None] == part.shard.rank))


def _slope(part: Part, block: Block, rows: slice, row: Sums, factor: Tensor) -> Tensor:
    """Return the gradient in the scores that the loss sees, in the memory of their exponentials."""
    f, slope, own_slope = (
        each[rows, None] for each in (factor, factor * row.slope, factor * row.own_slope)
    )
    g = block.e.mul_(slope.to(block.z.dtype))
    if not part.is_hard:
        g -= f * _masses(part, rows)
    return _put(g, block.x, block.here, own_slope.to(block.z.dtype))


def gradient(part: Part, logits: Tensor, rows: slice, row: Sums, factor: Tensor) -> Tensor:
    """Return the gradient in some rows, each times its factor."""
    block = _block(part, logits, rows, row)
    (g,) = torch.autograd.grad(block.scores, block.z, _slope(part, block, rows, row, factor))
    return g.masked_fill(row.idle[rows, None], 0.0)


def second_derivative(
    part: Part, logits: Tensor, row: Sums, factor: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how the gradient changes in a direction (N, width), and by how much each loss does.

    Each row of the gradient is multiplied by its factor, each loss by its weight. Where the scores
    change by d, the mean of d over a row's classes is d_0 = sum p_j d_j, and with the masses of
    the targets and of the z-loss M = sum t_j + 2 z_loss lse

        dg_j = M p_j (d_j - d_0) + 2 z_loss d_0 p_j

    where the class x that is summed apart has d_x - d_0 = (1 - p_x) d_x - sum_{j != x} p_j d_j.
    """
    blocks = list(part.blocks()) if part.shard.width else []
    found = part.weight.new_zeros(3, len(part.weight))
    for rows in blocks:
        found[:, rows] = _moved(part, logits, rows, row, direction[rows])
    others, own, losses = exchange(found, part.shard.group).sum(0)
    bent = torch.zeros_like(logits)
    for rows in blocks:
        means = (others[rows, None], own[rows, None])
        bent[rows] = _bent(part, logits, rows, row, factor, direction[rows], means)
    return bent, torch.where(row.idle, 0.0, losses)


def _moved(part: Part, logits: Tensor, rows: slice, row: Sums, direction: Tensor) -> Tensor:
    """Return what this rank adds to sum_{j != x} p_j d_j, to d_x, and to the change of the loss."""
    block = _block(part, logits, rows, row)
    d = _through(block, direction)
    own = torch.where(block.here, d.gather(1, block.x), 0.0)
    others = _put(block.e, block.x, block.here, 0.0) * d / row.total[rows, None]
    slope = _slope(part, block, rows, row, part.weight)
    return _columns(*(each.sum(1, keepdim=True) for each in (others, own, slope * d)))


def _through(block: Block, direction: Tensor) -> Tensor:
    """Return how the scores that the loss sees change, in float64."""
    (d,) = torch.autograd.grad(
        block.scores, block.z, direction.to(block.z.dtype), retain_graph=True
    )
    return d.double()


def _bent(
    part: Part,
    logits: Tensor,
    rows: slice,
    row: Sums,
    factor: Tensor,
    direction: Tensor,
    means: tuple[Tensor, Tensor],
) -> Tensor:
    """Return how the gradient of some rows changes, from sum_{j != x} p_j d_j and d_x."""
    block, (others, own) = _block(part, logits, rows, row), means
    names = (row.slope, row.total, row.own_share, row.rest_share, factor, row.top)
    slope, total, p_x, p_rest, f, top = (each[rows, None] for each in names)
    pull = 2.0 * part.loss.z_loss * (top != math.inf).double()  # the limit has no slope
    mean = others + p_x * own
    h = block.e * (slope * (_through(block, direction) - mean) + pull * mean / total)
    of_x = p_x * (slope * total * (p_rest * own - others) + pull * mean)
    h = f * _put(h, block.x, block.here, of_x)
    bent = _through(block, h)
    if part.loss.softcap is not None:  # which bends the scores themselves
        with torch.enable_grad():
            g = _slope(part, block, rows, row, factor)
            (g,) = torch.autograd.grad(block.scores, block.z, g, create_graph=True)
        bent += torch.autograd.grad(g, block.z, direction.to(g.dtype))[0]
    return bent.masked_fill(row.idle[rows, None], 0.0)
