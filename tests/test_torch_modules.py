"""The modules that stand in for torch's: equal to torch's, but for the table in docs/torch.md."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossent
from crossent.torch import BCEWithLogitsLoss, CrossEntropyLoss
from test_torch import TIGHT, example, labels, same

INF, NAN = math.inf, math.nan
PAIRS = ((CrossEntropyLoss, nn.CrossEntropyLoss), (BCEWithLogitsLoss, nn.BCEWithLogitsLoss))
SHAPES = [(3,), (4, 3), (4, 3, 5), (2, 3, 2, 2)]


def agree(ours: nn.Module, theirs: nn.Module, z: Tensor, y: Tensor) -> None:
    """Compare losses and gradients, with an upstream that differs from loss to loss."""
    found, known = ours(z, y), theirs(z, y)
    upstream = example(*known.shape, seed=11).detach()
    same(found, known, **TIGHT)
    for one, other in zip(
        torch.autograd.grad(found, z, upstream),
        torch.autograd.grad(known, z, upstream),
        strict=True,
    ):
        same(one, other, **TIGHT)


# As torch has them --------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_names_arguments_defaults_and_state(ours: Any, theirs: Any) -> None:
    def positional(kind: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(kind.__init__).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert ours.__name__ == theirs.__name__
    assert positional(ours) == positional(theirs)
    assert list(inspect.signature(ours.forward).parameters)[:3] == ["self", "input", "target"]
    assert isinstance(ours(), theirs)
    weight = torch.tensor([1.0, 2.0])
    filled = theirs(weight=weight).state_dict()
    other = ours(weight=torch.zeros(2))
    other.load_state_dict(filled)
    assert torch.equal(other.weight, weight)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_indices(
    shape: tuple[int, ...], reduction: str, smoothing: float, weighted: bool
) -> None:
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if weighted else None
    options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    z = example(*shape)
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    y = labels(math.prod(rows), 3).reshape(rows)
    agree(CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options), z, y)
    if y.numel() > 1:
        y.view(-1)[1] = 7
        options["ignore_index"] = 7
        agree(CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options), z, y)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("reduction", "weighted"),  # a weighted mean is a deliberate difference: see below
    [("mean", False), ("sum", False), ("sum", True), ("none", False), ("none", True)],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_probabilities(
    shape: tuple[int, ...], reduction: str, smoothing: float, weighted: bool
) -> None:
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if weighted else None
    options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    y = torch.softmax(example(*shape, seed=2), min(1, len(shape) - 1)).detach()
    agree(CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options), example(*shape), y)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_no_rows(reduction: str) -> None:
    for ours, theirs in PAIRS:
        y = torch.zeros(0, 3).double()
        agree(ours(reduction=reduction), theirs(reduction=reduction), example(0, 3), y)
    y = torch.zeros(0, dtype=torch.int64)
    agree(
        CrossEntropyLoss(reduction=reduction),
        nn.CrossEntropyLoss(reduction=reduction),
        example(0, 3),
        y,
    )


BINARY = [  # shapes of scores, weight, pos_weight
    ((), None, None),
    ((), (), ()),
    ((3,), None, (1,)),
    ((3,), (3,), (3,)),
    ((4, 3), None, None),
    ((4, 3), None, ()),
    ((4, 3), None, (3,)),
    ((4, 3), (3,), (1, 3)),
    ((4, 3), (4, 1), (4, 1)),
    ((4, 3), (4, 3), (4, 3)),
    ((2, 3, 3), (3, 1), (3, 1)),
    ((2, 3, 2, 2), None, (3, 1, 1)),
]


@pytest.mark.parametrize(("shape", "weight", "pos_weight"), BINARY, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary(shape: tuple[int, ...], weight: Any, pos_weight: Any, reduction: str) -> None:
    factors = [
        None if of is None else example(*of, seed=seed).detach().abs()
        for seed, of in enumerate((weight, pos_weight), 3)
    ]
    options = {"weight": factors[0], "pos_weight": factors[1], "reduction": reduction}
    y = torch.sigmoid(example(*shape, seed=2)).detach()
    agree(BCEWithLogitsLoss(**options), nn.BCEWithLogitsLoss(**options), example(*shape), y)


def test_attributes_may_be_set_later() -> None:
    z, y = example(4, 3), labels(4, 3)
    results = []
    for kind in (CrossEntropyLoss, nn.CrossEntropyLoss):
        loss = kind()
        loss.reduction, loss.label_smoothing = "sum", 0.3
        loss.weight = torch.tensor([1.0, 2.0, 3.0]).double()
        results.append(loss(z, y))
    same(*results, **TIGHT)


@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
def test_old_names_of_reductions() -> None:
    z, y = example(4, 3), labels(4, 3)
    for old in ({"size_average": False}, {"reduce": False}):
        same(CrossEntropyLoss(**old)(z, y), nn.CrossEntropyLoss(**old)(z, y), **TIGHT)
        soft = torch.softmax(z, 1).detach()
        same(BCEWithLogitsLoss(**old)(z, soft), nn.BCEWithLogitsLoss(**old)(z, soft), **TIGHT)


def test_training_goes_the_same_way() -> None:
    """An MLP, Adam, twenty steps: change the import, and nothing else changes."""
    curves = []
    x, y = example(32, 4, dtype=torch.float32).detach(), labels(32, 3)
    for kind in (CrossEntropyLoss, nn.CrossEntropyLoss):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
        criterion = kind(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.05)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        curves.append(loss.item())
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert curves[0] < 0.9


# Our options --------------------------------------------------------------------------------------


def test_options_that_torch_lacks() -> None:
    z, y, w = example(4, 3, 2), labels(8, 3).reshape(4, 2), torch.rand(4, 2).double()
    ours = {"z_loss": 0.1, "softcap": 3.0, "temperature": 0.5, "reduction": "batchmean"}
    found = CrossEntropyLoss(**ours)(z, y, sample_weight=w, normalizer=3.0)
    loss = crossent.CrossEntropy(**ours, axis=1)
    same(found, loss(z, y, w, 3.0), rtol=0, atol=0)
    bits = (z > 0).detach().double()
    options = {"label_smoothing": 0.1, "reduction": "batchmean"}
    found = BCEWithLogitsLoss(**options)(z, bits, torch.ones(4, 3))
    known = crossent.BinaryCrossEntropy(**options)(z, bits)
    same(found, known, rtol=0, atol=0)
    factors = BCEWithLogitsLoss(weight=torch.tensor(2.0), reduction="batchmean")(z, bits)
    same(factors, 2 * crossent.binary_cross_entropy(z, bits, reduction="batchmean"), **TIGHT)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CrossEntropyLoss(reduction="average"), "reduction is 'average'; it must be one"),
        (lambda: CrossEntropyLoss(label_smoothing=2.0), "label_smoothing is 2.0; it must be"),
        (lambda: CrossEntropyLoss(softcap=-1.0), "softcap is -1.0; it must be"),
        (lambda: BCEWithLogitsLoss(reduction="average"), "reduction is 'average'; it must be"),
        (
            lambda: CrossEntropyLoss(weight=torch.tensor([1.0, -1.0]))(
                torch.zeros(1, 2), torch.tensor([0])
            ),
            r"class_weight\[1\] is -1.0; a weight must be finite",
        ),
        (
            lambda: BCEWithLogitsLoss(pos_weight=torch.ones(2))(
                torch.zeros(4, 3), torch.zeros(4, 3)
            ),
            r"pos_weight has shape \(2,\); it must broadcast to the shape of input, \(4, 3\)",
        ),
        (
            lambda: BCEWithLogitsLoss(weight=torch.ones(2, 1, 1))(torch.zeros(3), torch.zeros(3)),
            r"weight has shape \(2, 1, 1\); it must broadcast to the shape of input, \(3,\)",
        ),
        (
            lambda: BCEWithLogitsLoss(weight=torch.ones(3))(
                torch.zeros(3), torch.zeros(3), sample_weight=torch.ones(3)
            ),
            "sample_weight is given, but this loss has a weight",
        ),
        (
            lambda: CrossEntropyLoss(weight=torch.ones(3, 1))(
                torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
            ),
            r"weight has shape \(3, 1\); it must be \(C,\)",
        ),
        (
            lambda: BCEWithLogitsLoss(pos_weight=torch.ones(3))(torch.zeros(3), torch.zeros(4)),
            r"targets has shape \(4,\); it must have the shape of logits, \(3,\)",
        ),
        (
            lambda: CrossEntropyLoss(weight=torch.ones(2, device="meta"))(
                torch.zeros(1, 2), torch.tensor([0])
            ),
            "weight is on device meta, but logits is on device cpu",
        ),
    ],
)
def test_what_cannot_be_is_said(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("module", [CrossEntropyLoss(), BCEWithLogitsLoss()])
def test_torchs_names_take_torchs_tensors(module: Any) -> None:
    with pytest.raises(TypeError, match="input is a ndarray; it must be a tensor"):
        module(np.zeros((2, 3)), torch.zeros(2, 3))


def test_lists_beside_several_weights_of_positives() -> None:
    loss, z = BCEWithLogitsLoss(pos_weight=torch.ones(3)), torch.tensor([0.5, -1.0, 2.0])
    assert loss(z, [1.0, 0.0, 1.0]) == BCEWithLogitsLoss()(z, torch.tensor([1.0, 0.0, 1.0]))


# The table of differences, row by row -------------------------------------------------------------


def both(z: Any, y: Any, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """Return loss and gradient, ours and torch's; floating targets of rank 1 are binary."""
    results = []
    binary = torch.as_tensor(y).is_floating_point() and torch.as_tensor(y).ndim == 1
    for kind in PAIRS[binary]:
        scores = torch.tensor(z, requires_grad=True)
        value = kind(**options)(scores, torch.as_tensor(y))
        value.backward()
        assert scores.grad is not None
        results.append((value.detach(), scores.grad))
    return results


def test_difference_nothing_left_to_average() -> None:
    ours, theirs = both([[1.0, 2.0]], [-100])
    assert ours[0] == 0
    assert torch.equal(ours[1], torch.zeros(1, 2))
    assert theirs[0].isnan()
    empty = torch.zeros(0, 3)
    assert CrossEntropyLoss()(empty, torch.zeros(0, dtype=torch.int64)) == 0
    assert BCEWithLogitsLoss()(empty, empty) == 0
    assert nn.BCEWithLogitsLoss()(empty, empty).isnan()


def test_difference_mean_over_probabilities_with_class_weights() -> None:
    """An index and its one-hot row are the same target, so they have the same mean."""
    z, y = example(4, 3, dtype=torch.float32), labels(4, 3)
    one_hot, weight = nn.functional.one_hot(y, 3).float(), torch.tensor([1.0, 10.0, 0.1])
    same(CrossEntropyLoss(weight)(z, one_hot), CrossEntropyLoss(weight)(z, y))
    same(CrossEntropyLoss(weight)(z, y), nn.CrossEntropyLoss(weight)(z, y))
    theirs = nn.CrossEntropyLoss(weight)(z, one_hot)
    assert not torch.isclose(theirs, nn.CrossEntropyLoss(weight)(z, y), rtol=0.1)
    same(CrossEntropyLoss()(z, one_hot / 2), CrossEntropyLoss()(z, one_hot))
    same(nn.CrossEntropyLoss()(z, one_hot / 2), nn.CrossEntropyLoss()(z, one_hot) / 2)


def test_difference_tails() -> None:
    ours, theirs = both([[18.0, 0.0, 0.0]], [0])
    assert ours[0].item() == pytest.approx(2 * math.exp(-18), rel=1e-6)
    assert ours[1][0].tolist() == pytest.approx([-2 * math.exp(-18), *[math.exp(-18)] * 2], 1e-6)
    assert theirs[0] == theirs[1][0, 0] == 0
    ours, theirs = both([-20.0], [0.0])
    assert ours[0].item() == pytest.approx(math.exp(-20), rel=1e-6)
    assert theirs[0] == 0
    ours, theirs = both([20.0], [1.0])
    assert ours[1].item() == pytest.approx(-math.exp(-20), rel=1e-6)
    assert theirs[1] == 0


def test_difference_infinities() -> None:
    for z, y in (([[INF, 0.0]], [0]), ([INF], [1.0]), ([-INF], [0.0])):
        ours, theirs = both(z, y)
        assert ours[0] == 0
        assert not ours[1].any()
        assert theirs[0].isnan()
    ours, theirs = both([[-INF, 0.0, 1.0]], [[0.0, 0.5, 0.5]])
    assert ours[0].item() == pytest.approx(math.log(1 + math.e) - 0.5)
    assert theirs[0].isnan()
    assert both([-INF], [0.9])[0][0] == INF


def test_difference_ignored_rows_may_hold_anything() -> None:
    ours, theirs = both([[NAN, -INF, INF], [0.0, 1.0, 2.0]], [-100, 2])
    assert not ours[1][0].any()
    assert theirs[1][0].isnan().any()
    same(ours[0], theirs[0])


def test_difference_targets_out_of_range() -> None:
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"targets\[1\] is 3; a class index must be in \[0, 2\]"):
        CrossEntropyLoss()(z, torch.tensor([0, 3]))
    with pytest.raises(IndexError):
        nn.CrossEntropyLoss()(z, torch.tensor([0, 3]))
    for ours, theirs in PAIRS:
        y = torch.full((2, 3), 1.5)
        with pytest.raises(ValueError, match=r"targets\[0, 0\] is 1.5; a probability must be in"):
            ours()(z, y)
        theirs()(z, y)


def test_difference_half_types() -> None:
    z, y = example(300, 3, dtype=torch.float32).detach(), labels(300, 3)
    for dtype in (torch.float16, torch.bfloat16):
        exact = crossent.cross_entropy(z.to(dtype).double(), y)
        ours = CrossEntropyLoss()(z.to(dtype), y)
        theirs = nn.CrossEntropyLoss()(z.to(dtype), y)
        assert (ours.dtype, theirs.dtype) == (torch.float32, dtype)
        assert abs(ours - exact) < 1e-6 < abs(theirs - exact)


def test_difference_weights_below_zero() -> None:
    with pytest.raises(
        ValueError, match=r"class_weight\[0\] is -1.0; a weight must be finite, >= 0"
    ):
        CrossEntropyLoss(torch.tensor([-1.0, 1.0]))(torch.zeros(1, 2), torch.tensor([0]))
    nn.CrossEntropyLoss(torch.tensor([-1.0, 1.0]))(torch.zeros(1, 2), torch.tensor([0]))
