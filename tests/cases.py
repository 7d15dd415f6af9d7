"""One table of cases: what a loss may be given. The tests state laws that hold for every row of it.

A case is plain data: names, numbers, nested lists. It belongs to no framework, so every front end
can be held to the same table, a page in JavaScript too: `as_json` writes it down, with the numbers
JSON lacks as the strings "inf", "-inf" and "nan".

* targets: nested lists of int are class indices (softmax) or 0 and 1 (sigmoid), of float are
  probabilities.
* dtype: "float64", "float32", "float16" or "bfloat16"; numbers of a case are representable in it.
  NumPy has no bfloat16 of its own: `Case.arrays` then asks for the package ml_dtypes.
* Empty logits, [], stand for no rows of three: shape (0, 3).
* layout: how the arrays lie in memory, see LAYOUTS. It changes no answer.
* No answer is stored: benchmarks/oracle.py computes it to 60 digits, limits and NaN included.

The few numbers that no rule of design says anything about are left out: the gradient of the
two-term error where more than two classes share a row with +inf on a wrong class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

INF, NAN = math.inf, math.nan
SOFTMAX = ("cross_entropy", "softmax_binary_cross_entropy")
SIGMOID = ("binary_cross_entropy", "quadratic_cost")
REDUCTIONS = ("none", "sum", "mean", "batchmean")


@dataclass(frozen=True)
class Case:
    """A call of a loss."""

    name: str
    loss: str
    logits: Any
    targets: Any
    options: dict[str, Any] = field(default_factory=dict)
    sample_weight: Any = None
    normalizer: float | None = None
    dtype: str = "float64"
    layout: str = "C"

    def arrays(self) -> tuple[Any, Any, Any]:
        """Return logits, targets and sample weights as NumPy arrays, in the case's layout."""
        logits = np.array(self.logits, numpy_type(self.dtype))
        targets = np.array(self.targets)
        if self.logits == []:
            logits = logits.reshape(0, 3)
            targets = targets.reshape(0, 3) if self.loss in SIGMOID else targets.astype(np.int64)
        if targets.dtype.kind == "f":
            targets = targets.astype(logits.dtype)
        weight = None if self.sample_weight is None else np.array(self.sample_weight)
        lay_out = LAYOUTS[self.layout]
        return lay_out(logits), lay_out(targets), None if weight is None else lay_out(weight)

    def __str__(self) -> str:
        return f"{self.loss}-{self.name}"


def numpy_type(name: str) -> Any:
    """Return the NumPy type of the name; ImportError for bfloat16 without ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def as_json(cases: tuple[Case, ...]) -> str:
    """Return the cases as JSON; numbers it lacks become strings."""
    return json.dumps([plain(asdict(case)) for case in cases], allow_nan=False, indent=1)


def plain(value: Any) -> Any:
    """Return the value with the floats that JSON lacks as strings."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# Layouts: the same numbers, lying differently ----------------------------------------------------


def every_other(array: Any) -> Any:
    """Return the array as every other entry of a larger one."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]) if array.ndim else (), array.dtype)
    view = wide[..., ::2] if array.ndim else wide
    view[...] = array
    return view


def backwards(array: Any) -> Any:
    """Return the array as a view with negative strides."""
    return np.flip(np.flip(array).copy())


def read_only(array: Any) -> Any:
    """Return a copy that must not be written."""
    array = array.copy()
    array.flags.writeable = False
    return array


def misaligned(array: Any) -> Any:
    """Return the array at an address that is no multiple of its item size."""
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    view = memory.view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def other_byte_order(array: Any) -> Any:
    """Return the numbers with their most significant byte first."""
    return array.astype(array.dtype.newbyteorder(">"))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "C": lambda array: array.copy("C"),
    "Fortran": lambda array: array.copy("F"),
    "every other": every_other,
    "backwards": backwards,
    "read-only": read_only,
    "misaligned": misaligned,
    "big-endian": other_byte_order,
}


# Softmax losses ----------------------------------------------------------------------------------

Z = [[2.0, 1.0, 0.125], [0.0, -1.0, 3.0], [-2.0, 0.5, 0.75], [1.0, 1.0, 1.0]]
Y = [0, 2, 1, 0]
SOFT = [[0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5]]
WEIGHT = [1.0, 0.5, 2.0, 3.0]
ALL_OPTIONS = {
    "class_weight": [0.5, 2.0, 1.5],
    "label_smoothing": 0.25,
    "z_loss": 0.125,
    "softcap": 4.0,
    "temperature": 0.5,
}


def one_hot(labels: list[int], classes: int) -> list[list[float]]:
    return [[float(j == label) for j in range(classes)] for label in labels]


def wave(rows: int, classes: int, height: float = 8.0) -> list[list[float]]:
    """Return many different scores by a formula that any language has (exact in float32)."""
    return [
        [height * ((i * 37 + j * 101) % 257 - 128) / 128 for j in range(classes)]
        for i in range(rows)
    ]


def maker_of_cases(loss: str, usual_targets: Any) -> Callable[..., Case]:
    """Return what makes a case of a loss; scores and targets are the usual ones unless given."""

    def case(
        name: str,
        logits: Any = Z,
        targets: Any = usual_targets,
        weight: Any = None,
        normalizer: float | None = None,
        **options: Any,
    ) -> Case:
        return Case(name, loss, logits, targets, options, weight, normalizer)

    return case


def softmax_cases(loss: str) -> list[Case]:
    """Return the cases of either loss over softmax."""
    case = maker_of_cases(loss, Y)
    certain = [[40.0, 0.0, -3.0], [90.0, 0.0, 0.0], [600.0, 0.0, 1.0]]
    cubes = [[Z[0], Z[1]], [Z[2], Z[3]]]
    small = [[(i + j) % 7 / 1024 for j in range(300)] for i in range(3)]
    each = {"reduction": "none"}
    return [
        case("indices"),
        case("probabilities", Z, SOFT),
        case("one-hot", Z, one_hot(Y, 3)),
        case("probabilities that do not sum to 1", Z, [[0.25, 0.5, 0.0]] * 4),
        case("no probability in a row", Z, [[0.0] * 3, *SOFT[1:]]),
        case("normalizer", Z, Y, WEIGHT, 10.0),
        *(case(f"weighted, {name}", Z, Y, WEIGHT, reduction=name) for name in REDUCTIONS),
        *(case(f"probabilities, {name}", Z, SOFT, WEIGHT, reduction=name) for name in REDUCTIONS),
        *(case(f"no rows, {name}", [], [], reduction=name) for name in REDUCTIONS),
        case("smoothed", label_smoothing=0.1),
        case("smoothed probabilities", Z, SOFT, label_smoothing=0.3),
        case("smoothed away", label_smoothing=1.0),
        case("ties", [[1.0, 1.0, 1.0], [5.0, 5.0, -5.0], [5.0, 5.0, -5.0]], [1, 0, 2]),
        case("tied probabilities", [[1.0, 1.0, 1.0], [5.0, 5.0, -5.0]], SOFT[:2]),
        case("right and certain", certain, [0, 0, 0]),
        case("wrong and certain", certain, [1, 1, 1]),
        case("certain, probabilities", certain[:2], SOFT[:2]),
        case("far from 0", [[1e6 + 1, 1e6, 1e6 - 1], [-1e6, -1e6 - 2, -1e6]], [0, 1]),
        case("gap of 3000, right", [[3000.0, 0.0, -1.0]], [0]),
        case("gap of 3000, wrong", [[3000.0, 0.0, -1.0]], [1]),
        case("ignored", Z, [0, -100, 1, -100]),
        case("ignored whatever it holds", [[NAN, INF, 1.0], *Z[1:]], [-100, 2, 1, 0]),
        case("a class that is ignored", Z, [0, 1, 1, 2], ignore_index=1),
        case("ignore_index -1", Z, [0, -1, 1, 2], ignore_index=-1),
        case("all ignored", Z, [-100] * 4),
        case("all ignored, none", Z, [-100] * 4, **each),
        case("weight 0", Z, Y, [0.0, 1.0, 0.0, 2.0]),
        case("weight 0 whatever it holds", [[NAN] * 3, [INF] * 3, *Z[2:]], Y, [0.0, 0.0, 1.0, 2.0]),
        case("weight 0, probabilities", [[NAN] * 3, [INF] * 3, *Z[2:]], SOFT, [0.0, 0.0, 1.0, 2.0]),
        case("all weights 0", [[NAN] * 3, *Z[1:]], Y, [0.0] * 4),
        case("-inf", [[-INF, 1.0, 2.0], [0.0, -INF, 1.0], [0.5, 1.0, -INF]], [1, 0, 1]),
        case("-inf, probabilities", [[-INF, 1.0, 2.0], [-INF, 0.0, 1.0]], [[0.0, 0.5, 0.5]] * 2),
        case("-inf on the target", [[-INF, 1.0, 2.0], *Z[1:]], [0, 2, 1, 0], **each),
        case("-inf with probability", [[-INF, 1.0, 2.0], *Z[1:]], SOFT, **each),
        case("-inf but one", [[-INF, 1.0, -INF]], [1]),
        case("only -inf", [[-INF] * 3, *Z[1:]], Y, **each),
        case("+inf, right", [[INF, 1.0, -INF], *Z[1:]], Y, **each),
        case("+inf, wrong", [[INF, 1.0], [0.5, 1.0]], [1, 0], **each),
        case("two +inf", [[INF, INF, 0.0], *Z[1:]], Y, **each),
        case("two +inf, probabilities", [[INF, INF, 0.0], *Z[1:]], SOFT, **each),
        case("NaN", [[NAN, 1.0, 0.0], *Z[1:]], Y, **each),
        case("NaN, probabilities", [*Z[:3], [0.0, 1.0, NAN]], SOFT, **each),
        case("NaN beside +inf", [[NAN, INF, 0.0], *Z[1:]], Y, **each),
        case("one class", [[3.0], [-2.0]], [0, 0]),
        case("one class, probabilities", [[3.0], [-2.0]], [[1.0], [1.0]]),
        case("two classes", [[3.0, 1.0], [-2.0, 0.5]], [0, 0]),
        case("one row", Z[0], 0),
        case("one row, probabilities", Z[0], SOFT[0]),
        case("one row, none", Z[0], 0, **each),
        case("first axis", turned(Z), Y, axis=0),
        case("first axis, probabilities", turned(Z), turned(SOFT), axis=0),
        case("middle axis", [[[2.0, 1.0], [0.5, -1.0], [3.0, 0.0]]], [[0, 2]], axis=1),
        case("middle axis, none", [[[2.0, 1.0], [0.5, -1.0]]], [[0, 1]], axis=-2, **each),
        case("three axes", cubes, [[0, 2], [1, -100]], [[1.0, 2.0], [3.0, 4.0]]),
        case("three axes, probabilities", cubes, [SOFT[:2], SOFT[2:]]),
        case("many rows", wave(300, 3), [i % 3 for i in range(300)]),
        case("many rows, smoothed", wave(300, 3), [i % 3 for i in range(300)], label_smoothing=0.1),
        case("long rows", wave(3, 300), [0, 299, 17]),
        case("long rows, probabilities", wave(3, 300), small),
        case("long rows, weighted", wave(3, 300), [0, 299, 17], [0.5, 2.0, 0.0]),
        case("long rows, probabilities, weighted", wave(3, 300), small, [0.5, 2.0, 0.0]),
        case("long rows, smoothed", wave(3, 300), [0, 299, -100], label_smoothing=0.1),
        case("long row with +inf", [[*wave(1, 299)[0], INF], *wave(2, 300)], [299, 0, 1]),
        case("long row with NaN", [[*wave(1, 299)[0], NAN], *wave(2, 300)], [1, 0, 1], **each),
    ]


def turned(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def cross_entropy_cases() -> list[Case]:
    """Return the cases of the options that only the one-term error has."""

    def case(name: str, targets: Any = Y, logits: Any = Z, **options: Any) -> Case:
        return Case(name, "cross_entropy", logits, targets, options)

    mixed = [0, -100, 1, 2]
    reductions = [("none", mixed), ("sum", SOFT), ("mean", SOFT), ("batchmean", mixed)]
    return [
        case("class_weight", class_weight=[0.5, 2.0, 1.5]),
        case("class_weight, probabilities", SOFT, class_weight=[0.5, 2.0, 1.5]),
        case("class_weight 0", class_weight=[0.0, 2.0, 1.0]),
        case("class_weight 0, probabilities", one_hot(Y, 3), class_weight=[0.0, 2.0, 1.0]),
        case("all class_weight 0", class_weight=[0.0] * 3),
        case("class_weight, smoothed", class_weight=[0.5, 2.0, 1.5], label_smoothing=0.2),
        case("z_loss", z_loss=0.25),
        case("z_loss, probabilities", SOFT, z_loss=0.25),
        case("softcap", softcap=2.0),
        case("softcap of inf", [0, 1], [[INF, -INF, 1.0], [INF, INF, 0.0]], softcap=2.0),
        case("softcap of NaN", [0, 1], [[NAN, 0.0, 1.0], Z[0]], softcap=2.0, reduction="none"),
        case("softcap far above", softcap=1e6),
        case("temperature", temperature=0.25),
        case("temperature, hot", SOFT, temperature=10.0),
        case("right and certain, softcap", [0, 0], SURE, softcap=1000.0),
        case("right and certain, long, softcap", [0, 0], LONG_SURE, softcap=1000.0),
        *(case(f"everything, {r}", y, **ALL_OPTIONS, reduction=r) for r, y in reductions),
        case("everything, long rows", [0, 250, -100], wave(3, 300), **LONG_OPTIONS),
    ]


SURE = [[40.0, 0.0, -3.0], [90.0, 0.0, 0.0]]
LONG_SURE = [[row[0], *[row[1]] * 298, row[2]] for row in SURE]
LONG_OPTIONS = {**ALL_OPTIONS, "class_weight": [(j % 5 + 1) / 4 for j in range(300)]}


# Sigmoid losses ----------------------------------------------------------------------------------

BITS = [[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]]


def sigmoid_cases(loss: str) -> list[Case]:
    """Return the cases of either loss over sigmoids."""
    case = maker_of_cases(loss, BITS)
    each = {"reduction": "none"}
    long = [[(i + j) % 5 / 4 for j in range(500)] for i in range(5)]
    per_output = [[1.0, 2.0, 0.0], [0.5, 0.0, 1.0], [0.0, 0.0, 0.0], [3.0, 1.0, 1.0]]
    return [
        case("bits"),
        case("0 and 1 as floats", Z, [[float(bit) for bit in row] for row in BITS]),
        case("probabilities", Z, SOFT),
        case("normalizer", Z, BITS, WEIGHT, 10.0),
        *(case(f"weighted, {name}", Z, BITS, WEIGHT, reduction=name) for name in REDUCTIONS),
        *(case(f"probabilities, {name}", Z, SOFT, WEIGHT, reduction=name) for name in REDUCTIONS),
        *(case(f"no samples, {name}", [], [], reduction=name) for name in REDUCTIONS),
        case("no samples, weighted", [], [], []),
        *(case(f"weights of outputs, {r}", Z, BITS, per_output, reduction=r) for r in REDUCTIONS),
        case("one output", [2.0, -1.0, 0.0], [1, 0, 1]),
        case("one output, weighted", [2.0, -1.0, 0.0], [1, 0, 1], [1.0, 0.0, 3.0]),
        case("a single number", 2.0, 1),
        case("a single number, none", 2.0, 0, **each),
        case(
            "three axes",
            [[Z[0], Z[1]], [Z[2], Z[3]]],
            [BITS[:2], BITS[2:]],
            [[1.0, 2.0], [3.0, 0.0]],
        ),
        case("right and certain", [[30.0, -90.0], [-600.0, 700.0]], [[1, 0], [0, 1]]),
        case("wrong and certain", [[30.0, -90.0], [-600.0, 700.0]], [[0, 1], [1, 0]]),
        case("certain, probabilities", [[30.0, -90.0]], [[0.25, 0.75]]),
        case("zeros", [[0.0, -0.0], [0.0, -0.0]], [[0, 0], [1, 1]]),
        case("inf, right", [[INF, -INF], [1.0, 2.0]], [[1, 0], [1, 1]]),
        case("inf, wrong", [[INF, -INF], [1.0, 2.0]], [[0, 1], [1, 1]], **each),
        case("inf, probabilities", [[INF, -INF], [1.0, 2.0]], [[0.5, 0.5], [0.5, 1.0]], **each),
        case("NaN", [[NAN, 1.0, 0.0], *Z[1:]], BITS, **each),
        case("weight 0 whatever it holds", [[NAN, INF, -INF], *Z[1:]], BITS, [0.0, 1.0, 2.0, 1.0]),
        case("all weights 0", [[NAN, INF, -INF], *Z[1:]], BITS, [0.0] * 4),
        case("many outputs", wave(5, 500), long),
        case("many samples", wave(900, 1), [[i % 2] for i in range(900)], [1.0, 2.0, 0.0] * 300),
    ]


def binary_cases() -> list[Case]:
    """Return the cases of the options that only the binary cross-entropy has."""

    def case(name: str, targets: Any = BITS, weight: Any = None, **options: Any) -> Case:
        return Case(name, "binary_cross_entropy", Z, targets, options, weight)

    return [
        case("pos_weight", pos_weight=[3.0]),
        case("pos_weight per output", pos_weight=[0.5, 2.0, 0.0]),
        case("pos_weight, probabilities", SOFT, pos_weight=[0.5, 2.0, 1.0]),
        case("smoothed", label_smoothing=0.1),
        case("smoothed away", SOFT, label_smoothing=1.0),
        case("everything", SOFT, WEIGHT, pos_weight=[0.5, 2.0, 1.0], label_smoothing=0.25),
    ]


# The table ---------------------------------------------------------------------------------------


def variants(case: Case) -> list[Case]:
    """Return the case in every layout and type."""
    layouts = [replace(case, name=f"{case.name}, {name}", layout=name) for name in LAYOUTS]
    types = [
        replace(case, name=f"{case.name}, {name}", dtype=name)
        for name in ("float16", "bfloat16", "float32")
    ]
    return layouts + types


def narrow(case: Case) -> Case:
    """Return the case in float32."""
    return replace(case, name=f"{case.name} in float32", dtype="float32")


WIDE = tuple(
    case
    for group in (
        *map(softmax_cases, SOFTMAX),
        cross_entropy_cases(),
        *map(sigmoid_cases, SIGMOID),
        binary_cases(),
    )
    for case in group
)
VARIANTS = tuple(
    variant
    for case in WIDE
    if case.name in ("indices", "probabilities", "bits", "smoothed", "first axis")
    for variant in variants(case)
)
CASES = (*WIDE, *map(narrow, WIDE), *VARIANTS)
