"""Tensors: what arrays answer, bit for bit, and derivatives of every kind."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import crossent
from benchmarks import oracle
from cases import WIDE, Case
from crossent import torch_front_end as front_end
from torch_cases import (
    TENSOR_CASES,
    WAYS,
    Recorder,
    array,
    by_kernel,
    by_plain,
    gradient,
    loss_of,
    tensors,
)

INF = math.inf
Way = Callable[..., Tensor]

TIGHT = {"rtol": 1e-10, "atol": 1e-13}
FINITE = tuple(  # smooth and small enough for finite differences
    case
    for case in WIDE
    if np.isfinite(np.array(case.logits, float)).all()
    and 0 < np.size(case.logits) <= 24
    and np.abs(np.array(case.logits, float)).max() <= 10
    and "ties" not in case.name
    and "tied" not in case.name
)


@pytest.fixture(params=TENSOR_CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    if request.param.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")
    return request.param


@pytest.fixture(params=WAYS, ids=["kernel", "plain"])
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def bits(values: Any) -> bytes:
    return np.asarray(values).tobytes()


def example(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).mul_(2).requires_grad_()


def labels(rows: int, classes: int, seed: int = 1) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


def same(one: Any, other: Any, **tolerances: float) -> None:
    torch.testing.assert_close(one, other, check_dtype=False, equal_nan=True, **tolerances)


# What arrays answer -------------------------------------------------------------------------------


def test_values_and_gradients_have_the_bits_of_the_arrays(case: Case) -> None:
    z, y, w = tensors(case)
    before = [bits(array(t)) for t in (z, y)]
    value = by_kernel(loss_of(case), z, y, w, case.normalizer)
    slope = gradient(value, z)
    known = loss_of(case).value_and_grad(*case.arrays(), case.normalizer)
    assert (value.shape, slope.dtype) == (known[0].shape, z.dtype)
    assert bits(array(value)) == bits(known[0])
    assert bits(array(slope)) == bits(known[1])
    assert [bits(array(t)) for t in (z, y)] == before


def test_without_autograd_too(case: Case) -> None:
    z, y, w = tensors(case)
    known = loss_of(case).value_and_grad(*case.arrays(), case.normalizer)
    with torch.no_grad():
        value = loss_of(case)(z, y, w, case.normalizer)
    assert not value.requires_grad
    found = loss_of(case).value_and_grad(z, y, w, case.normalizer)
    assert bits(array(value)) == bits(array(found[0])) == bits(known[0])
    assert bits(array(found[1])) == bits(known[1])
    assert str(loss_of(case).sums(z, y, w)) == str(loss_of(case).sums(*case.arrays()))


def test_plain_operations_are_true(case: Case) -> None:
    z, y, w = tensors(case)
    value = by_plain(loss_of(case), z, y, w, case.normalizer)
    slope = gradient(value, z)
    true = oracle.truth(case.loss, case.options, *case.arrays(), case.normalizer)
    allowed = 128 if "softcap" in case.options else 64  # a capped score is rounded four times
    assert oracle.ulps(array(value), true.value, true.larger_value).max(initial=0) <= allowed
    assert oracle.ulps(array(slope), true.gradient, true.larger_term).max(initial=0) <= allowed


CLASSES = {
    "cross_entropy": "CrossEntropy",
    "softmax_binary_cross_entropy": "SoftmaxBinaryCrossEntropy",
}
LIMITS = [  # logits, targets
    ([[INF, 0.0, 1.0]], [0]),
    ([[INF, 0.0, 1.0]], [1]),
    ([[1.0, -INF, -INF]], [0]),
    ([[1.0, -INF, -INF]], [1]),
    ([[1.0, -INF, -INF]], [[0.5, 0.5, 0.0]]),
    ([[1.0, -INF, -INF]], [[0.5, 0.0, 0.0]]),
    ([[INF, -INF, -INF]], [1]),
    ([[INF, INF, 1.0]], [0]),
    ([[-INF, -INF, -INF]], [0]),
    ([[2.0]], [0]),
]


@pytest.mark.parametrize("loss", ["cross_entropy", "softmax_binary_cross_entropy"])
@pytest.mark.parametrize(("logits", "targets"), LIMITS)
def test_plain_operations_take_the_kernels_limits(loss: str, logits: Any, targets: Any) -> None:
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(targets, dtype=torch.float64 if isinstance(targets[0], list) else torch.int64)
    losses = [getattr(crossent, CLASSES[loss])(reduction="none")]
    if loss == "cross_entropy":
        losses.append(crossent.CrossEntropy(reduction="none", z_loss=0.5))
    for one in losses:
        value, known = by_plain(one, z, y), one.value_and_grad(z, y)
        same(value, known[0], rtol=1e-14, atol=0)
        same(gradient(value, z), known[1], rtol=1e-14, atol=0)


# Derivatives of every kind ------------------------------------------------------------------------


@pytest.mark.parametrize("case", FINITE, ids=str)
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    z, y, w = tensors(case)

    def value(z: Tensor) -> Tensor:
        return by_kernel(loss_of(case), z, y, w, case.normalizer)

    assert torch.autograd.gradcheck(value, z, fast_mode=True)
    assert torch.autograd.gradgradcheck(value, z, fast_mode=True)


@pytest.mark.parametrize("case", [case for case in FINITE if "every" in case.name], ids=str)
def test_every_entry_of_both_jacobians(case: Case, way: Way) -> None:
    z, y, w = tensors(case)
    assert torch.autograd.gradcheck(lambda z: way(loss_of(case), z, y, w), z)
    assert torch.autograd.gradgradcheck(lambda z: way(loss_of(case), z, y, w), z)


@pytest.mark.parametrize("name", ["right and certain", "wrong and certain", "everything, mean"])
def test_second_derivatives_keep_their_tails(name: str) -> None:
    for case in (case for case in WIDE if case.name == name):
        z, y, w = tensors(case)
        vector = example(*z.shape, seed=5).detach()
        slope = gradient(by_kernel(loss_of(case), z, y, w), z, create_graph=True)
        product = torch.autograd.grad(slope, z, vector)[0]
        same(product, loss_of(case).hvp(z, y, vector, w), rtol=1e-11, atol=0)
        same(gradient(by_kernel(loss_of(case), z, y, w), z), slope, rtol=1e-12, atol=0)


LOSSES = (
    crossent.CrossEntropy(label_smoothing=0.1, z_loss=0.1, softcap=4.0, class_weight=[1, 2, 0, 3]),
    crossent.CrossEntropy(reduction="batchmean", axis=0),
    crossent.SoftmaxBinaryCrossEntropy(label_smoothing=0.1),
    crossent.BinaryCrossEntropy(pos_weight=[1, 2, 0, 3], label_smoothing=0.1),
    crossent.QuadraticCost(reduction="sum"),
)
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def probabilities(*shape: int) -> Tensor:
    """Return targets well inside [0, 1]."""
    return (0.8 * torch.softmax(example(*shape, seed=7), -1) + 0.05).detach().requires_grad_()


@each_loss
@pytest.mark.parametrize("reduction", ["none", "mean", "batchmean"])
def test_targets_and_weights_have_gradients(loss: Any, reduction: str) -> None:
    loss = replace(loss, reduction=reduction)
    z, y = example(4, 4), probabilities(4, 4)
    w = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    w.requires_grad_()
    assert torch.autograd.gradcheck(loss, (z, y, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (z, y, w), fast_mode=True)
    assert torch.autograd.gradcheck(lambda y: loss(z.detach(), y), y, fast_mode=True)
    same(loss(z, y, w), loss(z, y.detach(), w.detach()), **TIGHT)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@each_loss
def test_torch_func(loss: Any) -> None:
    z, y, vector = example(4, 4).detach(), probabilities(4, 4).detach(), example(4, 4, seed=3)
    vector = vector.detach()
    slope, product = loss.value_and_grad(z, y)[1], loss.hvp(z, y, vector)

    def value(z: Tensor) -> Tensor:
        return loss(z, y)

    same(torch.func.grad(value)(z), slope, **TIGHT)
    same(torch.func.jvp(value, (z,), (vector,))[1], (slope * vector).sum(), **TIGHT)
    same(torch.func.jvp(torch.func.grad(value), (z,), (vector,))[1], product, **TIGHT)
    hessian = torch.func.hessian(value)(z)
    same(torch.einsum("abcd,cd->ab", hessian, vector), product, **TIGHT)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, vector)
        tangent = torch.autograd.forward_ad.unpack_dual(value(dual)).tangent
    same(tangent, (slope * vector).sum(), **TIGHT)


@each_loss
def test_vmap_is_a_loop(loss: Any) -> None:
    z, y = example(5, 4, 4).detach(), probabilities(5, 4, 4).detach()
    w = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    z.movedim(getattr(loss, "axis", -1) % 2 + 1, -1)[:, 1] = math.nan  # a row of weight 0
    one_by_one = [loss.value_and_grad(z[i], y[i], w) for i in range(5)]
    values, slopes = (torch.stack(parts) for parts in zip(*one_by_one, strict=True))
    same(torch.vmap(loss, in_dims=(0, 0, None))(z, y, w), values, **TIGHT)
    same(torch.vmap(loss, (1, 2, None))(z.movedim(0, 1), y.movedim(0, 2), w), values, **TIGHT)
    same(torch.vmap(torch.func.grad(loss), (0, 0, None))(z, y, w), slopes, **TIGHT)


def test_vmap_within_vmap_and_its_bad_targets() -> None:
    z, y = example(2, 3, 5).detach(), torch.tensor([[0, 4, -100], [1, 2, 3]])
    loss = crossent.CrossEntropy(reduction="sum")
    same(torch.vmap(torch.vmap(loss))(z, y), crossent.CrossEntropy(reduction="none")(z, y), **TIGHT)
    outer = torch.vmap(torch.vmap(loss, in_dims=(0, None)), in_dims=(None, 0))
    same(outer(z[0], y[1])[2, 1], loss(z[0, 1], y[1, 2]), **TIGHT)
    y[1, 2] = 5
    with pytest.raises(
        ValueError, match=r"targets\[1, 2\] is 5; a class index must be in \[0, 4\]"
    ):
        torch.vmap(torch.vmap(loss))(z, y)


# What comes from above ----------------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_each_loss_has_an_upstream_of_its_own(loss: Any, dtype: torch.dtype) -> None:
    loss = replace(loss, reduction="none")
    z = example(4, 4, dtype=torch.float64).to(dtype).detach().requires_grad_()
    y = probabilities(4, 4).to(dtype).detach()
    value = loss(z, y)
    upstream = example(*value.shape, seed=9).to(value.dtype).detach()
    found = torch.autograd.grad(value, z, upstream)[0]
    known = torch.autograd.grad(by_plain(loss, z, y), z, upstream)[0]
    coarse = (
        {"rtol": 8e-3, "atol": 1e-5} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    )
    same(found, known, **(TIGHT if dtype == torch.float64 else coarse))


def test_a_graph_that_is_kept_answers_again_and_shares_no_memory() -> None:
    z, y = example(6, 5), labels(6, 5)
    value = crossent.cross_entropy(z, y)
    known = crossent.CrossEntropy().value_and_grad(z, y)[1]
    first = torch.autograd.grad(value, z, retain_graph=True)[0]
    same(first, known, rtol=0, atol=0)
    first.fill_(math.nan)
    same(torch.autograd.grad(3 * value, z, retain_graph=True)[0], 3 * known, **TIGHT)
    value.backward(retain_graph=True)
    value.backward()
    same(z.grad, 2 * known, **TIGHT)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


@pytest.mark.parametrize("factor", [1.0, 0.3, -2.0, 0.0, math.nan])
def test_a_graph_that_goes_scales_in_place(factor: float) -> None:
    z, y = example(6, 5, dtype=torch.float32), labels(6, 5)
    (crossent.cross_entropy(z, y) * factor).backward()
    same(z.grad, factor * crossent.CrossEntropy().value_and_grad(z, y)[1], rtol=1e-6, atol=0)


def test_the_saved_gradient_becomes_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    scaled = front_end.scaled

    def spy(gradient: Tensor, upstream: Tensor) -> Tensor:
        saved.append(gradient.data_ptr())
        return scaled(gradient, upstream)

    monkeypatch.setattr(front_end, "scaled", spy)
    for factor in (1.0, 0.5):
        z = example(6, 5)
        (crossent.cross_entropy(z, labels(6, 5)) * factor).backward()
        assert z.grad is not None
        assert z.grad.data_ptr() == saved.pop()


def test_the_backward_pass_makes_nothing_of_the_size_of_the_scores() -> None:
    z = example(60, 50)
    value = crossent.cross_entropy(z, labels(60, 50))
    with Recorder() as recorder:
        value.backward()
    assert recorder.sizes
    assert max(recorder.sizes) < z.nbytes


def test_a_version_of_torch_that_does_not_tell_whether_a_graph_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch._C._autograd, "_get_current_graph_task_keep_graph")
    z, y = example(6, 5), labels(6, 5)
    crossent.cross_entropy(z, y).backward()
    same(z.grad, crossent.CrossEntropy().value_and_grad(z, y)[1], rtol=0, atol=0)


def test_two_losses_of_one_tensor_and_its_activation() -> None:
    z, y = example(6, 5), labels(6, 5)
    known = crossent.CrossEntropy().value_and_grad(z, y)[1]
    known = known + crossent.CrossEntropy(label_smoothing=0.2).value_and_grad(z, y)[1]
    total = crossent.cross_entropy(z, y) + crossent.cross_entropy(z, y, label_smoothing=0.2)
    (total + 0 * crossent.softmax(z).sum()).backward()
    same(z.grad, known, **TIGHT)


def test_a_loss_in_the_middle_of_a_graph() -> None:
    x, weight, y = example(6, 3).detach(), example(3, 5, seed=4), labels(6, 5)
    crossent.cross_entropy(x @ weight, y).backward()
    ours, weight.grad = weight.grad, None
    torch.nn.functional.cross_entropy(x @ weight, y).backward()
    same(ours, weight.grad, **TIGHT)


# Half types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_float16_is_multiplied_before_it_is_rounded(reduction: str) -> None:
    """With thousands of rows a mean's gradient is below float16; a scaled loss brings it back."""
    z = example(4096, 16, dtype=torch.float16).detach().requires_grad_()
    y, scale = labels(4096, 16), 65536.0
    value = crossent.cross_entropy(z, y, reduction=reduction)
    (value.mean() * scale).backward()
    exact = crossent.CrossEntropy().value_and_grad(z.double(), y)[1] * scale
    assert z.grad is not None
    unit = torch.from_numpy(np.spacing(exact.abs().half().numpy())).double()
    assert ((z.grad.double() - exact).abs() / unit).max() <= 0.51


@pytest.mark.parametrize("scale", [1.0, 0.25, 0.3, -7.0])
@pytest.mark.parametrize("kept", [False, True])
def test_bfloat16_is_rounded_once(scale: float, kept: bool) -> None:
    z = example(64, 16, dtype=torch.bfloat16).detach().requires_grad_()
    y = labels(64, 16)
    value = crossent.cross_entropy(z, y) * scale
    value.backward(retain_graph=kept)
    exact = crossent.CrossEntropy().value_and_grad(z.double(), y)[1] * scale
    assert z.grad is not None
    once = z.grad.clone()
    unit = 2.0 ** (torch.frexp(exact)[1] - 8).double()
    assert ((once.double() - exact).abs() / unit).max() <= 0.51
    if kept:
        value.backward()
        same(z.grad, 2 * once, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_without_a_numpy_type_for_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = example(6, 5).to(dtype).detach().requires_grad_()
    known = crossent.CrossEntropy().value_and_grad(z, labels(6, 5))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    value = crossent.cross_entropy(z, labels(6, 5))
    value.backward()
    assert z.grad is not None
    assert (value.dtype, z.grad.dtype) == (torch.float32, dtype)
    same(value, known[0], rtol=1e-6, atol=0)
    same(z.grad, known[1], rtol=0, atol=0)
    assert crossent.softmax(z).dtype == dtype
    out = torch.empty_like(known[1])
    crossent.CrossEntropy().value_and_grad(z, labels(6, 5), out=out)
    same(out, known[1], rtol=0, atol=0)


def test_autocast_computes_the_loss_in_float32() -> None:
    layer = torch.nn.Linear(3, 5)
    x, y = example(6, 3, dtype=torch.float32).detach(), labels(6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(x)
        value = crossent.cross_entropy(z, y)
        ours = torch.autograd.grad(value, layer.weight)[0]
        plain = by_plain(crossent.CrossEntropy(), layer(x), y)
        known = torch.nn.functional.cross_entropy(layer(x), y)
    assert z.dtype == torch.bfloat16
    assert value.dtype == plain.dtype == known.dtype == torch.float32
    same(value, known, rtol=1e-6, atol=0)
    same(value, plain, rtol=1e-6, atol=0)
    same(ours, torch.autograd.grad(known, layer.weight)[0], rtol=2e-2, atol=1e-3)


# Tensors of every make ----------------------------------------------------------------------------


class Marked(Tensor):
    """A subclass from elsewhere."""


MAKES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda z: z.T.contiguous().T,
    "strided": lambda z: torch.stack([z, z], -1)[..., 0],
    "a view inside": lambda z: torch.nn.functional.pad(z, (1, 2, 3, 4))[3:-4, 1:-2],
    "parameter": lambda z: torch.nn.Parameter(z),
    "subclass": lambda z: z.as_subclass(Marked),
    "conjugate part": lambda z: torch.complex(torch.zeros_like(z), -z).conj().imag,
    "frozen": lambda z: z.clone(),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_any_make_of_tensor(make: Callable[[Tensor], Tensor], way: Way) -> None:
    z, y = example(6, 5).detach(), labels(6, 5)
    value, slope = crossent.CrossEntropy().value_and_grad(z, y)
    made = make(z).detach().requires_grad_()
    found = way(crossent.CrossEntropy(), made, y)
    same(found, value, **TIGHT)
    same(gradient(found, made), slope, **TIGHT)
    same(crossent.CrossEntropy().value_and_grad(made, y), (value, slope), **TIGHT)


def test_expanded_scores_and_targets(way: Way) -> None:
    row, y = example(1, 5), torch.tensor(2).expand(6)
    value = way(crossent.CrossEntropy(reduction="sum"), row.expand(6, 5), y)
    same(gradient(value, row), 6 * crossent.CrossEntropy().value_and_grad(row, y[:1])[1], **TIGHT)
    soft = torch.full((1, 5), 0.2, dtype=torch.float64).expand(6, 5)
    same(
        way(crossent.CrossEntropy(), row.expand(6, 5), soft), crossent.cross_entropy(row, soft[:1])
    )


@pytest.mark.parametrize("loss", [crossent.CrossEntropy(), crossent.BinaryCrossEntropy()])
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_nothing_to_average(loss: Any, shape: tuple[int, ...], way: Way) -> None:
    z = torch.zeros(shape, requires_grad=True)
    value = way(loss, z, torch.zeros(shape))
    value.backward()
    assert value.item() == 0
    assert z.grad is not None
    assert z.grad.shape == shape


def test_inference_mode() -> None:
    with torch.inference_mode():
        z = torch.ones(2, 3)
        assert crossent.cross_entropy(z, torch.tensor([0, 1])).item() == pytest.approx(math.log(3))


def test_lists_and_arrays_beside_tensors() -> None:
    z = example(2, 3)
    value = crossent.cross_entropy(z, [0, 2], sample_weight=[0.1, 0.2])
    known = crossent.cross_entropy(z.detach().numpy(), [0, 2], sample_weight=[0.1, 0.2])
    assert value.item() == known
    same(value, crossent.cross_entropy(z, np.array([0, 2], np.uint8), sample_weight=[0.1, 0.2]))


def test_out_takes_the_gradient() -> None:
    z, y = example(6, 5).detach(), labels(6, 5)
    for dtype in (torch.float64, torch.bfloat16):
        scores = z.to(dtype)
        known = crossent.CrossEntropy().value_and_grad(scores, y)
        out = torch.full_like(scores, math.nan)
        value, slope = crossent.CrossEntropy().value_and_grad(scores, y, out=out)
        assert slope is out
        assert value == known[0]
        assert torch.equal(out, known[1])
    with pytest.raises(TypeError, match="out is a list; it must be a tensor"):
        crossent.CrossEntropy().value_and_grad(z, y, out=[])


def test_given_probabilities_and_the_chain() -> None:
    z, y = example(6, 5).detach(), labels(6, 5)
    loss = crossent.CrossEntropy()
    same(loss.from_probabilities(crossent.softmax(z), y), loss(z, y), **TIGHT)
    same(loss.from_log_probabilities(crossent.log_softmax(z), y), loss(z, y), **TIGHT)
    same(torch.from_numpy(loss.chain_rule(z, y).dE_ds) / 6, loss.value_and_grad(z, y)[1], **TIGHT)
    with pytest.raises(ValueError, match="only losses of logits are differentiable"):
        loss.from_probabilities(crossent.softmax(z.requires_grad_()), y)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.uint16])
def test_narrow_indices_are_what_they_say_without_kernels_too(kind: torch.dtype) -> None:
    """In 8 bits -100 would be 156, and 256 classes none."""
    y = torch.tensor([0, 156, 7, 255]) % (128 if kind == torch.int8 else 256)
    z = example(4, 256, seed=2)
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    known = crossent.cross_entropy(z, y)
    same(crossent.cross_entropy(z, y.to(kind)), known, rtol=0, atol=0)
    same(crossent.cross_entropy(z, y.to(kind), sample_weight=weight), known, rtol=1e-14, atol=0)


def test_hooks_run_once_where_the_gradient_is_differentiable() -> None:
    z, y = example(4, 3).requires_grad_(), labels(4, 3)
    for create_graph in (False, True):
        seen: list[Tensor] = []
        middle = z * 1
        middle.register_hook(seen.append)
        middle.retain_grad()
        (slope,) = torch.autograd.grad(
            crossent.cross_entropy(middle, y), z, create_graph=create_graph
        )
        assert len(seen) == 1
        same(slope.detach(), seen[0].detach())


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("loss", [crossent.cross_entropy, crossent.binary_cross_entropy])
def test_several_derivatives_at_once(loss: Any, reduction: str) -> None:
    y = labels(4, 3) if loss is crossent.cross_entropy else torch.ones(4, 3)

    def of(z: Tensor) -> Tensor:
        return loss(z, y, reduction=reduction)

    jacobian: Any = torch.autograd.functional.jacobian
    same(jacobian(of, example(4, 3), vectorize=True), jacobian(of, example(4, 3)))


def test_out_is_written_as_torch_writes() -> None:
    a, y = example(4, 3).requires_grad_(), labels(4, 3)
    loss, z = crossent.CrossEntropy(), a.exp()
    loss.value_and_grad(z, y, out=z.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
    with pytest.raises(ValueError, match="out requires a gradient, but autograd does not see"):
        loss.value_and_grad(z.detach(), y, out=example(4, 3).requires_grad_())
    with pytest.raises(ValueError, match="out has elements that share memory"):
        loss.value_and_grad(z.detach(), y, out=torch.empty(1, 3).double().expand(4, 3))
    with pytest.raises(ValueError, match=r"out has shape \(3,\), dtype float32 and device cpu; it"):
        loss.value_and_grad(z.detach(), y, out=torch.empty(3))
