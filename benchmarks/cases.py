"""What is measured, and what it is measured against.

Each case is a function of `quick` (a sixteenth of the rows) that makes its arrays when called, as
some of them fill half the memory. Contestants named "crossent" are ours: value and gradient of the
mean with `out=` given, unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import crossent
from benchmarks import estimator, head, scoring
from benchmarks.limits import COPY, READ, copies, reads
from benchmarks.measure import Call, Case, Prepare, Target
from benchmarks.peers import Work, peers, tensors, torch_loss

Make = Callable[[bool], Case]
OURS = "crossent"


def at_most(of: str, factor: float, to: str) -> Target:
    return Target(of, "<=", factor, to)


def faster_than(peer: str, factor: float) -> Target:
    return Target(peer, ">=", factor, OURS)


# Arrays -----------------------------------------------------------------------------------------


def _scores(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _labels(rows: int, classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(classes, size=rows)


def _rows(rows: int, quick: bool) -> int:
    return max(1, rows // 16) if quick else rows


def _work(
    kind: str, rows: int, classes: int, dtype: Any = np.float32, gradient: bool = True
) -> Work:
    logits = _scores(rows, classes).astype(dtype, copy=False)
    if kind == "index":
        return Work(kind, logits, _labels(rows, classes), gradient)
    p = crossent.softmax(_scores(rows, classes)[::-1]).astype(logits.dtype)
    return Work(kind, logits, p, gradient)


# Ours -------------------------------------------------------------------------------------------


def _ours(
    loss: Any, logits: np.ndarray, targets: np.ndarray, weight: np.ndarray | None = None
) -> Prepare:
    """Value and gradient into memory that is given, and has been used before."""

    def prepare() -> Call:
        out = np.zeros_like(logits)
        return lambda: loss.value_and_grad(logits, targets, weight, out=out)

    return prepare


def _value(loss: Any, work: Work) -> Prepare:
    return lambda: lambda: loss(work.logits, work.targets)


def _new(loss: Any, work: Work) -> Prepare:
    """Value and gradient into new memory, which the system must hand out page by page."""
    return lambda: lambda: loss.value_and_grad(work.logits, work.targets)


# Softmax against every peer ---------------------------------------------------------------------


def _softmax(
    kind: str, rows: int, classes: int, dtype: Any, targets: tuple[Target, ...], quick: bool
) -> Case:
    work = _work(kind, _rows(rows, quick), classes, dtype)
    loss = crossent.CrossEntropy()
    ways = {
        OURS: _ours(loss, work.logits, work.targets),
        "crossent, new gradient": _new(loss, work),
    }
    if kind == "dense":
        ways["crossent, class indices"] = _ours(
            loss, work.logits, _labels(len(work.logits), classes)
        )
    if work.logits.dtype.itemsize == 2:
        ways["crossent, float32"] = _ours(loss, work.logits.astype(np.float32), work.targets)
    return Case(
        work.bytes_moved,
        {**ways, **copies(work.logits), **peers(work)},
        targets,
        groups={"copy": COPY},
        limit="copy",
    )


def _value_only(rows: int, classes: int, targets: tuple[Target, ...], quick: bool) -> Case:
    work = _work("index", _rows(rows, quick), classes, gradient=False)
    ways = {OURS: _value(crossent.CrossEntropy(), work), **reads(work.logits), **peers(work)}
    return Case(
        work.bytes_moved,
        ways,
        targets,
        groups={"read": READ},
        limit="read",
    )


# Tensors ----------------------------------------------------------------------------------------


def _tensors(rows: int, classes: int, dtype: str, targets: tuple[Target, ...], quick: bool) -> Case:
    """Compare forward and backward of our loss on tensors with torch's, and with our arrays.

    Every call allocates its gradient.
    """
    work = _work("index", _rows(rows, quick), classes, _dtype(dtype))
    ways = {
        OURS: partial(_backward, work, lambda: crossent.cross_entropy),
        "crossent, arrays": _new(crossent.CrossEntropy(), work),
        "torch eager": partial(_backward, work, partial(torch_loss, work.kind, compiled=False)),
        "torch.compile": partial(_backward, work, partial(torch_loss, work.kind, compiled=True)),
    }
    return Case(work.bytes_moved, ways, targets)


def _backward(work: Work, make: Callable[[], Any]) -> Call:
    (z, y), loss = tensors(work), make()

    def call() -> None:
        z.grad = None
        loss(z, y).backward()

    return call


# Sigmoid ----------------------------------------------------------------------------------------


def _sigmoid(quick: bool) -> Case:
    logits = _scores(_rows(1 << 24, quick))
    soft = np.random.default_rng(1).random(len(logits), dtype=np.float32)
    work = Work("sigmoid", logits, (soft > 0.5).astype(np.float32))
    plain, weighted = crossent.BinaryCrossEntropy(), crossent.BinaryCrossEntropy(pos_weight=3.0)
    ways = {
        OURS: _ours(plain, logits, work.targets),
        "crossent, new gradient": _new(plain, work),
        "crossent, pos_weight": _ours(weighted, logits, work.targets),
        "crossent, soft targets": _ours(plain, logits, soft),
        "crossent, both": _ours(weighted, logits, soft),
        **copies(logits),
        **peers(work),
    }
    targets = (
        at_most(OURS, 2.5, "copy"),
        faster_than("torch eager", 10),
        at_most("crossent, pos_weight", 1.3, OURS),
        at_most("crossent, soft targets", 1.3, OURS),
        at_most("crossent, both", 1.3, OURS),
    )
    return Case(
        work.bytes_moved,
        ways,
        targets,
        groups={"copy": COPY},
        limit="copy",
    )


# Ours against ourselves -------------------------------------------------------------------------


def _options(rows: int, classes: int, quick: bool) -> Case:
    """Compare every option alone, and all of them, with none."""
    work = _work("index", _rows(rows, quick), classes)
    rng = np.random.default_rng(2)
    weight = rng.random(len(work.logits))
    some_ignored = np.where(rng.random(len(work.logits)) < 0.25, -100, work.targets)
    alone: dict[str, dict[str, Any]] = {
        "class_weight": {"class_weight": rng.random(classes)},
        "label_smoothing": {"label_smoothing": 0.1},
        "z_loss": {"z_loss": 1e-4},
        "temperature": {"temperature": 2.0},
        "softcap": {"softcap": 30.0},
    }
    together = {key: value for option in alone.values() for key, value in option.items()}
    without_softcap = {key: value for key, value in together.items() if key != "softcap"}

    def ours(options: dict[str, Any], targets: Any = work.targets, weight: Any = None) -> Prepare:
        return _ours(crossent.CrossEntropy(**options), work.logits, targets, weight)

    ways = {
        OURS: ours({}),
        **{name: ours(options) for name, options in alone.items()},
        "ignored rows": ours({}, some_ignored),
        "sample_weight": ours({}, weight=weight),
        "all but softcap": ours(without_softcap, some_ignored, weight),
        "all": ours(together, some_ignored, weight),
    }
    slow = {"softcap", "all"}  # a tanh for every score
    targets = tuple(
        at_most(name, 3 if name in slow else 1.5, OURS) for name in ways if name != OURS
    )
    return Case(work.bytes_moved, ways, targets)


def _odd_rows(rows: int, classes: int, quick: bool) -> Case:
    """Compare rows that could slow a loop down with ordinary ones."""
    rows = _rows(rows, quick)
    labels = _labels(rows, classes)
    loss = crossent.CrossEntropy()

    def ours(make: Callable[[np.ndarray], None]) -> Prepare:
        def prepare() -> Call:
            logits = _scores(rows, classes)
            make(logits)
            return _ours(loss, logits, labels)()

        return prepare

    def subnormal(logits: np.ndarray) -> None:
        """exp(-95) is subnormal in float32; with the mean's divisor all of them are."""
        logits *= 5
        logits -= 85
        logits[:, 0] = 10

    def equal(logits: np.ndarray) -> None:
        logits[...] = 3.5

    def masked(logits: np.ndarray) -> None:
        logits[:, 1::2] = -np.inf

    ways = {
        OURS: ours(lambda logits: None),
        "subnormal gradients": ours(subnormal),
        "equal scores": ours(equal),
        "half of them -inf": ours(masked),
    }
    targets = tuple(at_most(name, 1.5, OURS) for name in ways if name != OURS)
    return Case(2 * rows * classes * 4 + labels.nbytes, ways, targets)


def _losses(quick: bool) -> Case:
    """Show the four losses side by side, on the same scores."""
    work = _work("dense", _rows(65536, quick), 1000)
    losses = (
        crossent.CrossEntropy,
        crossent.SoftmaxBinaryCrossEntropy,
        crossent.BinaryCrossEntropy,
        crossent.QuadraticCost,
    )
    ways = {loss.__name__: _ours(loss(), work.logits, work.targets) for loss in losses}
    return Case(
        work.bytes_moved,
        {**ways, **copies(work.logits)},
        groups={"copy": COPY},
        limit="copy",
        baseline="CrossEntropy",
    )


def _widths(quick: bool) -> Case:
    """Cut the same scores into rows of many widths: no cliff between neighbours."""
    flat = _scores(_rows(1 << 24, quick))
    widths = (2, 3, 4, 5, 8, 10, 16, 17, 32, 33, 64, 100, 128, 200, 256, 257, 300, 512, 1000, 4096)
    loss = crossent.CrossEntropy()

    def ours(classes: int) -> Prepare:
        logits = flat[: len(flat) // classes * classes].reshape(-1, classes)
        return _ours(loss, logits, _labels(len(logits), classes))

    names = {width: f"{width} classes" for width in widths}
    neighbours = [(a, b) for a, b in pairwise(widths) if b <= 1.3 * a]
    targets = tuple(at_most(names[b], 1.3, names[a]) for a, b in neighbours)
    ways = {name: ours(width) for width, name in names.items()}
    return Case(2 * flat.nbytes, ways, targets, baseline=names[10])


def _one_row(quick: bool) -> Case:
    """Measure a call that has next to nothing to compute."""
    work = _work("index", 1, 10)
    loss = crossent.CrossEntropy()
    ways = {
        OURS: _ours(loss, work.logits, work.targets),
        "crossent, value only": _value(loss, work),
        "crossent, sigmoid": _ours(
            crossent.BinaryCrossEntropy(), work.logits, np.zeros_like(work.logits)
        ),
        **peers(work),
    }
    ours = [name for name in ways if name.startswith(OURS)]
    targets = tuple(at_most(name, 15, "microsecond") for name in ours)
    return Case(work.bytes_moved, ways, targets)


# Growth -----------------------------------------------------------------------------------------

CLASSES = 32768
MIB_PER_ROW = CLASSES * 4 / 2**20
GROWTH = {"1 MB": 8, "8 MB": 64, "64 MB": 512, "512 MB": 4096, "4 GB": 32768, "8 GB": 66000}
ROOM = 1.2  # of what the scores take: others need memory too


def _growth(quick: bool) -> Case:
    """Go through the same scores in pieces of each size, so that none sits in the cache.

    The gradient overwrites the scores: twice the memory would not be there. 66000 rows are more
    than 2**31 scores.
    """
    sizes = {name: _rows(rows, quick) if rows > 1000 else rows for name, rows in GROWTH.items()}
    available = _available_memory()
    fitting = {n: rows for n, rows in sizes.items() if rows * CLASSES * 4 * ROOM < available}
    rows = max(fitting.values())
    logits = np.resize(_scores(64, CLASSES), (rows, CLASSES))
    labels = _labels(rows, CLASSES)
    loss = crossent.CrossEntropy()

    def in_pieces(size: int) -> Prepare:
        def call() -> None:
            for start in range(0, rows - size + 1, size):
                piece = logits[start : start + size]
                loss.value_and_grad(piece, labels[start : start + size], normalizer=rows, out=piece)

        return lambda: call

    ways = {f"crossent, {name}": in_pieces(size) for name, size in fitting.items()}
    return Case(
        2 * logits.nbytes + labels.nbytes,
        ways,
        tuple(at_most(name, 1.3, "fastest") for name in ways),
        groups={"fastest": tuple(ways)},
        baseline=next(iter(ways)),
        checks={
            f"the last of {logits.size:,} scores have the gradient they have alone": partial(
                _last_rows_are_right, logits, labels
            )
        },
        notes=tuple(
            f"{name} left out: {available / 2**30:.1f} GiB of memory are free"
            for name in sizes.keys() - fitting.keys()
        ),
    )


def _last_rows_are_right(logits: np.ndarray, labels: np.ndarray) -> bool:
    """Whether rows at the far end get the bits that they get by themselves."""
    loss, rows = crossent.CrossEntropy(), len(logits)
    last = _scores(3, CLASSES)
    logits[-3:] = last
    _, alone = loss.value_and_grad(last, labels[-3:], normalizer=rows)
    loss.value_and_grad(logits, labels, normalizer=rows, out=logits)
    return bool(np.array_equal(logits[-3:], alone))


def _available_memory() -> float:
    """Return the bytes that can be used, as far as the system tells."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return 4 * 2**30
    return int(path.read_text(encoding="ascii").split("MemAvailable:")[1].split()[0]) * 1024


# The table --------------------------------------------------------------------------------------

LONG = (
    at_most(OURS, 2.2, "copy"),
    faster_than("torch eager", 12),
    faster_than("torch.compile", 6),
    faster_than("JAX optax", 5),
)
SHORT = (faster_than("torch eager", 12), faster_than("JAX optax", 3))
VALUE = (
    at_most(OURS, 2.5, "read"),
    faster_than("torch eager", 6),
    faster_than("torch.compile", 1.2),
)
DOUBLE = (faster_than("torch eager", 4),)
HALF = (at_most(OURS, 1.0, "crossent, float32"),)
TENSORS = (
    faster_than("torch eager", 8),
    faster_than("torch.compile", 4),
    at_most(OURS, 1.1, "crossent, arrays"),
)
HALF_TENSORS = (faster_than("torch eager", 6), at_most(OURS, 1.1, "crossent, arrays"))
DENSE = (at_most(OURS, 2, "crossent, class indices"),)
MILLION = 1_000_000


def _table() -> Iterator[tuple[str, Make]]:
    yield "softmax_4096x32768", partial(_softmax, "index", 4096, 32768, np.float32, LONG)
    yield "softmax_65536x1000", partial(_softmax, "index", 65536, 1000, np.float32, LONG)
    for classes in (2, 3, 5, 10, 32, 100, 256, 300):
        name = f"softmax_1Mx{classes}"
        yield name, partial(_softmax, "index", MILLION, classes, np.float32, SHORT)
    yield "softmax_widths", _widths
    yield "sigmoid_16M", _sigmoid
    yield "value_4096x32768", partial(_value_only, 4096, 32768, VALUE)
    yield "value_1Mx10", partial(_value_only, MILLION, 10, ())
    yield "float64_65536x1000", partial(_softmax, "index", 65536, 1000, np.float64, DOUBLE)
    yield "float64_1Mx10", partial(_softmax, "index", MILLION, 10, np.float64, DOUBLE)
    for name in ("float16", "bfloat16"):
        yield f"{name}_65536x1000", partial(_half, name, 65536, 1000)
        yield f"{name}_1Mx10", partial(_half, name, MILLION, 10)
    yield "tensors_4096x32768", partial(_tensors, 4096, 32768, "float32", TENSORS)
    yield "tensors_bfloat16_4096x32768", partial(_tensors, 4096, 32768, "bfloat16", HALF_TENSORS)
    yield "tensors_32x10", partial(_tensors, 32, 10, "float32", ())
    yield "options_65536x1000", partial(_options, 65536, 1000)
    yield "options_1Mx10", partial(_options, MILLION, 10)
    yield "dense_65536x1000", partial(_softmax, "dense", 65536, 1000, np.float32, DENSE)
    yield "dense_1Mx10", partial(_softmax, "dense", MILLION, 10, np.float32, DENSE)
    yield "odd_rows_65536x1000", partial(_odd_rows, 65536, 1000)
    yield "odd_rows_1Mx10", partial(_odd_rows, MILLION, 10)
    yield "losses_65536x1000", _losses
    yield "one_row", _one_row
    yield "growth", _growth
    yield from scoring.table()
    yield from estimator.CASES.items()
    yield from head.table()


def _dtype(name: str) -> Any:
    """Return a NumPy type; NumPy has no bfloat16 of its own."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return ml_dtypes.bfloat16


def _half(name: str, rows: int, classes: int, quick: bool) -> Case:
    return _softmax("index", rows, classes, _dtype(name), HALF, quick)


SLOW = ("fit_", "head_", "growth", "score_parquet", "score_memory")  # they come last
CASES: dict[str, Make] = dict(sorted(_table(), key=lambda case: case[0].startswith(SLOW)))

# Where peak memory is measured too, and of which contestants: a process for each takes its time.
WITH_MEMORY = {
    "softmax_4096x32768": "*",
    "softmax_65536x1000": "*",
    "softmax_1Mx10": "*",
    "sigmoid_16M": "*",
    "bfloat16_65536x1000": "*",
    "head_4096x768x32768": "*",
    **dict.fromkeys(estimator.CASES, OURS),  # others would search for their tolerance once more
}
