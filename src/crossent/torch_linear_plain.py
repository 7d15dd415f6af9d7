"""The linear head in differentiable torch operations: what runs where no kernel does.

Some rows at a time; where autograd will ask for gradients, their scores are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crossent import checks, torch_checks, torch_plain
from crossent.linear import GRADIENTS, HeadGradients, LinearCrossEntropy
from crossent.torch_linear_tensors import Tensors
from crossent.torch_tensors import are_transformed, computed_in, is_wanted, stand_in


def gradients(
    head: LinearCrossEntropy,
    tensors: Tensors,
    normalizer: float | None,
    wanted: tuple[str, ...],
) -> tuple[Tensor, HeadGradients]:
    """Return the loss and the gradients wanted."""
    with torch.enable_grad():
        leaves = [
            None if t is None else t.detach().requires_grad_(name in wanted)
            for name, t in zip(GRADIENTS, tensors, strict=False)
        ]
        loss = value(head, Tensors._make([*leaves, *tensors[3:]]), normalizer)
        asked = [t for t in leaves if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad(loss.sum(), asked) if asked else ())
    each = {
        name: next(found) if t is not None and t.requires_grad else None
        for name, t in zip(GRADIENTS, leaves, strict=True)
    }
    return loss.detach(), HeadGradients(**each, dropped=None)


def value(head: LinearCrossEntropy, tensors: Tensors, normalizer: float | None) -> Tensor:
    """Return the loss by differentiable torch operations, some rows at a time."""
    zero = check(head, tensors)
    again = not are_transformed(*tensors) and is_wanted(*tensors)
    dtype = computed_in(tensors.features)  # so that gradients of several chunks add up in it
    wide = (None if t is None else t.to(dtype) for t in tensors[:3])
    tensors = Tensors._make([*wide, *tensors[3:]])
    parts = [
        checkpoint(terms, head, chunk, use_reentrant=False, preserve_rng_state=False)
        if again
        else terms(head, chunk)
        for chunk in chunks(head, tensors)
    ]
    losses, weights, samples = zip(*parts, strict=True)
    each = torch.cat(losses).reshape(tensors.features.shape[:-1])
    sums = torch.stack(weights).sum(), torch.stack(samples).sum()
    return torch_plain.reduced(head.reduction, each, *sums, normalizer) + zero


def chunks(head: LinearCrossEntropy, tensors: Tensors) -> Iterator[Tensors]:
    """Yield the rows of a call, so many at a time that their scores fit the budget."""
    features, step = tensors.features, _step(head, tensors)
    n = math.prod(features.shape[:-1])

    def rows(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.reshape(n, *tensor.shape[features.ndim - 1 :])

    x, y, p, w = map(rows, (features, *tensors[3:6]))
    for start in range(0, max(n, 1), step):
        part = (t if t is None else t[start : start + step] for t in (y, p, w))
        assert x is not None
        each = [x[start : start + step], *tensors[1:3], *part, tensors.class_weight]
        yield Tensors._make(each)


def _step(head: LinearCrossEntropy, tensors: Tensors) -> int:
    """Return how many rows of scores fit the budget."""
    laid_out = 2 if tensors.probabilities is not None else 1
    return checks.budget_for_rows(
        head.budget, len(tensors.weight) * computed_in(tensors.features).itemsize * laid_out
    )


def terms(head: LinearCrossEntropy, rows: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of some rows, and what the reductions divide by."""
    z, y = scores(_with_nothing_ignored(head, rows)), rows.targets
    if rows.probabilities is not None:
        y = torch.zeros_like(z).scatter_add(1, y.to(torch.int64), rows.probabilities.to(z.dtype))
    found = torch_plain.terms(head.loss, z, y, rows.sample_weight, rows.class_weight)
    return found.losses + found.penalties, found.weight, found.samples


def _with_nothing_ignored(head: LinearCrossEntropy, rows: Tensors) -> Tensors:
    """Return rows with features of 0 where they take no part: 0 times NaN would reach weights."""
    part = rows.features.new_ones(rows.features.shape[:-1], dtype=torch.bool)
    if rows.probabilities is None and not rows.targets.is_floating_point():
        part = rows.targets.to(torch.int64) != head.ignore_index
    if rows.sample_weight is not None:
        part = part & (rows.sample_weight != 0)
    return rows._replace(features=torch.where(part.unsqueeze(-1), rows.features, 0))


def scores(rows: Tensors) -> Tensor:
    """Return the scores of some rows, in the type that features are computed in."""
    dtype, device = computed_in(rows.features), rows.features.device.type
    known = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if known else nullcontext():
        z = rows.features.to(dtype) @ rows.weight.to(dtype).mT
        return z if rows.bias is None else z + rows.bias.to(dtype)


def check(head: LinearCrossEntropy, tensors: Tensors) -> Tensor:
    """Raise what the NumPy front end would raise, else return 0, for the loss to add."""
    x, w, _ = checks.head(*map(stand_in, tensors[:3]))
    shape = (*x.shape[:-1], len(w))
    _step(head, tensors)  # raises what is wrong with the budget
    y, p, s = tensors.targets, tensors.probabilities, tensors.sample_weight
    scores = tensors.features.detach().new_zeros(()).expand(shape)
    if p is None:
        return torch_checks.check(head.loss, scores, y, s, tensors.class_weight)
    indices = checks.top_indices(stand_in(y), shape)
    checks.top_probabilities(stand_in(p), indices.shape, True)
    pair: Tensor = torch_checks.check_pair(
        y, p.detach(), None if s is None else s.detach(), shape[-1]
    )
    of_rows = y.new_zeros(shape[:-1], dtype=torch.int64)
    return pair + torch_checks.check(head.loss, scores, of_rows, s, tensors.class_weight)
