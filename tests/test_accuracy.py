"""Every loss and gradient against mpmath, in ulps of the true number: no absolute tolerance.

Bounds: 4 ulp for float32, 8 ulp for float64, of the true number; subnormals count in the spacing
of subnormals. Where the gradient is a difference of two numbers that may nearly be equal, no
float64 knows more than their own last bits, and the bound counts in ulps of the larger of the two:
for float64 with soft targets and for the two-term error over softmax, and for the sigmoid losses
with soft targets in either type. The softmax losses of float32 are held to the true difference all
the same, as they are computed in float64.
"""

import math

import numpy as np
import pytest
from mpmath import mp, mpf

import crossent
from benchmarks import oracle
from benchmarks.rows import LOSSES, SPREADS, draw, errors

BOUND = {"float32": 4.0, "float64": 8.0}
DTYPES = tuple(BOUND)
SOFTMAX = [name for name in LOSSES if name not in oracle.SIGMOID]


def is_difference(loss: str, kind: str, dtype: str) -> bool:
    """Return whether the gradient is held to the larger of two terms, not to their difference."""
    if loss in oracle.SIGMOID:
        return kind == "soft"
    return dtype == "float64" and (kind == "soft" or loss == "softmax_binary_cross_entropy")


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradient(dtype: str, classes: int, loss: str, kind: str) -> None:
    z, targets = draw(loss, kind, classes, dtype, SPREADS if classes < 1000 else SPREADS[-1:])
    found = errors(loss, z, targets)
    terms = is_difference(loss, kind, dtype)
    assert (found.value_terms if terms else found.value) <= BOUND[dtype]
    assert (found.gradient_terms if terms else found.gradient) <= BOUND[dtype]


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vocabulary(dtype: str, loss: str, kind: str) -> None:
    z, targets = draw(loss, kind, 50257, dtype, SPREADS[-1:])
    some = [0, 3, 8]  # uniform, certain, many small beside 64 large
    found = errors(loss, z[some], targets[some])
    terms = is_difference(loss, kind, dtype)
    assert found.value <= BOUND[dtype]
    assert (found.gradient_terms if terms else found.gradient) <= BOUND[dtype]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4, 8, 10, 16, 100, 200])
def test_of_many_rows_none_is_far_off(classes: int, weighted: bool) -> None:
    """Of a million gradients, which the few rows that mpmath looks at may not hold: 2.8 ulp."""
    rng = np.random.default_rng(classes)
    z = rng.normal(0, 5, (1_000_000 // classes, classes)).astype(np.float32)
    y = rng.integers(classes, size=len(z))
    weight = 10 ** rng.uniform(-25, 3, len(z)) if weighted else None
    normalizer = 1.0 if weighted else 720_661.8  # no power of two
    gradient = crossent.CrossEntropy().value_and_grad(z, y, weight, normalizer)[1]
    true = crossent.CrossEntropy().value_and_grad(z.astype(np.float64), y, weight, normalizer)[1]
    normal = np.abs(true) > np.finfo(np.float32).tiny
    ulp = np.spacing(np.abs(true[normal]).astype(np.float32)).astype(np.float64)
    assert (np.abs(gradient[normal] - true[normal]) / ulp).max() <= 3


@pytest.mark.parametrize("temperature", [1.0, 0.3, 7.0])
@pytest.mark.parametrize("origin", [0.0, 299.0, -299.0, 301.0, -301.0, -1e4, 1e6])
@pytest.mark.parametrize("classes", [2, 3, 10, 200])
def test_rows_far_from_zero(classes: int, origin: float, temperature: float) -> None:
    """Far as a whole row is with float32 exponentials, where temperature has been divided by."""
    rng = np.random.default_rng(classes)
    z = temperature * (origin + rng.normal(0, 15, (200_000 // classes, classes)))
    z, y = z.astype(np.float32), rng.integers(classes, size=len(z))
    loss = crossent.CrossEntropy(reduction="none", temperature=temperature)
    for found, true in zip(
        loss.value_and_grad(z, y), loss.value_and_grad(z.astype(np.float64), y), strict=True
    ):
        ulp = np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)
        assert (np.abs(found - true) / ulp).max() <= 3


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize(
    ("dtype", "temperature"),
    [("float32", t) for t in (1.0, 0.3, 7.0)]
    + [("float64", t) for t in (1.0, 2.0, 8.0)],  # a quotient by others is itself rounded
)
@pytest.mark.parametrize("classes", [3, 10, 300])
def test_options_that_leave_all_mass_to_one_class(
    classes: int, dtype: str, temperature: float, z_loss: float
) -> None:
    z, targets = draw("cross_entropy", "hard", classes, dtype, SPREADS)
    found = errors("cross_entropy", z, targets, temperature=temperature, z_loss=z_loss)
    assert found.value <= BOUND[dtype]
    cancels = z_loss > 0  # what it adds to the right class's gradient may be as large as the rest
    assert (found.gradient_terms if cancels else found.gradient) <= BOUND[dtype]


@pytest.mark.parametrize("temperature", [1e50, 1e20, 1e-20, 1e-40])
@pytest.mark.parametrize("classes", [2, 10, 300])
def test_temperatures_beyond_the_type(classes: int, temperature: float) -> None:
    z, targets = draw("cross_entropy", "hard", classes, "float32", SPREADS[-1:])
    z[:, 1] = -np.inf
    loss = crossent.CrossEntropy(reduction="none", temperature=temperature)
    found, true = loss.value_and_grad(z, targets), loss.value_and_grad(z.astype("f8"), targets)
    with np.errstate(over="ignore"):
        for mine, exact in zip(found, true, strict=True):
            np.testing.assert_allclose(mine, exact.astype("f4"), rtol=1e-6)


@pytest.mark.parametrize("classes", [3, 12, 300])
def test_a_gradient_beyond_the_type_is_infinite(classes: int) -> None:
    z = np.linspace(-1, 1, 4 * classes, dtype=np.float32).reshape(4, classes)
    loss = crossent.CrossEntropy(reduction="sum")
    gradient = loss.value_and_grad(z, np.zeros(4, int), np.full(4, 1e300))[1]
    assert (gradient[:, 0] == -np.inf).all()
    assert (gradient[:, 1:] == np.inf).all()


# Sums ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_many_add_no_error(dtype: str, loss: str) -> None:
    rng = np.random.default_rng(5)
    z = rng.normal(0, 4, (20_000, 3)).astype(dtype)
    y = rng.integers(3, size=len(z))
    targets = np.eye(3)[y] if loss in oracle.SIGMOID else y
    each = LOSSES[loss](reduction="none")(z.astype(np.float64), targets)
    total = LOSSES[loss](reduction="sum")(z, targets)
    assert oracle.ulps(total, mpf(math.fsum(each.flat))) <= BOUND[dtype]


@pytest.mark.parametrize("loss", oracle.SIGMOID)
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_outputs_deep_in_the_tail(dtype: str, loss: str) -> None:
    z, y = np.full((2, 50257), -80, dtype), np.zeros((2, 50257), dtype)  # each one still normal
    value = LOSSES[loss](reduction="batchmean")(z, y)
    with mp.workdps(60):
        one = mp.log1p(mp.exp(-80)) if loss == "binary_cross_entropy" else mp.exp(-160) / 2
        assert oracle.ulps(value, 50257 * one) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_that_are_all_equal(dtype: str) -> None:
    """All are rounded alike, so nothing averages out: 2.0 and 3.3 ulp."""
    bound = {"float32": 2.5, "float64": 4.0}[dtype]
    loss, rng = crossent.BinaryCrossEntropy(), np.random.default_rng(6)
    for z in np.concatenate([np.linspace(0, 10, 200), rng.uniform(0, 80, 100)]).astype(dtype):
        with mp.workdps(60):
            true = mp.log1p(mp.exp(-mpf(float(z))))
        for count in (1, 2, 3, 17, 512, 700):
            value = loss(np.full(count, z), np.ones(count, dtype))
            assert oracle.ulps(value, true) <= bound


@pytest.mark.parametrize("classes", [2, 3, 8, 16, 17, 192])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_all_equal(dtype: str, classes: int) -> None:
    """A tile takes the logarithm of a product, which has to fit into float64: 1.3 and 1.6 ulp."""
    loss, rng = crossent.CrossEntropy(), np.random.default_rng(classes)
    for spread in (0.0, 0.1, 1.0, 5.0, 25.0):
        row = rng.normal(0, spread, classes).astype(dtype)
        for y in {int(row.argmax()), int(row.argmin()), 1}:
            with mp.workdps(60):
                true = mp.log(mp.fsum(mp.exp(mpf(float(s)) - float(row[y])) for s in row))
            for count in (1, 2, 17, 128, 224, 700):
                value = loss(np.tile(row, (count, 1)), np.full(count, y))
                assert oracle.ulps(value, true) <= 2


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_many_rows_deep_in_the_tail(classes: int) -> None:
    """Losses too small for normal float32 make a sum that is not: 0.2 ulp."""
    z = np.zeros((100_000, classes), np.float32)
    z[:, 1:] = -96.7
    value = crossent.CrossEntropy(reduction="sum")(z, np.zeros(len(z), int))
    with mp.workdps(60):
        true = len(z) * mp.log1p((classes - 1) * mp.exp(mpf(float(z[0, 1]))))
        assert oracle.ulps(value, true) <= 0.5


# Tails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "gaps"), [("float32", (80, 104)), ("float64", (700, 746))])
def test_subnormal_numbers(dtype: str, gaps: tuple[int, int], loss: str) -> None:
    z = np.linspace(*gaps, 49).astype(dtype)
    scores = np.stack([z, np.zeros_like(z)], axis=1)
    signs = np.array([[1.0, 0.0]]) if loss in oracle.SIGMOID else np.zeros(len(z), int)
    right = np.broadcast_to(signs, scores.shape) if loss in oracle.SIGMOID else signs
    for targets in (right, 1 - right):  # right and certain, wrong and certain
        found = errors(loss, scores, targets)
        assert found.value <= BOUND[dtype]
        assert found.gradient <= BOUND[dtype]


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [300.0, 730.0, 800.0, 3000.0])
def test_gaps_beyond_exp(gap: float, dtype: str, loss: str) -> None:
    z = np.array([[gap, 0.0, -3.0], [0.0, 1.0, gap]], dtype)
    for targets in ([0, 2], [1, 0], [2, 1]):
        found = errors(loss, z, np.array(targets))
        assert found.value <= BOUND[dtype]
        assert found.gradient_terms <= BOUND[dtype]


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("classes", [2, 12, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_differences_wider_than_the_type(dtype: str, classes: int, temperature: float) -> None:
    z = np.full((2, classes), -np.finfo(dtype).max, dtype)
    z[0, 1] = z[1, 0] = np.finfo(dtype).max
    loss = crossent.CrossEntropy(reduction="none", temperature=temperature)
    value, gradient = loss.value_and_grad(z, [0, 0])
    np.testing.assert_array_equal(value, [np.inf, 0.0])  # twice that is beyond the type
    slope = np.zeros((2, classes))
    slope[0, :2] = -1.0, 1.0
    np.testing.assert_array_equal(gradient, slope / temperature)


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-300, 1e-60, 1e-40, 1.0, 1e40, 1e300])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_size_of_weights_cancels_in_the_mean(dtype: str, loss: str, size: float) -> None:
    z = np.array([[1.0, -2.0], [-30.0, 30.0], [0.5, 0.25]], dtype)
    targets = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype)
    weight = np.array([1.0, 2.0, 5.0]) * size
    value, gradient = LOSSES[loss]().value_and_grad(z, targets, weight)
    true = oracle.truth(loss, {}, z, targets, weight)
    assert oracle.ulps(value, true.value) <= BOUND[dtype]
    assert oracle.ulps(gradient, true.gradient, true.larger_term).max() <= BOUND[dtype]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_weights_do_not_magnify_rounding_of_subnormals(dtype: str, loss: str) -> None:
    if (dtype, loss) == ("float32", "binary_cross_entropy"):
        dtype = "float64"  # each output is rounded to float32 on its own, subnormal or not
    z = np.array([[100.0, 0.0], [100.0, -3.0]], dtype)
    targets = np.array([0, 0]) if loss in SOFTMAX else np.array([[1.0, 0.0], [1.0, 0.0]], dtype)
    options = {"reduction": "sum"}
    weight = [1e6, 3e9]
    value, gradient = LOSSES[loss](**options).value_and_grad(z, targets, weight)
    true = oracle.truth(loss, options, z, targets, weight)
    assert oracle.ulps(value, true.value) <= BOUND[dtype]
    assert oracle.ulps(gradient, true.gradient, true.larger_term).max() <= BOUND[dtype]


# Activations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 2, 10, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_and_its_logarithm(dtype: str, classes: int) -> None:
    z, _ = draw("cross_entropy", "hard", classes, dtype, SPREADS)
    with mp.workdps(60 + 100):
        p = np.array([oracle.softmax(row.tolist(), [1] * classes) for row in oracle.exactly(z)])
        assert oracle.ulps(crossent.softmax(z), p).max() <= BOUND[dtype]
        log_p = np.frompyfunc(mp.log, 1, 1)(p)
        assert oracle.ulps(crossent.log_softmax(z), log_p).max() <= BOUND[dtype]


@pytest.mark.parametrize("classes", [1, 2, 10, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logsumexp(dtype: str, classes: int) -> None:
    """max + ln(sum) may cancel, so the bound is in ulps of the larger of the two."""
    z, _ = draw("cross_entropy", "hard", classes, dtype, SPREADS)
    with mp.workdps(60 + 100):
        rows = oracle.exactly(z)
        true = np.array([mp.log(mp.fsum(map(mp.exp, row))) for row in rows])
        larger = np.array(
            [max(abs(max(row)), t - max(row)) for row, t in zip(rows, true, strict=True)]
        )
    assert oracle.ulps(crossent.logsumexp(z), true, larger).max() <= BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_its_logarithm(dtype: str) -> None:
    z = np.linspace(-110, 110, 2001).astype(dtype)
    with mp.workdps(60 + 100):
        a = 1 / (1 + np.frompyfunc(mp.exp, 1, 1)(-oracle.exactly(z)))
        assert oracle.ulps(crossent.sigmoid(z), a).max() <= BOUND[dtype]
        log_a = np.frompyfunc(mp.log, 1, 1)(a)
        assert oracle.ulps(crossent.log_sigmoid(z), log_a).max() <= BOUND[dtype]


# Half types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_float16_is_float32_rounded_once(loss: str) -> None:
    z, targets = draw(loss, "hard", 10, "float16", SPREADS[:2])
    value, gradient = LOSSES[loss](reduction="none").value_and_grad(z, targets)
    wide_value, wide_gradient = LOSSES[loss](reduction="none").value_and_grad(
        z.astype(np.float32), targets
    )
    assert (value.dtype, gradient.dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(value, wide_value)
    np.testing.assert_array_equal(gradient, wide_gradient.astype(np.float16))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("loss", LOSSES)
def test_targets_of_a_half_type_are_the_numbers_they_stand_for(loss: str, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")
    rng = np.random.default_rng(0)
    for classes in (5, 300):
        z = rng.standard_normal((40, classes))
        c = crossent.softmax(-z).astype(getattr(ml_dtypes, dtype, dtype))
        for weight in (None, rng.random(40)):
            law, given = LOSSES[loss](), (z, c, weight)
            wide = (z, c.astype(np.float32), weight)
            for narrow_part, wide_part in zip(
                law.value_and_grad(*given), law.value_and_grad(*wide), strict=True
            ):
                np.testing.assert_array_equal(narrow_part, wide_part)
            assert law.sums(*given) == law.sums(*wide)
            np.testing.assert_array_equal(law.hvp(z, c, z), law.hvp(z, wide[1], z))
