"""What users of other libraries reported, asked of tensors here: one test for each kind of report.

Docstrings name the reports. Tests of arrays, of the linear head and of shards are elsewhere.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import crossent
from crossent.torch import BCEWithLogitsLoss, CrossEntropyLoss
from torch_cases import WAYS, by_plain, gradient

INF, NAN = math.inf, math.nan
Way = Callable[..., Tensor]
EVERY_WAY = pytest.mark.parametrize("way", WAYS, ids=["kernel", "plain"])


def scores(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).mul_(3).to(dtype).requires_grad_()


def labels(rows: int, classes: int) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(1))


def leaf(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def check(value: Tensor, z: Tensor, loss: float, slope: Any, rel: float = 1e-6) -> None:
    assert value.item() == pytest.approx(loss, rel=rel, abs=0, nan_ok=True)
    found = gradient(value, z).flatten().tolist()
    assert found == pytest.approx(np.ravel(slope).tolist(), rel=rel, abs=0, nan_ok=True)


# Tails and offsets --------------------------------------------------------------------------------


@EVERY_WAY
def test_small_losses_of_confident_right_answers(way: Way) -> None:
    """pytorch#113708, scipy#19521: log_softmax rounds them to 0; xgboost#2955: the gradient too."""
    p = math.exp(-18)
    z = leaf([[18.0, 0.0, 0.0]])
    check(way(crossent.CrossEntropy(), z, torch.tensor([0])), z, 2 * p, [-2 * p, p, p])
    assert crossent.log_softmax(z)[0, 0].item() == pytest.approx(-2 * p, rel=1e-6)


@EVERY_WAY
def test_a_common_offset_changes_nothing(way: Way) -> None:
    """pytorch#11752, mlx#4188: equal scores at 1e8 gave loss 0."""
    z = leaf([[1e8, 1e8, 1e8]])
    check(
        way(crossent.CrossEntropy(), z, torch.tensor([1])), z, math.log(3), [1 / 3, -2 / 3, 1 / 3]
    )


@EVERY_WAY
def test_both_tails_of_the_binary_loss(way: Way) -> None:
    """pytorch#103316: gradient at -50; mlx#1280, keras#9664: clamps; pytorch#2221: a lost sign."""
    for z, y in ((-50.0, 1.0), (50.0, 1.0), (-20.0, 0.0), (20.0, 0.0), (-100.0, 0.0), (200.0, 0.0)):
        s = leaf(z, torch.float64)
        toward = z if y == 0 else -z
        loss = max(toward, 0) + math.log1p(math.exp(-abs(z)))
        slope = (1 if y == 0 else -1) / (1 + math.exp(-toward))
        check(way(crossent.BinaryCrossEntropy(), s, torch.tensor(y)), s, loss, slope, 1e-14)


@pytest.mark.parametrize("p", [0.9, 0.99, 0.999])
def test_a_target_probability_near_1_in_bfloat16(p: float) -> None:
    """Liger-Kernel#1329: p rounded to bfloat16 before 1 was taken from it, 100 % off at 0.999."""
    z = leaf([[math.log(p / (1 - p)), 0.0]], torch.bfloat16)
    other = 1 / (1 + math.exp(z[0, 0].item()))
    crossent.cross_entropy(z, torch.tensor([0])).backward()
    assert z.grad is not None
    assert z.grad[0].tolist() == pytest.approx([-other, other], rel=2**-8)


# Infinities and NaN -------------------------------------------------------------------------------


@EVERY_WAY
def test_infinite_scores_that_agree(way: Way) -> None:
    """pytorch#49844, #102894, scipy#23225: NaN although the limit is 0."""
    for z, y in ((-INF, 0.0), (INF, 1.0)):
        s = leaf(z)
        check(way(crossent.BinaryCrossEntropy(), s, torch.tensor(y)), s, 0.0, 0.0)
    s = leaf([[INF, 0.0]])
    check(way(crossent.CrossEntropy(), s, torch.tensor([0])), s, 0.0, [0.0, 0.0])


@EVERY_WAY
def test_infinite_scores_against_a_soft_target(way: Way) -> None:
    """pytorch#135359: NaN where the formula says infinity."""
    s = leaf(-INF)
    check(way(crossent.BinaryCrossEntropy(), s, torch.tensor(0.9)), s, INF, -0.9)


@EVERY_WAY
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_impossible_classes_without_probability(way: Way) -> None:
    """optax#896, pytorch/xla#2553: 0 times ln 0; optax#1762: NaN in forward mode; jax#17117."""
    z, y = leaf([[-INF, 0.0, 1.0]]), torch.tensor([[0.0, 0.5, 0.5]])
    a = math.exp(1) / (1 + math.exp(1))
    value = way(crossent.CrossEntropy(), z, y)
    check(value, z, math.log(1 + math.e) - 0.5, [0.0, 0.5 - a, a - 0.5], 1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z.detach(), torch.ones(1, 3))
        tangent = torch.autograd.forward_ad.unpack_dual(crossent.cross_entropy(dual, y)).tangent
    assert abs(tangent.item()) < 1e-6


@EVERY_WAY
def test_rows_that_begin_with_whole_tiles_of_minus_infinity(way: Way) -> None:
    """flash-attention#1930: -inf - -inf in the first tile made the whole row NaN."""
    z = torch.full((2, 40000), -INF)
    z[:, -3:] = torch.tensor([1.0, 2.0, 3.0])
    z.requires_grad_()
    value = way(crossent.CrossEntropy(), z, torch.tensor([39999, 39998]))
    assert value.item() == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)) + 0.5)
    slope = gradient(value, z)
    assert not slope[:, :-3].any()
    assert slope.sum().item() == pytest.approx(0, abs=1e-7)


@EVERY_WAY
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_ignored_row_may_hold_anything(way: Way, value: float) -> None:
    """pytorch#11551: its -inf came back as NaN in the gradient; jax#17117."""
    z = scores(3, 4).detach()
    z[1] = value
    z.requires_grad_()
    y = torch.tensor([0, -100, 2])
    known = crossent.CrossEntropy().value_and_grad(z[[0, 2]], y[[0, 2]])
    found = way(crossent.CrossEntropy(), z, y)
    torch.testing.assert_close(found, known[0])
    slope = gradient(found, z)
    torch.testing.assert_close(slope[[0, 2]], known[1])
    assert not slope[1].any()


@EVERY_WAY
def test_scores_near_the_largest_number(way: Way) -> None:
    """pytorch#51906: 1e307 gave NaN; sklearn#28046: derivatives at -1000."""
    z = leaf([1e307, -1e307], torch.float64)
    check(way(crossent.BinaryCrossEntropy(), z, torch.tensor([1.0, 0.0])), z, 0.0, [0.0, 0.0])
    z = leaf([[1e307, 0.0, -1e307]], torch.float64)
    check(way(crossent.CrossEntropy(), z, torch.tensor([2])), z, 2e307, [1.0, 0.0, -1.0])


def test_softcap_where_the_vocabulary_fills_no_tile() -> None:
    """unsloth#10616: padding of -inf became -cap behind a softcap and took part of the mass."""
    for classes in (255, 257, 65537):
        z = scores(2, classes, dtype=torch.float64).mul(20)
        capped = 3.0 * torch.tanh(z / 3.0)
        found = crossent.cross_entropy(z, torch.tensor([0, 1]), softcap=3.0)
        known = torch.nn.functional.cross_entropy(capped, torch.tensor([0, 1]))
        assert found.item() == pytest.approx(known.item(), rel=1e-12)


# What takes part, and what divides ----------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ignored(way: Way, dtype: torch.dtype) -> None:
    """pytorch#116349, #75181, #64572, unsloth#10892: NaN, which then trains the model to NaN."""
    z = scores(3, 4, dtype=dtype)
    value = way(crossent.CrossEntropy(), z, torch.full((3,), -100))
    assert value.item() == 0
    assert not gradient(value, z).any()


@EVERY_WAY
def test_smoothing_leaves_ignored_rows_out(way: Way) -> None:
    """pytorch#73205: the uniform part counted them; #69339, #72056: with weights, out of bounds."""
    z, y = scores(4, 3), torch.tensor([0, -100, 2, -100])
    for weight in (None, [1.0, 0.5, 2.0]):
        loss = crossent.CrossEntropy(label_smoothing=0.1, class_weight=weight)
        torch.testing.assert_close(way(loss, z, y), way(loss, z[[0, 2]], y[[0, 2]]))


@EVERY_WAY
def test_one_hot_and_index_agree_with_class_weights(way: Way) -> None:
    """pytorch#107680, #61044: 0.87 against 54.4."""
    z, y = scores(4, 3), labels(4, 3)
    loss = crossent.CrossEntropy(class_weight=[1.0, 100.0, 0.1], label_smoothing=0.1)
    torch.testing.assert_close(way(loss, z, crossent.one_hot(y, 3)), way(loss, z, y))


def test_the_mean_is_over_what_is_valid() -> None:
    """TransformerEngine#2476: divided by all tokens; pytorch#63004: an ignored class counted."""
    z, y = scores(2, 3, 4), torch.tensor([[0, -100, 1], [-100, 2, 3]])
    each = crossent.cross_entropy(z, y, reduction="none")
    assert not each[y == -100].any()
    torch.testing.assert_close(crossent.cross_entropy(z, y), each.sum() / 4)


@pytest.mark.parametrize("sizes", [(8, 8), (3, 13), (1, 0, 15)])
def test_accumulated_gradients_are_those_of_the_whole_batch(sizes: tuple[int, ...]) -> None:
    """transformers#34191, Liger-Kernel#802, torchtune#1875: a mean of means is wrong."""
    z, y = scores(16, 5), labels(16, 5)
    y[3] = y[10] = -100
    weight = torch.rand(16, generator=torch.Generator().manual_seed(3))
    whole = CrossEntropyLoss()(z, y, sample_weight=weight)
    whole.backward()
    known, z.grad = z.grad, None
    total = float(weight[y != -100].sum())
    for part in torch.arange(16).split(list(sizes)):
        loss = CrossEntropyLoss()(z[part], y[part], sample_weight=weight[part], normalizer=total)
        loss.backward()
    torch.testing.assert_close(z.grad, known)


def test_weights_of_single_tokens() -> None:
    """Liger-Kernel#329, #338, #404: wanted for packing and for reinforcement learning."""
    z, y = scores(4, 5), labels(4, 5)
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0])
    twice = torch.tensor([0, 0, 2, 3])
    torch.testing.assert_close(
        crossent.cross_entropy(z, y, sample_weight=weight),
        crossent.cross_entropy(z[twice], y[twice]),
    )


def test_the_z_loss_can_be_told_apart() -> None:
    """OLMo-core#702: the z term hid in what was logged as the loss."""
    z, y = scores(4, 5), labels(4, 5)
    sums = crossent.CrossEntropy(z_loss=0.5).sums(z, y)
    plain = crossent.CrossEntropy().sums(z, y)
    assert sums.sum == pytest.approx(plain.sum, rel=1e-6)
    assert sums.z_loss == pytest.approx(0.5 * crossent.logsumexp(z).square().sum().item(), rel=1e-6)
    assert sums.perplexity == pytest.approx(plain.perplexity, rel=1e-6)


# What comes from above, and what is shared --------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_every_token_has_its_own_upstream_gradient(way: Way, dtype: torch.dtype) -> None:
    """Liger-Kernel#968, #678: every token got that of token 0, so nothing if that was ignored."""
    z, y = scores(4, 3, dtype=dtype), torch.tensor([-100, 1, 2, 0])
    upstream = torch.tensor([5.0, 2.0, -1.0, 0.0])
    loss = crossent.CrossEntropy(reduction="none")
    value = way(loss, z, y.clone())
    (slope,) = torch.autograd.grad(value, z, upstream.to(value.dtype))
    known = crossent.CrossEntropy(reduction="sum")
    for i in range(4):
        row = known.value_and_grad(z[i : i + 1], y[i : i + 1])[1] * upstream[i]
        torch.testing.assert_close(slope[i : i + 1], row.to(dtype), rtol=1e-2, atol=1e-6)


@EVERY_WAY
def test_an_upstream_gradient_other_than_1(way: Way) -> None:
    """TransformerEngine#2139, Megatron-LM#1750: a fast path for 1 hid that all else gave 0."""
    for factor in (0.5, -3.0, 1e-3):
        z, y = scores(4, 3), labels(4, 3)
        (factor * way(crossent.CrossEntropy(), z, y)).backward()
        known = factor * crossent.CrossEntropy().value_and_grad(z, y)[1]
        torch.testing.assert_close(z.grad, known)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_losses_on_one_tensor_of_scores(dtype: torch.dtype) -> None:
    """unsloth#5002, Liger-Kernel#343, ms-swift#10130: the first one destroyed the scores."""
    hidden = scores(4, 3, dtype=dtype)
    z = hidden * 1.0
    before = z.detach().clone()
    first = crossent.cross_entropy(z, labels(4, 3))
    second = crossent.cross_entropy(z, labels(4, 3), label_smoothing=0.5, z_loss=0.1)
    first.backward(retain_graph=True)
    alone, hidden.grad = hidden.grad, None
    assert torch.equal(z, before)
    second.backward()
    known = crossent.CrossEntropy(label_smoothing=0.5, z_loss=0.1).value_and_grad(
        before, labels(4, 3)
    )
    torch.testing.assert_close(hidden.grad, known[1])
    assert torch.equal(z, before)
    torch.testing.assert_close(
        alone, crossent.CrossEntropy().value_and_grad(before, labels(4, 3))[1]
    )


def test_scores_are_not_written_without_a_gradient_either() -> None:
    """Liger-Kernel#254, #262: ignored rows were set to 0 even in evaluation."""
    z, y = scores(4, 3).detach(), torch.tensor([0, -100, 1, 2])
    before = z.clone()
    crossent.cross_entropy(z, y)
    assert torch.equal(z, before)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_with_an_ignored_row(backend: str) -> None:
    """Liger-Kernel#1338: memory that no kernel had written was taken for the ignored row's loss."""
    torch._dynamo.reset()
    z, y = scores(8, 5), labels(8, 5)
    y[::2] = -100
    for reduction in ("mean", "none"):
        loss = crossent.CrossEntropy(reduction=reduction)
        value = torch.compile(loss.__call__, fullgraph=True, backend=backend)(z, y)
        torch.testing.assert_close(value, loss(z, y), rtol=0, atol=0)
        slope = gradient(value, z)
        torch.testing.assert_close(slope, gradient(loss(z, y), z), rtol=0, atol=0)


def test_the_same_bits_every_time() -> None:
    """pytorch#71367, #17350: nll_loss in two dimensions answers differently from run to run."""
    z, y = scores(64, 5, 33), labels(64 * 33, 5).reshape(64, 33)
    results = []
    for _ in range(3):
        value = CrossEntropyLoss()(z, y)
        results.append((value.item(), gradient(value, z).numpy().tobytes()))
    assert len(set(results)) == 1


# Half types ---------------------------------------------------------------------------------------


@EVERY_WAY
def test_sums_of_half_types_do_not_overflow(way: Way) -> None:
    """pytorch#29429, #85791, PaddlePaddle#74070: 65504 is soon reached; jax#40409: 2^16 classes."""
    z = torch.zeros(70000, 2, dtype=torch.float16).requires_grad_()
    value = way(crossent.CrossEntropy(reduction="sum"), z, torch.zeros(70000, dtype=torch.int64))
    assert value.item() == pytest.approx(70000 * math.log(2), rel=1e-6)
    wide = torch.zeros(1, 2**16 + 8, dtype=torch.float16).requires_grad_()
    value = way(crossent.CrossEntropy(), wide, torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(2**16 + 8), rel=1e-6)
    assert gradient(value, wide).isfinite().all()


def test_certain_outputs_in_half_types() -> None:
    """keras#9582, tf#38457: an epsilon that float16 rounds away made them NaN."""
    for dtype in (torch.float16, torch.bfloat16):
        z = leaf([[60.0, 0.0], [0.0, 60.0]], dtype)
        value = crossent.cross_entropy(z, torch.tensor([0, 0]))
        assert value.item() == pytest.approx(30.0)
        assert gradient(value, z)[1].tolist() == [-0.5, 0.5]


# Sizes and shapes ---------------------------------------------------------------------------------


def test_more_than_2_to_the_31_elements() -> None:
    """pytorch#111484, #85005, Liger-Kernel#803: wrong or crashed where an index needs 64 bits."""
    rows, classes = 2**16 + 2, 2**15
    memory = mmap.mmap(-1, 2 * rows * classes)  # zeros, which become real where they are written
    zeros = torch.frombuffer(memory, dtype=torch.bfloat16)
    z, y = zeros.view(rows, classes), torch.full((rows,), -100)
    z[-1, -1] = 100.0
    y[-1], y[-2], y[0] = classes - 1, 7, 3
    value = crossent.CrossEntropy(reduction="none")(z, y)
    assert value[0].item() == value[-2].item() == pytest.approx(math.log(classes))
    assert value[-1] < 1e-30
    assert not value[1:-2].any()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (3, 0)])
def test_empty_shapes(shape: tuple[int, ...]) -> None:
    """pytorch#77895, tf#6766: a floating-point exception killed the process."""
    z = torch.zeros(shape, requires_grad=True)
    if shape[-1]:
        value = crossent.cross_entropy(z, torch.zeros(shape[:-1], dtype=torch.int64))
        assert gradient(value, z).shape == shape
    else:
        with pytest.raises(ValueError, match="logits has 0 classes"):
            crossent.cross_entropy(z, torch.zeros(shape[:-1], dtype=torch.int64))


@EVERY_WAY
def test_targets_of_one_number_in_memory(way: Way) -> None:
    """pytorch#71550: an expanded target tripped an assertion."""
    z = scores(4, 3)
    torch.testing.assert_close(
        way(crossent.CrossEntropy(), z, torch.tensor(1).expand(4)),
        way(crossent.CrossEntropy(), z, torch.full((4,), 1)),
    )


def test_the_mean_of_many() -> None:
    """pytorch#55657: float32 sums of large tensors lost digits."""
    z = torch.full((3_000_000,), 0.1)
    exact = math.log1p(math.exp(z[0].item()))
    assert crossent.binary_cross_entropy(z, torch.zeros_like(z)).item() == pytest.approx(
        exact, 1e-7
    )


# Bad targets --------------------------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("label", [-1, 3, 2**31, -(2**62)])
@pytest.mark.parametrize("loss", [crossent.CrossEntropy(), crossent.SoftmaxBinaryCrossEntropy()])
def test_a_label_out_of_range(way: Way, label: int, loss: Any) -> None:
    """pytorch#43840, #21825, #194802, keras#23664, tf#8484: wrong, crashed, written elsewhere."""
    z = scores(2, 3)
    with pytest.raises(ValueError, match=rf"targets\[1\] is {label}; a class index must be in"):
        way(loss, z, torch.tensor([0, label]))


def test_a_label_out_of_range_in_other_layouts() -> None:
    """pytorch#194802: unchecked in two dimensions."""
    with pytest.raises(
        ValueError, match=r"targets\[1, 0\] is 5; a class index must be in \[0, 2\]"
    ):
        CrossEntropyLoss()(scores(2, 3, 2), torch.tensor([[0, 1], [5, 0]]))


@EVERY_WAY
def test_targets_outside_0_and_1(way: Way) -> None:
    """pytorch#110865, #123339, #87373: accepted, and the loss became negative."""
    for loss in (crossent.BinaryCrossEntropy(), crossent.CrossEntropy()):
        for y in (1.5, -0.25, NAN):
            with pytest.raises(ValueError, match=rf"targets\[0, 1\] is {y}; a probability must be"):
                way(loss, scores(1, 2), torch.tensor([[0.0, y]]))


def test_a_mistake_leaves_everything_as_it_was() -> None:
    """pytorch#21825: after one bad label nothing worked any more."""
    z, y = scores(2, 3), labels(2, 3)
    with pytest.raises(ValueError, match="targets"):
        crossent.cross_entropy(z, y + 3)
    (crossent.cross_entropy(z, y) + BCEWithLogitsLoss()(z, by_plain_bits(z))).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def by_plain_bits(z: Tensor) -> Tensor:
    return (z.detach() > 0).to(z.dtype)


def test_second_derivatives_are_there() -> None:
    """Liger-Kernel, apex and torch's chunked loss: missing, or silently 0."""
    z, y = scores(3, 4, dtype=torch.float64), labels(3, 4)
    for loss in (crossent.CrossEntropy(), crossent.CrossEntropy(z_loss=0.1, softcap=5.0)):
        slope = gradient(loss(z, y), z, create_graph=True)
        penalty = torch.autograd.grad(slope.square().sum(), z)[0]
        torch.testing.assert_close(penalty, 2 * loss.hvp(z, y, slope.detach()))
        plain = gradient(by_plain(loss, z, y), z, create_graph=True)
        torch.testing.assert_close(slope, plain)
