"""The page's mathematics in JavaScript against reference.py, and against mpmath in the tails."""

import json
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import mpmath
import numpy as np
import pytest
from playwright.sync_api import Page

from benchmarks.oracle import truth
from cases import CASES, SIGMOID, Case, as_json
from crossent import reference
from lab_browser import chromium, watched_page

RELATIVE = 1e-12
MATHS = (files("crossent.lab") / "maths.js").read_text(encoding="utf-8")

# The table: scores and targets of one neuron, and of a softmax layer -----------------------------

SCORES = [
    -700.0,
    -100.0,
    -36.8,
    -20.0,
    -5.0,
    -1.0,
    -0.25,
    0.0,
    0.25,
    1.0,
    5.0,
    20.0,
    36.8,
    100.0,
    700.0,
]
TARGETS = [0.0, 0.3, 0.5, 1.0]
NEURONS = [(z, y) for z in SCORES for y in TARGETS]

PLAIN_ROWS = [
    [2.5, -1.0, 3.2, 0.5],
    [0.0, 0.0, 0.0],
    [1.0, 1.5],
    [-4.0, 4.0],
    [-3.3, 0.1, 2.2, 3.7, -2.9],
    np.random.default_rng(1).normal(0, 2, 10).tolist(),
]
TAIL_ROWS = [
    [10.0, 0.0, 0.0],
    [18.0, 0.0, 0.0],
    [60.0, 0.0, 0.0],
    [-60.0, 3.0, 2.0, 1.0],
    [600.0, 0.0, 0.0],
    [0.0, 600.0, 0.0],
    [1000.5, 1000.25, 999.0],
    [-40.0, 40.0],
]


def targets_of(row: list[float]) -> list[list[float]]:
    """Every one-hot target, and one that leaves something to each class."""
    # Roots, so that no target equals its output, where a difference is 0 and has no digits.
    soft = np.sqrt(np.arange(1.0, len(row) + 1))
    return [*np.eye(len(row)).tolist(), (soft / soft.sum()).tolist()]


PLAIN_LAYERS = [(s, c) for s in PLAIN_ROWS for c in targets_of(s)]
TAIL_LAYERS = [(s, c) for s in TAIL_ROWS for c in targets_of(s)]


# The same formulas with as many digits as it takes -----------------------------------------------


def mp_sigmoid(z: float) -> Any:
    return 1 / (1 + mpmath.exp(-mpmath.mpf(z)))


def mp_softmax(s: list[float]) -> list[Any]:
    e = [mpmath.exp(mpmath.mpf(score)) for score in s]
    return [value / mpmath.fsum(e) for value in e]


def mp_binary(a: Any, y: float) -> Any:
    y = mpmath.mpf(y)
    return -(y * mpmath.log(a) if y else 0) - ((1 - y) * mpmath.log(1 - a) if y != 1 else 0)


def mp_two_term_gradient(s: list[float], c: list[float]) -> list[Any]:
    p = mp_softmax(s)
    u = [(pj - cj) / (1 - pj) for pj, cj in zip(p, c, strict=True)]
    return [uk - pk * mpmath.fsum(u) for uk, pk in zip(u, p, strict=True)]


MP_NEURON: dict[str, Callable[[float, float], Any]] = {
    "sigmoid": lambda z, y: mp_sigmoid(z),
    "sigmoidPrime": lambda z, y: mp_sigmoid(z) * (1 - mp_sigmoid(z)),
    "binaryCrossEntropy": lambda z, y: mp_binary(mp_sigmoid(z), y),
    "quadraticCost": lambda z, y: (mp_sigmoid(z) - y) ** 2 / 2,
    "difference": lambda z, y: mp_sigmoid(z) - y,
    "binaryCrossEntropyByOutput": lambda z, y: (1 - y) / (1 - mp_sigmoid(z)) - y / mp_sigmoid(z),
    "binaryCrossEntropyGradient": lambda z, y: mp_sigmoid(z) - y,
    "quadraticCostGradient": lambda z, y: (mp_sigmoid(z) - y) * mp_sigmoid(z) * (1 - mp_sigmoid(z)),
}

MP_LAYER: dict[str, Callable[[list[float], list[float]], Any]] = {
    "crossEntropy": lambda s, c: mpmath.fsum(
        -cj * mpmath.log(pj) for pj, cj in zip(mp_softmax(s), c, strict=True)
    ),
    "twoTermCrossEntropy": lambda s, c: mpmath.fsum(map(mp_binary, mp_softmax(s), c)),
    "crossEntropyByOutput": lambda s, c: [
        -cj / pj for pj, cj in zip(mp_softmax(s), c, strict=True)
    ],
    "twoTermByOutput": lambda s, c: [
        (1 - cj) / (1 - pj) - cj / pj for pj, cj in zip(mp_softmax(s), c, strict=True)
    ],
    "crossEntropyGradient": lambda s, c: [pj - cj for pj, cj in zip(mp_softmax(s), c, strict=True)],
    "twoTermGradient": mp_two_term_gradient,
}

MP_ROW: dict[str, Callable[[list[float]], Any]] = {
    "softmax": mp_softmax,
    "softmaxJacobian": lambda s: [
        [pi * (1 - pi) if i == j else -pi * pj for j, pj in enumerate(mp_softmax(s))]
        for i, pi in enumerate(mp_softmax(s))
    ],
}


# The same formulas as reference.py has them -----------------------------------------------------

REFERENCE_NEURON: dict[str, Callable[[float, float], Any]] = {
    "sigmoid": lambda z, y: reference.sigmoid(z),
    "sigmoidPrime": lambda z, y: reference.sigmoid_prime(z),
    "binaryCrossEntropy": lambda z, y: reference.binary_cross_entropy(reference.sigmoid(z), y),
    "quadraticCost": lambda z, y: reference.quadratic_cost([reference.sigmoid(z)], [y]),
    "difference": lambda z, y: reference.quadratic_cost_dE_da(reference.sigmoid(z), y),
    "binaryCrossEntropyByOutput": lambda z, y: reference.binary_cross_entropy_dE_da(
        reference.sigmoid(z), y
    ),
    "binaryCrossEntropyGradient": lambda z, y: reference.binary_cross_entropy_gradient(
        reference.sigmoid(z), y
    ),
    "quadraticCostGradient": lambda z, y: reference.quadratic_cost_gradient(
        reference.sigmoid(z), y
    ),
}

REFERENCE_LAYER: dict[str, Callable[[Any, Any], Any]] = {
    "crossEntropy": reference.cross_entropy,
    "twoTermCrossEntropy": reference.two_term_cross_entropy,
    "crossEntropyByOutput": reference.cross_entropy_dE_dp,
    "twoTermByOutput": reference.two_term_dE_dp,
    "crossEntropyGradient": reference.cross_entropy_gradient,
    "twoTermGradient": reference.two_term_gradient,
}

REFERENCE_ROW: dict[str, Callable[[Any], Any]] = {
    "softmax": reference.softmax,
    "softmaxJacobian": lambda s: reference.softmax_jacobian(reference.softmax(s)),
    "oneHot": lambda s: reference.one_hot(s),
    "logsumexp": reference.logsumexp,
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as browser, watched_page(browser) as page:
        page.add_script_tag(content=MATHS)
        yield page


def javascript(page: Page, function: str, cases: list[Any]) -> list[Any]:
    """Return maths.function(*case) for every case."""
    call = f"cases => cases.map((arguments_) => maths.{function}(...arguments_))"
    return page.evaluate(call, [list(case) for case in cases])


def assert_close(ours: Any, true: Any, what: str) -> None:
    """Compare with relative error and nothing else: 0 has to be 0."""
    ours, true = np.asarray(ours, dtype=float), np.asarray(true, dtype=float)
    assert ours.shape == true.shape, what
    error = np.abs(ours - true)
    bad = ~(error <= RELATIVE * np.abs(true))
    assert not bad.any(), f"{what}: {ours[bad][0]!r} should be {true[bad][0]!r}"


@pytest.mark.parametrize("function", MP_NEURON)
def test_one_neuron_in_both_tails(page: Page, function: str) -> None:
    with mpmath.workdps(700):
        for case, ours in zip(NEURONS, javascript(page, function, NEURONS), strict=True):
            assert_close(ours, float(MP_NEURON[function](*case)), f"{function}{case}")


@pytest.mark.parametrize("function", REFERENCE_NEURON)
def test_one_neuron_as_the_reference_has_it(page: Page, function: str) -> None:
    # Beyond -5 the reference's own 1 - a has lost the digits that this test asks for.
    cases = [(z, y) for z, y in NEURONS if -5 <= z <= 1]
    for case, ours in zip(cases, javascript(page, function, cases), strict=True):
        assert_close(ours, np.squeeze(REFERENCE_NEURON[function](*case)), f"{function}{case}")


def to_floats(value: Any) -> Any:
    return [to_floats(item) for item in value] if isinstance(value, list) else float(value)


@pytest.mark.parametrize("function", MP_LAYER)
def test_a_softmax_layer_in_both_tails(page: Page, function: str) -> None:
    cases = PLAIN_LAYERS + TAIL_LAYERS
    with mpmath.workdps(700):
        for case, ours in zip(cases, javascript(page, function, cases), strict=True):
            assert_close(ours, to_floats(MP_LAYER[function](*case)), f"{function}{case}")


@pytest.mark.parametrize("function", REFERENCE_LAYER)
def test_a_softmax_layer_as_the_reference_has_it(page: Page, function: str) -> None:
    for case, ours in zip(PLAIN_LAYERS, javascript(page, function, PLAIN_LAYERS), strict=True):
        s, c = case
        true = REFERENCE_LAYER[function](reference.softmax(s), c)
        assert_close(ours, true, f"{function}{case}")


@pytest.mark.parametrize("function", MP_ROW)
def test_softmax_and_its_jacobian_in_both_tails(page: Page, function: str) -> None:
    rows = [(s,) for s in PLAIN_ROWS + TAIL_ROWS]
    with mpmath.workdps(700):
        for case, ours in zip(rows, javascript(page, function, rows), strict=True):
            assert_close(ours, to_floats(MP_ROW[function](*case)), f"{function}{case}")


@pytest.mark.parametrize("function", REFERENCE_ROW)
def test_softmax_and_decision_as_the_reference_has_them(page: Page, function: str) -> None:
    rows = [(s,) for s in PLAIN_ROWS]
    for case, ours in zip(rows, javascript(page, function, rows), strict=True):
        assert_close(ours, REFERENCE_ROW[function](*case), f"{function}{case}")


def test_what_did_not_happen_is_free_however_impossible_it_was(page: Page) -> None:
    # 1 / p overflows at a score of -800, and 0 times that would be NaN.
    assert javascript(page, "binaryCrossEntropyByOutput", [(-800, 0), (800, 1)]) == [1, -1]
    certain = ([800, 0, 0], [1, 0, 0])
    assert javascript(page, "crossEntropyByOutput", [certain]) == [[-1, 0, 0]]
    assert javascript(page, "twoTermGradient", [certain]) == [[0, 0, 0]]


def test_the_chain_rule_adds_up_every_term(page: Page) -> None:
    for outer in ("crossEntropyByOutput", "twoTermByOutput"):
        call = f"""cases => cases.map(([s, c]) =>
            [maths.chain(maths.{outer}(s, c), maths.softmaxJacobian(s)),
             maths.chainTerms(maths.{outer}(s, c), maths.softmaxJacobian(s))])"""
        for (s, c), (ours, terms) in zip(
            PLAIN_LAYERS, page.evaluate(call, PLAIN_LAYERS), strict=True
        ):
            p = reference.softmax(s)
            true = reference.chain(REFERENCE_LAYER[outer](p, c), reference.softmax_jacobian(p))
            # The sum cancels; its digits are those of its largest term.
            scale = np.abs(terms).sum(axis=0)
            np.testing.assert_array_less(np.abs(ours - true), RELATIVE * scale + 1e-300)


@pytest.mark.parametrize(
    ("error", "gradient"),
    [("crossEntropy", "crossEntropyGradient"), ("twoTermCrossEntropy", "twoTermGradient")],
)
def test_finite_differences_confirm_the_fused_gradient(
    page: Page, error: str, gradient: str
) -> None:
    call = f"""cases => cases.map(([s, c]) =>
        [maths.finiteDifferences((t) => maths.{error}(t, c), s), maths.{gradient}(s, c)])"""
    for numeric, fused in page.evaluate(call, PLAIN_LAYERS):
        np.testing.assert_allclose(numeric, fused, rtol=1e-7, atol=2e-9)


# The table of cases that every front end is held to ----------------------------------------------

FUNCTIONS = {
    "cross_entropy": ("crossEntropy", "crossEntropyGradient"),
    "softmax_binary_cross_entropy": ("twoTermCrossEntropy", "twoTermGradient"),
    "binary_cross_entropy": ("binaryCrossEntropy", "binaryCrossEntropyGradient"),
    "quadratic_cost": ("quadraticCost", "quadraticCostGradient"),
}


def is_for_the_page(case: Case) -> bool:
    """Whether a case is of plain rows: no options, distributions over classes, finite scores."""
    given = (case.options, case.sample_weight, case.normalizer, case.dtype, case.layout)
    logits, targets, _ = case.arrays()
    if given != ({}, None, None, "float64", "C") or logits.ndim != 2 or logits.shape[1] < 2:
        return False
    if not np.isfinite(logits).all() or np.ptp(logits, axis=1).max() > 700:
        return False
    index = targets.ndim == 1
    return bool(
        case.loss in SIGMOID or (targets.min() >= 0 if index else (targets.sum(1) == 1).all())
    )


@pytest.mark.parametrize("loss", FUNCTIONS)
def test_the_shared_table_of_cases(page: Page, loss: str) -> None:
    value, gradient = FUNCTIONS[loss]
    cases = tuple(case for case in CASES if case.loss == loss and is_for_the_page(case))
    assert len(cases) >= 7
    call = f"""text => JSON.parse(text).map(({{ loss, logits, targets }}) => {{
        const oneHot = (s, y) => (Array.isArray(y) ? y : s.map((_, j) => Number(j === y)));
        const rows = {json.dumps(SIGMOID)}.includes(loss)
            ? logits.flatMap((row, i) => row.map((z, j) => [z, targets[i][j]]))
            : logits.map((s, i) => [s, oneHot(s, targets[i])]);
        return [maths.{value}, maths.{gradient}].map((f) => rows.map((row) => f(...row)));
    }})"""
    for case, ours in zip(cases, page.evaluate(call, as_json(cases)), strict=True):
        true = truth(loss, {"reduction": "none"}, case.logits, case.targets)
        for found, exact, scale in (
            (ours[0], true.value, true.larger_value),
            (ours[1], true.gradient, true.larger_term),
        ):
            exact, scale = (np.ravel(each).astype(float) for each in (exact, scale))
            error = np.abs(np.ravel(found) - exact)
            assert (error <= RELATIVE * scale).all(), (str(case), error.max())


# A neuron that is trained ------------------------------------------------------------------------

GRADIENTS = {
    "quadraticCostGradient": reference.quadratic_cost_gradient,
    "binaryCrossEntropyGradient": reference.binary_cross_entropy_gradient,
}


def descend(page: Page, gradient: str, **options: float) -> tuple[list[float], int]:
    call = f"""options => {{
        const scores = maths.descend({{...options, gradient: maths.{gradient}}});
        return [scores, maths.crossing(scores, options.target)];
    }}"""
    scores, crossing = page.evaluate(call, options)
    return scores, crossing


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("start", [(0.6, 0.9), (2.0, 2.0), (-3.0, 0.5)])
@pytest.mark.parametrize(("rate", "target"), [(0.15, 0.0), (0.005, 0.0), (0.8, 0.7)])
def test_descent_takes_the_steps_of_the_reference(
    page: Page, gradient: str, start: tuple[float, float], rate: float, target: float
) -> None:
    weight, bias = start
    ours, _ = descend(
        page, gradient, weight=weight, bias=bias, rate=rate, target=target, epochs=300
    )
    true = [weight + bias]
    for _ in range(300):
        slope = float(GRADIENTS[gradient](reference.sigmoid(weight + bias), target))
        weight, bias = weight - rate * slope, bias - rate * slope
        true.append(weight + bias)
    # Scores pass through 0, outputs do not.
    assert_close(reference.sigmoid(ours), reference.sigmoid(true), f"{gradient} from {start}")


@pytest.mark.parametrize(
    ("gradient", "start", "end", "crossing"),
    [
        ("quadraticCostGradient", (0.6, 0.9), 0.0940, 36),
        ("quadraticCostGradient", (2.0, 2.0), 0.2028, 232),
        ("binaryCrossEntropyGradient", (0.6, 0.9), 0.0116, 8),
        ("binaryCrossEntropyGradient", (2.0, 2.0), 0.0120, 17),
    ],
)
def test_the_numbers_of_the_learning_slowdown(
    page: Page, gradient: str, start: tuple[float, float], end: float, crossing: int
) -> None:
    weight, bias = start
    scores, passed = descend(
        page, gradient, weight=weight, bias=bias, rate=0.15, target=0.0, epochs=300
    )
    assert round(float(reference.sigmoid(scores[-1])), 4) == end
    assert passed == crossing
    outputs = reference.sigmoid(scores)
    assert outputs[crossing] < 0.5 <= outputs[crossing - 1]


def test_a_neuron_passes_one_half_only_towards_a_target_beyond_it(page: Page) -> None:
    cases = [([0.0, -1.0], 0.0), ([0.0, -1.0], 0.5), ([0.0, -1.0], 1.0), ([2.0, 0.0, 1.0], 0.9)]
    assert javascript(page, "crossing", cases) == [1, -1, -1, 0]


# float32, as commonly computed and as here -------------------------------------------------------


def in_float32(page: Page, function: str, gap: float, classes: int = 3) -> np.float32:
    scores = [gap] + [0.0] * (classes - 1)
    return np.float32(javascript(page, f"float32.{function}", [(scores, 0)])[0])


@pytest.mark.parametrize("gap", [1.0, 5.0, 10.0, 16.0, 18.0, 25.0, 60.0])
def test_the_common_way_is_what_torch_answers(page: Page, gap: float) -> None:
    torch = pytest.importorskip("torch")
    scores = torch.tensor([[gap, 0.0, 0.0]], requires_grad=True)
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor([0]))
    loss.backward()
    assert in_float32(page, "lossByLogSoftmax", gap) == pytest.approx(loss.item(), rel=1e-5, abs=0)
    assert in_float32(page, "gradientBySubtraction", gap) == pytest.approx(
        scores.grad[0, 0].item(), rel=2e-3, abs=0
    )


@pytest.mark.parametrize("gap", [0.0, 0.5, 5.0, 10.0, 16.0, 18.0, 30.0, 60.0, 86.0])
@pytest.mark.parametrize("classes", [2, 3, 100])
def test_our_way_stays_within_four_ulp_of_the_truth(page: Page, gap: float, classes: int) -> None:
    with mpmath.workdps(100):
        others = (classes - 1) * mpmath.exp(-gap)
        loss, gradient = float(mpmath.log1p(others)), float(-others / (1 + others))
    for function, true in (("loss", loss), ("gradient", gradient)):
        ours = in_float32(page, function, gap, classes)
        assert abs(float(ours) - true) <= 4 * np.spacing(np.float32(abs(true))), function


def test_our_way_agrees_with_the_common_one_on_a_wrong_answer(page: Page) -> None:
    scores = [1.0, 4.0, 2.5]
    ours, common = (
        javascript(page, f"float32.{way}", [(scores, 0)])[0] for way in ("loss", "lossByLogsumexp")
    )
    assert ours == pytest.approx(
        float(reference.cross_entropy(reference.softmax(scores), [1, 0, 0]))
    )
    assert ours == pytest.approx(common, rel=1e-6)


# Chance ------------------------------------------------------------------------------------------


def test_random_numbers_depend_on_the_seed_alone_and_fill_the_interval(page: Page) -> None:
    draws = np.array(javascript(page, "uniform", [(seed, 50) for seed in range(200)]))
    assert (draws == javascript(page, "uniform", [(seed, 50) for seed in range(200)])).all()
    assert len(np.unique(draws)) == draws.size
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    np.testing.assert_allclose(counts, 1000, atol=150)


def test_the_mathematics_knows_no_document() -> None:
    code = re.sub(r"/\*.*?\*/", "", MATHS, flags=re.DOTALL)
    assert not re.search(r"\b(document|window|location|setTimeout|fetch)\b", code)
