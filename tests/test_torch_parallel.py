"""Classes shared out among 2 and 3 processes: the answers of one process, or one sentence for all.

The processes start once for each number of them; tests/ranks.py holds what they compute.
"""

from __future__ import annotations

import doctest
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import crossent
from benchmarks import oracle
from cases import Case
from crossent import torch_parallel
from crossent.torch import vocab_parallel_cross_entropy
from ranks import (
    HEAD_MISTAKES,
    HEADS,
    MISTAKES,
    NAMES,
    SITUATIONS,
    TABLE,
    answers,
    curvature,
    cuts,
    direction_of,
    example,
    head_curvature,
    labels,
)
from torch_cases import Recorder, array, tensor

SIZES = (2, 3)
Answers = list[dict[str, Any]]


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size} ranks")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Return what every rank answered to every task, once for each number of ranks."""
    return answers(request.param, tmp_path_factory.mktemp(f"ranks{request.param}"))


def of(found: Answers, task: str, name: str) -> list[Any]:
    """Return what the ranks answered to a part of a task; fail with the traceback of one."""
    for rank, each in enumerate(found):
        assert "failed" not in each, f"rank {rank} in {each['failed']}"
    return [each[task][name] for each in found]


def joined(parts: list[tuple[Tensor, Tensor]], axis: int) -> tuple[Tensor, Tensor]:
    """Return the loss that all ranks agree on bit by bit, and the gradient of all classes."""
    for value, _ in parts[1:]:
        assert array(value).tobytes() == array(parts[0][0]).tobytes()
    return parts[0][0], torch.cat([gradient for _, gradient in parts], axis)


@cache
def truth(index: int) -> oracle.Truth:
    """Return what a case of the table must answer, computed once for all numbers of ranks."""
    case = TABLE[index]
    return oracle.truth(case.loss, case.options, *case.arrays(), case.normalizer)


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_values_and_gradients_are_true(case: Case, found: Answers) -> None:
    value, slope = joined(of(found, "table", str(case)), case.options.get("axis", -1))
    true, (z, _, _) = truth(TABLE.index(case)), case.arrays()
    assert (slope.shape, slope.dtype) == (z.shape, tensor(z).dtype)
    allowed = 128 if "softcap" in case.options else 64  # a capped score is rounded four times
    assert oracle.ulps(array(value), true.value, true.larger_value).max(initial=0) <= allowed
    assert oracle.ulps(array(slope), true.gradient, true.larger_term).max(initial=0) <= allowed


@pytest.mark.parametrize("name", SITUATIONS)
def test_situations_are_as_in_one_process(name: str, found: Answers) -> None:
    z, y, call = SITUATIONS[name]
    call, upstream = {k: v for k, v in call.items() if k != "upstream"}, call.get("upstream")
    z = z.clone().requires_grad_()
    known = crossent.cross_entropy(z, y, **call)
    known.backward(torch.ones_like(known) if upstream is None else upstream)
    value, slope = joined(of(found, "situations", name), -1)
    assert (value.dtype, slope.dtype) == (known.dtype, z.dtype)
    narrow = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 4e-6}
    rtol = narrow.get(z.dtype, 1e-12)
    wide = 1e-12 if value.dtype == torch.float64 else 4e-6
    torch.testing.assert_close(value, known.detach(), rtol=wide, atol=0)
    assert z.grad is not None
    torch.testing.assert_close(slope, z.grad, rtol=rtol, atol=rtol * 1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_as_in_one_process(name: str, found: Answers) -> None:
    features, weight, bias, y, call = HEADS[name]
    call, frozen = {**call, "memory_budget": "1MB"}, call.get("frozen", ())
    upstream, *_ = (call.pop(name, None) for name in ("upstream", "frozen", "filter_tolerance"))
    leaves = [t.clone().double().requires_grad_() for t in (features, weight, bias)]
    known = crossent.linear_cross_entropy(leaves[0], leaves[1], y, bias=leaves[2], **call)
    known.backward(torch.ones_like(known) if upstream is None else upstream)
    parts = of(found, "heads", name)
    value, of_features, *_ = parts[0]
    of_weight, of_bias = (
        None if "weight" in frozen else torch.cat([part[i] for part in parts]) for i in (2, 3)
    )
    for part in parts:
        assert torch.equal(part[0], value)
        assert "features" in frozen or torch.equal(part[1], of_features)
    narrow = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-12}
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    assert value.dtype == wide
    torch.testing.assert_close(value.double(), known.detach(), rtol=1e-5, atol=1e-5)
    for slope, leaf in zip((of_features, of_weight, of_bias), leaves, strict=True):
        if slope is not None:
            assert slope.dtype == features.dtype
            rtol = narrow[features.dtype]
            torch.testing.assert_close(slope.double(), leaf.grad, rtol=rtol, atol=rtol)
    assert (of_features is None, of_weight is None) == ("features" in frozen, "weight" in frozen)


@pytest.mark.parametrize("name", SITUATIONS)
def test_second_derivatives_are_as_in_one_process(name: str, found: Answers) -> None:
    z, y, call = SITUATIONS[name]
    known = curvature(crossent.cross_entropy, [z.double()], y, [direction_of(z).double()], call)
    parts = of(found, "curvatures", name)
    bent, of_upstream = torch.cat([part[0] for part in parts], -1), parts[0][1]
    assert bent.dtype == z.dtype
    assert all(torch.equal(part[1], of_upstream) for part in parts)
    for each, true in zip((bent, of_upstream), known, strict=True):
        rtol = CURVATURE[z.dtype]
        torch.testing.assert_close(each.double(), true.double(), rtol=rtol, atol=rtol)


CURVATURE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("name", HEADS)
def test_second_derivatives_of_heads_are_as_in_one_process(name: str, found: Answers) -> None:
    *layer, y, call = HEADS[name]
    wide = [t.double() for t in layer]
    call = {**call, "memory_budget": "1MB", "filter_tolerance": None}
    directions = [direction_of(t).double() for t in layer]
    known = head_curvature(wide, y, directions, call)
    parts = of(found, "head_curvatures", name)
    learned = [each for each in NAMES if each not in call.get("frozen", ())]
    for i, each in enumerate([*learned, "upstream"]):
        one = [part[i] for part in parts]
        joined = torch.cat(one) if each in ("weight", "bias") else one[0]
        assert each in ("weight", "bias") or all(torch.equal(one[0], other) for other in one)
        rtol = CURVATURE[layer[0].dtype]
        torch.testing.assert_close(joined.double(), known[i].double(), rtol=rtol, atol=rtol)


def test_smoothing_spreads_over_the_classes_of_all_ranks(found: Answers) -> None:
    """Megatron-LM#737: over those of each rank, with another loss on each; #7452: log(0) too."""
    z, y, call = SITUATIONS["targets all in the last shard"]
    alpha, logarithms = call["label_smoothing"], torch.log_softmax(z, -1)
    known = -(1 - alpha) * logarithms.gather(1, y[:, None]).mean() - alpha * logarithms.mean()
    value, _ = joined(of(found, "situations", "targets all in the last shard"), -1)
    torch.testing.assert_close(value, known)


def test_a_target_is_looked_up_where_it_is(found: Answers) -> None:
    """ml-cross-entropy#59: ranks without the target looked at their padding: an infinite loss."""
    value, slope = joined(of(found, "situations", "padding of -inf"), -1)
    assert value.isfinite()
    assert not slope[:, [0, 4, 9, 10]].any()


@pytest.mark.parametrize("name", ["two losses", "no gradient"])
def test_graphs_of_one_tensor(name: str, found: Answers) -> None:
    z, y = example(6, 11).requires_grad_(), labels(6, 11)
    plain, smoothed = (crossent.cross_entropy(z, y, label_smoothing=a) for a in (0.0, 0.5))
    (plain + smoothed).backward()
    if name == "no gradient":
        assert all(each.item() == pytest.approx(plain.item()) for each in of(found, "more", name))
    else:
        torch.testing.assert_close(torch.cat(of(found, "more", name), 1), z.grad)


def test_a_group_of_some_ranks(found: Answers) -> None:
    known = crossent.cross_entropy(example(6, 11), labels(6, 11)).item()
    *inside, outside = [*of(found, "more", "subgroup"), None][:3]
    assert [each.item() for each in inside] == pytest.approx([known] * 2)
    if len(found) == 3:
        assert outside == "this process is not in the group; only its members may call"


def test_what_is_exchanged(found: Answers) -> None:
    """One text and one vector of numbers per row, forward; nothing in the backward pass."""
    text = 4096
    for each in of(found, "more", "collectives"):
        assert each["forward"] == each["both"] == [text, 6 * 4 * 8]
        assert each["masses"] == [text, 6 * 7 * 8]


SENTENCES = {
    "an option of one rank": (
        "rank 1 of the group: label_smoothing is 2.0; it must be finite, at least 0 and at most 1"
    ),
    "no tensor": "rank 1 of the group: local_logits is a list; it must be a tensor",
    "scores of integers": (
        "rank 1 of the group: logits has dtype int64; it must be float16, bfloat16, float32 or "
        "float64"
    ),
    "other rows": (
        "the shape of the rows is [4] on rank 0 of the group, but [5] on rank 1; it must be the "
        "same on every rank"
    ),
    "another type": (
        "the dtype of the scores is torch.float64 on rank 0 of the group, but torch.float32 on "
        "rank 1; it must be the same on every rank"
    ),
    "other targets": "targets is [4] of checksum",
    "other weights": "sample_weight is None on rank 0 of the group, but [4] of checksum",
    "other options": "z_loss=0.5",
    "other class weights": "class_weight is [6] of checksum",
    "other normalizers": "normalizer is None on rank 0 of the group, but 3.0 on rank 1; it must",
    "kinds of targets": "on rank 0 of the group, but probabilities on rank 1; it must be the same",
    "a class beyond all": "targets[2] is 99; a class index must be in [0, {last}] or the ignore",
    "targets of another shape": "targets has shape (2,), but logits has shape (4, {classes}) with",
    "a probability above 1": (
        "rank 1 of the group: targets[0, 0] is 1.100000023841858; a probability must be in [0, 1]"
    ),
    "probabilities of another shard": (
        "rank 1 of the group: targets has shape (4, 2) and dtype float32; probabilities must have "
        "the shape of logits, (4, 3)"
    ),
    "class weights of a shard": "class_weight has 3 entries, but there are {classes} classes",
    "a negative weight": "sample_weight[2] is -1.0; a weight must be finite, >= 0",
    "targets that want a gradient": (
        "rank 1 of the group: targets requires a gradient, but over a group it has none; detach it"
    ),
    "an option that is not there": "rank 1 of the group: CrossEntropy.__init__() got an unexpected",
    "a normalizer for a sum": "rank 1 of the group: normalizer is given, but reduction='sum'",
    "a single number": "logits is a single number; it needs an axis of classes",
    "no classes at all": "logits has 0 classes; there must be at least 1",
    "targets of fractions": "rank 1 of the group: targets has shape (4,) and dtype float32; prob",
    "targets of truth values": "rank 1 of the group: targets has dtype bool; it must be integer",
    "an error of another kind": "rank 1 of the group: class_weight is ",
    "class weights that float32 takes for others": "class_weight is [6] of checksum",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_on_every_rank(name: str, found: Answers) -> None:
    raised = of(found, "mistakes", name)
    assert len(set(raised)) == 1
    size = len(found)
    sentence = SENTENCES[name].format(last=3 * size - 1, classes=3 * size)
    assert sentence in raised[0][1]
    types = (
        "no tensor",
        "scores of integers",
        "an option that is not there",
        "targets of truth values",
        "an error of another kind",
    )
    assert raised[0][0] == ("TypeError" if name in types else "ValueError")


def test_the_example_runs() -> None:
    result = doctest.testmod(torch_parallel)
    assert (result.failed, result.attempted > 0) == (0, True)


HEAD_SENTENCES = {
    "no tensor": "rank 1 of the group: features is a list; over a group it is a tensor",
    "other features": "features is [4, 3] of checksum",
    "a weight of another width": (
        "rank 1 of the group: weight has shape (5, 4), but features has shape (4, 3); it must"
    ),
    "a weight of another type": (
        "rank 1 of the group: weight has dtype float32, but features has dtype float64; both must"
    ),
    "a bias of another width": "rank 1 of the group: bias has shape (4,); it must have shape (5,)",
    "a budget below one row": "memory_budget is 39 bytes, but one row needs 40; it must be at",
    "another budget": "memory_budget=80000",
    "features that alone want a gradient": (
        "the wish for a gradient of features is False on rank 0 of the group, but True on rank 1"
    ),
    "a class beyond all": "targets[2] is 99; a class index must be in [0, {last}] or the ignore",
    "a pair beyond all": "indices of targets[0, 0] is 50; it must be in [0, {last}]",
    "other pairs": "targets is [4] of checksum",
    "pairs of another type": "the dtype of the probabilities is torch.float32 on rank 0",
    "probabilities that want a gradient": (
        "rank 1 of the group: probabilities of targets requires a gradient, but over a group it has"
    ),
}


@pytest.mark.parametrize("name", HEAD_MISTAKES)
def test_a_mistake_of_a_head_is_one_sentence_on_every_rank(name: str, found: Answers) -> None:
    raised = of(found, "head_mistakes", name)
    assert len(set(raised)) == 1
    assert HEAD_SENTENCES[name].format(last=5 * len(found) - 1) in raised[0][1]
    types = ("no tensor", "a weight of another type")
    assert raised[0][0] == ("TypeError" if name in types else "ValueError")


def test_without_a_group() -> None:
    with pytest.raises(RuntimeError, match=r"torch.distributed is not initialised; call torch"):
        vocab_parallel_cross_entropy(example(4, 3), labels(4, 3))


def test_shards_of_no_width_are_among_them() -> None:
    assert [0, 0] in [cuts(3, 3, seed)[:2] for seed in range(len(TABLE))]


@pytest.fixture
def alone() -> Any:
    """Let this process be a group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_scores_of_other_layouts(alone: None) -> None:
    z = example(5, 4, 3).transpose(0, 2).requires_grad_()
    y = torch.tensor([[0, 1, 2, 3, 4]] * 3).reshape(3, 5) % 4
    value = vocab_parallel_cross_entropy(z, y, axis=1)
    known = crossent.cross_entropy(z, y, axis=1)
    torch.testing.assert_close(value, known)
    ours, theirs = (torch.autograd.grad(each, z)[0] for each in (value, known))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 3), (3,)])
def test_no_rows_and_one_row(shape: tuple[int, ...], alone: None) -> None:
    z = example(*shape).requires_grad_()
    y = torch.zeros(shape[:-1], dtype=torch.int64)
    for reduction in ("mean", "sum", "none", "batchmean"):
        value = vocab_parallel_cross_entropy(z, y, reduction=reduction)
        known = crossent.cross_entropy(z, y, reduction=reduction)
        torch.testing.assert_close(value, known)
        ours, theirs = (
            torch.autograd.grad(each.sum(), z, create_graph=True)[0] for each in (value, known)
        )
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(
            *(torch.autograd.grad(g.square().sum(), z) for g in (ours, theirs))
        )


def test_a_third_derivative_is_refused(alone: None) -> None:
    z = example(4, 3).requires_grad_()
    (slope,) = torch.autograd.grad(
        vocab_parallel_cross_entropy(z, labels(4, 3)), z, create_graph=True
    )
    (bent,) = torch.autograd.grad(slope.square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        bent.sum().backward()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "softcap": 5.0}])
def test_beside_the_gradient_nothing_of_its_size_is_made(
    options: dict[str, Any], alone: None
) -> None:
    z = example(150, 9000, dtype=torch.float32).requires_grad_()
    with Recorder() as recorder:
        vocab_parallel_cross_entropy(z, labels(150, 9000), **options).backward()
    assert [size for size in recorder.sizes if size >= z.nbytes // 2] == [z.nbytes]


def test_a_head_holds_no_more_scores_than_its_budget(alone: None) -> None:
    x, weight = example(256, 8).float(), example(5000, 8).float().requires_grad_()
    y, budget = labels(256, 5000), 10 * 5000 * 4
    with Recorder() as recorder:
        crossent.linear_cross_entropy(
            x, weight, y, memory_budget=budget, group=dist.group.WORLD
        ).backward()
    assert budget in recorder.sizes
    assert max(recorder.sizes) == budget
