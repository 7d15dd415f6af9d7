"""Processes that share out the classes of a loss, and what each of them is asked to compute.

`answers` starts them once; every task then runs on all of them, and what each rank answered comes
back by the task's name. A task that fails answers with its traceback.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import crossent
from cases import CASES
from crossent.torch import vocab_parallel_cross_entropy
from torch_cases import LAYOUTS, tensors

SECONDS = 60  # that a rank waits for another
TABLE = tuple(case for case in CASES if case.loss == "cross_entropy" and case.layout in LAYOUTS)
TASKS: dict[str, Callable[[int, int], Any]] = {}


def task(function: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    """Have every rank run a function of its rank and their number."""
    TASKS[function.__name__] = function
    return function


def answers(size: int, directory: Path) -> list[dict[str, Any]]:
    """Return what every rank answers to every task."""
    context = torch.multiprocessing.spawn(_work, (size, directory), nprocs=size, join=False)
    try:
        for _ in range(4 * SECONDS):
            if context.join(timeout=1):
                break
        else:
            raise TimeoutError(f"{size} ranks had no answer after {4 * SECONDS} seconds")
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(directory / f"rank{r}", weights_only=False) for r in range(size)]


def _work(rank: int, size: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{directory / 'meeting'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=SECONDS),
    )
    found = {}
    for name, function in TASKS.items():
        try:
            found[name] = function(rank, size)
        except Exception:
            found["failed"] = f"{name}: {traceback.format_exc()}"
            break  # the others may wait for this rank
    torch.save(found, directory / f"rank{rank}")
    dist.destroy_process_group()


# Shards -------------------------------------------------------------------------------------------


def cuts(classes: int, size: int, seed: int) -> list[int]:
    """Return where shards begin and end: of any width, none included."""
    inner = np.random.default_rng(seed).integers(0, classes + 1, size - 1)
    return [0, *sorted(inner.tolist()), classes]


def shard(tensor: Tensor, axis: int, rank: int, at: list[int]) -> Tensor:
    """Return a rank's classes, as a tensor of its own."""
    return tensor.detach().narrow(axis, at[rank], at[rank + 1] - at[rank]).clone()


def both_ways(
    rank: int, at: list[int], z: Tensor, y: Tensor, upstream: Tensor | None = None, **call: Any
) -> tuple[Tensor, Tensor]:
    """Return the loss, and the gradient in this rank's scores."""
    axis = call.get("axis", -1)
    own = shard(z, axis, rank, at).requires_grad_()
    if y.is_floating_point() and y.shape == z.shape:
        y = shard(y, axis, rank, at)
    before = own.detach().clone(), y.clone()
    value = vocab_parallel_cross_entropy(own, y, **call)
    value.backward(torch.ones_like(value) if upstream is None else upstream)
    assert torch.equal(own, before[0]) or own.isnan().any(), "inputs are never written"
    assert torch.equal(y, before[1])
    assert own.grad is not None
    return value.detach(), own.grad


def example(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul_(3).to(dtype)


def labels(rows: int, classes: int) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(1))


def all_options(classes: int) -> dict[str, Any]:
    return {
        "class_weight": [0.5 + j for j in range(classes)],
        "label_smoothing": 0.2,
        "z_loss": 0.1,
        "softcap": 5.0,
        "temperature": 0.7,
    }


# Tasks --------------------------------------------------------------------------------------------


@task
def table(rank: int, size: int) -> dict[str, Any]:
    """Compute every case of the table."""
    found = {}
    for seed, case in enumerate(TABLE):
        z, y, w = tensors(case)
        at = cuts(z.shape[case.options.get("axis", -1)], size, seed)
        options = {**case.options, "sample_weight": w, "normalizer": case.normalizer}
        found[str(case)] = both_ways(rank, at, z, y, **options)
    return found


UPSTREAM = torch.tensor([5.0, 2.0, -1.0, 0.0, 0.5, 3.0], dtype=torch.float64)


@task
def situations(rank: int, size: int) -> dict[str, Any]:
    """Compute what no table of small cases holds; `SITUATIONS` says what it should be."""
    return {
        name: both_ways(rank, cuts(z.shape[-1], size, 3), z, y, **call)
        for name, (z, y, call) in SITUATIONS.items()
    }


def _situations() -> dict[str, tuple[Tensor, Tensor, dict[str, Any]]]:
    z, y = example(6, 11), torch.tensor([0, 10, -100, 5, 3, 7])
    tile = torch.full((2, 3000), -torch.inf)
    tile[:, -3:] = torch.tensor([1.0, 2.0, 3.0])
    ignored = z.clone()
    ignored[2] = torch.nan
    every = all_options(11)
    soft = torch.softmax(example(6, 11, seed=5), -1)
    each = {"reduction": "none", "upstream": UPSTREAM}
    padded = z.clone()
    padded[:, [0, 4, 9, 10]] = -torch.inf
    sure = torch.zeros(3, 11)
    sure[:, 0] = torch.tensor([18.0, 40.0, 80.0])
    found: dict[str, tuple[Tensor, Tensor, dict[str, Any]]] = {
        "each row its upstream": (z, y, each),
        "each row its upstream, every option": (z, y, {**each, **every}),
        "each row its upstream, probabilities": (z, soft, {**each, **every}),
        "an upstream of one half": (z, y, {"upstream": torch.tensor(0.5, dtype=torch.float64)}),
        "first tiles of -inf": (tile, torch.tensor([2999, 2998]), {}),
        "first tiles of -inf, smoothed": (tile, torch.tensor([2999, 2998]), {"z_loss": 0.1}),
        "ignored row of NaN": (ignored, y, {}),
        "targets all in the first shard": (z, torch.zeros(6, dtype=torch.int64), {}),
        "targets all in the last shard": (z, torch.full((6,), 10), {"label_smoothing": 0.1}),
        "padding of -inf": (padded, torch.tensor([1, 2, -100, 5, 3, 7]), {}),
        "right and certain": (sure, torch.zeros(3, dtype=torch.int64), {"reduction": "none"}),
        "wrong and certain": (sure, torch.full((3,), 10), {"reduction": "none"}),
        "ties across shards": (torch.zeros(6, 11), y, {}),
        "ties across shards, probabilities": (torch.zeros(6, 11).double(), soft, {}),
        "offset of 1e8": (torch.full((2, 3), 1e8), torch.tensor([1, 2]), {}),
        "long rows in blocks": (example(70, 9000).float(), labels(70, 9000), {}),
        "long rows in blocks, smoothed": (
            example(70, 9000, dtype=torch.float32),
            labels(70, 9000),
            {"label_smoothing": 0.1, "z_loss": 1e-3},
        ),
    }
    for dtype in (torch.float16, torch.bfloat16):
        found[f"{dtype}"] = (z.to(dtype), y, {})
        found[f"{dtype}, each row its upstream"] = (z.to(dtype), y, {**each, **every})
        found[f"{dtype}, probabilities"] = (z.to(dtype), soft.to(dtype), every)
    return found


SITUATIONS = _situations()


@task
def curvatures(rank: int, size: int) -> dict[str, Any]:
    """Differentiate the gradients of the situations, each times a direction."""
    found = {}
    for name, (z, y, call) in SITUATIONS.items():
        at = cuts(z.shape[-1], size, 3)
        z, y, direction = (
            shard(t, -1, rank, at) if t.shape == z.shape else t for t in (z, y, direction_of(z))
        )
        found[name] = curvature(vocab_parallel_cross_entropy, [z], y, [direction], call)
    return found


def direction_of(tensor: Tensor) -> Tensor:
    return example(*tensor.shape, seed=8).to(tensor.dtype)


def curvature(
    loss: Callable[..., Tensor],
    given: list[Tensor],
    y: Any,
    directions: list[Tensor],
    call: dict[str, Any],
    frozen: tuple[int, ...] = (),
) -> tuple[Tensor, ...]:
    """Return the derivatives of <directions, gradients of a loss>, and in its upstream last."""
    call = dict(call)
    upstream = call.pop("upstream", torch.tensor(1.5))
    leaves = [t.detach().clone().requires_grad_(i not in frozen) for i, t in enumerate(given)]
    value = loss(*leaves, y, **call)
    above = upstream.to(value.dtype).expand(value.shape).clone().requires_grad_()
    learned = [leaf for leaf in leaves if leaf.requires_grad]
    slopes = torch.autograd.grad(value, learned, above, create_graph=True)
    pairs = zip(slopes, [d for i, d in enumerate(directions) if i not in frozen], strict=True)
    total = torch.stack([(slope * direction).sum().double() for slope, direction in pairs]).sum()
    return torch.autograd.grad(total, [*learned, above])


@task
def heads(rank: int, size: int) -> dict[str, Any]:
    """Compute linear heads; `HEADS` says what they should be."""
    return {name: _head(rank, size, *head) for name, head in HEADS.items()}


def _head(
    rank: int, size: int, features: Tensor, weight: Tensor, bias: Any, y: Any, call: dict[str, Any]
) -> tuple[Tensor, ...]:
    """Return the loss, and the gradients in the features and in this rank's weight and bias."""
    call, at = dict(call), head_cuts(len(weight), size)
    upstream, frozen = call.pop("upstream", None), call.pop("frozen", ())
    if isinstance(y, Tensor) and y.is_floating_point():
        y = shard(y, -1, rank, at)
    given = features.clone(), shard(weight, 0, rank, at), shard(bias, 0, rank, at)
    leaves = [t.requires_grad_(name not in frozen) for name, t in zip(NAMES, given, strict=True)]
    before = [t.detach().clone() for t in leaves]
    value = crossent.linear_cross_entropy(
        leaves[0], leaves[1], y, bias=leaves[2], group=dist.group.WORLD, **call
    )
    value.backward(torch.ones_like(value) if upstream is None else upstream)
    assert all(map(torch.equal, leaves, before)), "inputs are never written"
    return value.detach(), *(leaf.grad for leaf in leaves)


@task
def head_curvatures(rank: int, size: int) -> dict[str, Any]:
    """Differentiate the gradients of the heads, each times a direction."""
    found = {}
    for name, (*layer, y, call) in HEADS.items():
        at = head_cuts(len(layer[1]), size)
        if isinstance(y, Tensor) and y.is_floating_point():
            y = shard(y, -1, rank, at)
        given, directions = (
            [t[0], shard(t[1], 0, rank, at), shard(t[2], 0, rank, at)]
            for t in (layer, list(map(direction_of, layer)))
        )
        found[name] = head_curvature(given, y, directions, call, group=dist.group.WORLD)
    return found


def head_curvature(
    given: list[Tensor], y: Any, directions: list[Tensor], call: dict[str, Any], **group: Any
) -> tuple[Tensor, ...]:
    """Return what `curvature` does of a head."""

    def loss(x: Tensor, w: Tensor, b: Tensor, y: Any, **options: Any) -> Tensor:
        return crossent.linear_cross_entropy(x, w, y, bias=b, **options, **group)

    call = dict(call)
    frozen = tuple(map(NAMES.index, call.pop("frozen", ())))
    return curvature(loss, given, y, directions, call, frozen)


NAMES = ("features", "weight", "bias")


def head_cuts(classes: int, size: int) -> list[int]:
    """Return where shards of a head begin and end: uneven, none empty."""
    return [0, *(i * (classes // size) - 1 for i in range(1, size)), classes]


def _heads() -> dict[str, tuple[Tensor, Tensor, Tensor, Any, dict[str, Any]]]:
    x, w, b = example(3, 5, 4) / 3, example(12, 4, seed=1), example(12, seed=2)
    y = labels(15, 12).reshape(3, 5)
    y[0, 1] = y[2, 2] = -100
    soft = torch.softmax(example(3, 5, 12, seed=3), -1)
    indices = example(3, 5, 12, seed=4).argsort(-1)[..., :3]
    pair = (indices, soft[..., :3])
    options = all_options(12)
    few = {"memory_budget": 12 * 8 * 4}
    weighted = {"sample_weight": torch.arange(15.0).reshape(3, 5), **few}
    each = {"reduction": "none", "upstream": example(3, 5, seed=6), **few}
    found: dict[str, tuple[Tensor, Tensor, Tensor, Any, dict[str, Any]]] = {
        "indices": (x, w, b, y, {}),
        "a few rows at a time": (x, w, b, y, few),
        "every option": (x, w, b, y, {**options, **few}),
        "probabilities": (x, w, b, soft, {**options, **few}),
        "pairs": (x, w, b, pair, {"memory_budget": "1kB"}),
        "pairs, every option": (x, w, b, pair, {**options, "memory_budget": "1kB"}),
        "weights of rows": (x, w, b, y, weighted),
        "pairs, weights of rows": (x, w, b, pair, {**weighted, "memory_budget": "1kB"}),
        "each row its upstream": (x, w, b, y, {**each}),
        "each row its upstream, every option": (x, w, b, soft, {**each, **options}),
        "upstream of one half": (x, w, b, y, {"upstream": torch.tensor(0.5).double()}),
        "normalizer": (x, w, b, y, {"normalizer": 7.0}),
        "batchmean": (x, w, b, soft, {"reduction": "batchmean"}),
        "sum": (x, w, b, y, {"reduction": "sum"}),
        "features frozen": (x, w, b, y, {"frozen": ("features",)}),
        "weight frozen": (x, w, b, y, {"frozen": ("weight", "bias"), **few}),
        "all ignored": (x, w, b, torch.full_like(y, -100), {}),
        "a filter, of nothing": (x, w, b, y, {"filter_tolerance": 0.1, **few}),
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        narrow = (x.to(dtype), w.to(dtype), b.to(dtype))
        found[str(dtype)] = (*narrow, y, few)
        found[f"{dtype}, each row its upstream"] = (*narrow, y, {**each, **options})
    return found


HEADS = _heads()


@task
def head_mistakes(rank: int, size: int) -> dict[str, Any]:
    """Return what every rank raises if one or all of them call a head wrongly."""
    found = {}
    for name, change in HEAD_MISTAKES.items():
        own = {"features": example(4, 3), "weight": example(5, 3), "targets": labels(4, 10)}
        call = {**own, "group": dist.group.WORLD, **change(rank)}
        found[name] = _sentence(lambda call=call: crossent.linear_cross_entropy(**call))
    return found


@task
def mistakes(rank: int, size: int) -> dict[str, Any]:
    """Return what every rank raises if one or all of them are called wrongly."""
    return {name: _raised(rank, size, change) for name, change in MISTAKES.items()}


def _raised(rank: int, size: int, change: Callable[[int], dict[str, Any]]) -> tuple[str, str]:
    own = {"local_logits": example(4, 3), "targets": torch.tensor([0, -100, 2, 3])}
    return _sentence(lambda: vocab_parallel_cross_entropy(**{**own, **change(rank)}))


def _sentence(call: Callable[[], Any]) -> tuple[str, str]:
    try:
        call()
    except (ValueError, TypeError) as error:
        return type(error).__name__, str(error)
    return "", "nothing was raised"


def last(**changed: Any) -> Callable[[int], dict[str, Any]]:
    """Change arguments of rank 1 alone."""
    return lambda rank: changed if rank == 1 else {}


def every(**changed: Any) -> Callable[[int], dict[str, Any]]:
    return lambda rank: changed


SOFT = torch.full((4, 3), 0.1)
OTHER = torch.tensor([0, -100, 2, 4])
MISTAKES: dict[str, Callable[[int], dict[str, Any]]] = {
    "an option of one rank": last(label_smoothing=2.0),
    "no tensor": last(local_logits=[[1.0, 2.0]]),
    "scores of integers": last(local_logits=torch.ones(4, 3, dtype=torch.int64)),
    "other rows": last(local_logits=example(5, 3)),
    "another type": last(local_logits=example(4, 3, dtype=torch.float32)),
    "other targets": last(targets=OTHER),
    "other weights": last(sample_weight=torch.ones(4)),
    "other options": last(z_loss=0.5),
    "other class weights": lambda rank: {"class_weight": [1.0 + rank] * 6},
    "other normalizers": last(normalizer=3.0),
    "kinds of targets": last(targets=SOFT),
    "a class beyond all": every(targets=torch.tensor([0, 1, 99, 2])),
    "targets of another shape": every(targets=torch.tensor([0, 1])),
    "a probability above 1": lambda rank: {"targets": SOFT if rank != 1 else SOFT + 1},
    "probabilities of another shard": lambda rank: {"targets": SOFT[:, : 3 - rank % 2]},
    "class weights of a shard": every(class_weight=[1.0, 2.0, 3.0]),
    "a negative weight": every(sample_weight=torch.tensor([1.0, 1.0, -1.0, 1.0])),
    "targets that want a gradient": last(targets=SOFT.clone().requires_grad_()),
    "an option that is not there": last(smoothing=0.1),
    "a normalizer for a sum": last(normalizer=2.0, reduction="sum"),
    "a single number": every(local_logits=torch.tensor(1.0), targets=torch.tensor(0)),
    "no classes at all": every(local_logits=torch.ones(4, 0)),
    "targets of fractions": last(targets=torch.tensor([0.0, -100.0, 2.0, 3.0])),
    "targets of truth values": last(targets=torch.tensor([False, True, False, True])),
    "an error of another kind": last(class_weight=torch.ones(6, requires_grad=True)),
    "class weights that float32 takes for others": lambda rank: {
        "class_weight": [0.1 if rank else float(np.float32(0.1))] * 6
    },
}


PAIR = (torch.tensor([[0, 1]] * 4), torch.full((4, 2), 0.5))
HEAD_MISTAKES: dict[str, Callable[[int], dict[str, Any]]] = {
    "no tensor": last(features=[[1.0, 2.0, 3.0]]),
    "other features": last(features=example(4, 3, seed=9)),
    "a weight of another width": last(weight=example(5, 4)),
    "a weight of another type": last(weight=example(5, 3, dtype=torch.float32)),
    "a bias of another width": last(bias=example(4)),
    "a budget below one row": every(memory_budget=39),
    "another budget": last(memory_budget=80000),
    "features that alone want a gradient": last(features=example(4, 3).requires_grad_()),
    "a class beyond all": every(targets=torch.tensor([0, 1, 99, 2])),
    "a pair beyond all": every(targets=(PAIR[0] + 50, PAIR[1])),
    "other pairs": last(targets=(PAIR[0] + 1, PAIR[1])),
    "pairs of another type": lambda rank: {
        "targets": (PAIR[0], PAIR[1] if rank != 1 else PAIR[1].half())
    },
    "probabilities that want a gradient": last(targets=(PAIR[0], PAIR[1].clone().requires_grad_())),
}


@task
def more(rank: int, size: int) -> dict[str, Any]:
    """Return what a rank finds true of groups, graphs and collectives."""
    z, y = example(6, 11), labels(6, 11)
    at = cuts(11, size, 3)
    own = shard(z, -1, rank, at).requires_grad_()
    first = vocab_parallel_cross_entropy(own, y)
    second = vocab_parallel_cross_entropy(own, y, label_smoothing=0.5)
    (first + second).backward()
    found = {"two losses": own.grad.clone(), "collectives": _collectives(own, y)}
    with torch.no_grad():
        found["no gradient"] = vocab_parallel_cross_entropy(own, y)
    group = dist.new_group([0, 1])
    if rank < 2:
        of_two = shard(z, -1, rank, [0, 4, 11])
        found["subgroup"] = vocab_parallel_cross_entropy(of_two, y, group=group)
    else:
        try:
            vocab_parallel_cross_entropy(own, y, group=group)
        except RuntimeError as error:
            found["subgroup"] = str(error)
    return found


def _collectives(own: Tensor, y: Tensor) -> dict[str, list[int]]:
    """Return how many bytes each exchange of a loss sends, forward and backward."""
    sent: list[int] = []
    real = dist.all_gather

    def counted(found: list[Tensor], tensor: Tensor, group: Any = None) -> None:
        sent.append(tensor.numel() * tensor.element_size())
        real(found, tensor, group=group)

    dist.all_gather = counted
    try:
        value = vocab_parallel_cross_entropy(own, y)
        forward = list(sent)
        value.backward()
        hard = {"forward": forward, "both": list(sent)}
        sent.clear()
        vocab_parallel_cross_entropy(own, y, label_smoothing=0.1)
    finally:
        dist.all_gather = real
    return {**hard, "masses": sent}
