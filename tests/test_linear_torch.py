"""The linear head on tensors: autograd once and twice, what torch's own gives, other devices."""

from __future__ import annotations

import doctest
import io
import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import crossent
from crossent import torch_linear, torch_linear_statistics, torch_modules
from crossent.torch import LinearCrossEntropyLoss, head_statistics
from test_linear import (
    BAD,
    DENSE,
    LABELS,
    OPTIONS,
    REDUCTIONS,
    TARGETS,
    TOP,
    WAYS,
    WEIGHT,
    B,
    N,
    V,
    W,
    X,
)
from torch_cases import Recorder

ROW = V * 8
EVERY = pytest.mark.parametrize("kind", TARGETS)


def tensor(array: Any, dtype: torch.dtype = torch.float64, grad: bool = True) -> Tensor:
    return torch.tensor(array, dtype=dtype, requires_grad=grad)


def leaves(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [tensor(array, dtype) for array in (X, W, B)]


def targets(kind: str) -> Any:
    given = TARGETS[kind]
    return tuple(map(torch.tensor, given)) if isinstance(given, tuple) else torch.tensor(given)


def some(kind: str, rows: int) -> Any:
    given = targets(kind)
    return tuple(each[:rows] for each in given) if isinstance(given, tuple) else given[:rows]


def loss_of(layer: Any, y: Any, rows: int = 4, **options: Any) -> Tensor:
    x, w, b = layer
    options = {"sample_weight": torch.tensor(WEIGHT)[: len(x)], **options}
    return crossent.linear_cross_entropy(x, w, y, bias=b, memory_budget=2 * ROW * rows, **options)


@pytest.fixture(params=["kernel", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute with kernels, or as devices without kernels do."""
    if request.param == "plain":
        for module in (torch_linear, torch_linear_statistics):
            monkeypatch.setattr(module, "is_on_cpu", lambda tensor: False)
    return str(request.param)


# The same as arrays -------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "reduction"), WAYS)
@EVERY
def test_values_and_gradients_are_those_of_the_arrays(
    kind: str, options: str, reduction: str, way: str
) -> None:
    layer = leaves()
    found = loss_of(layer, targets(kind), reduction=reduction, **OPTIONS[options])
    slopes = torch.autograd.grad(found.sum(), layer)
    head = crossent.LinearCrossEntropy(reduction=reduction, **OPTIONS[options])
    expected, true = head.value_and_grad(X, W, TARGETS[kind], B, WEIGHT)
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected))
    for each, slope in zip(slopes, true[:3], strict=True):
        torch.testing.assert_close(each, torch.from_numpy(slope))


def test_one_pass_computes_both_and_backward_only_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = leaves(torch.float32)
    value = loss_of(layer, targets("indices"))
    monkeypatch.setattr(torch_linear, "_operator", None)
    torch.autograd.grad(3 * value, layer)


@EVERY
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_who_looks_on_sees_the_operator_and_nobody_another_result(
    kind: str, reduction: str
) -> None:
    layer, other = leaves(), leaves()
    found = loss_of(layer, targets(kind), reduction=reduction)
    with Recorder() as recorder:
        watched = loss_of(other, targets(kind), reduction=reduction)
    assert "crossent::linear_loss" in recorder.names
    assert torch.equal(found, watched)
    above = torch.ones_like(found) * 3
    slopes = torch.autograd.grad(found, layer, above), torch.autograd.grad(watched, other, above)
    assert all(map(torch.equal, *slopes))


@EVERY
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_what_comes_from_above_is_honoured(kind: str, reduction: str, way: str) -> None:
    layer = leaves()
    above = torch.linspace(-2, 3, N, dtype=torch.float64) if reduction == "none" else tensor(-2.5)
    found = loss_of(layer, targets(kind), reduction=reduction, **OPTIONS["all"])
    slopes = torch.autograd.grad(found, layer, above.detach())
    other = leaves()
    scores = other[0] @ other[1].T + other[2]
    y = targets(kind)
    if kind == "top":
        y = torch.zeros(N, V, dtype=torch.float64).scatter_add(1, y[0], y[1])
    dense = crossent.CrossEntropy(reduction=reduction, **OPTIONS["all"])
    true = torch.autograd.grad(dense(scores, y, torch.tensor(WEIGHT)), other, above.detach())
    for each, slope in zip(slopes, true, strict=True):
        torch.testing.assert_close(each, slope)


@pytest.mark.parametrize("frozen", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_frozen_arguments_cost_nothing(
    frozen: tuple[bool, ...], reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    real = torch_linear.linear_numpy.evaluate

    def spy(call: Any, wanted: tuple[str, ...], above: Any = None) -> Any:
        asked.update(wanted)
        return real(call, wanted, above)

    monkeypatch.setattr(torch_linear.linear_numpy, "evaluate", spy)
    layer = [t.requires_grad_(not f) for t, f in zip(leaves(), frozen, strict=True)]
    value = loss_of(layer, targets("indices"), reduction=reduction).sum()
    if not all(frozen):
        value.backward()
    assert asked == {
        n for n, f in zip(("features", "weight", "bias"), frozen, strict=True) if not f
    }
    assert [t.grad is None for t in layer] == list(frozen)


def test_a_graph_that_is_kept_gives_the_same_again() -> None:
    layer = leaves()
    value = loss_of(layer, targets("indices"))
    first = torch.autograd.grad(2 * value, layer, retain_graph=True)
    again = torch.autograd.grad(2 * value, layer)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_narrower_types(dtype: torch.dtype, reduction: str, way: str) -> None:
    layer = leaves(dtype)
    found = loss_of(layer, targets("indices"), reduction=reduction)
    assert found.dtype == torch.float32
    slopes = torch.autograd.grad(found.sum(), layer)
    wide = [t.detach().double().requires_grad_() for t in layer]
    true = torch.autograd.grad(loss_of(wide, targets("indices"), reduction=reduction).sum(), wide)
    unit = {torch.float32: 1e-6, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
    for each, slope in zip(slopes, true, strict=True):
        assert each.dtype == dtype
        error = (each.double() - slope).abs()
        assert (error <= 1.01 * unit * slope.abs() + 2e-6 * slope.abs().max() + 2.0**-25).all()


def test_a_scaled_loss_keeps_what_half_types_would_lose() -> None:
    layer = leaves(torch.float16)
    value = loss_of(layer, targets("indices"), normalizer=1e9)
    (slope,) = torch.autograd.grad(value * 1e9, layer[0])
    sums = loss_of(leaves(torch.float32), targets("indices"), reduction="sum")
    assert slope.abs().max() > 0.01
    assert value.item() == pytest.approx(sums.item() / 1e9, rel=1e-2)


# Derivatives of second order ----------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("options", ["plain", "all"])
@EVERY
def test_first_and_second_derivatives(kind: str, options: str, reduction: str) -> None:
    rows, generator = 3, torch.Generator().manual_seed(1)
    chosen = {k: v[:7] if k == "class_weight" else v for k, v in OPTIONS[options].items()}
    layer = [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_()
        for s in ((rows, 2), (7, 2), (7,))
    ]
    y: Any = torch.tensor([3, -100, 6])
    if kind == "dense":
        y = torch.rand((rows, 7), generator=generator, dtype=torch.float64)
    if kind == "top":
        y = (torch.tensor([[0, 3], [6, 2], [1, 1]]), torch.tensor([[0.5, 0.25]] * 3))

    def f(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found: Tensor = crossent.linear_cross_entropy(
            x, w, y, bias=b, reduction=reduction, memory_budget=7 * 16 * 2, **chosen
        )
        return found

    assert gradcheck(f, layer)
    assert gradgradcheck(f, layer)


def test_a_hessian_product_stays_within_the_budget() -> None:
    n, d, v, budget = 600, 8, 2000, 1 << 20
    x, w = torch.randn(n, d, requires_grad=True), torch.randn(v, d, requires_grad=True)
    y = torch.randint(v, (n,))

    def product() -> tuple[Tensor, ...]:
        value = crossent.linear_cross_entropy(x, w, y, memory_budget=budget)
        slopes = torch.autograd.grad(value, (x, w), create_graph=True)
        return torch.autograd.grad(sum((g * g).sum() for g in slopes), (x, w))

    first = product()
    tracemalloc.start()
    second = product()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * budget + 8 * 4 * (n * d + v * d) < 4 * n * v
    assert torch.equal(first[1], second[1])
    wide = [t.detach().double().requires_grad_() for t in (x, w)]
    slopes = torch.autograd.grad(
        crossent.cross_entropy(wide[0] @ wide[1].T, y), wide, create_graph=True
    )
    true = torch.autograd.grad(sum((g * g).sum() for g in slopes), wide)
    for each, other in zip(second, true, strict=True):
        torch.testing.assert_close(each.double(), other, rtol=1e-3, atol=1e-9)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@EVERY
def test_torch_func(kind: str) -> None:
    layer = [t.detach() for t in leaves()]

    def f(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return loss_of((x, w, b), targets(kind), label_smoothing=0.1)

    on = [t.clone().requires_grad_() for t in layer]
    expected = torch.autograd.grad(f(*on), on)
    for each, other in zip(torch.func.grad(f, (0, 1, 2))(*layer), expected, strict=True):
        torch.testing.assert_close(each, other)
    _, slope = torch.func.jvp(f, tuple(layer), tuple(layer))
    dot = sum((g * t).sum() for g, t in zip(expected, layer, strict=True))
    torch.testing.assert_close(slope, dot)
    batched = torch.func.vmap(f, (0, None, None))(torch.stack([layer[0], 2 * layer[0]]), *layer[1:])
    torch.testing.assert_close(batched[1], f(2 * layer[0], *layer[1:]))


def test_gradients_in_targets_and_weights() -> None:
    x, w, b = leaves()
    c, sample_weight = tensor(DENSE), tensor(WEIGHT)
    found = crossent.linear_cross_entropy(x, w, c, bias=b, sample_weight=sample_weight)
    dense = crossent.cross_entropy(x @ w.T + b, c, sample_weight=sample_weight)
    for one, other in zip(
        torch.autograd.grad(found, (c, sample_weight, x)),
        torch.autograd.grad(dense, (c, sample_weight, x)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    p = tensor(TOP[1])
    pair = (torch.tensor(TOP[0]), p)
    (slope,) = torch.autograd.grad(
        crossent.linear_cross_entropy(x, w, pair, bias=b, reduction="sum"), p
    )
    far = -crossent.log_softmax(x @ w.T + b).detach().gather(1, pair[0])
    torch.testing.assert_close(slope, far)


# The operator -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operator_keeps_its_promises() -> None:
    x, w, b = leaves()
    options = ("mean", 0.1, -100, 0.0, None, 1.0, 10**6, None)
    y = torch.tensor(LABELS)
    arguments = (x, w, b, y, None, None, None, None, None, [True] * 3, *options)
    found = torch.library.opcheck(torch.ops.crossent.linear_loss.default, arguments)
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compiled_whole(reduction: str) -> None:
    layer, y, weight = leaves(), targets("indices"), torch.tensor(WEIGHT)

    def step(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found: Tensor = crossent.linear_cross_entropy(
            2 * x, w, y, bias=b, sample_weight=weight, reduction=reduction, z_loss=0.1
        )
        return found.sum()

    found = torch.compile(step, fullgraph=True, backend="aot_eager")(*layer)
    for one, other in zip(
        torch.autograd.grad(found, layer), torch.autograd.grad(step(*layer), layer), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@EVERY
def test_the_meta_device(kind: str, reduction: str) -> None:
    layer = [t.detach().to("meta").requires_grad_() for t in leaves()]
    y = targets(kind)
    y = tuple(each.to("meta") for each in y) if isinstance(y, tuple) else y.to("meta")
    found = crossent.linear_cross_entropy(
        *layer[:2], y, bias=layer[2], reduction=reduction, memory_budget=4 * ROW
    )
    assert found.shape == ((N,) if reduction == "none" else ())
    found.sum().backward()
    assert [t.grad.shape for t in layer if t.grad is not None] == [t.shape for t in layer]


def test_autocast() -> None:
    x, w = leaves(torch.float32)[:2]
    with torch.autocast("cpu", torch.bfloat16):
        half = torch.nn.functional.linear(x, torch.eye(5))
        assert half.dtype == torch.bfloat16
        found = crossent.linear_cross_entropy(half, w, targets("indices"))
    assert found.dtype == torch.float32
    found.backward()
    assert x.grad is not None
    assert x.grad.dtype == w.grad.dtype == torch.float32
    with pytest.raises(TypeError, match=r"weight has dtype float32, but features has dtype"):
        crossent.linear_cross_entropy(half, w, targets("indices"))


@EVERY
def test_value_and_grad_and_its_filter(kind: str, way: str) -> None:
    layer = [8 * tensor(X, grad=False), tensor(W, grad=False)]
    head = crossent.LinearCrossEntropy(filter_tolerance=1e-2, memory_budget=8 * ROW)
    value, found = head.value_and_grad(*layer, targets(kind), wanted=("features", "weight"))
    expected, true = head.value_and_grad(8 * X, W, TARGETS[kind], wanted=("features", "weight"))
    exact = crossent.LinearCrossEntropy().value_and_grad(8 * X, W, TARGETS[kind])[1]
    torch.testing.assert_close(value, torch.as_tensor(expected))
    assert found.bias is None
    chosen = true if way == "kernel" else exact
    torch.testing.assert_close(found.weight, torch.from_numpy(chosen.weight))
    torch.testing.assert_close(found.features, torch.from_numpy(chosen.features))
    assert found.dropped == (true.dropped if way == "kernel" else None)


# Statistics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "temperature": 0.7}])
@EVERY
def test_statistics(kind: str, options: dict[str, Any], way: str) -> None:
    y = targets(kind)
    found = head_statistics(
        *(t.detach() for t in leaves()[:2]), y, tensor(B, grad=False), top_k=4,
        memory_budget=6 * ROW, **options
    )  # fmt: skip
    logits = torch.tensor(X @ W.T + B)
    s = options.get("softcap", 1.0) * torch.tanh(logits / 2.0) / 0.7 if options else logits
    p = torch.softmax(s, 1)
    part = torch.ones(N, dtype=torch.bool)
    label = y.argmax(1) if kind == "dense" else y
    if kind == "indices":
        part = y != -100
        label = torch.where(part, y, 0)
    if kind == "top":
        label = y[0].gather(1, y[1].argmax(1, keepdim=True))[:, 0]
        y = torch.zeros(N, V, dtype=torch.float64).scatter_add(1, y[0], y[1])
    rank = 1 + (logits > logits.gather(1, label[:, None])).sum(1)
    losses = crossent.cross_entropy(logits, y, reduction="none", **options)
    for each, expected in (
        (found.loss, losses),
        (found.logsumexp, torch.logsumexp(s, 1)),
        (found.entropy, -(p * p.log()).sum(1)),
        (found.rank, rank),
        (found.top_1, rank == 1),
        (found.top_k, rank <= 4),
    ):
        torch.testing.assert_close(each, torch.where(part, expected, 0).to(expected.dtype))


def test_the_first_of_equal_scores_is_ahead(way: str) -> None:
    x, w = torch.zeros(4, 2), torch.zeros(5, 2)
    found = head_statistics(x, w, torch.arange(4), top_k=2)
    assert found.rank.tolist() == [1, 2, 3, 4]
    assert found.top_k.tolist() == [True, True, False, False]
    torch.testing.assert_close(found.entropy, torch.full((4,), np.log(5), dtype=torch.float32))


def test_statistics_of_infinite_scores_and_nan(way: str) -> None:
    w = torch.tensor([[1.0], [2.0], [0.0]])
    b = torch.tensor([torch.inf, -torch.inf, 0.0])
    x = torch.tensor([[1.0], [torch.nan]])
    found = head_statistics(x, w, torch.tensor([0, 2]), b)
    assert found.rank[0] == 1
    assert found.logsumexp[0] == torch.inf
    assert found.entropy[0] == 0
    assert found.rank[1] == 3
    assert found.logsumexp[1].isnan()


def test_statistics_of_a_wrong_k() -> None:
    with pytest.raises(ValueError, match="top_k is 0; it must be finite, at least 1"):
        head_statistics(torch.zeros(1, 2), torch.zeros(3, 2), torch.tensor([0]), top_k=0)


# The module ---------------------------------------------------------------------------------------

ONES: list[dict[str, Any]] = [
    {},
    {"bias": True},
    {"reduction": "sum", "label_smoothing": 0.2},
    {"reduction": "none"},
    {"weight": torch.linspace(0.0, 2.0, V, dtype=torch.float64), "ignore_index": 3},
    {"out_features": (2, 3), "bias": True},
    {"out_features": (2,), "reduction": "none"},
    {"out_features": (2,), "reduction": "sum", "ignore_index": 5, "label_smoothing": 0.1},
]


# Probabilities: torch takes no ignore_index then, and divides by rows whatever the class weights.
SOFT = [options for options in ONES if not {"weight", "ignore_index"} & set(options)]


@pytest.mark.parametrize(
    ("options", "soft"), [*((o, False) for o in ONES), *((o, True) for o in SOFT)], ids=str
)
def test_the_module_is_torchs(options: dict[str, Any], soft: bool) -> None:
    torch.manual_seed(0)
    ours = LinearCrossEntropyLoss(5, V, dtype=torch.float64, **options)
    theirs = torch.nn.LinearCrossEntropyLoss(5, V, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    more = options.get("out_features", ())
    if soft:
        y = torch.softmax(torch.randn(N, V, *more, dtype=torch.float64), 1)
    else:
        y = torch.randint(V, (N, *more))
        y.view(-1)[3] = options.get("ignore_index", -100)
    values = [m(tensor(X), y) for m in (ours, theirs)]
    torch.testing.assert_close(*values)
    for value in values:
        value.sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_options_that_torch_lacks() -> None:
    module = LinearCrossEntropyLoss(
        5, V, dtype=torch.float64, z_loss=0.1, softcap=2.0, temperature=0.5, reduction="batchmean",
        memory_budget=9 * ROW,
    )  # fmt: skip
    found = module(tensor(X), torch.tensor(LABELS), torch.tensor(WEIGHT), 7.0)
    expected = crossent.cross_entropy(
        tensor(X) @ module.linear.weight.T,
        torch.tensor(LABELS),
        sample_weight=torch.tensor(WEIGHT),
        normalizer=7.0,
        **{"z_loss": 0.1, "softcap": 2.0, "temperature": 0.5, "reduction": "batchmean"},
    )
    torch.testing.assert_close(found, expected)
    assert "memory_budget" in repr(module)
    copy = LinearCrossEntropyLoss(5, V, dtype=torch.float64)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    copy.load_state_dict(torch.load(file))
    assert torch.equal(copy.linear.weight, module.linear.weight)


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_several_decisions_weighed(reduction: str) -> None:
    module = LinearCrossEntropyLoss(
        5, 7, out_features=(2,), dtype=torch.float64, reduction=reduction,
        weight=torch.arange(1.0, 8.0),
    )  # fmt: skip
    y, w = torch.randint(7, (N, 2)), torch.rand(N, 2)
    y[0] = -100
    soft = torch.softmax(torch.randn(N, 7, 2, dtype=torch.float64), 1)
    scores = torch.einsum(
        "nd,ckd->nck", tensor(X, grad=False), module.linear.weight.detach().reshape(7, 2, 5)
    )
    each = {"class_weight": list(range(1, 8)), "reduction": reduction, "axis": 1}
    for target in (y, soft):
        expected = crossent.cross_entropy(scores, target, sample_weight=w, **each)
        torch.testing.assert_close(module(tensor(X), target, w).detach(), expected)


@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum"])
def test_several_decisions_are_differentiable_in_targets_and_weights(reduction: str) -> None:
    module = LinearCrossEntropyLoss(3, 4, out_features=(2,), reduction=reduction).double()
    x, p, w = (torch.rand(shape, dtype=torch.float64) for shape in ((3, 3), (3, 4, 2), (3, 2)))

    def loss(p: Tensor, w: Tensor) -> Tensor:
        return module(x, p, w)

    assert gradcheck(loss, (p.requires_grad_(), w.requires_grad_()))


def test_several_decisions_of_which_none_is_left() -> None:
    module = LinearCrossEntropyLoss(5, 7, out_features=(2,))
    loss = module(torch.randn(3, 5), torch.full((3, 2), -100))
    loss.backward()
    assert loss == 0.0
    assert module.linear.weight.grad.abs().max() == 0.0


def test_several_decisions_take_narrow_indices() -> None:
    module = LinearCrossEntropyLoss(5, 7, out_features=(2,), dtype=torch.float64)
    y = torch.randint(7, (N, 2))
    for kind in (torch.uint8, torch.int8, torch.int16):
        assert module(tensor(X), y.to(kind)) == module(tensor(X), y)


def test_bad_input_of_several_decisions() -> None:
    module = LinearCrossEntropyLoss(5, 7, out_features=(2,))
    x, y = torch.zeros(3, 5), torch.zeros(3, 2, dtype=torch.int64)
    for target in (y[:, :1], torch.zeros(3, 2, 7), (y, y)):
        with pytest.raises(ValueError, match=r"it must be a tensor of shape \(3, (7, )?2\)"):
            module(x, target)
    with pytest.raises(ValueError, match=r"input has shape \(5,\); with out_features it must"):
        module(x[0], y)
    with pytest.raises(ValueError, match=r"normalizer is 0.0"):
        module(x, y, normalizer=0.0)
    for weights in (torch.ones(2, 3), torch.ones(3), [[1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"it must have shape \(3, 2\)"):
            module(x, y, weights)


def test_features_of_rows_that_take_no_part_may_be_nan(way: str) -> None:
    for y, w in ((targets("indices"), torch.ones(N)), (targets("dense"), torch.ones(N))):
        features, weight = tensor(X), tensor(W)
        w[1] = 0.0
        with torch.no_grad():
            features[1] = float("nan")
        crossent.linear_cross_entropy(features, weight, y, sample_weight=w).backward()
        assert weight.grad is not None
        assert bool(weight.grad.isfinite().all())


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("graph", [False, True])
def test_a_filter_does_not_see_what_comes_from_above(scale: float, graph: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 16, generator=draw) for n in (64, 1000))
    y = torch.randint(1000, (64,), generator=draw)
    x = x + 8 * weight[y] / weight[y].square().sum(1, keepdim=True)

    def gradient(reduction: str, tolerance: float | None, scale: float) -> Tensor:
        features = x.clone().requires_grad_()
        loss = crossent.linear_cross_entropy(
            features, weight, y, reduction=reduction, filter_tolerance=tolerance
        ).mean()
        return torch.autograd.grad(loss * scale, features, create_graph=graph)[0].detach() / scale

    known = gradient("mean", 1e-3, 1.0)
    assert not torch.equal(known, gradient("mean", None, 1.0))
    torch.testing.assert_close(gradient("none", 1e-3, scale), known)
    torch.testing.assert_close(gradient("mean", 1e-3, scale), known)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_types_are_not_mixed(kind: torch.dtype, way: str) -> None:
    features, weight = tensor(X, kind, grad=False), tensor(W, torch.float32, grad=False)
    with pytest.raises(TypeError, match="weight has dtype float32, but features has dtype"):
        crossent.linear_cross_entropy(features, weight, targets("indices"))


def test_bad_shapes_of_features() -> None:
    module = LinearCrossEntropyLoss(5, 7, out_features=(2,))
    with pytest.raises(TypeError, match="input is a ndarray; it must be a tensor"):
        module(np.zeros((3, 5)), torch.zeros(3, 2, dtype=torch.int64))
    array: Any = X
    with pytest.raises(TypeError, match="features is a ndarray; it must be a tensor"):
        head_statistics(array, tensor(W), targets("indices"))


def test_options_of_a_module_are_checked_when_it_is_made() -> None:
    for wrong in ({"label_smoothing": 2.0}, {"memory_budget": "much"}, {"reduction": "avg"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LinearCrossEntropyLoss(3, 4, **wrong)


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "changed", "kind", "message"), BAD)
def test_bad_input_gets_the_sentences_of_the_arrays(
    options: dict[str, Any], changed: dict[str, Any], kind: type[Exception], message: str, way: str
) -> None:
    call = {"features": X, "weight": W, "targets": LABELS, "bias": B, **changed}

    def as_tensors(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(as_tensors, value))
        return value if isinstance(value, (float, type(None))) else torch.tensor(value)

    given = {name: as_tensors(value) for name, value in call.items()}
    given["features"] = torch.as_tensor(given["features"])
    with pytest.raises(kind) as caught:
        crossent.linear_cross_entropy(**given, **options)
    assert message in str(caught.value)


def test_devices_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="weight is on device meta, but features is on device cpu"):
        crossent.linear_cross_entropy(
            torch.zeros(2, 3), torch.zeros(4, 3, device="meta"), torch.tensor([0, 1])
        )


def test_arrays_and_lists_beside_tensors() -> None:
    expected = crossent.linear_cross_entropy(X, W, LABELS, bias=B)
    found = crossent.linear_cross_entropy(tensor(X), W, LABELS.tolist(), bias=B.tolist())
    assert found.item() == pytest.approx(expected)


def test_inputs_are_not_written(way: str) -> None:
    layer = [*leaves(), torch.tensor(LABELS)]
    before = [t.detach().clone() for t in layer]
    loss_of(layer[:3], layer[3], **OPTIONS["all"]).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, layer, strict=True))


def test_examples_run() -> None:
    found = [doctest.testmod(module) for module in (torch_modules, torch_linear_statistics)]
    assert [result.failed for result in found] == [0, 0]
    assert min(result.attempted for result in found) > 3
