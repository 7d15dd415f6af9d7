"""What users of other libraries reported, asked of arrays here: one test for each kind of report.

Docstrings name the reports. Kinds that tensors are asked in test_torch_reports.py are not asked
twice, as a tensor has the very bits of its array (tests/test_torch.py); the linear head is asked in
test_head.py, shards of classes in tests/test_torch_parallel.py. The last test holds that no report
of the register is forgotten.
"""

from __future__ import annotations

import ast
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import crossent

Array = NDArray[Any]
INF, NAN = math.inf, math.nan
CE, BCE, TWO = (
    crossent.CrossEntropy,
    crossent.BinaryCrossEntropy,
    crossent.SoftmaxBinaryCrossEntropy,
)


def scores(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Array:
    return (3 * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def labels(rows: int, classes: int) -> Array:
    return np.random.default_rng(1).integers(classes, size=rows)


def near(value: Any, known: Any, rel: float = 1e-12) -> None:
    np.testing.assert_allclose(value, known, rtol=rel, atol=0)


# Given probabilities: nothing is clipped, renormalised or guessed ---------------------------------


def test_no_cap_on_the_loss_of_a_probability() -> None:
    """pytorch#4867, #24933, burn#2741: logarithms stopped at -100, so did the loss; mlx#1280."""
    tiny = np.array([1e-300, 0.0])
    near(BCE(reduction="none").from_probabilities(tiny, [1, 1]), [300 * math.log(10), INF])
    near(CE().from_probabilities([[1e-300, 1.0]], [0]), 300 * math.log(10))
    z = np.array([-150.0, 20.0], np.float32)
    near(BCE(reduction="none")(z, [1, 0]), [150.0, 20.0], 1e-7)


def test_no_epsilon_inside() -> None:
    """keras#15249: 15.42 or 16.118, as the epsilon was added once or twice."""
    near(BCE().from_probabilities([0.0], [1]), INF)
    near(BCE()([-40.0], [1]), 40 + math.log1p(math.exp(-40)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_certain_probabilities(dtype: Any) -> None:
    """sklearn#24315, keras#377, #9582, #11832, tf#43172: an epsilon below the type's gave NaN."""
    p = np.array([[1.0, 0.0], [0.0, 1.0]], dtype)
    near(CE(reduction="none").from_probabilities(p, [0, 0]), [0.0, INF])
    near(BCE(reduction="none").from_probabilities(p, [[1, 0], [1, 0]]), [[0.0, 0.0], [INF, INF]])


def test_whole_numbers_as_probabilities() -> None:
    """sklearn#24365: predictions that were integers failed where the type's epsilon was taken."""
    assert CE().from_probabilities([[1, 0], [0, 1]], [0, 1]) == 0.0


def test_rows_that_do_not_sum_to_1_are_an_error() -> None:
    """sklearn#24515, #28851: they were divided by their sum, so what was wrong scored too well."""
    with pytest.raises(
        ValueError, match=r"probabilities in row \[1\] sums to 0.5; it must sum to 1"
    ):
        CE().from_probabilities([[0.5, 0.5], [0.25, 0.25]], [0, 1])


def test_scores_given_as_probabilities_are_an_error() -> None:
    """keras#9247, #4744: clipping hid that a sigmoid was missing, and trained for days."""
    with pytest.raises(ValueError, match=r"probabilities\[0\] is -2.0; a probability must be in"):
        BCE().from_probabilities([-2.0, 0.5], [0, 1])


def test_scores_are_scores_whatever_their_range() -> None:
    """torchmetrics#1604, #2195, #2329: a batch within [0, 1] was taken for probabilities."""
    near(BCE()([0.25, 0.75], [0, 1]), np.mean(np.log1p(np.exp([0.25, -0.75]))))
    near(CE()([[0.25, 0.75]], [0]), math.log1p(math.exp(0.5)))


# Scores far out -----------------------------------------------------------------------------------


def test_logarithms_of_what_rounds_to_0() -> None:
    """statsmodels#10217, #3923: log(cdf) was -inf; #3635: exp without a shift, then inf / inf."""
    near(crossent.log_sigmoid([-1000.0, 800.0]), [-1000.0, -0.0])
    near(crossent.log_softmax([5000.0, 0.0, -5000.0]), [0.0, -5000.0, -10000.0])
    near(crossent.softmax([5000.0, 0.0, -5000.0]), [1.0, 0.0, 0.0])


def test_logsumexp_beside_its_maximum() -> None:
    """scipy#18295: what one score adds to a maximum of 0 was lost; #19521: log_softmax still."""
    near(crossent.logsumexp([0.0, -40.0]), math.log1p(math.exp(-40)))
    near(crossent.log_softmax([0.0, -40.0])[0], -math.log1p(math.exp(-40)))


def test_soft_targets_of_scores_far_out() -> None:
    """tf#21271: infinite where it is thousands."""
    near(CE()([[5000.0, -5000.0]], [[0.5, 0.5]]), 5000.0)
    near(BCE()([5000.0, -5000.0], [0.5, 0.5]), 2500.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_curvature_in_the_tails(dtype: Any) -> None:
    """xgboost#2955, #2995: p (1 - p) fell to a floor of 1e-16; sklearn#28046, #28453: NaN."""
    z = np.array([-30.0, 30.0, -1000.0, 1000.0], dtype)
    slope = math.exp(-30) / (1 + math.exp(-30)) ** 2
    found = BCE(reduction="sum").hvp(z, [0, 1, 1, 0], np.ones(4, dtype))
    near(found, [slope, slope, 0.0, 0.0], 1e-6)
    found = CE().hvp(np.array([[30.0, 0.0]], dtype), [0], np.array([[1.0, -1.0]], dtype))
    near(found, [[2 * slope, -2 * slope]], 1e-6)


def test_softmax_of_infinity() -> None:
    """scipy#23225: NaN for all; jax#19490, #23842: NaN where what is masked is -inf."""
    near(crossent.softmax([1.0, INF]), [0.0, 1.0])
    near(crossent.softmax([-INF, 0.0, 0.0]), [0.0, 0.5, 0.5])
    value, slope = CE().value_and_grad([[-INF, 0.0, 0.0]], [1])
    near(value, math.log(2))
    near(slope, [[0.0, -0.5, 0.5]])


# What the targets mean ----------------------------------------------------------------------------


def test_a_row_without_any_target() -> None:
    """tf#2327, #1234: the loss was 0 and its gradient p: they do not belong together."""
    value, slope = CE(reduction="sum").value_and_grad([[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]])
    assert value == 0
    assert not slope.any()


def test_value_and_gradient_belong_together() -> None:
    """tf#2327, and code that returns p - c beside the two-term error of a softmax."""
    z, step = scores(2, 4), 1e-6
    for loss in (CE(label_smoothing=0.1), TWO(), TWO(label_smoothing=0.1), CE(z_loss=0.1)):
        slope = loss.value_and_grad(z, [1, 3])[1]
        for at in np.ndindex(z.shape):
            e = np.zeros_like(z)
            e[at] = step
            difference = loss(z + e, [1, 3]) - loss(z - e, [1, 3])
            assert slope[at] == pytest.approx(difference / (2 * step), abs=1e-8)


def test_what_smoothing_means() -> None:
    """pytorch#148884, Megatron-LM#1260: alpha / C for all, or alpha / (C - 1) for the others."""
    alpha, p = 0.3, np.array([0.1, 0.8, 0.1])  # (1 - alpha) c + alpha / 3 for class 1
    near(CE(label_smoothing=alpha).value_and_grad([np.log(p)], [1])[1] + 1, [[1.0, 1.0, 1.0]])


def test_class_weights_and_smoothing() -> None:
    """pytorch#104776: weights multiply the smoothed target too, which moves where it is least."""
    weight, alpha, z = np.array([1.0, 4.0, 2.0]), 0.3, scores(1, 3)
    mass = weight * ((1 - alpha) * np.array([0, 1, 0]) + alpha / 3)
    loss = CE(class_weight=weight, label_smoothing=alpha, reduction="sum")
    near(loss(z, [1]), -(mass * crossent.log_softmax(z)).sum())
    near(CE(class_weight=weight, label_smoothing=alpha)(z, [1]), loss(z, [1]) / 4)


def test_a_weighted_mean_divides_by_the_weights() -> None:
    """pytorch#8062, #65329, #61044: by rows for probabilities, by weights for indices."""
    z, y, weight = scores(6, 3), labels(6, 3), np.array([1.0, 10.0, 0.1])
    each = CE(class_weight=weight, reduction="none")(z, y)
    near(CE(class_weight=weight)(z, y), each.sum() / weight[y].sum())
    near(CE(class_weight=weight)(z, np.eye(3)[y]), each.sum() / weight[y].sum())


def test_one_class_has_nothing_to_decide() -> None:
    """keras#17029: the loss of one column is constantly 0; one output is a binary cross-entropy."""
    value, slope = CE().value_and_grad([[3.0], [-2.0]], [0, 0])
    assert (value, slope.tolist()) == (0.0, [[0.0], [0.0]])
    assert BCE()([[3.0], [-2.0]], [[0], [0]]) > 1


@pytest.mark.parametrize("label", [-1, 3, 255])
@pytest.mark.parametrize("loss", [CE(), TWO()], ids=lambda loss: loss.name)
def test_a_label_that_is_no_class(label: int, loss: Any) -> None:
    """optax#1185: NaN, or -1 was the last class; onnxruntime#27568, #28004: read where it led;
    tf#10268, #56979, #126005, keras#23664: as it pleased the device; pytorch#66872, #44355, #18014.
    """
    dtypes = [np.int64, np.int32, np.int16] + [np.uint8] * (label > 0)
    for dtype in dtypes:
        y = np.array([0, label], dtype)
        with pytest.raises(ValueError, match=rf"targets\[1\] is {label}; a class index must be in"):
            loss(scores(2, 3), y)
        with pytest.raises(ValueError, match=r"targets\[1\]"):
            loss.value_and_grad(scores(2, 3), y)


def test_the_shape_of_what_is_ignored() -> None:
    """keras#19838: a class to ignore broke shapes; pytorch#91383: or was looked up in weights."""
    y = np.array([[0, 255, 2], [255, 255, 1]])
    for options in ({}, {"class_weight": [1.0, 2.0, 3.0], "label_smoothing": 0.1}):
        each = CE(ignore_index=255, axis=1, reduction="none", **options)(scores(2, 3, 3), y)
        assert each.shape == y.shape
        assert ((each == 0) == (y == 255)).all()


def test_crashes_of_empty_and_odd_shapes() -> None:
    """tf#46908, #67531: aborted, or read out of bounds."""
    assert CE()(np.zeros((0, 3)), np.zeros(0, np.int64)) == 0
    for targets in (np.zeros((2, 2)), np.zeros((3,), np.int64), np.float64(0.5)):
        with pytest.raises((ValueError, TypeError), match="targets has"):
            CE()(scores(2, 3), targets)


# Sums, memory, and what is written ----------------------------------------------------------------


def test_sums_of_parts_make_the_mean_of_the_whole() -> None:
    """transformers#35203, #34191, torchtune#1875: the mean of means is another number."""
    z, y = scores(20, 5), labels(20, 5)
    y[:6] = -100
    parts = [slice(0, 7), slice(7, 8), slice(8, 20)]
    loss = CE(label_smoothing=0.1)
    near(sum(loss.sums(z[part], y[part]) for part in parts).mean, loss(z, y))
    assert abs(np.mean([loss(z[part], y[part]) for part in parts]) / loss(z, y) - 1) > 0.01
    count = int((y != -100).sum())
    slopes = [loss.value_and_grad(z[part], y[part], normalizer=count)[1] for part in parts]
    near(np.concatenate(slopes), loss.value_and_grad(z, y)[1])


def test_weights_of_rows_are_what_comes_from_above() -> None:
    """Liger-Kernel#968, #872: every row got the factor of the first, which was ignored."""
    z, y, factor = scores(4, 3), np.array([-100, 1, 2, 0]), np.array([5.0, 2.0, 0.25, 0.0])
    alone = CE(reduction="none").value_and_grad(z, y)[1]
    near(CE(reduction="none").value_and_grad(z, y, factor)[1], factor[:, None] * alone)


def test_scores_that_cannot_be_written() -> None:
    """Liger-Kernel#343, #272, unsloth#5002: the loss wrote its gradient over the scores."""
    z, y, w = scores(4, 3), labels(4, 3), np.ones(4)
    soft = np.full((4, 3), 1 / 3)
    for array in (z, y, w, soft):
        array.setflags(write=False)
    for loss in (CE(), CE(label_smoothing=0.1, softcap=3.0), TWO()):
        for targets in (y, soft):
            first = loss.value_and_grad(z, targets, w)
            second = loss.value_and_grad(z, targets, w)
            assert first[0] == second[0]
            assert (first[1] == second[1]).all()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}], ids=["", "more"])
def test_memory_beyond_the_gradient(options: dict[str, Any]) -> None:
    """pytorch#119261, composer#2987: three and six times the scores."""
    z, y = np.zeros((256, 4096), np.float32), np.zeros(256, np.int64)
    loss = CE(**options)
    loss.value_and_grad(z, y)  # compiled
    tracemalloc.start()
    loss.value_and_grad(z, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.25 * z.nbytes


# The register -------------------------------------------------------------------------------------

REPORTS = {  # of losses on arrays, tensors and shards; what became of each is in a docstring
    "pytorch": (
        "113708 11752 49844 102894 135359 51906 103316 4867 24933 110865 123339 87373 29429 85791 "
        "55657 111484 73205 69339 72056 91383 104776 116349 75181 64572 11551 43840 66872 21825 "
        "18014 44355 194802 77895 71550 2221 63004 107680 61044 65329 8062 148884 85005 71367 "
        "17350 119261"
    ),
    "pytorch/xla": "2553",
    "optax": "896 1762 1185",
    "jax": "17117 19490 23842 40409",
    "scipy": "19521 18295 23225",
    "sklearn": "24315 24515 24365 28851 28046",
    "keras": "9664 9247 4744 15249 377 9582 11832 23664 19838 17029",
    "tf": "38457 43172 8484 10268 56979 126005 46908 67531 6766 2327 1234 21271",
    "statsmodels": "10217 3923 3635",
    "xgboost": "2955 2995",
    "torchmetrics": "1604 2195 2329",
    "mlx": "4188 1280",
    "burn": "2741",
    "onnxruntime": "27568 28004",
    "PaddlePaddle": "74070",
    "flash-attention": "1930",
    "unsloth": "10616 10892 5002",
    "ms-swift": "10130",
    "OLMo-core": "702",
    "TransformerEngine": "2139 2476",
    "Megatron-LM": "1750 737 7452 1260",
    "ml-cross-entropy": "59",
    "Liger-Kernel": "968 678 872 1329 1338 343 254 262 272 802 803 329 338 404",
    "transformers": "34191 35203",
    "torchtune": "1875",
    "composer": "2987",
}
TESTS = Path(__file__).parent.parent


def named(path: Path) -> set[str]:
    """Return the reports that docstrings of a file name: repository#number, then #number."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            repository = ""
            for name, number in re.findall(r"([\w/-]*)#(\d+)", ast.get_docstring(node) or ""):
                repository = name or repository
                found.add(f"{repository}#{number}")
    return found


def test_no_report_is_forgotten() -> None:
    files = [*Path(__file__).parent.glob("*.py"), TESTS / "test_torch_parallel.py"]
    asked = set().union(*map(named, files))
    register = {f"{name}#{number}" for name, text in REPORTS.items() for number in text.split()}
    assert register - asked == set()
