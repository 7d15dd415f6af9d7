"""The losses in differentiable torch operations: what runs where no kernel does.

On devices without kernels, under `torch.func`, in forward mode, for a second derivative, and for
gradients in targets and weights. Every formula keeps its tails when autograd differentiates it,
once or often, because what would cancel is left out before:

* Softmax: the winner is summed apart. With m its score and L = log1p(sum of exp(s_j - m) over
  the others), the distance -ln p_j is m - s_j + L, and L alone for the winner. A score of +inf
  needs no case of its own: the others' exponentials are 0.
* Sigmoid: e = exp(-|z|) makes both sigmoid(z) and sigmoid(-z); |z| is a choice between z and -z,
  so that it has a derivative at 0.

Half types are computed in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossent.sums import LossSums
from crossent.torch_tensors import are_probabilities, computed_in


@dataclass(frozen=True)
class Terms:
    """What a loss is made of, before it is reduced.

    Attributes
    ----------
    losses, penalties : tensors of the rows' shape (softmax) or the logits' shape (sigmoid)
        Weighted losses and z-losses; 0 for what takes no part.
    part : bool tensor that broadcasts to the losses
        What takes part.
    weight, samples : tensors of one number
        What "mean" and "batchmean" divide by.
    """

    losses: Tensor
    penalties: Tensor
    part: Tensor
    weight: Tensor
    samples: Tensor


def value(
    loss: Any,
    logits: Tensor,
    targets: Tensor,
    sample_weight: Tensor | None,
    weights: Tensor | None,
    normalizer: float | None,
) -> Tensor:
    """Return the reduced loss, or the losses for reduction "none"."""
    found = terms(loss, logits, targets, sample_weight, weights)
    losses = found.losses + found.penalties
    return reduced(loss.reduction, losses, found.weight, found.samples, normalizer)


def reduced(
    reduction: str, losses: Tensor, weight: Tensor, samples: Tensor, normalizer: float | None
) -> Tensor:
    """Return the losses as they are, or their sum divided as the reduction says."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if normalizer is not None:
        return losses.sum() / normalizer
    divisor = weight if reduction == "mean" else samples
    nothing = divisor == 0
    return torch.where(nothing, 0.0, losses.sum() / torch.where(nothing, 1.0, divisor))


def terms(
    loss: Any,
    logits: Tensor,
    targets: Tensor,
    sample_weight: Tensor | None,
    weights: Tensor | None,
) -> Terms:
    """Return the losses of all rows or outputs, and what divides them.

    `weights` are those of classes (C,), or of positives, of a shape that broadcasts.
    """
    dtype = computed_in(logits)
    w, factor = (None if given is None else given.to(dtype) for given in (sample_weight, weights))
    of_kind = _softmax_terms if loss.activation_name == "softmax" else _sigmoid_terms
    return of_kind(loss, logits.to(dtype), targets, w, factor)


def weigh(mass: Tensor, distance: Tensor) -> Tensor:
    """Return mass * distance with 0 * inf = 0: what is impossible and does not happen is free."""
    free = (mass == 0) & (distance == math.inf)
    return mass * torch.where(free, 0.0, distance)


def sums(
    loss: Any,
    logits: Tensor,
    targets: Tensor,
    sample_weight: Tensor | None,
    weights: Tensor | None,
) -> LossSums:
    """Return sums that merge with those of other samples."""
    found = terms(loss, logits, targets, sample_weight, weights)
    if loss.activation_name == "sigmoid":
        right = (logits > 0) == (targets > 0.5)
    elif are_probabilities(targets, logits):
        right = logits.argmax(loss.axis) == targets.argmax(loss.axis)
    else:
        right = logits.argmax(loss.axis) == targets
    part = found.part.expand(right.shape)
    return LossSums(
        sum=float(found.losses.sum()),
        z_loss=float(found.penalties.sum()),
        weight=float(found.weight),
        samples=float(found.samples),
        rows=int(part.sum()),
        correct=int((right & part).sum()),
        ignored=int((~part).sum()),
    )


# Softmax ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Apart:
    """A row with its winner apart: position, score, the others' exp(s_j - m) (0 for the winner)."""

    winner: Tensor
    m: Tensor
    others: Tensor

    @property
    def rest(self) -> Tensor:
        """Return the sum of the others: (1 - p) / p of the winner."""
        return self.others.sum(-1, keepdim=True)


def apart(s: Tensor) -> Apart:
    """Set the winner of every row (..., C) apart."""
    winner = s.argmax(-1, keepdim=True)
    m = s.gather(-1, winner)
    return Apart(winner, m, torch.exp(s.scatter(-1, winner, -math.inf) - m))


def distances(s: Tensor, row: Apart) -> Tensor:
    """Return -ln p of every class."""
    return (row.m - s).scatter(-1, row.winner, 0.0) + torch.log1p(row.rest)


def distance_of(y: Tensor, s: Tensor, row: Apart) -> Tensor:
    """Return -ln p of one class per row; y has the rows' shape."""
    index = y.unsqueeze(-1)
    gap = torch.where(index == row.winner, 0.0, row.m - s.gather(-1, index))
    return (gap + torch.log1p(row.rest)).squeeze(-1)


def complement_distances(s: Tensor, row: Apart) -> Tensor:
    """Return -ln(1 - p) of every class: log1p(p / (1 - p)), for the winner by the others' sum."""
    rest = row.rest
    near = torch.log1p(row.others / (1 + (rest - row.others)))
    below = s.scatter(-1, row.winner, -math.inf)
    alone = (below == -math.inf).all(-1, keepdim=True)
    second = apart(torch.where(alone, 0.0, below))
    gap = row.m - torch.where(alone, -math.inf, second.m) - torch.log1p(second.rest)
    return near.scatter(-1, row.winner, 0.0) + torch.zeros_like(s).scatter(
        -1, row.winner, gap + torch.log1p(rest)
    )


def scores(logits: Tensor, softcap: float | None, temperature: float) -> Tensor:
    """Return softcap tanh(logits / softcap) / temperature, with a derivative right in the tails."""
    if softcap is not None:
        x = logits / softcap
        size = 2 * torch.where(x >= 0, x, -x)
        bounded = -torch.expm1(-size) / (1 + torch.exp(-size))
        logits = softcap * torch.where(x >= 0, bounded, -bounded)
    return logits / temperature if temperature != 1.0 else logits


def _softmax_terms(
    loss: Any, logits: Tensor, targets: Tensor, weights: Tensor | None, class_weight: Tensor | None
) -> Terms:
    z = logits.movedim(loss.axis, -1)
    given = torch.ones_like(z[..., 0]) if weights is None else weights
    if are_probabilities(targets, logits):
        y, part = targets.to(z.dtype).movedim(loss.axis, -1), given != 0
        y = torch.where(part.unsqueeze(-1), y, 0.0)
    else:
        targets = targets.to(torch.int64)  # 8 bits may take an index for the one to be ignored
        part = (targets != loss.ignore_index) & (given != 0)
        y = torch.where(part, targets, 0)
    w = torch.where(part, given, 0.0)
    z = torch.where(part.unsqueeze(-1), z, 0.0)  # what takes no part may hold anything
    s = scores(z, loss.softcap, loss.temperature)
    row = apart(s)
    if loss.name == "softmax_binary_cross_entropy":
        losses, mass = _two_terms(loss, y, s, row), torch.ones_like(w)
    else:
        losses, mass = _one_term(loss, y, s, row, class_weight)
    penalties = torch.zeros_like(w)
    if getattr(loss, "z_loss", 0.0):
        penalties = torch.where(part, w * loss.z_loss * _squared_logsumexp(row), 0.0)
    losses = torch.where(part, w * losses, 0.0)
    return Terms(losses, penalties, part, (w * mass).sum(), w.sum())


def _squared_logsumexp(row: Apart) -> Tensor:
    """Return logsumexp^2 row by row; where it is infinite it has no slope."""
    infinite = row.m == math.inf
    lse = torch.where(infinite, 0.0, row.m) + torch.log1p(row.rest)
    return torch.where(infinite, math.inf, lse**2).squeeze(-1)


def _one_term(
    loss: Any, y: Tensor, s: Tensor, row: Apart, class_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return sum_j t_j (-ln p_j) and the mass of the targets before smoothing, row by row."""
    alpha = loss.label_smoothing
    if y.dtype.is_floating_point:
        factor = torch.ones_like(s[..., :1]) if class_weight is None else class_weight
        t = ((1 - alpha) * y + alpha / s.shape[-1]) * factor
        return weigh(t, distances(s, row)).sum(-1), (y * factor).sum(-1)
    mass = torch.ones_like(s[..., 0]) if class_weight is None else class_weight[y]
    losses = weigh((1 - alpha) * mass, distance_of(y, s, row))
    if alpha:
        spread = s.new_tensor(alpha / s.shape[-1])
        t = spread if class_weight is None else spread * class_weight
        losses = losses + weigh(t, distances(s, row)).sum(-1)
    return losses, mass


def _two_terms(loss: Any, y: Tensor, s: Tensor, row: Apart) -> Tensor:
    """Return sum_j [t_j (-ln p_j) + (1 - t_j) (-ln(1 - p_j))], row by row."""
    if not y.dtype.is_floating_point:
        y = torch.zeros_like(s).scatter(-1, y.unsqueeze(-1), 1.0)
    alpha = loss.label_smoothing
    base = alpha / s.shape[-1]
    t, left = (1 - alpha) * y + base, (1 - alpha) * (1 - y) + (alpha - base)  # not 1 - t: little
    errors = weigh(t, distances(s, row)) + weigh(left, complement_distances(s, row))
    return errors.sum(-1)


# Sigmoid ----------------------------------------------------------------------------------------


def softplus(z: Tensor) -> Tensor:
    """Return ln(1 + exp(z)) = -ln sigmoid(-z)."""
    e = torch.exp(-torch.where(z >= 0, z, -z))
    return torch.where(z >= 0, z, 0.0) + torch.log1p(e)


def sigmoid(z: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-z))."""
    e = torch.exp(-torch.where(z >= 0, z, -z))
    return torch.where(z >= 0, 1.0, e) / (1 + e)


def _sigmoid_terms(
    loss: Any, z: Tensor, targets: Tensor, weights: Tensor | None, pos_weight: Tensor | None
) -> Terms:
    w = torch.ones_like(z) if weights is None else weights
    w = w.unsqueeze(-1) if w.ndim < z.ndim else w
    part = w != 0
    w = torch.where(part, w, 0.0)
    z, y = torch.where(part, z, 0.0), torch.where(part, targets.to(z.dtype), 0.0)
    alpha = loss.label_smoothing
    a, b = (1 - alpha) * y + alpha / 2, (1 - alpha) * (1 - y) + alpha / 2
    if loss.name == "quadratic_cost":
        losses = 0.5 * (b * sigmoid(z) - a * sigmoid(-z)) ** 2
    else:
        a = a if pos_weight is None else a * pos_weight
        losses = weigh(a, softplus(-z)) + weigh(b, softplus(z))
    outputs = z.shape[-1] if z.ndim > 1 else 1
    samples = w.sum() / (w.shape[-1] if w.ndim > 1 and w.shape[-1] else 1)
    losses = torch.where(part, w * losses, 0.0)
    return Terms(losses, torch.zeros_like(losses), part, samples * outputs, samples)


# Activations ------------------------------------------------------------------------------------


def activation(name: str, logits: Tensor, axis: int) -> Tensor:
    """Return the softmax or sigmoid, or its logarithm, or the logsumexp."""
    z = logits.to(computed_in(logits))
    if name == "sigmoid":
        return sigmoid(z)
    if name == "log_sigmoid":
        return -softplus(-z)
    s = z.movedim(axis, -1)
    row = apart(s)
    if name == "logsumexp":
        return (row.m + torch.log1p(row.rest)).squeeze(-1)
    if name == "log_softmax":
        return -distances(s, row).movedim(-1, axis)
    return (row.others.scatter(-1, row.winner, 1.0) / (1 + row.rest)).movedim(-1, axis)
