"""Predictions judged: against plain formulas, in parts, with any number of threads."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crossent
from crossent import ScoreSums, reference, score_batches, scoring

Array = np.ndarray
NAN, INF = float("nan"), float("inf")


def draw(rows: int, classes: int, seed: int = 0, spread: float = 3.0) -> tuple[Array, Array, Array]:
    """Return scores, probabilities and labels."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((rows, classes)) * spread
    return z, reference.softmax(z), rng.integers(classes, size=rows)


def judged(p: Array, y: Array, w: Array, order: Array, top: int, bins: int) -> dict[str, Any]:
    """Return what the sums must say, by the formulas as they stand on paper."""
    rows = np.arange(len(y))
    with np.errstate(divide="ignore"):
        losses = -np.log(p[rows, y])
    one_hot = np.eye(p.shape[1])[y]
    rank = (np.argsort(-order, axis=1, kind="stable") == y[:, None]).argmax(axis=1)
    confidence = p.max(axis=1)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((w * (confidence - (rank == 0)))[place == b].sum()) / w.sum() for b in range(bins)]
    classes = range(p.shape[1])
    present = [c for c in classes if w[y == c].sum() > 0]
    shares = np.array([w[y == c].sum() for c in present]) / w.sum()
    return {
        "loss": (w * losses).sum() / w.sum(),
        "accuracy": (w * (rank == 0)).sum() / w.sum(),
        "top_accuracy": [(w * (rank < k)).sum() / w.sum() for k in range(1, top + 1)],
        "brier": (w * ((p - one_hot) ** 2).sum(axis=1)).sum() / w.sum(),
        "calibration_error": sum(gaps),
        "baseline": -(shares * np.log(shares)).sum(),
        "class_loss": [
            (w * losses)[y == c].sum() / w[y == c].sum() if c in present else NAN for c in classes
        ],
        "class_accuracy": [
            (w * (rank == 0))[y == c].sum() / w[y == c].sum() if c in present else NAN
            for c in classes
        ],
        "class_rows": [((y == c) & (w > 0)).sum() for c in classes],
        "rows": (w > 0).sum(),
        "ignored": (w == 0).sum(),
    }


def agree(sums: ScoreSums, expected: dict[str, Any], rtol: float = 1e-12) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(sums, name), value, rtol, 1e-15, err_msg=name)


# Against the formulas ---------------------------------------------------------------------------

SHAPES = [(1, 2), (143, 3), (144, 10), (145, 10), (500, 2), (40, 300), (30, 5000)]


@pytest.mark.parametrize(("rows", "classes"), SHAPES)
def test_probabilities_are_judged_by_the_formulas(rows: int, classes: int) -> None:
    _, p, y = draw(rows, classes)
    sums = score_batches([(p, y)], "probabilities", top=3, bins=7)
    agree(sums, judged(p, y, np.ones(rows), p, min(3, classes), 7))


@pytest.mark.parametrize(("rows", "classes"), SHAPES)
def test_logits_are_judged_by_the_formulas(rows: int, classes: int) -> None:
    z, p, y = draw(rows, classes)
    sums = score_batches([(z, y)], "logits", top=3, bins=7)
    agree(sums, judged(p, y, np.ones(rows), z, min(3, classes), 7))


@pytest.mark.parametrize("outputs", scoring.OUTPUTS)
def test_weights_and_ignored_rows(outputs: str) -> None:
    z, p, y = draw(700, 4)
    w = np.random.default_rng(1).integers(0, 4, size=700) / 2
    given = (p if outputs == "probabilities" else z).copy()
    given[w == 0] = NAN  # whatever such a row holds
    targets = y.copy()
    targets[w == 0] = 99
    targets[w == 0.5] = -7
    sums = score_batches([(given, targets, w)], outputs, ignore_index=-7)
    agree(sums, judged(p, y, np.where(w == 0.5, 0, w), z, 4, 15))


@pytest.mark.parametrize("outputs", scoring.OUTPUTS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_other_types_are_judged_as_the_numbers_they_hold(dtype: Any, outputs: str) -> None:
    z, p, y = draw(300, 5)
    given = (p if outputs == "probabilities" else z).astype(dtype)
    wide = given.astype(np.float64)
    expected = judged(
        wide if outputs == "probabilities" else reference.softmax(wide),
        *(y, np.ones(300), wide, 5, 15),
    )
    agree(score_batches([(given, y)], outputs), expected, 1e-6)


def test_the_loss_of_scores_is_that_of_cross_entropy() -> None:
    z, _, y = draw(1000, 7, spread=30.0)
    for scores in (z, z.astype(np.float32)):
        loss = crossent.CrossEntropy()(scores, y)
        assert score_batches([(scores, y)], "logits").loss == pytest.approx(loss, rel=1e-7)


@pytest.mark.parametrize("p", [1 - 2**-53, 1 - 1e-9, 0.75, 0.5, 0.25, 1e-9, 1e-300, 1e-310, 5e-324])
def test_both_tails_keep_their_digits(p: float) -> None:
    sums = score_batches([([[p, 1 - p]], [0])], "probabilities")
    with mpmath.workdps(50):
        true = float(-mpmath.log(mpmath.mpf(p)))
    assert sums.loss == pytest.approx(true, rel=1e-15)
    assert sums.infinite == 0
    scaled = score_batches([([[p * 0.5, (1 - p) * 0.5]], [0])], "probabilities", renormalize=True)
    assert p < 1e-320 or scaled.loss == pytest.approx(true, rel=1e-12)


def test_one_column_is_the_second_of_two_classes() -> None:
    z, _, _ = draw(200, 1)
    z, y = z[:, 0], np.arange(200) % 2
    p = 1 / (1 + np.exp(-z))
    both = np.column_stack([1 - p, p])
    expected = judged(both, y, np.ones(200), both, 2, 15)
    agree(score_batches([(p, y)], "probabilities"), expected)
    agree(score_batches([(z, y)], "logits"), expected)
    tiny = score_batches([(np.array([1e-30]), [0])], "probabilities")
    assert tiny.loss == 0.0


def test_equal_ones_count_from_the_left() -> None:
    p, y = np.full((4, 4), 0.25), [0, 0, 1, 3]
    assert score_batches([(p, y)], "probabilities").top_accuracy.tolist() == [0.5, 0.75, 0.75, 1.0]
    assert score_batches([(p * 0, y)], "logits").top_accuracy.tolist() == [0.5, 0.75, 0.75, 1.0]


def test_ranks_are_those_of_the_scores_where_their_probabilities_underflow() -> None:
    sums = score_batches([(np.array([[2000.0, 1000.0, 0.0]] * 3), [0, 1, 2])], "logits")
    assert sums.top_accuracy.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert sums.loss == pytest.approx(1000)


# Infinite ---------------------------------------------------------------------------------------


def test_an_impossible_event_costs_infinity_and_is_named() -> None:
    p = np.array([[0.5, 0.5], [1.0, 0.0]] * 200)
    y = np.zeros(400, int)
    y[[7, 399]] = 1
    batches = [(p, np.zeros(400, int)), (p, y)]
    sums = score_batches(batches, "probabilities")
    assert (sums.loss, sums.perplexity, sums.infinite) == (INF, INF, 2)
    assert sums.infinite_rows == ((1, 7), (1, 399))
    assert sums.class_loss[0] == pytest.approx(np.log(2) / 2, rel=0.01)
    assert sums.class_loss[1] == INF
    assert sums.brier == pytest.approx((0.5 * 400 + 2 * 2) / 800)


def test_clip_says_what_it_costs() -> None:
    p, y = np.array([[1.0, 0.0], [0.75, 0.25]]), [1, 1]
    for rows, outputs in ((p, "probabilities"), ([[800.0, 0.0], [np.log(3), 0]], "logits")):
        sums = score_batches([(rows, y)], outputs, clip=1e-7)
        assert sums.loss == pytest.approx((-np.log(1e-7) - np.log(0.25)) / 2, rel=1e-14)
        assert sums.infinite == 0
    assert score_batches(
        [([[2.0, 0.0]], [1])], "probabilities", clip=0.01, renormalize=True
    ).loss == (pytest.approx(-np.log(0.01)))


def test_infinite_scores_give_their_limits() -> None:
    z = np.array([[INF, 0.0, 1.0], [0.0, -INF, 1.0], [0.0, -INF, -INF]])
    sums = score_batches([(z, [0, 2, 0])], "logits")
    assert sums.loss == pytest.approx(np.log1p(np.exp(-1.0)) / 3)
    assert sums.accuracy == 1.0
    assert score_batches([(z, [1, 1, 1])], "logits").infinite == 3


def test_not_more_than_ten_positions_are_kept() -> None:
    p = np.tile([1.0, 0.0], (500, 1))
    sums = score_batches([(p, np.ones(500, int))] * 3, "probabilities")
    assert sums.infinite == 1500
    assert sums.infinite_rows == tuple((0, row) for row in range(10))


# Parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", scoring.OUTPUTS)
def test_the_same_bits_with_any_number_of_threads(
    outputs: str, set_threads: Callable[[int], None]
) -> None:
    z, p, y = draw(200_000, 10, spread=1.0)
    found = []
    for count in (1, 2, 5):
        set_threads(count)
        given = p if outputs == "probabilities" else z
        found.append(score_batches([(given, y)], outputs).values.tobytes())
    assert len(set(found)) == 1


def test_batches_of_any_size_are_cut_to_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    _, p, y = draw(1000, 3)
    p[900], y[900] = [1.0, 0.0, 0.0], 2
    whole = score_batches([(p, y)], "probabilities")
    monkeypatch.setattr(scoring, "PIECE", 300)
    cut = score_batches([(p, y)], "probabilities")
    np.testing.assert_allclose(cut.values, whole.values, rtol=1e-13)
    assert cut.infinite_rows == whole.infinite_rows == ((0, 900),)
    y[950] = 3
    with pytest.raises(ValueError, match="the label of row 950 of batch 0 is 3; it must be in"):
        score_batches([(p, y)], "probabilities")


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_parts_add_up_to_the_whole_in_any_order(sizes: list[int], order: Any) -> None:
    _, p, y = draw(sum(sizes), 3)
    p[::7] = [0.0, 0.5, 0.5]
    ends = np.cumsum(sizes)[:-1]
    batches = list(zip(np.split(p, ends), np.split(y, ends), strict=True))
    parts = [score_batches([batch], "probabilities") for batch in batches]
    whole = score_batches([(p, y)], "probabilities")
    order.shuffle(parts)
    total = sum(parts)
    middle = len(parts) // 2
    other = sum(parts[:middle], whole.zero(3, 15, 3)) + sum(parts[middle:])
    for each in (total, other):
        finite = np.isfinite(whole.values)
        np.testing.assert_allclose(each.values[finite], whole.values[finite], 1e-12, 1e-12)
        assert (np.isfinite(each.values) == finite).all()
        assert (each.rows, each.infinite) == (whole.rows, whole.infinite)
    places = sorted(place for part in parts for place in part.infinite_rows)
    assert total.infinite_rows == other.infinite_rows == tuple(places[:10])


def test_nothing_to_average_is_zero() -> None:
    sums = score_batches([(np.empty((0, 3)), np.empty(0, int))], "probabilities")
    assert (sums.rows, sums.loss, sums.baseline, sums.accuracy, sums.brier) == (0, 0, 0, 0, 0)
    assert sums.top_accuracy.tolist() == [0, 0, 0]
    assert sums.reliability == []
    assert np.isnan(sums.class_loss).all()
    ignored = score_batches([([[NAN, 1.0]], [-100])], "probabilities")
    assert (ignored.rows, ignored.ignored, ignored.loss) == (0, 1, 0)


def test_inputs_are_not_written_and_may_be_read_only() -> None:
    z, p, y = draw(300, 5)
    for rows, outputs in ((z, "logits"), (p, "probabilities"), (z.T.copy().T, "logits")):
        before = rows.copy()
        rows.flags.writeable = False
        y.flags.writeable = False
        score_batches([(rows, y)], outputs)
        np.testing.assert_array_equal(rows, before)


def test_memory_of_a_batch_is_free_once_it_is_judged() -> None:
    z, _, y = draw(300, 5)
    for part in (z, y):
        part.flags.writeable = False  # as pyarrow gives them
    gone = [weakref.ref(z), weakref.ref(y)]
    gc.disable()  # nothing may wait for the collector of cycles
    try:
        score_batches([(z, y)], "logits")
        crossent.cross_entropy(z, y)
        del z, y, part
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


# Errors -----------------------------------------------------------------------------------------

P, Y = [[0.75, 0.25], [0.5, 0.5]], [0, 1]
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: score_batches([(P, Y), ([[0.5, NAN]], [0])], "probabilities"),
        ValueError,
        "class 1 of row 0 of batch 1 is nan; a probability must be in [0, 1]",
    ),
    (
        lambda: score_batches([([[1.25, -0.25]], [0])], "probabilities"),
        ValueError,
        "class 1 of row 0 of batch 0 is -0.25; a probability must be in [0, 1]",
    ),
    (
        lambda: score_batches([(np.array([0.5, 1.5]), [0, 0])], "probabilities"),
        ValueError,
        "class 1 of row 1 of batch 0 is 1.5; a probability must be in [0, 1]",
    ),
    (
        lambda: score_batches([([[2.0, -1.0]], [0])], "probabilities", renormalize=True),
        ValueError,
        "class 1 of row 0 of batch 0 is -1.0; a probability must be finite, at least 0",
    ),
    (
        lambda: score_batches([(P, Y), ([*P, [0.5, 0.25]], [*Y, 0])], "probabilities"),
        ValueError,
        "the probabilities of row 2 of batch 1 sum to 0.75; they must sum to 1 (to 0.0001) unless "
        "renormalize is set",
    ),
    (
        lambda: score_batches([([[0.0, 0.0]], [0])], "probabilities", renormalize=True),
        ValueError,
        "the probabilities of row 0 of batch 0 sum to 0.0; what they are divided by must be finite "
        "and above 0",
    ),
    (
        lambda: score_batches([([[0.5, NAN]], [0])], "logits"),
        ValueError,
        "the logits of row 0 of batch 0 have no softmax: [0.5, nan]; there must be no NaN, not "
        "more than one +inf, and not only -inf",
    ),
    (
        lambda: score_batches([(P, [0, 2])], "probabilities"),
        ValueError,
        "the label of row 1 of batch 0 is 2; it must be in [0, 1] or the ignore_index -100",
    ),
    (
        lambda: score_batches([], "logits"),
        ValueError,
        "batches is empty; there must be at least one",
    ),
    (
        lambda: score_batches([(P,)], "logits"),
        ValueError,
        "batch 0 has 1 members; it must be (predictions, targets) or (predictions, targets, "
        "sample_weight)",
    ),
    (
        lambda: score_batches([(np.zeros((2, 2, 2)), Y)], "logits"),
        ValueError,
        "predictions of batch 0 has shape (2, 2, 2); it must have shape (n, C), or (n,) for the "
        "second of two classes",
    ),
    (
        lambda: score_batches([(np.array([[1, 0]]), [0])], "logits"),
        TypeError,
        "predictions of batch 0 has dtype int64; it must be float16, bfloat16, float32 or float64",
    ),
    (
        lambda: score_batches([(P, P)], "logits"),
        TypeError,
        "targets of batch 0 has dtype float64; it must be class indices",
    ),
    (
        lambda: score_batches([(P, Y, [1.0, -1.0])], "logits"),
        ValueError,
        "sample_weight[1] is -1.0; a weight must be finite, >= 0",
    ),
    (
        lambda: score_batches([(P, Y)], "scores"),
        ValueError,
        "outputs is 'scores'; it must be one of ('probabilities', 'logits')",
    ),
    (
        lambda: score_batches([(P, Y)], "logits", renormalize=True),
        ValueError,
        "renormalize is set, but logits have a softmax that sums to 1; unset it",
    ),
    (
        lambda: score_batches([(P, Y)], "logits", clip=1.0),
        ValueError,
        "clip is 1.0; it must be below 1",
    ),
    (
        lambda: score_batches([(P, Y)], "logits", top=0),
        ValueError,
        "top is 0; it must be at least 1",
    ),
    (
        lambda: score_batches([(P, Y), (np.zeros((1, 3)), [0])], "logits"),
        ValueError,
        "these sums are over 2 classes, 15 bins and the top 2, the others over 3, 15 and 3; they "
        "must be alike to be added",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), [pytest.param(*row, id=row[2][:60]) for row in BAD]
)
def test_bad_input(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_the_first_bad_row_is_named_whatever_comes_after() -> None:
    _, p, y = draw(5000, 3)
    p[4000], p[3000, 1], y[4500] = 0.0, NAN, 3
    with pytest.raises(ValueError, match=r"^class 1 of row 3000 of batch 0 is nan"):
        score_batches([(p, y)], "probabilities")
