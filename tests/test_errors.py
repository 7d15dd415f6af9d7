"""Bad input gets one sentence, before anything is computed: argument, value, position, rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crossent
from benchmarks.rows import LOSSES
from cases import INF, NAN, SOFT, Y, Z

CE, BCE = crossent.CrossEntropy, crossent.BinaryCrossEntropy
TWO_TERM, QUADRATIC = crossent.SoftmaxBinaryCrossEntropy, crossent.QuadraticCost


def put(array: Any, value: float, *position: int) -> Any:
    """Return a copy with one entry changed."""
    changed = np.array(array, float)
    changed[position] = value
    return changed


OPTIONS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: CE(reduction="average"),
        ValueError,
        "reduction is 'average'; it must be one of 'none', 'sum', 'mean', 'batchmean'",
    ),
    (
        lambda: QUADRATIC(reduction=None),
        ValueError,
        "reduction is None; it must be one of 'none', 'sum', 'mean', 'batchmean'",
    ),
    (
        lambda: CE(label_smoothing=1.5),
        ValueError,
        "label_smoothing is 1.5; it must be finite, at least 0 and at most 1",
    ),
    (
        lambda: BCE(label_smoothing=NAN),
        ValueError,
        "label_smoothing is nan; it must be finite, at least 0 and at most 1",
    ),
    (
        lambda: CE(label_smoothing="0.1"),
        TypeError,
        "label_smoothing is '0.1', a str; it must be a number",
    ),
    (
        lambda: TWO_TERM(label_smoothing=True),
        TypeError,
        "label_smoothing is True, a bool; it must be a number",
    ),
    (lambda: CE(z_loss=-1), ValueError, "z_loss is -1; it must be finite, at least 0"),
    (
        lambda: CE(z_loss=10**310),
        ValueError,
        f"z_loss is {10**310}; it must be finite, at least 0",
    ),
    (
        lambda: CE(reduction=np.array(["mean", "sum"])),
        ValueError,
        f"reduction is {np.array(['mean', 'sum'])!r}; it must be one of 'none', 'sum', 'mean', "
        "'batchmean'",
    ),
    (
        lambda: CE(class_weight=[[1], [1, 2]]),
        TypeError,
        "class_weight is [[1], [1, 2]]; it must hold numbers",
    ),
    (lambda: CE(z_loss=INF), ValueError, "z_loss is inf; it must be finite, at least 0"),
    (lambda: CE(softcap=0), ValueError, "softcap is 0; it must be finite, at least 1e-300"),
    (
        lambda: CE(temperature=0.0),
        ValueError,
        "temperature is 0.0; it must be finite, at least 1e-300",
    ),
    (
        lambda: CE(temperature=None),
        TypeError,
        "temperature is None, a NoneType; it must be a number",
    ),
    (
        lambda: CE(ignore_index=1.0),
        TypeError,
        "ignore_index is 1.0, a float; it must be an integer",
    ),
    (
        lambda: CE(ignore_index=2**70),
        ValueError,
        "ignore_index is 1180591620717411303424; it must be an integer of at most 64 bits",
    ),
    (lambda: CE(axis=None), TypeError, "axis is None, a NoneType; it must be an integer"),
    (
        lambda: CE(class_weight=[1.0, -2.0]),
        ValueError,
        "class_weight[1] is -2.0; a weight must be finite, >= 0",
    ),
    (
        lambda: CE(class_weight=[1.0, NAN]),
        ValueError,
        "class_weight[1] is nan; a weight must be finite, >= 0",
    ),
    (
        lambda: CE(class_weight=[[1.0, 2.0]]),
        ValueError,
        "class_weight has shape (1, 2); it must be one-dimensional",
    ),
    (
        lambda: CE(class_weight={0: 1.0}),
        TypeError,
        "class_weight is {0: 1.0}; it must hold numbers",
    ),
    (lambda: CE(class_weight="12"), TypeError, "class_weight is '12'; it must hold numbers"),
    (
        lambda: BCE(pos_weight=[INF]),
        ValueError,
        "pos_weight[0] is inf; a weight must be finite, >= 0",
    ),
]

ARRAYS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # logits
    (
        lambda: CE()(np.array(Z, int), Y),
        TypeError,
        "logits has dtype int64; it must be float16, bfloat16, float32 or float64",
    ),
    (
        lambda: CE()(np.array(Z, complex), Y),
        TypeError,
        "logits has dtype complex128; it must be float16, bfloat16, float32 or float64",
    ),
    (lambda: CE()([["1", "2"]], [0]), TypeError, "logits is [['1', '2']]; it must hold numbers"),
    (lambda: CE()([[None, 2]], [0]), TypeError, "logits is [[None, 2]]; it must hold numbers"),
    (
        lambda: CE()([[1.0, 2.0], [3.0]], [0, 0]),
        TypeError,
        "logits is [[1.0, 2.0], [3.0]]; it must hold numbers",
    ),
    (lambda: CE()(None, [0]), TypeError, "logits is None; it must hold numbers"),
    (lambda: BCE()([1 + 2j], [0]), TypeError, "logits is [(1+2j)]; it must hold numbers"),
    (
        lambda: CE()(1.0, 0),
        ValueError,
        "logits is a single number; it needs an axis of classes",
    ),
    (
        lambda: CE()(np.zeros((2, 0)), [0, 0]),
        ValueError,
        "logits has 0 classes; there must be at least 1",
    ),
    (
        lambda: CE(axis=2)(Z, Y),
        ValueError,
        "axis is 2, but logits has 2 axes; it must be in [-2, 1]",
    ),
    (
        lambda: crossent.softmax(Z, axis=-3),
        ValueError,
        "axis is -3, but logits has 2 axes; it must be in [-2, 1]",
    ),
    (
        lambda: crossent.logsumexp(Z, axis=None),
        TypeError,
        "axis is None, a NoneType; it must be an integer",
    ),
    (lambda: crossent.sigmoid(["a"]), TypeError, "logits is ['a']; it must hold numbers"),
    # class indices
    (
        lambda: CE()(Z, [0, 7, 1, 0]),
        ValueError,
        "targets[1] is 7; a class index must be in [0, 2] or the ignore_index -100",
    ),
    (
        lambda: CE(ignore_index=-1)(Z, [0, -1, 1, -7]),
        ValueError,
        "targets[3] is -7; a class index must be in [0, 2] or the ignore_index -1",
    ),
    (
        lambda: TWO_TERM()([[Z[0], Z[1]]], [[0, 3]]),
        ValueError,
        "targets[0, 1] is 3; a class index must be in [0, 2] or the ignore_index -100",
    ),
    (
        lambda: CE()(Z[0], 7),
        ValueError,
        "targets is 7; a class index must be in [0, 2] or the ignore_index -100",
    ),
    (
        lambda: CE(label_smoothing=0.1)(Z, [3, 0, 0, 0]),
        ValueError,
        "targets[0] is 3; a class index must be in [0, 2] or the ignore_index -100",
    ),
    (
        lambda: CE()(Z, np.array([0, 2**64 - 100, 0, 0], np.uint64)),
        ValueError,
        "targets[1] is 18446744073709551516; a class index must be in [0, 2]",
    ),
    (
        lambda: CE()(Z, [0, 1]),
        ValueError,
        "targets has shape (2,), but logits has shape (4, 3) with classes on axis 1; "
        "class indices must have shape (4,)",
    ),
    (
        lambda: CE()(Z, [[1, 0, 0]] * 4),
        ValueError,
        "targets has shape (4, 3), but logits has shape (4, 3) with classes on axis 1; "
        "class indices must have shape (4,)",
    ),
    (
        lambda: CE(axis=0)(Z, Y),
        ValueError,
        "targets has shape (4,), but logits has shape (4, 3) with classes on axis 0; "
        "class indices must have shape (3,)",
    ),
    (
        lambda: CE()(Z, [True, False, True, False]),
        TypeError,
        "targets has dtype bool; it must be integer (class indices) or floating (probabilities)",
    ),
    (
        lambda: CE()(Z, ["cat", "dog", "cat", "cat"]),
        TypeError,
        "targets has dtype <U3; it must be integer (class indices) or floating (probabilities)",
    ),
    (
        lambda: CE()(Z, None),
        TypeError,
        "targets has dtype object; it must be integer (class indices) or floating (probabilities)",
    ),
    (
        lambda: CE()(Z, [[0], [1, 2]]),
        TypeError,
        "targets is [[0], [1, 2]]; it must hold numbers",
    ),
    # probabilities
    (
        lambda: CE()(Z, put(SOFT, 1.5, 2, 1)),
        ValueError,
        "targets[2, 1] is 1.5; a probability must be in [0, 1]",
    ),
    (
        lambda: TWO_TERM()(Z, put(SOFT, NAN, 3, 0)),
        ValueError,
        "targets[3, 0] is nan; a probability must be in [0, 1]",
    ),
    (
        lambda: CE(axis=0)(np.array(Z).T, put(np.array(SOFT).T, -0.5, 1, 2)),
        ValueError,
        "targets[1, 2] is -0.5; a probability must be in [0, 1]",
    ),
    (
        lambda: CE()(Z, put(SOFT, INF, 1, 0), [0.0, 1.0, 0.0, 0.0]),
        ValueError,
        "targets[1, 0] is inf; a probability must be in [0, 1]",
    ),
    (
        lambda: CE()(Z, [0.0, 1.0, 2.0, 0.0]),
        ValueError,
        "targets has shape (4,) and dtype float64; probabilities must have the shape of logits, "
        "(4, 3)",
    ),
    (
        lambda: BCE()([1.0, 2.0], [1, 2]),
        ValueError,
        "targets[1] is 2; a probability must be in [0, 1]",
    ),
    (
        lambda: BCE()([[1.0, 2.0]], [[-1, 0]]),
        ValueError,
        "targets[0, 0] is -1; a probability must be in [0, 1]",
    ),
    (
        lambda: QUADRATIC()(1.0, NAN),
        ValueError,
        "targets is nan; a probability must be in [0, 1]",
    ),
    (
        lambda: BCE()([[1.0, 2.0]], [1, 0]),
        ValueError,
        "targets has shape (2,); it must have the shape of logits, (1, 2)",
    ),
    (
        lambda: BCE()([1.0], ["yes"]),
        TypeError,
        "targets has dtype <U3; it must be integer (0 and 1) or floating (probabilities)",
    ),
    # weights
    (
        lambda: CE()(Z, Y, [1.0, 2.0]),
        ValueError,
        "sample_weight has shape (2,); it must have shape (4,)",
    ),
    (
        lambda: CE()(Z, Y, 2.0),
        ValueError,
        "sample_weight has shape (); it must have shape (4,)",
    ),
    (
        lambda: BCE()(Z, SOFT, [1.0, 2.0]),
        ValueError,
        "sample_weight has shape (2,); it must have shape (4,) or (4, 3)",
    ),
    (
        lambda: CE()(Z, Y, [1.0, -2.0, 0.0, 0.0]),
        ValueError,
        "sample_weight[1] is -2.0; a weight must be finite, >= 0",
    ),
    (
        lambda: BCE()(Z, SOFT, put(SOFT, NAN, 2, 1)),
        ValueError,
        "sample_weight[2, 1] is nan; a weight must be finite, >= 0",
    ),
    (
        lambda: CE()(Z, Y, [1.0, INF, 0.0, 0.0]),
        ValueError,
        "sample_weight[1] is inf; a weight must be finite, >= 0",
    ),
    (
        lambda: CE()(Z, Y, ["1", "2", "3", "4"]),
        TypeError,
        "sample_weight is ['1', '2', '3', '4']; it must hold numbers",
    ),
    (
        lambda: CE()(Z, Y, np.array([1j] * 2)),
        TypeError,
        "sample_weight is array([0.+1.j, 0.+1.j]); it must hold numbers",
    ),
    (
        lambda: CE(class_weight=[1.0, 2.0])(Z, Y),
        ValueError,
        "class_weight has 2 entries, but there are 3 classes",
    ),
    (
        lambda: BCE(pos_weight=[1.0, 2.0])(Z, SOFT),
        ValueError,
        "pos_weight has 2 entries, but there are 3 outputs",
    ),
    # normalizer, out, vector
    (
        lambda: CE(reduction="sum")(Z, Y, None, 4.0),
        ValueError,
        "normalizer is given, but reduction='sum' divides by nothing; it replaces the divisor of "
        "'mean' or 'batchmean'",
    ),
    (
        lambda: CE()(Z, Y, None, 0.0),
        ValueError,
        "normalizer is 0.0; it must be finite, greater than 0",
    ),
    (
        lambda: CE()(Z, Y, None, "4"),
        TypeError,
        "normalizer is '4', a str; it must be a number",
    ),
    (
        lambda: CE().value_and_grad(Z, Y, out=[[0.0] * 3] * 4),
        TypeError,
        "out is a list; it must be a NumPy array",
    ),
    (
        lambda: CE().value_and_grad(Z, Y, out=np.zeros((3, 4))),
        ValueError,
        "out has shape (3, 4) and dtype float64; it must be like logits, (4, 3) and float64",
    ),
    (
        lambda: CE().value_and_grad(Z, Y, out=np.zeros((4, 3), np.float32)),
        ValueError,
        "out has shape (4, 3) and dtype float32; it must be like logits, (4, 3) and float64",
    ),
    (
        lambda: CE().value_and_grad(Z, Y, out=np.broadcast_to(0.0, (4, 3))),
        ValueError,
        "out is read-only; it must be writable",
    ),
    (
        lambda: CE().hvp(Z, Y, [1.0, 2.0, 3.0]),
        ValueError,
        "vector has shape (3,); it must have that of logits, (4, 3)",
    ),
    (
        lambda: BCE().hvp([1.0], [1], ["x"]),
        TypeError,
        "vector is ['x']; it must hold numbers",
    ),
    # given probabilities
    (
        lambda: CE().from_probabilities([[0.5, 0.4]], [0]),
        ValueError,
        "probabilities in row [0] sums to 0.9; it must sum to 1 (to 0.0001)",
    ),
    (
        lambda: CE().from_probabilities([0.5, 0.4], 0),
        ValueError,
        "probabilities sums to 0.9; it must sum to 1 (to 0.0001)",
    ),
    (
        lambda: CE().from_probabilities([[0.5, 0.5], [1.5, -0.5]], [0, 0]),
        ValueError,
        "probabilities[1, 0] is 1.5; a probability must be in [0, 1]",
    ),
    (
        lambda: BCE().from_probabilities([0.5, NAN], [0, 0]),
        ValueError,
        "probabilities[1] is nan; a probability must be in [0, 1]",
    ),
    (
        lambda: BCE().from_log_probabilities([-1.0, 0.5], [0, 0]),
        ValueError,
        "log_probabilities[1] is 0.5; it must be at most 0",
    ),
    (
        lambda: CE().from_log_probabilities([[-1.0, -1.0]], [0]),
        ValueError,
        "exp of log_probabilities in row [0] sums to 0.7357588823428847; it must sum to 1 "
        "(to 0.0001)",
    ),
    (
        lambda: CE().from_probabilities(np.array([[1, 0]]), [0]),
        TypeError,
        "probabilities has dtype int64; it must be float16, bfloat16, float32 or float64",
    ),
    (
        lambda: CE(softcap=30.0).from_probabilities([[0.5, 0.5]], [0]),
        ValueError,
        "softcap is 30.0, but it acts on logits and probabilities are given; leave it at None",
    ),
    (
        lambda: CE(temperature=2.0).from_log_probabilities([[0.0, -INF]], [0]),
        ValueError,
        "temperature is 2.0, but it acts on logits and probabilities are given; leave it at 1.0",
    ),
    (
        lambda: CE(z_loss=0.5).from_probabilities([[0.5, 0.5]], [0]),
        ValueError,
        "z_loss is 0.5, but it acts on logits and probabilities are given; leave it at 0.0",
    ),
    (
        lambda: CE(z_loss=0.5).chain_rule(Z, Y),
        ValueError,
        "z_loss is 0.5; the chain rule goes through p, so it must be 0",
    ),
    # one_hot, threads
    (
        lambda: crossent.one_hot([[0, 3]], 3),
        ValueError,
        "labels[0, 1] is 3; it must be in [0, 2]",
    ),
    (
        lambda: crossent.one_hot([0.0], 3),
        TypeError,
        "labels has dtype float64; it must be integer",
    ),
    (
        lambda: crossent.one_hot([0], 0),
        ValueError,
        "num_classes is 0; it must be at least 1",
    ),
    (
        lambda: crossent.one_hot([0], 2.5),
        TypeError,
        "num_classes is 2.5, a float; it must be an integer",
    ),
    (
        lambda: crossent.set_num_threads(0),
        ValueError,
        "threads is 0; it must be a whole number, 1 or more",
    ),
    (
        lambda: crossent.set_num_threads(2.0),
        ValueError,
        "threads is 2.0; it must be a whole number, 1 or more",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), [pytest.param(*row, id=row[2]) for row in OPTIONS + ARRAYS]
)
def test_bad_input(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
    assert type(caught.value) is error


METHODS: list[Callable[[Any, Any, Any], Any]] = [
    lambda loss, z, targets: loss(z, targets),
    lambda loss, z, targets: loss.value_and_grad(z, targets),
    lambda loss, z, targets: loss.sums(z, targets),
    lambda loss, z, targets: loss.hvp(z, targets, z),
    lambda loss, z, targets: loss.chain_rule(z, targets),
    lambda loss, z, targets: loss.from_probabilities(loss.activation(z), targets),
    lambda loss, z, targets: loss.from_log_probabilities(np.log(loss.activation(z)), targets),
    lambda loss, z, targets: getattr(crossent, loss.name)(z, targets),
]


@pytest.mark.parametrize("method", range(len(METHODS)))
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("width", [3, 300])
def test_every_path_checks_its_targets(width: int, loss: str, method: int) -> None:
    z = np.zeros((4, width))
    bad = np.full((4, width), 1 / width)
    bad[2, 1] = 1.25
    with pytest.raises(ValueError, match=r"^targets\[2, 1\] is 1\.25; a probability must be in"):
        METHODS[method](LOSSES[loss](), z, bad)
    if loss in ("cross_entropy", "softmax_binary_cross_entropy"):
        with pytest.raises(
            ValueError, match=rf"^targets\[3\] is {width}; a class index must be in"
        ):
            METHODS[method](LOSSES[loss](), z, [0, 1, 2, width])


def test_nothing_is_written_before_all_is_checked() -> None:
    out = np.full((4, 3), 7.0)
    for targets, weight in (([0, 1, 2, 3], None), (Y, [1.0, 1.0, 1.0, -1.0]), (Y, [1.0])):
        with pytest.raises(ValueError, match=r"^(targets|sample_weight)"):
            CE().value_and_grad(Z, targets, weight, out=out)
        np.testing.assert_array_equal(out, 7.0)
    with pytest.raises(ValueError, match="normalizer"):
        CE().value_and_grad(Z, Y, None, -1.0, out=out)
    np.testing.assert_array_equal(out, 7.0)


def test_long_values_are_cut_short() -> None:
    with pytest.raises(TypeError) as caught:
        CE()([["a" * 1000]], [0])
    assert len(str(caught.value)) < 120


def test_unknown_options_are_named() -> None:
    with pytest.raises(TypeError, match="label_smooting"):
        crossent.cross_entropy(Z, Y, label_smooting=0.1)
    with pytest.raises(TypeError, match="class_weight"):
        crossent.softmax_binary_cross_entropy(Z, Y, class_weight=[1.0, 1.0, 1.0])
