"""The linear head on tensors: an operator that autograd differentiates, once and twice.

CPU tensors lend their memory to linear_numpy.py. Where autograd will ask for gradients of a single
number, one pass computes them beside the loss, and the backward pass multiplies them by what comes
from above; for reduction "none", each row having its own factor, the backward pass computes the
scores again. So does a second derivative. Everything else (devices without kernels, `torch.func`,
forward mode, gradients in targets and weights) is computed by torch operations, some rows at a
time, whose scores are computed again when they are differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from crossent import checks, linear_numpy, torch_checks, torch_plain
from crossent.linear import BUDGET, GRADIENTS, HeadGradients, LinearCrossEntropy
from crossent.torch_tensors import (
    are_transformed,
    array_of,
    as_tensor,
    computed_in,
    is_on_cpu,
    is_wanted,
    scaled,
    stand_in,
    tensor_of,
    widest,
)

OPTIONS = {
    "reduction": "str",
    "label_smoothing": "float",
    "ignore_index": "int",
    "z_loss": "float",
    "softcap": "float?",
    "temperature": "float",
    "memory_budget": "int",
    "filter_tolerance": "float?",
}
OPTIONS_SCHEMA = ", ".join(f"{kind} {name}" for name, kind in OPTIONS.items())


class Tensors(NamedTuple):
    """The tensors of a call; `probabilities` belong to targets that are pairs."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    probabilities: Tensor | None
    sample_weight: Tensor | None
    class_weight: Tensor | None


# A head taken apart for an operator, and put together again ---------------------------------------


def _options(head: LinearCrossEntropy) -> list[Any]:
    return [head.budget if name == "memory_budget" else getattr(head, name) for name in OPTIONS]


def _new_head(options: tuple[Any, ...], class_weight: Tensor | None = None) -> LinearCrossEntropy:
    given = None if class_weight is None else class_weight.tolist()
    return LinearCrossEntropy(class_weight=given, **dict(zip(OPTIONS, options, strict=True)))


_head = lru_cache(_new_head)  # for those without weights, which may be many


def _call(
    tensors: Tensors, normalizer: float | None, options: tuple[Any, ...]
) -> linear_numpy.Call:
    """Check a call of CPU tensors, and return it on arrays."""
    weights = tensors.class_weight
    head = _head(options) if weights is None else _new_head(options, weights)
    arrays = [None if t is None else array_of(t) for t in tensors]
    x, w, b, y, p, sample_weight, _ = arrays
    return linear_numpy.prepare(
        head, x, w, y if p is None else (y, p), b, sample_weight, normalizer
    )


# The operator -------------------------------------------------------------------------------------


def _compute(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    probabilities: Tensor | None,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    normalizer: float | None,
    upstream: Tensor | None,
    wanted: list[bool],
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, and the gradients wanted in the type that is computed in.

    `upstream` has a factor for each row, of reduction "none".
    """
    tensors = Tensors(features, weight, bias, targets, probabilities, sample_weight, class_weight)
    call = _call(tensors, normalizer, options)
    names = tuple(name for name, want in zip(GRADIENTS, wanted, strict=True) if want)
    above = None if upstream is None else array_of(upstream.reshape(-1))
    loss, layer = linear_numpy.evaluate(call, names, above)
    found = [
        tensor_of(layer.gradients[name]).to(computed_in(features)).reshape(like.shape)
        if name in names and like is not None
        else _nothing(features)
        for name, like in zip(GRADIENTS, (features, weight, bias), strict=True)
    ]
    return tensor_of(loss), found[0], found[1], found[2]


def _nothing(features: Tensor) -> Tensor:
    return features.new_empty(0, dtype=computed_in(features))


def _compute_nothing(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    probabilities: Tensor | None,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    normalizer: float | None,
    upstream: Tensor | None,
    wanted: list[bool],
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tensors of the right shapes and types, which hold nothing."""
    dtype, reduction = computed_in(features), options[0]
    loss = features.new_empty(features.shape[:-1] if reduction == "none" else [], dtype=dtype)
    found = [
        features.new_empty(like.shape, dtype=dtype)
        if want and like is not None
        else _nothing(features)
        for like, want in zip((features, weight, bias), wanted, strict=True)
    ]
    return loss, found[0], found[1], found[2]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.normalizer, _, ctx.computed = inputs[7:10]
    ctx.options = tuple(inputs[10:])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:7], *output[1:])


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients in features, weight and bias, and nothing for the other arguments."""
    nothing = (None,) * (7 + len(ctx.options))
    if upstream is None:
        return None, None, None, *nothing
    tensors = Tensors(*ctx.saved_tensors[:7])
    wanted = list(ctx.needs_input_grad[:3])
    call = (tensors, ctx.normalizer, ctx.options)
    if torch.is_grad_enabled():  # the gradients will be differentiated in their turn
        found = _differentiable_gradients(*tensors[:3], upstream, call, wanted)
    elif any(ctx.computed):
        pairs = zip(ctx.saved_tensors[7:], tensors[:3], strict=True)
        found = tuple(_times(gradient, upstream, like) for gradient, like in pairs)
    else:
        found = _gradients(*call, upstream, wanted)
    return *(g if want else None for g, want in zip(found, wanted, strict=True)), *nothing


def _times(gradient: Tensor, upstream: Tensor, like: Tensor | None) -> Tensor | None:
    """Return gradient * upstream, rounded to the type of the tensor it belongs to."""
    return None if like is None else scaled(gradient, upstream).to(like.dtype)


def _gradients(
    tensors: Tensors,
    normalizer: float | None,
    options: tuple[Any, ...],
    upstream: Tensor,
    wanted: list[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients, their rows multiplied by what comes from above."""
    rows = upstream.expand(tensors.features.shape[:-1])
    found = _operator(*tensors, normalizer, rows, wanted, *options)[1:]
    return tuple(
        g.to(like.dtype) if want and like is not None else None
        for g, like, want in zip(found, tensors[:3], wanted, strict=True)
    )


_operator = torch.library.custom_op(
    "crossent::linear_loss",
    _compute,
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor features, Tensor weight, Tensor? bias, Tensor targets, Tensor? probabilities,"
    " Tensor? sample_weight, Tensor? class_weight, float? normalizer, Tensor? upstream,"
    f" bool[] wanted, {OPTIONS_SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor)",
)
_operator.register_fake(_compute_nothing)
_operator.register_autograd(_backward, setup_context=_save)


class _Gradients(torch.autograd.Function):
    """The gradients as functions of features, weight, bias and what comes from above."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        upstream: Tensor,
        call: tuple[Any, ...],
        wanted: list[bool],
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients wanted."""
        ctx.call, ctx.upstream = call, upstream
        ctx.set_materialize_grads(False)
        tensors, normalizer, options = call
        return _gradients(tensors, normalizer, options, upstream, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the derivatives of <above, gradients>, in closed form."""
        tensors, normalizer, options = ctx.call
        upstream = ctx.upstream
        wide = computed_in(tensors.features)
        changes = [None if t is None else array_of(t.to(wide)) for t in above]
        if changes[0] is not None:
            changes[0] = changes[0].reshape(-1, changes[0].shape[-1])
        names = tuple(
            name
            for name, want, like in zip(GRADIENTS, ctx.needs_input_grad, tensors, strict=False)
            if want and like is not None
        )
        rows = upstream.expand(tensors.features.shape[:-1]).reshape(-1)
        found, slopes = linear_numpy.second_derivative(
            _call(tensors, normalizer, options),
            array_of(rows),
            linear_numpy.Directions(*changes),
            names,
        )
        bent = [
            tensor_of(found[name]).to(like.dtype).reshape(like.shape) if name in names else None
            for name, like in zip(GRADIENTS, tensors, strict=False)
        ]
        of_upstream = tensor_of(slopes if upstream.ndim else slopes.sum()).reshape(upstream.shape)
        return *bent, of_upstream.to(upstream.dtype), None, None


_differentiable_gradients: Callable[..., tuple[Tensor | None, ...]] = _Gradients.apply


# What the head asks for ---------------------------------------------------------------------------


def value(
    head: LinearCrossEntropy,
    features: Tensor,
    weight: Any,
    targets: Any,
    bias: Any,
    sample_weight: Any,
    normalizer: float | None,
    class_weight: Tensor | None = None,
) -> Tensor:
    """Return the reduced loss, or the losses for reduction "none"."""
    tensors = head_tensors(head, features, weight, targets, bias, sample_weight, class_weight)
    normalizer = checks.normalizer(normalizer, head.reduction)
    if not _have_kernel(tensors):
        return _plain_value(head, tensors, normalizer)
    wanted = [
        is_wanted(tensor) and head.reduction != "none" and tensor is not None
        for tensor in tensors[:3]
    ]
    loss: Tensor = _operator(*tensors, normalizer, None, wanted, *_options(head))[0]
    return loss


def _have_kernel(tensors: Tensors) -> bool:
    """Return whether the operator can take these tensors, and give autograd all it needs."""
    if not is_on_cpu(tensors.features) or is_wanted(*tensors[3:]):
        return False
    return not are_transformed(*tensors)


def head_tensors(
    head: LinearCrossEntropy,
    features: Tensor,
    weight: Any,
    targets: Any,
    bias: Any,
    sample_weight: Any,
    class_weight: Tensor | None,
) -> Tensors:
    """Return all arguments as tensors on the device of the features."""
    is_pair = linear_numpy.is_pair(targets, features.ndim)
    indices, probabilities = targets if is_pair else (targets, None)
    if class_weight is None and head.class_weight is not None:
        class_weight = torch.tensor(head.class_weight, dtype=widest(features.device))
        class_weight = class_weight.to(features.device)
    given = {
        "weight": weight,
        "bias": bias,
        "targets": indices,
        "probabilities of targets": probabilities,
        "sample_weight": sample_weight,
        "class_weight": class_weight,
    }
    beside = (
        None if each is None else as_tensor(features, name, each, "features")
        for name, each in given.items()
    )
    tensors = Tensors._make([features, *beside])
    device = features.device.type
    mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return _autocast(tensors) if mixed else tensors


def _autocast(tensors: Tensors) -> Tensors:
    """Return features, weight and bias in the widest type among them: autocast mixes them."""
    layer = [t for t in tensors[:3] if t is not None]
    dtype = layer[0].dtype
    for tensor in layer[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    cast = (None if t is None else t.to(dtype) for t in tensors[:3])
    return Tensors._make([*cast, *tensors[3:]])


def value_and_grad(
    head: LinearCrossEntropy,
    features: Tensor,
    weight: Any,
    targets: Any,
    bias: Any,
    sample_weight: Any,
    normalizer: float | None,
    wanted: tuple[str, ...],
) -> tuple[Tensor, HeadGradients]:
    """Return the reduced loss and the gradients wanted; autograd sees neither."""
    tensors = head_tensors(head, features, weight, targets, bias, sample_weight, None)
    if is_on_cpu(features):
        x, w, b, y, p, s, _ = (None if t is None else array_of(t) for t in tensors)
        pair = y if p is None else (y, p)
        loss, found = linear_numpy.value_and_grad(head, x, w, pair, b, s, normalizer, wanted)
        each = {name: getattr(found, name) for name in GRADIENTS}
        arrays = {
            name: None if g is None else tensor_of(g).to(features.dtype) for name, g in each.items()
        }
        return tensor_of(loss), HeadGradients(**arrays, dropped=found.dropped)
    return _plain_gradients(head, tensors, normalizer, wanted)


# In torch operations ------------------------------------------------------------------------------


def _plain_gradients(
    head: LinearCrossEntropy,
    tensors: Tensors,
    normalizer: float | None,
    wanted: tuple[str, ...],
) -> tuple[Tensor, HeadGradients]:
    with torch.enable_grad():
        leaves = [
            None if t is None else t.detach().requires_grad_(name in wanted)
            for name, t in zip(GRADIENTS, tensors, strict=False)
        ]
        loss = _plain_value(head, Tensors._make([*leaves, *tensors[3:]]), normalizer)
        asked = [t for t in leaves if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad(loss.sum(), asked) if asked else ())
    each = {
        name: next(found) if t is not None and t.requires_grad else None
        for name, t in zip(GRADIENTS, leaves, strict=True)
    }
    return loss.detach(), HeadGradients(**each, dropped=None)


def _plain_value(head: LinearCrossEntropy, tensors: Tensors, normalizer: float | None) -> Tensor:
    """Return the loss by differentiable torch operations, some rows at a time."""
    zero = _check(head, tensors)
    again = not are_transformed(*tensors) and is_wanted(*tensors)
    dtype = computed_in(tensors.features)  # so that gradients of several chunks add up in it
    wide = (None if t is None else t.to(dtype) for t in tensors[:3])
    tensors = Tensors._make([*wide, *tensors[3:]])
    parts = [
        checkpoint(_terms, head, chunk, use_reentrant=False, preserve_rng_state=False)
        if again
        else _terms(head, chunk)
        for chunk in _chunks(head, tensors)
    ]
    losses = torch.cat([part[0] for part in parts])
    if head.reduction == "none":
        return losses.reshape(tensors.features.shape[:-1]) + zero
    if head.reduction == "sum":
        return losses.sum() + zero
    if normalizer is not None:
        return losses.sum() / normalizer + zero
    divisor = torch.stack([part[1 if head.reduction == "mean" else 2] for part in parts]).sum()
    nothing = divisor == 0
    return torch.where(nothing, 0.0, losses.sum() / torch.where(nothing, 1.0, divisor)) + zero


def _chunks(head: LinearCrossEntropy, tensors: Tensors) -> Iterator[Tensors]:
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


def _terms(head: LinearCrossEntropy, rows: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of some rows, and what the reductions divide by."""
    z, y = _scores(rows), rows.targets
    if rows.probabilities is not None:
        y = torch.zeros_like(z).scatter_add(1, y.to(torch.int64), rows.probabilities.to(z.dtype))
    found = torch_plain.terms(head.loss, z, y, rows.sample_weight, rows.class_weight)
    return found.losses + found.penalties, found.weight, found.samples


def _scores(rows: Tensors) -> Tensor:
    """Return the scores of some rows, in the type that features are computed in."""
    dtype, device = computed_in(rows.features), rows.features.device.type
    known = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if known else nullcontext():
        z = rows.features.to(dtype) @ rows.weight.to(dtype).mT
        return z if rows.bias is None else z + rows.bias.to(dtype)


def _check(head: LinearCrossEntropy, tensors: Tensors) -> Tensor:
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


# Statistics ---------------------------------------------------------------------------------------


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
        tensors = head_tensors(head, features, weight, targets, bias, None, None)
        found = _on_arrays(head, tensors) if is_on_cpu(features) else _on_device(head, tensors)
    loss, lse, entropy, rank = found
    return HeadStatistics(loss, lse, entropy, rank, rank == 1, (rank >= 1) & (rank <= k))


def _on_arrays(head: LinearCrossEntropy, tensors: Tensors) -> tuple[Tensor, ...]:
    call = _call(tensors, None, tuple(_options(head)))
    return tuple(map(tensor_of, linear_numpy.statistics(call)))


def _on_device(head: LinearCrossEntropy, tensors: Tensors) -> tuple[Tensor, ...]:
    zero = _check(head, tensors)
    parts = [_statistics(head, chunk) for chunk in _chunks(head, tensors)]
    shape = tensors.features.shape[:-1]
    each = [torch.cat(part).reshape(shape) for part in zip(*parts, strict=True)]
    return each[0] + zero, *each[1:]


def _statistics(head: LinearCrossEntropy, rows: Tensors) -> tuple[Tensor, ...]:
    """Return losses, logsumexp, entropy and rank of some rows."""
    z, y = _scores(rows), rows.targets
    if rows.probabilities is not None:
        y = y.gather(1, rows.probabilities.argmax(1, keepdim=True)).squeeze(1)
    elif y.ndim == 2:
        y = y.argmax(1)
    part = y != head.ignore_index
    index = torch.where(part, y, 0).to(torch.int64).unsqueeze(1)
    score, position = z.gather(1, index), torch.arange(z.shape[1], device=z.device)
    ahead = torch.where(position < index, ~(z < score), ~(z <= score)) & (position != index)
    s = torch_plain.scores(z, head.softcap, head.temperature)
    row = torch_plain.apart(s)
    p, far = torch_plain.activation("softmax", s, 1), torch_plain.distances(s, row)
    lse = (row.m + torch.log1p(row.rest)).squeeze(1)
    entropy = torch_plain.weigh(p, far).sum(1)
    losses = _terms(head, rows)[0]
    each = (losses, lse, entropy, 1 + ahead.sum(1))
    return tuple(torch.where(part, t, torch.zeros_like(t)) for t in each)


# The module ---------------------------------------------------------------------------------------


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
        if self.out_features:
            return self._of_many(input, target, sample_weight, normalizer)
        head, layer = self._head(self.reduction), self.linear
        rest = (target, layer.bias, sample_weight, normalizer, self.weight)
        return value(head, input, layer.weight, *rest)

    def _of_many(
        self, input: Tensor, target: Any, sample_weight: Tensor | None, normalizer: float | None
    ) -> Tensor:
        """Return the loss of several decisions for each row of features, one after the other."""
        given = checks.normalizer(normalizer, self.reduction)
        self._check_many(input, target)
        n, decisions = len(input), math.prod(self.out_features)
        y = target.reshape(n, *target.shape[1 : target.ndim - len(self.out_features)], decisions)
        w = None if sample_weight is None else sample_weight.reshape(n, decisions)
        weight = self.linear.weight.reshape(self.num_classes, decisions, -1)
        bias = None if self.linear.bias is None else self.linear.bias.reshape(-1, decisions)
        head = self._head("none")
        losses = []
        for k in range(decisions):
            own_bias, own_weight = (None if t is None else t[:, k] for t in (bias, w))
            rest = (y[..., k], own_bias, own_weight, None, self.weight)
            losses.append(value(head, input, weight[:, k], *rest))
        each = torch.stack(losses, 1)
        if self.reduction == "none":
            return each.reshape(n, *self.out_features)
        divisor = self._divisor(y, w) if given is None else given
        return each.sum() / divisor if divisor else each.sum()

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

    def _divisor(self, y: Tensor, w: Tensor | None) -> float:
        """Return what the sum over all decisions is divided by."""
        if self.reduction == "sum":
            return 1.0
        soft = y.is_floating_point()
        part = torch.ones_like(y[:, 0] if soft else y, dtype=torch.float64)
        if not soft:
            part = (y != self._head("none").ignore_index).to(torch.float64)
        if w is not None:
            part = part * w
        if self.reduction == "batchmean":
            return float(part.sum())
        each = torch.ones(self.num_classes) if self.weight is None else self.weight
        if soft:
            return float((part * torch.einsum("nck,c->nk", y.double(), each.double())).sum())
        return float((part * each[torch.where(part != 0, y, 0)]).sum())

    def extra_repr(self) -> str:
        """Return the arguments, as torch's module shows them."""
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, "
            f"out_features={self.out_features}, bias={self.linear.bias is not None}, "
            f"reduction={self.reduction}, memory_budget={self.memory_budget}"
        )
