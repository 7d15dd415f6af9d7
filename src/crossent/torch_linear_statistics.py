"""What a linear head makes of every row of a validation set, without ever holding its scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossent import checks, linear_numpy, torch_linear_plain, torch_plain
from crossent.linear import BUDGET, LinearCrossEntropy
from crossent.torch_linear_tensors import Tensors, tensors_of
from crossent.torch_tensors import is_on_cpu, tensor_of


@dataclass(frozen=True)
class HeadStatistics:
    """What a head makes of each row, in the rows' shape; 0 and False for rows that are ignored.

    Attributes
    ----------
    loss : tensor
        -ln p of the target, in nats.
    logsumexp, entropy : tensor
        ln sum_j exp(s_j), and -sum_j p_j ln p_j in nats.
    rank : int64 tensor
        1 and the number of classes ahead of the target; of equal scores the first is ahead. 0 for
        rows that are ignored. For probability targets it is the rank of the most probable class.
    top_1, top_k : bool tensor
        Whether the target's rank is 1, or k at most.
    """

    loss: Tensor
    logsumexp: Tensor
    entropy: Tensor
    rank: Tensor
    top_1: Tensor
    top_k: Tensor


def head_statistics(
    features: Tensor,
    weight: Tensor,
    targets: Any,
    bias: Tensor | None = None,
    *,
    top_k: int = 5,
    ignore_index: int = -100,
    softcap: float | None = None,
    temperature: float = 1.0,
    memory_budget: int | str = BUDGET,
) -> HeadStatistics:
    """Return loss, logsumexp, entropy, rank and hits of every row, without holding the scores.

    For validation: autograd does not see it. Arguments are those of
    `crossent.linear_cross_entropy`; `top_k` is the rank up to which a target counts as hit.

    Raises
    ------
    ValueError, TypeError
        As `crossent.linear_cross_entropy` does, and unless top_k is a whole number >= 1.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import head_statistics
    >>> weight = torch.eye(3)
    >>> found = head_statistics(torch.tensor([[2.0, 1.0, 0.1]]), weight, torch.tensor([1]), top_k=2)
    >>> found.rank.tolist(), found.top_1.tolist(), found.top_k.tolist()
    ([2], [False], [True])
    """
    head = LinearCrossEntropy(
        reduction="none",
        ignore_index=ignore_index,
        softcap=softcap,
        temperature=temperature,
        memory_budget=memory_budget,
    )
    k = checks.whole_number("top_k", top_k)
    checks.number("top_k", k, 1, math.inf)
    with torch.no_grad():
        tensors = tensors_of(head, features, weight, targets, bias, None)
        found = _on_arrays(head, tensors) if is_on_cpu(features) else _on_device(head, tensors)
    loss, lse, entropy, rank = found
    return HeadStatistics(loss, lse, entropy, rank, rank == 1, (rank >= 1) & (rank <= k))


def _on_arrays(head: LinearCrossEntropy, tensors: Tensors) -> tuple[Tensor, ...]:
    call = linear_numpy.prepare(head, *tensors.arrays(), None)
    return tuple(map(tensor_of, linear_numpy.statistics(call)))


def _on_device(head: LinearCrossEntropy, tensors: Tensors) -> tuple[Tensor, ...]:
    zero = torch_linear_plain.check(head, tensors)
    parts = [_statistics(head, chunk) for chunk in torch_linear_plain.chunks(head, tensors)]
    shape = tensors.features.shape[:-1]
    each = [torch.cat(part).reshape(shape) for part in zip(*parts, strict=True)]
    return each[0] + zero, *each[1:]


def _statistics(head: LinearCrossEntropy, rows: Tensors) -> tuple[Tensor, ...]:
    """Return losses, logsumexp, entropy and rank of some rows."""
    z, y = torch_linear_plain.scores(rows), rows.targets
    if rows.probabilities is not None:
        y = y.gather(1, rows.probabilities.argmax(1, keepdim=True)).squeeze(1)
    elif y.ndim == 2:
        y = y.argmax(1)
    y = y.to(torch.int64)  # 8 bits may take an index for the one to be ignored
    part = y != head.ignore_index
    index = torch.where(part, y, 0).unsqueeze(1)
    score, position = z.gather(1, index), torch.arange(z.shape[1], device=z.device)
    ahead = torch.where(position < index, ~(z < score), ~(z <= score)) & (position != index)
    s = torch_plain.scores(z, head.softcap, head.temperature)
    row = torch_plain.apart(s)
    p, far = torch_plain.activation("softmax", s, 1), torch_plain.distances(s, row)
    lse = (row.m + torch.log1p(row.rest)).squeeze(1)
    entropy = torch_plain.weigh(p, far).sum(1)
    losses = torch_linear_plain.terms(head, rows)[0]
    each = (losses, lse, entropy, 1 + ahead.sum(1))
    return tuple(torch.where(part, t, torch.zeros_like(t)) for t in each)
