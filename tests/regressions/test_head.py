"""What users of fused linear heads reported, asked of ours: one test for each kind of report.

Docstrings name the reports. The oracle is the dense loss of the same scores, in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import crossent
from crossent.torch import LinearCrossEntropyLoss, head_statistics

N, D, V = 12, 6, 40
FEW = 3 * V * 8  # bytes of three rows of float64 scores, so that every call takes several chunks


def layer(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, weight and bias that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((N, D), (V, D), (V,))
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    x, w, b = (each.to(dtype).requires_grad_() for each in made)
    return x, w, b


LABELS = torch.randint(V, (N,), generator=torch.Generator().manual_seed(5))


def fused(x: Tensor, w: Tensor, b: Tensor | None, y: Any = LABELS, **options: Any) -> Tensor:
    found: Tensor = crossent.linear_cross_entropy(x, w, y, bias=b, memory_budget=FEW, **options)
    return found


def dense(x: Tensor, w: Tensor, b: Tensor | None, y: Any = LABELS, **options: Any) -> Tensor:
    scores = x.double() @ w.double().T
    scores = scores if b is None else scores + b.double()
    found: Tensor = crossent.cross_entropy(scores, y, **options)
    return found


def assert_equal_gradients(found: Tensor, expected: Tensor, *leaves: Tensor) -> None:
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(one, other)


# What comes from above ----------------------------------------------------------------------------


def test_every_row_has_its_own_upstream_gradient() -> None:
    """Liger-Kernel#968, #678, #488, #421, #872: "none" gave every token grad_output[0]."""
    leaves = layer()
    y = LABELS.clone()
    y[0] = -100  # then all of them were zero
    above = torch.linspace(-1, 2, N, dtype=torch.float64)
    found, expected = (f(*leaves, y, reduction="none") @ above for f in (fused, dense))
    assert_equal_gradients(found, expected, *leaves)


def test_a_loss_that_is_scaled_afterwards() -> None:
    """TransformerEngine#2139, torchtitan: fast paths for an upstream of 1 ignored any other."""
    leaves = layer()
    assert_equal_gradients(-3.5 * fused(*leaves), -3.5 * dense(*leaves), *leaves)


def test_two_backward_passes_through_one_graph() -> None:
    """torch's chunked loss raises in a second backward pass; gradients consumed in place."""
    leaves = layer()
    found = fused(*leaves)
    first = torch.autograd.grad(found, leaves, 2 * torch.ones(()).double(), retain_graph=True)
    again = torch.autograd.grad(found, leaves, torch.ones(()).double())
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, 2 * other)


def test_two_losses_of_the_same_features() -> None:
    """Liger-Kernel#343, unsloth#5002: one loss overwrote what the other was computed from."""
    leaves = layer()
    other = LABELS.flip(0)
    found = fused(*leaves) + fused(*leaves, other, z_loss=0.1)
    assert_equal_gradients(found, dense(*leaves) + dense(*leaves, other, z_loss=0.1), *leaves)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    """transformers#34191, Liger-Kernel#802, trl#2175: a mean of means over uneven parts."""
    leaves = layer()
    y = LABELS.clone()
    y[1:5] = -100
    total = float((y != -100).sum())
    parts = [
        fused(leaves[0][rows], *leaves[1:], y[rows], normalizer=total)
        for rows in (slice(0, 5), slice(5, 12))
    ]
    assert_equal_gradients(torch.stack(parts).sum(), dense(*leaves, y), *leaves)


# What is frozen, ignored, weighed -----------------------------------------------------------------


def test_a_frozen_trunk_still_trains_the_head() -> None:
    """Liger-Kernel computes the weight's gradient only if the features require one."""
    x, w, b = layer()
    assert_equal_gradients(fused(x.detach(), w, b), dense(x.detach(), w, b), w, b)


def test_a_frozen_head_still_trains_the_trunk() -> None:
    """Liger-Kernel#237, fla#1253, TRL#7076: a buffer and a product for a weight that is frozen."""
    x, w, b = layer()
    found = fused(x, w.detach(), b.detach())
    assert_equal_gradients(found, dense(x, w.detach(), b.detach()), x)
    gradients = crossent.LinearCrossEntropy().value_and_grad(
        x.detach(), w.detach(), LABELS, wanted=("features",)
    )[1]
    assert gradients.weight is None


def test_all_rows_ignored_has_a_zero_gradient_and_a_graph() -> None:
    """pytorch#116349: NaN; torchtune: a constant without a graph, so that backward raises."""
    leaves = layer()
    for reduction in ("mean", "sum", "none"):
        found = fused(*leaves, torch.full((N,), -100), reduction=reduction).sum()
        assert found.item() == 0
        assert not any(g.any() for g in torch.autograd.grad(found, leaves))


def test_only_the_last_turn_counts() -> None:
    """unsloth#5230: masks that leave only the end of a sequence gave no gradient at all."""
    leaves = layer()
    y = torch.where(torch.arange(N) < N - 1, -100, LABELS)
    found = fused(*leaves, y)
    assert torch.autograd.grad(found, leaves[1], retain_graph=True)[0].any()
    assert_equal_gradients(found, dense(*leaves, y), *leaves)


def test_the_mean_is_over_valid_tokens() -> None:
    """TransformerEngine#2476: the mean divided by ignored tokens too."""
    leaves = layer()
    y = torch.where(torch.arange(N) % 3 == 0, -100, LABELS)
    each = fused(*leaves, y, reduction="none")
    torch.testing.assert_close(fused(*leaves, y), each.sum() / (y != -100).sum())


def test_an_ignored_row_of_nan_or_infinity() -> None:
    """pytorch#11551: what an ignored row holds came back as NaN."""
    x, w, b = layer()
    y = torch.where(torch.arange(N) == 2, -100, LABELS)
    bad = x.detach().clone()
    bad[2] = math.inf
    bad.requires_grad_()
    found = torch.autograd.grad(fused(bad, w, b, y), (bad, w, b))
    expected = torch.autograd.grad(dense(x, w, b, y), (x, w, b))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_weight_for_every_token() -> None:
    """Liger-Kernel#329, #338, #404: packed samples need weights of their own."""
    leaves = layer()
    weight = torch.linspace(0, 1, N, dtype=torch.float64)
    options = {"sample_weight": weight}
    assert_equal_gradients(fused(*leaves, **options), dense(*leaves, **options), *leaves)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_with_an_ignored_row() -> None:
    """Liger-Kernel#1338: under torch.compile an ignored row left uninitialised memory."""
    leaves = layer()
    y = torch.where(torch.arange(N) == 4, -100, LABELS)
    compiled = torch.compile(lambda x, w, b: fused(x, w, b, y), fullgraph=True, backend="aot_eager")
    assert_equal_gradients(compiled(*leaves), dense(*leaves, y), *leaves)


# Numbers ------------------------------------------------------------------------------------------


def test_a_bias_in_the_head() -> None:
    """ml-cross-entropy#52: a bias gave negative losses."""
    leaves = layer()
    found = fused(*leaves, reduction="none")
    assert (found > 0).all()
    assert_equal_gradients(found.sum(), dense(*leaves, reduction="none").sum(), *leaves)


def test_a_common_offset_of_1e8() -> None:
    """pytorch#11752, mlx#4188: equal scores far from 0 gave loss 0."""
    x, w = torch.zeros(3, 2, requires_grad=True), torch.zeros(4, 2)
    found = crossent.linear_cross_entropy(x, w, torch.tensor([0, 1, 3]), bias=torch.full((4,), 1e8))
    assert found.item() == pytest.approx(math.log(4))


def test_classes_that_are_masked_from_the_first_tile_on() -> None:
    """flash-attention#1930: -inf - -inf where the first tile of a row was masked."""
    x, w, _ = layer(torch.float32)
    wide = torch.cat([torch.zeros(70000, D), w.detach()])
    bias = torch.cat([torch.full((70000,), -math.inf), torch.zeros(V)])
    found = crossent.linear_cross_entropy(x, wide, 70000 + LABELS, bias=bias)
    expected = crossent.linear_cross_entropy(x, w.detach(), LABELS)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, x)[0], torch.autograd.grad(expected, x)[0]
    )


@pytest.mark.parametrize("p", [0.9, 0.99, 0.999])
def test_a_target_probability_near_1_in_bfloat16(p: float) -> None:
    """Liger-Kernel#1329: p rounded to bfloat16 before 1 was taken from it, 100% off at 0.999."""
    x = torch.tensor([[1.0]], dtype=torch.bfloat16, requires_grad=True)
    w = torch.tensor([[math.log(p / (1 - p))], [0.0]], dtype=torch.bfloat16, requires_grad=True)
    crossent.linear_cross_entropy(x, w, torch.tensor([0])).backward()
    other = 1 / (1 + math.exp(w[0].item()))
    assert w.grad is not None
    assert w.grad.flatten().tolist() == pytest.approx([-other, other], rel=2**-8)


def test_the_weights_gradient_is_summed_in_float32() -> None:
    """Liger-Kernel#512, axolotl#1601, OLMo-core#370: summed in bfloat16, chunk by chunk."""
    rows = 4000
    x = torch.ones(rows, 1, dtype=torch.bfloat16)
    w = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    y = torch.zeros(rows, dtype=torch.int64)
    found = crossent.linear_cross_entropy(x, w, y, reduction="sum", memory_budget=2 * 4 * 10)
    found.backward()
    assert w.grad is not None
    assert w.grad.flatten().tolist() == [-rows / 2, rows / 2]  # bfloat16 counts to 256
    assert found.item() == pytest.approx(rows * math.log(2))


def test_the_mean_does_not_count_tokens_in_bfloat16() -> None:
    """torch's chunked loss built the divisor in the type of its input: 257 tokens are 256."""
    rows = 257
    x = torch.zeros(rows, 1, dtype=torch.bfloat16)
    w = torch.zeros(3, 1, dtype=torch.bfloat16)
    found = crossent.linear_cross_entropy(x, w, torch.zeros(rows, dtype=torch.int64))
    assert found.item() == pytest.approx(math.log(3), rel=1e-6)


def test_softcap_has_its_own_slope() -> None:
    """Levanter's blockwise backward pass left out the derivative of the cap."""
    leaves = layer()
    assert_equal_gradients(fused(*leaves, softcap=1.5), dense(*leaves, softcap=1.5), *leaves)


def test_the_penalty_is_weighed_like_the_loss() -> None:
    """Liger-Kernel: the z-loss was not weighted; OLMo-core#702: it is part of the value."""
    leaves = layer()
    weight = torch.linspace(0, 2, N, dtype=torch.float64)
    options = {"sample_weight": weight, "z_loss": 0.3, "reduction": "sum"}
    assert_equal_gradients(fused(*leaves, **options), dense(*leaves, **options), *leaves)


def test_smoothing_in_the_fused_loss() -> None:
    """torch's chunked loss has no label smoothing; pytorch#104776: with class weights."""
    leaves = layer()
    options = {"label_smoothing": 0.2, "class_weight": [1.0 + j % 3 for j in range(V)]}
    assert_equal_gradients(fused(*leaves, **options), dense(*leaves, **options), *leaves)


@pytest.mark.parametrize("label", [V, -1, 2**40])
def test_a_label_out_of_range_is_named(label: int) -> None:
    """flash-attention, unsloth, optax#1185: a silent 0, a silent NaN, or foreign memory."""
    y = torch.where(torch.arange(N) == 3, label, LABELS)
    with pytest.raises(ValueError, match=rf"targets\[3\] is {label}; a class index must be in"):
        fused(*layer(), y)


# Second order, validation, memory -----------------------------------------------------------------


def test_second_derivatives() -> None:
    """torch's chunked loss, Liger-Kernel, ml-cross-entropy: unsupported, or silently wrong."""
    leaves = layer()
    slopes = [
        torch.autograd.grad(f(*leaves, z_loss=0.1), leaves, create_graph=True)
        for f in (fused, dense)
    ]
    found, expected = (torch.stack([(g * g).sum() for g in each]).sum() for each in slopes)
    assert_equal_gradients(found, expected, *leaves)


def test_validation_without_the_scores() -> None:
    """Liger-Kernel#703, #873, #551, #328: losses, entropy and accuracy needed all scores."""
    x, w, b = (t.detach() for t in layer())
    found = head_statistics(x, w, LABELS, b, top_k=5, memory_budget=FEW)
    scores = x @ w.T + b
    torch.testing.assert_close(found.loss, crossent.cross_entropy(scores, LABELS, reduction="none"))
    assert torch.equal(found.top_1, scores.argmax(1) == LABELS)
    assert torch.equal(found.top_k, (scores.topk(5).indices == LABELS[:, None]).any(1))


def test_memory_is_a_budget_whatever_the_batch() -> None:
    """Liger-Kernel#1439, #1190, torchtitan#4514: chunks that grow with the batch run out of it."""
    width = 50
    for rows in (10, 1000):
        call = (np.ones((rows, 2)), np.ones((width, 2)), np.zeros(rows, np.int64))
        with pytest.raises(ValueError, match="memory_budget is 399 bytes, but one row needs 400"):
            crossent.linear_cross_entropy(*call, memory_budget=399)
        assert crossent.linear_cross_entropy(*call, memory_budget=400) == pytest.approx(
            math.log(width)
        )


def test_the_same_gradients_every_time() -> None:
    """ml-cross-entropy: locks and atomics add up in any order; pytorch#71367."""
    x, w, b = layer(torch.float32)
    first = torch.autograd.grad(fused(x, w, b), (x, w, b))
    for _ in range(5):
        again = torch.autograd.grad(fused(x, w, b), (x, w, b))
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_the_weight_of_an_embedding_is_shared() -> None:
    """ml-cross-entropy#42: tied weights get both gradients."""
    embedding = torch.nn.Embedding(V, D, dtype=torch.float64)
    head = LinearCrossEntropyLoss(D, V, dtype=torch.float64)
    head.linear.weight = embedding.weight
    head(embedding(LABELS), LABELS.flip(0)).backward()
    found = embedding.weight.grad
    expected = torch.autograd.grad(
        dense(embedding(LABELS), embedding.weight, None, LABELS.flip(0)), embedding.weight
    )[0]
    torch.testing.assert_close(found, expected)
