"""Activations of tensors, errors about tensors, devices without kernels, compilers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import crossent
from crossent import torch_front_end as front_end
from crossent.torch import BCEWithLogitsLoss, CrossEntropyLoss
from test_torch import LOSSES, TIGHT, each_loss, example, labels, probabilities, same
from torch_cases import Recorder, array

INF, NAN = math.inf, math.nan
ACTIVATIONS = {
    name: getattr(crossent, name)
    for name in ("softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid")
}
each_activation = pytest.mark.parametrize("name", ACTIVATIONS)
ROWS = [[1.0, 2.0, 0.0], [40.0, 0.0, -40.0], [-INF, 0.0, 1.0], [INF, 0.0, 1.0], [NAN, 0.0, 1.0]]


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let CPU tensors be treated as those of a device without kernels."""
    monkeypatch.setattr(front_end, "is_on_cpu", lambda logits: False)


# Activations --------------------------------------------------------------------------------------


@each_activation
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_activations_have_the_bits_of_the_arrays(name: str, dtype: Any) -> None:
    z = np.array(ROWS, dtype)
    found = array(ACTIVATIONS[name](torch.from_numpy(z)))
    assert found.tobytes() == ACTIVATIONS[name](z).tobytes()
    assert found.dtype == ACTIVATIONS[name](z).dtype


@each_activation
@pytest.mark.usefixtures("no_kernels")
def test_activations_by_plain_operations(name: str) -> None:
    for z in (np.array(ROWS), np.array(ROWS, np.float32)):
        found = ACTIVATIONS[name](torch.from_numpy(z))
        same(found, torch.from_numpy(ACTIVATIONS[name](z)), rtol=8 * np.finfo(z.dtype).eps, atol=0)
    assert torch.autograd.gradcheck(ACTIVATIONS[name], example(4, 3))
    assert ACTIVATIONS[name](example(4, 3).bfloat16()).dtype == (
        torch.float32 if name == "logsumexp" else torch.bfloat16
    )


@each_activation
def test_derivatives_of_activations(name: str) -> None:
    for shape, axis in (((4, 3), -1), ((2, 3, 2), 1)):
        z = example(*shape)
        arguments = () if "sigmoid" in name else (axis,)
        assert torch.autograd.gradcheck(ACTIVATIONS[name], (z, *arguments))
        assert torch.autograd.gradgradcheck(ACTIVATIONS[name], (z, *arguments))
    same(
        torch.func.jacrev(ACTIVATIONS[name])(z.detach()),
        torch.autograd.functional.jacobian(ACTIVATIONS[name], z),
        **TIGHT,
    )
    same(torch.vmap(ACTIVATIONS[name])(z), ACTIVATIONS[name](z), **TIGHT)


@each_activation
def test_derivatives_of_activations_keep_their_tails(name: str, no_kernels: None) -> None:
    """Held to the plain operations, whose own tails are held to the truth through the losses."""
    z = torch.tensor([[60.0, 0.0, -60.0], [0.0, 90.0, 1.0]], dtype=torch.float64).requires_grad_()
    for upstream in (torch.eye(3)[0], torch.tensor([0.5, -1.0, 2.0])):
        g = upstream.double().expand(2, 3) if name != "logsumexp" else torch.ones(2).double()
        plain = torch.autograd.grad(ACTIVATIONS[name](z), z, g)[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(front_end, "is_on_cpu", lambda logits: True)
            found = torch.autograd.grad(ACTIVATIONS[name](z), z, g)[0]
        same(found, plain, rtol=1e-14, atol=0)


def test_the_gradient_of_a_half_type_is_rounded_once() -> None:
    z = example(64, 8, dtype=torch.float32).bfloat16().detach().requires_grad_()
    upstream = example(64, 8, seed=3).bfloat16().detach()
    found = torch.autograd.grad(crossent.log_softmax(z), z, upstream)[0]
    wide = z.double().detach().requires_grad_()
    exact = torch.autograd.grad(crossent.log_softmax(wide), wide, upstream.double())[0]
    assert (found.double() - exact).abs().le(exact.abs() * 2**-8 * 1.001 + 1e-30).all()


@each_loss
def test_outputs_and_decisions(loss: Any) -> None:
    z = example(4, 4)
    known = loss.activation(z.detach().numpy())
    same(loss.activation(z), torch.from_numpy(known), rtol=1e-14, atol=0)
    assert torch.equal(loss.predict(z), torch.from_numpy(loss.predict(z.detach().numpy())))
    assert torch.autograd.gradcheck(loss.activation, z)


def test_one_hot() -> None:
    known = torch.from_numpy(crossent.one_hot([[2, 0]], 3))
    assert torch.equal(crossent.one_hot(torch.tensor([[2, 0]]), 3), known)
    assert crossent.one_hot(torch.tensor([[2, 0]], device="meta"), 3).shape == (1, 2, 3)
    with pytest.raises(ValueError, match=r"labels\[1\] is 3; it must be in \[0, 2\]"):
        crossent.one_hot(torch.tensor([0, 3]), 3)


# Errors -------------------------------------------------------------------------------------------

Z = [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
SOFT = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
F64, I64 = np.float64, np.int64
BAD: dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]] = {
    "index above": ("cross_entropy", {}, (Z, np.array([0, 3]))),
    "index below": ("cross_entropy", {}, (Z, np.array([-1, 0]))),
    "index like ignore_index": ("cross_entropy", {"ignore_index": 2}, (Z, np.array([-100, 0]))),
    "two-term index": ("softmax_binary_cross_entropy", {}, (Z, np.array([0, 3]))),
    "indices of another shape": ("cross_entropy", {}, (Z, np.array([[0, 1]]))),
    "probabilities of another shape": ("cross_entropy", {}, (Z, np.array(SOFT)[:, :2])),
    "probability above": ("cross_entropy", {}, (Z, np.array(SOFT) * 1.5)),
    "probability NaN": ("cross_entropy", {}, (Z, np.array([[NAN, 0, 0], [1, 0, 0]]))),
    "bool targets": ("cross_entropy", {}, (Z, np.array([True, False]))),
    "complex targets": ("cross_entropy", {}, (Z, np.array(SOFT) + 0j)),
    "axis": ("cross_entropy", {"axis": 2}, (Z, np.array([0, 1]))),
    "no axis": ("cross_entropy", {}, (1.0, np.array(0))),
    "no classes": ("cross_entropy", {}, (np.zeros((2, 0)), np.array([0, 0]))),
    "integer logits": ("cross_entropy", {}, (np.array([[1, 2]]), np.array([0]))),
    "class_weight": ("cross_entropy", {"class_weight": [1.0, 2.0]}, (Z, np.array([0, 1]))),
    "weight shape": ("cross_entropy", {}, (Z, np.array([0, 1]), np.ones((2, 1)))),
    "weight below 0": ("cross_entropy", {}, (Z, np.array([0, 1]), np.array([1.0, -1.0]))),
    "weight inf": ("cross_entropy", {}, (Z, np.array([0, 1]), np.array([INF, 1.0]))),
    "normalizer": ("cross_entropy", {}, (Z, np.array([0, 1]), None, 0.0)),
    "normalizer of a sum": (
        "cross_entropy",
        {"reduction": "sum"},
        (Z, np.array([0, 1]), None, 2.0),
    ),
    "binary above": ("binary_cross_entropy", {}, (Z, np.array(SOFT) * 2)),
    "binary weighted": ("binary_cross_entropy", {}, (Z, np.array(SOFT) * 2, np.array([0.0, 1.0]))),
    "binary bits": ("quadratic_cost", {}, (Z, np.array([[0, 1, 0], [0, 2, 0]]))),
    "binary shape": ("quadratic_cost", {}, (Z, np.array([0.0, 1.0]))),
    "binary weight shape": ("quadratic_cost", {}, (Z, np.array(SOFT), np.ones((3,)))),
    "pos_weight": ("binary_cross_entropy", {"pos_weight": [1.0, 2.0]}, (Z, np.array(SOFT))),
}


def message(name: str, options: dict[str, Any], arguments: Any) -> tuple[type, str]:
    """Return what a call raises."""
    weight, normalizer = (*arguments, None, None)[2:4]
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(crossent, name)(
            *arguments[:2], sample_weight=weight, normalizer=normalizer, **options
        )
    return type(caught.value), str(caught.value)


def as_tensors(arguments: Any) -> list[Any]:
    return [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("kernels", [True, False])
def test_errors_are_those_of_the_arrays(
    bad: Any, gradient: bool, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, options, (logits, *rest) = bad
    given = (np.asarray(logits), *rest)
    known = message(name, options, given)
    monkeypatch.setattr(front_end, "is_on_cpu", lambda logits: kernels)
    z = torch.from_numpy(np.array(logits))
    if gradient and z.is_floating_point():
        z.requires_grad_()
    assert message(name, options, (z, *as_tensors(rest))) == known


@pytest.mark.parametrize("kernels", [True, False])
def test_rows_of_weight_0_may_have_any_probabilities(
    kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end, "is_on_cpu", lambda logits: kernels)
    z, y = torch.zeros(3, 2), torch.tensor([[0.5, 7.0], [0.5, NAN], [0.0, 1.0]])
    loss = crossent.CrossEntropy(axis=0)
    assert loss(z, y, torch.tensor([1.0, 0.0])).item() == pytest.approx(math.log(3))
    with pytest.raises(ValueError, match=r"targets\[0, 1\] is 7.0; a probability must be in"):
        loss(z, y, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("kernels", [True, False])
def test_weights_of_modules_are_named_alike(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end, "is_on_cpu", lambda logits: kernels)
    bad, z = torch.tensor([1.0, -1.0]), torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"class_weight\[1\] is -1.0; a weight must be finite"):
        CrossEntropyLoss(bad)(z, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"pos_weight\[1\] is -1.0; a weight must be finite"):
        BCEWithLogitsLoss(pos_weight=bad)(z, z)


def test_errors_about_lists_beside_tensors() -> None:
    z = torch.zeros(2, 3)
    with pytest.raises(TypeError, match=r"targets is .* it must hold numbers"):
        crossent.cross_entropy(z, ["cat", "dog"])
    with pytest.raises(TypeError, match=r"normalizer is tensor.* it must be a number"):
        crossent.cross_entropy(z, [0, 1], normalizer=torch.tensor(2))


@pytest.mark.parametrize("name", ["targets", "sample_weight"])
def test_tensors_of_two_devices(name: str) -> None:
    given = {"targets": torch.tensor([0]), "sample_weight": torch.ones(1)}
    given[name] = given[name].to("meta")
    with pytest.raises(ValueError, match=f"{name} is on device meta, but logits is on device cpu"):
        crossent.cross_entropy(torch.zeros(1, 3), **given)


@each_activation
@pytest.mark.parametrize("kernels", [True, False])
def test_activations_of_what_is_no_score(
    name: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end, "is_on_cpu", lambda logits: kernels)
    with pytest.raises(TypeError, match="logits has dtype int64; it must be float16"):
        ACTIVATIONS[name](torch.tensor([[1, 2]]))
    if "sigmoid" not in name:
        with pytest.raises(ValueError, match="axis is 2, but logits has 2 axes"):
            ACTIVATIONS[name](torch.zeros(1, 2), axis=2)
        with pytest.raises(ValueError, match="logits has 0 classes"):
            ACTIVATIONS[name](torch.zeros(1, 0))


# Devices without kernels --------------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_meta_device_knows_shapes_and_types(
    loss: Any, dtype: torch.dtype, reduction: str
) -> None:
    loss = replace(loss, reduction=reduction)
    z, y = example(4, 4).to(dtype).detach(), probabilities(4, 4).to(dtype).detach()
    known = loss.value_and_grad(z, y)
    away = z.to("meta").requires_grad_()
    value = loss(away, y.to("meta"))
    value.sum().backward()
    assert away.grad is not None
    for found, other in ((value, known[0]), (away.grad, known[1])):
        assert (found.shape, found.dtype, found.device.type) == (other.shape, other.dtype, "meta")
    assert loss.activation(away).shape == z.shape
    assert loss.predict(away).shape == loss.predict(z).shape
    assert loss.hvp(away, y.to("meta"), away).shape == z.shape
    with pytest.raises(ValueError, match="targets has shape"):
        loss(away, y.to("meta")[:, :2])


@each_loss
@pytest.mark.usefixtures("no_kernels")
def test_every_method_has_a_plain_way(loss: Any) -> None:
    z, y, vector = (t.detach() for t in (example(4, 4), probabilities(4, 4), example(4, 4, seed=2)))
    w = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    arrays = [array(t) for t in (z, y)]
    known = loss.value_and_grad(*arrays, array(w))
    out = torch.empty_like(z)
    for found in (loss.value_and_grad(z, y, w), loss.value_and_grad(z, y, w, out=out)):
        same(found, tuple(map(torch.as_tensor, known)), **TIGHT)
    assert torch.equal(found[1], out)
    same(loss(z, y, w), found[0], **TIGHT)
    same(
        loss.hvp(z, y, vector, w),
        torch.from_numpy(loss.hvp(*arrays, array(vector), array(w))),
        **TIGHT,
    )
    same(vars(loss.sums(z, y, w)), vars(loss.sums(*arrays, array(w))), **TIGHT)


def test_sums_without_kernels_count_what_was_ignored(no_kernels: None) -> None:
    z, y = example(6, 5).detach(), labels(6, 5)
    y[2] = -100
    loss = crossent.CrossEntropy(z_loss=0.5)
    same(vars(loss.sums(z, y)), vars(loss.sums(array(z), array(y))), **TIGHT)


# Compilers ----------------------------------------------------------------------------------------


def operator_calls() -> Iterator[Any]:
    """Yield arguments of the operator: losses, reductions, types, with and without a gradient."""
    for loss, dtype, reduction in (
        (LOSSES[0], torch.float32, "none"),
        (LOSSES[1], torch.bfloat16, "batchmean"),
        (LOSSES[2], torch.float64, "mean"),
        (LOSSES[3], torch.float32, "none"),
        (LOSSES[4], torch.float16, "sum"),
    ):
        loss = replace(loss, reduction=reduction)
        z, y = example(4, 4).to(dtype).detach(), probabilities(4, 4).to(dtype).detach()
        weights, options = front_end._weights(loss, z), front_end._options(loss)
        w = torch.tensor([1.0, 0.0, 2.0, 0.5])
        normalizer = 3.0 if reduction == "mean" else None
        half = dtype in front_end.HALF_TYPES
        upstream = None if half else torch.ones(())
        yield (z.requires_grad_(), y, w, weights, normalizer, upstream, *options)
        yield (z.detach(), y, None, weights, None, torch.tensor(0.5), *options)


@pytest.mark.parametrize("arguments", list(operator_calls()), ids=lambda a: f"{a[6]}-{a[0].dtype}")
def test_the_operator_is_what_it_says(arguments: Any) -> None:
    torch.library.opcheck(torch.ops.crossent.loss.default, arguments)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_who_looks_on_sees_the_operators_and_nobody_another_result(
    loss: Any, dtype: torch.dtype
) -> None:
    z = example(4, 4).to(dtype).detach().requires_grad_()
    y = probabilities(4, 4).to(dtype).detach()
    found = [loss(z, y), loss.activation(z)]
    slopes = [torch.autograd.grad(each.sum(), z)[0] for each in found]
    with Recorder() as recorder:
        watched = [loss(z, y), loss.activation(z)]
    assert {"crossent::loss", "crossent::activation"} <= set(recorder.names)
    for plain, seen, slope in zip(found, watched, slopes, strict=True):
        assert plain.dtype == seen.dtype
        assert torch.equal(plain, seen)
        assert torch.equal(slope, torch.autograd.grad(seen.sum(), z)[0])


def test_the_other_operators_are_what_they_say() -> None:
    for name in ACTIVATIONS:
        torch.library.opcheck(torch.ops.crossent.activation.default, (example(4, 3), name, -1))
    check = (torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2), torch.ones(3), 1, -100, 0)
    torch.library.opcheck(torch.ops.crossent.check.default, check)


@each_loss
def test_compiled_in_one_graph(loss: Any) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(loss.__call__, fullgraph=True, backend="aot_eager")
    for dtype in (torch.float32, torch.bfloat16):
        z = example(4, 4).to(dtype).detach().requires_grad_()
        y = probabilities(4, 4).to(dtype).detach()
        value = compiled(z, y)
        known = loss.value_and_grad(z, y)
        same(value, known[0], rtol=0, atol=0)
        same(torch.autograd.grad(value, z)[0], known[1], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_compiled_for_real_with_each_upstream() -> None:
    torch._dynamo.reset()

    def step(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        loss = crossent.cross_entropy(2 * z, y, label_smoothing=0.1, reduction="none")
        return (loss * w).sum() + crossent.softmax(z).square().sum()

    y, w = labels(6, 5), example(6, seed=4, dtype=torch.float32).detach()
    y[3] = -100
    results = []
    for function in (step, torch.compile(step, fullgraph=True)):
        z = example(6, 5, dtype=torch.float32)
        value = function(z, y, w)
        value.backward()
        results.append((value, z.grad))
    same(*results, rtol=1e-5, atol=1e-6)


def test_compiled_with_shapes_that_change_and_a_bad_target() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        crossent.cross_entropy, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for rows in (3, 7):
        z = example(rows, 5)
        same(compiled(z, labels(rows, 5)), crossent.cross_entropy(z, labels(rows, 5)), **TIGHT)
    with pytest.raises(ValueError, match=r"targets\[2\] is 5; a class index must be in \[0, 4\]"):
        compiled(example(3, 5), torch.tensor([0, 1, 5]))


def test_a_compiled_derivative() -> None:
    torch._dynamo.reset()
    z, y = example(6, 5).detach(), labels(6, 5)
    slope = torch.compile(
        torch.func.grad(lambda z: crossent.cross_entropy(z, y)), fullgraph=True, backend="aot_eager"
    )
    same(slope(z), crossent.CrossEntropy().value_and_grad(z, y)[1], **TIGHT)


@pytest.mark.usefixtures("no_kernels")
def test_plain_operations_compile_with_their_checks() -> None:
    torch._dynamo.reset()
    loss = crossent.CrossEntropy(label_smoothing=0.1)
    compiled = torch.compile(loss.__call__, fullgraph=True, backend="aot_eager")
    z, y = example(3, 5), labels(3, 5)
    same(compiled(z, y), loss(z, y), **TIGHT)
    with pytest.raises(ValueError, match=r"targets\[2\] is 5; a class index must be in \[0, 4\]"):
        compiled(z, torch.tensor([0, 1, 5]))


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict: bool) -> None:
    module = CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), z_loss=0.1)
    z, y = example(4, 3, dtype=torch.float32).detach(), labels(4, 3)
    program = torch.export.export(module, (z, y), strict=strict)
    assert any("crossent.loss" in str(node.target) for node in program.graph.nodes)
    same(program.module()(z, y), module(z, y), rtol=0, atol=0)


def spied(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """Return the function and a list that grows with every call."""
    calls: list[int] = []

    def spy(*arguments: Any) -> Any:
        calls.append(1)
        return function(*arguments)

    return spy, calls


def test_one_pass_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient comes with the loss where it is wanted, and only there."""
    arrays = front_end.on_arrays
    value, values = spied(arrays.value)
    both, boths = spied(arrays.value_and_grad)
    monkeypatch.setattr(arrays, "value", value)
    monkeypatch.setattr(arrays, "value_and_grad", both)
    z, y = example(4, 3, dtype=torch.float32), labels(4, 3)
    for scores, upstream, expected in (
        (z.detach(), None, (1, 0)),
        (z, 0.3, (0, 1)),
        (z.bfloat16(), 0.25, (0, 1)),
        (z.bfloat16(), 0.3, (0, 2)),  # rounded to its type, the gradient is not multiplied by this
        (z.half(), 0.25, (1, 1)),  # the gradient is left to the backward pass
    ):
        values.clear()
        boths.clear()
        loss = crossent.cross_entropy(scores, y)
        if upstream is not None:
            loss.backward(torch.tensor(upstream))
        assert (len(values), len(boths)) == expected


def test_half_types_are_read_as_they_lie_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ml_dtypes")
    types = []
    value = front_end.on_arrays.value

    def spy(loss: Any, logits: Any, *rest: Any) -> Any:
        types.append(logits.dtype.name)
        return value(loss, logits, *rest)

    monkeypatch.setattr(front_end.on_arrays, "value", spy)
    z = example(4, 3).bfloat16().detach()
    for reduction in ("none", "mean"):
        crossent.cross_entropy(z, labels(4, 3), reduction=reduction)
    assert types == ["bfloat16"] * 2


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_compiled_for_real_with_classes_in_the_middle(name: str) -> None:
    z = torch.arange(24.0).reshape(2, 3, 4)
    activation = getattr(crossent, name)
    found = torch.compile(lambda z: activation(z * 2, axis=1) + 1)(z)
    torch.testing.assert_close(found, activation(z * 2, axis=1) + 1)


def test_a_compiled_loss_takes_one_normalizer_after_another() -> None:
    z, y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 2, 0])

    def loss(n: float) -> torch.Tensor:
        return crossent.cross_entropy(z, y, normalizer=n)

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    for n in (8, 7, 7.5, 2.5):
        torch.testing.assert_close(compiled(n), loss(n))
