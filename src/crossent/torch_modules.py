"""`nn.Module`s with the names, arguments, defaults, attributes, state and layout of torch's own.

What they compute is in torch_front_end.py and torch_linear.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crossent import checks, torch_front_end, torch_linear
from crossent.linear import BUDGET, LinearCrossEntropy
from crossent.losses import BinaryCrossEntropy, CrossEntropy
from crossent.torch_tensors import as_tensor, beside, check_tensor, stand_in, widest


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` computed by crossent: change the import, and that is all.

    Arguments, defaults, attributes, state and layout are torch's: scores (N, C, d1, ...) or (C,),
    targets class indices of shape (N, d1, ...) or (), or probabilities of the scores' shape. The
    options after them are those of `crossent.CrossEntropy`. docs/torch.md lists where the results
    differ from torch's, and why.

    Parameters
    ----------
    weight : tensor (C,), optional
        Weights >= 0 of the classes.
    ignore_index : int, default -100
        Rows whose class index is this one take no part.
    reduction : {"mean", "sum", "none", "batchmean"}
        "mean" divides by the weight of the targets that take part.
    label_smoothing : float in [0, 1], default 0
        The share of the target that is spread over all classes.
    z_loss : float >= 0, default 0
        Adds z_loss * logsumexp^2.
    softcap : float > 0, optional
        Bounds the scores to (-softcap, softcap).
    temperature : float > 0, default 1
        Divides the scores.
    size_average, reduce : bool, optional
        Deprecated by torch; they override reduction.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import CrossEntropyLoss
    >>> logits = torch.tensor([[2.0, 1.0, 0.1]], requires_grad=True)
    >>> loss = CrossEntropyLoss()(logits, torch.tensor([0]))
    >>> loss.backward()
    >>> print(f"{loss.item():.4f}", [round(g, 4) for g in logits.grad[0].tolist()])
    0.4170 [-0.341, 0.2424, 0.0986]
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss, self.softcap, self.temperature = z_loss, softcap, temperature
        self._loss(axis=1)  # raises what is wrong with an option now

    def _loss(self, axis: int) -> CrossEntropy:
        """Return the options as they are now: attributes of a module may be set."""
        return CrossEntropy(
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            temperature=self.temperature,
            reduction=self.reduction,
            axis=axis,
        )

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        normalizer: float | None = None,
    ) -> Tensor:
        """Return the loss in nats; see `crossent.CrossEntropy` for the last two arguments."""
        check_tensor("input", input)
        if self.weight is not None and self.weight.ndim != 1:
            raise ValueError(f"weight has shape {tuple(self.weight.shape)}; it must be (C,)")
        loss = self._loss(axis=min(1, input.ndim - 1))
        return torch_front_end.value(loss, input, target, sample_weight, normalizer, self.weight)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss` computed by crossent: change the import, and that is all.

    Arguments, defaults, attributes and state are torch's: scores of any shape, targets in [0, 1]
    of the same shape. docs/torch.md lists where the results differ from torch's, and why.

    Parameters
    ----------
    weight : tensor that broadcasts to the scores, optional
        Factors >= 0 of the losses. As in torch, "mean" divides by the number of losses whatever
        the factors; `sample_weight` of a call is what makes a weighted mean.
    reduction : {"mean", "sum", "none", "batchmean"}
        "batchmean" divides by the number of samples, the outputs of each being on the last axis.
    pos_weight : tensor that broadcasts to the scores, optional
        Factors >= 0 of the first term: what missing a positive costs. With several of them,
        scores (J,) are one sample of J outputs, not J samples: "batchmean" divides by 1.
    label_smoothing : float in [0, 1], default 0
        alpha: y becomes (1 - alpha) y + alpha / 2.
    size_average, reduce : bool, optional
        Deprecated by torch; they override reduction.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import BCEWithLogitsLoss
    >>> loss = BCEWithLogitsLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    >>> print(f"{loss.item():.4f}")
    1.4100
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self.label_smoothing = label_smoothing
        self._loss()  # raises what is wrong with an option now

    def _loss(self) -> BinaryCrossEntropy:
        """Return the options as they are now: attributes of a module may be set."""
        return BinaryCrossEntropy(label_smoothing=self.label_smoothing, reduction=self.reduction)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        normalizer: float | None = None,
    ) -> Tensor:
        """Return the loss in nats; see `crossent.BinaryCrossEntropy` for the last two arguments."""
        check_tensor("input", input)
        pos_weight = self.pos_weight
        if pos_weight is not None and pos_weight.numel() > 1 and input.ndim == 1:
            y, w = beside(input, target, sample_weight)
            if y.shape == input.shape:  # else the sentence is about the shapes given
                w = None if w is None else w[None]
                return self.forward(input[None], y[None], w, normalizer).squeeze(0)
        if self.weight is not None:
            if sample_weight is not None:
                raise ValueError(
                    "sample_weight is given, but this loss has a weight; only one of them may be"
                )
            sample_weight = _expanded("weight", self.weight, input)
            if normalizer is None and input.numel() and self.reduction in ("mean", "batchmean"):
                outputs = input.shape[-1] if input.ndim > 1 else 1
                normalizer = input.numel() / (1 if self.reduction == "mean" else outputs)
        if pos_weight is not None:
            pos_weight = _per_output(pos_weight, input)
        return torch_front_end.value(
            self._loss(), input, target, sample_weight, normalizer, pos_weight
        )


def _expanded(name: str, weights: Tensor, input: Tensor) -> Tensor:
    lead = input.ndim - weights.ndim
    pairs = zip(weights.shape, input.shape[max(lead, 0) :], strict=False)
    if lead < 0 or any(have not in (1, want) for have, want in pairs):
        raise ValueError(
            f"{name} has shape {tuple(weights.shape)}; it must broadcast to the shape of input, "
            f"{tuple(input.shape)}"
        )
    return weights.expand(input.shape)


def _per_output(pos_weight: Tensor, input: Tensor) -> Tensor:
    """Return one weight, or one per output on the last axis; else one for every score."""
    if pos_weight.numel() == 1:
        return pos_weight.reshape(1)
    expanded = _expanded("pos_weight", pos_weight, input)
    return pos_weight if pos_weight.shape == input.shape[-1:] else expanded


class LinearCrossEntropyLoss(torch.nn.modules.loss._WeightedLoss):
    """`torch.nn.LinearCrossEntropyLoss` that never holds all scores: change the import.

    Arguments, defaults, attributes, state and layout are torch's: a layer `linear` without bias
    unless asked for, features (N, in_features) or (in_features,), targets class indices (N,) or
    probabilities (N, num_classes); with `out_features` (d1, ...), scores (N, num_classes, d1, ...)
    and targets to match. A pair (indices, probabilities) is taken as well, see
    `crossent.LinearCrossEntropy`, whose options are the others here.

    Parameters
    ----------
    in_features, num_classes : int
        Widths of the layer.
    out_features : tuple of int, default ()
        More axes of decisions that a row of features makes, each with weights of its own.
    bias : bool, default False
        Whether the layer adds a bias.
    reduction : {"mean", "sum", "none", "batchmean"}
        "mean" divides by the weight of the targets that take part.
    weight : tensor (num_classes,), optional
        Weights >= 0 of the classes.
    ignore_index : int, optional
        Rows whose class index is this one take no part; -100 if None.
    label_smoothing : float in [0, 1], default 0
        The share of the target that is spread over all classes.
    options : torch.nn.LinearCrossEntropyOptions, optional
        Accepted, so that calls need no change; `memory_budget` says how much memory is used.
    z_loss, softcap, temperature, memory_budget, filter_tolerance
        As for `crossent.LinearCrossEntropy`.
    device, dtype
        Of the layer.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import LinearCrossEntropyLoss
    >>> criterion = LinearCrossEntropyLoss(16, 5000)
    >>> loss = criterion(torch.zeros(4, 16), torch.tensor([1, 2, 3, -100]))
    >>> loss.backward()
    >>> print(f"{loss.item():.4f}", criterion.linear.weight.grad.shape)
    8.5172 torch.Size([5000, 16])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        memory_budget: int | str = BUDGET,
        filter_tolerance: float | None = None,
    ) -> None:
        super().__init__(weight, None, None, reduction)
        self.num_classes, self.out_features = num_classes, out_features
        self.ignore_index, self.label_smoothing, self.options = (
            ignore_index,
            label_smoothing,
            options,
        )
        self.z_loss, self.softcap, self.temperature = z_loss, softcap, temperature
        self.memory_budget, self.filter_tolerance = memory_budget, filter_tolerance
        self.linear = torch.nn.Linear(
            in_features,
            math.prod(out_features, start=num_classes),
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self._head(reduction)  # raises what is wrong with an option now

    def _head(self, reduction: str) -> LinearCrossEntropy:
        """Return the options as they are now: attributes of a module may be set."""
        return LinearCrossEntropy(
            ignore_index=-100 if self.ignore_index is None else self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            temperature=self.temperature,
            reduction=reduction,
            memory_budget=self.memory_budget,
            filter_tolerance=self.filter_tolerance,
        )

    def forward(
        self,
        input: Tensor,
        target: Any,
        sample_weight: Tensor | None = None,
        normalizer: float | None = None,
    ) -> Tensor:
        """Return the loss in nats; see `crossent.LinearCrossEntropy` for the last two arguments."""
        check_tensor("input", input)
        if self.out_features:
            return self._of_many(input, target, sample_weight, normalizer)
        head, layer = self._head(self.reduction), self.linear
        call = (input, layer.weight, target, layer.bias, sample_weight, normalizer)
        return torch_linear.value(head, *call, class_weight=self.weight)

    def _of_many(
        self, input: Tensor, target: Any, sample_weight: Tensor | None, normalizer: float | None
    ) -> Tensor:
        """Return the loss of several decisions for each row of features, one after the other."""
        given = checks.normalizer(normalizer, self.reduction)
        self._check_many(input, target)
        n, decisions = len(input), math.prod(self.out_features)
        y = target.reshape(n, *target.shape[1 : target.ndim - len(self.out_features)], decisions)
        w = None
        if sample_weight is not None:
            w = as_tensor(input, "sample_weight", sample_weight, "input")
            checks.sample_weight(stand_in(w), (n, *self.out_features))
            w = w.reshape(n, decisions)
        weight = self.linear.weight.reshape(self.num_classes, decisions, -1)
        bias = None if self.linear.bias is None else self.linear.bias.reshape(-1, decisions)
        head = self._head("none")
        losses = []
        for k in range(decisions):
            own_bias, own_weight = (None if t is None else t[:, k] for t in (bias, w))
            call = (input, weight[:, k], y[..., k], own_bias, own_weight, None)
            losses.append(torch_linear.value(head, *call, class_weight=self.weight))
        each = torch.stack(losses, 1)
        if self.reduction == "none":
            return each.reshape(n, *self.out_features)
        divisor = self._divisor(y, w) if given is None else each.new_tensor(given)
        some = torch.where(divisor == 0, 1.0, divisor)  # nothing left to average gives 0
        return (each.sum() / some).to(each.dtype)

    def _check_many(self, input: Tensor, target: Any) -> None:
        """Raise unless features are rows, and targets have the axes of all decisions."""
        if input.ndim != 2:
            raise ValueError(
                f"input has shape {tuple(input.shape)}; with out_features it must have shape "
                f"(N, {self.linear.in_features})"
            )
        soft = isinstance(target, Tensor) and target.is_floating_point()
        classes = (self.num_classes,) if soft else ()
        shape = (len(input), *classes, *self.out_features)
        if not isinstance(target, Tensor) or target.shape != shape:
            found = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
            raise ValueError(
                f"target is of {found}; with out_features it must be a tensor of shape {shape}"
            )

    def _divisor(self, y: Tensor, w: Tensor | None) -> Tensor:
        """Return what the sum over all decisions is divided by, as autograd sees it."""
        wide = widest(y.device)
        if self.reduction == "sum":
            return torch.ones((), dtype=wide, device=y.device)
        soft = y.is_floating_point()
        part = torch.ones_like(y[:, 0] if soft else y, dtype=wide)
        if not soft:
            y = y.to(torch.int64)
            part = (y != self._head("none").ignore_index).to(wide)
        if w is not None:
            part = part * w
        if self.reduction == "batchmean":
            return part.sum()
        each = part.new_ones(self.num_classes) if self.weight is None else self.weight.to(wide)
        if soft:
            return (part * torch.einsum("nck,c->nk", y.to(wide), each)).sum()
        return (part * each[torch.where(part != 0, y, 0)]).sum()

    def extra_repr(self) -> str:
        """Return the arguments, as torch's module shows them."""
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, "
            f"out_features={self.out_features}, bias={self.linear.bias is not None}, "
            f"reduction={self.reduction}, memory_budget={self.memory_budget}"
        )
