"""`crossent check`: errors and speed of every kernel, on the machine that it is run on."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

import click

from crossent.cli import output
from crossent.cli.truth import SIGMOID, Numbers, truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FORMATS = {  # digits of the significand, exponent of the smallest subnormal
    "float32": (24, -149),
    "float64": (53, -1074),
    "float16": (11, -24),
    "bfloat16": (8, -133),
}
ALLOWED = {"float32": 4.0, "float64": 8.0, "float16": 1.0, "bfloat16": 1.0}  # ulp
ROUNDED_SCORES = 64.0  # ulp of float64 behind a softcap, which rounds scores before exp sees them
SPREADS = (0.1, 1.0, 10.0, 40.0)  # of the scores: from nearly equal to deep in both tails
ROWS = 4  # of each spread
OPTIONS = {
    "label_smoothing": 0.125,
    "z_loss": 0.25,
    "softcap": 30.0,
    "temperature": 2.0,
}
SCORES = 1 << 23  # that are timed
ROUNDS = 3


@dataclass(frozen=True)
class Kernel:
    """One way through the kernels: a loss (class and options), targets, classes per row."""

    name: str
    loss: str
    targets: str  # "index", "hard" (0 and 1) or "soft"
    classes: int
    options: dict[str, Any]

    def allowed(self, dtype: str) -> tuple[float, float]:
        """Return how many ulp the losses and the gradients may be off."""
        if dtype == "float64":
            return (ROUNDED_SCORES if "softcap" in self.options else ALLOWED[dtype],) * 2
        return ALLOWED["float32"], ALLOWED[dtype]

    @property
    def softmax(self) -> bool:
        """Return whether the outputs of a row sum to 1."""
        return self.loss not in SIGMOID

    def is_difference(self, dtype: str) -> bool:
        """Return whether the gradient is a difference that keeps the last bits of its terms.

        It is then held to ulps of the larger term: what is left of two nearly equal numbers is
        known no better. Softmax losses of float32 are computed in float64 and need no such leave.
        """
        if not self.softmax:
            return self.targets == "soft"
        mixed = self.targets == "soft" or bool(self.options) or self.loss != "CrossEntropy"
        return mixed and dtype == "float64"


KERNELS = (
    Kernel("class index, short rows", "CrossEntropy", "index", 10, {}),
    Kernel("class index, long rows", "CrossEntropy", "index", 1000, {}),
    Kernel("every option, short rows", "CrossEntropy", "index", 10, OPTIONS),
    Kernel("every option, long rows", "CrossEntropy", "index", 300, OPTIONS),
    Kernel("probabilities", "CrossEntropy", "soft", 10, {}),
    Kernel("two-term softmax", "SoftmaxBinaryCrossEntropy", "index", 10, {}),
    Kernel("sigmoid, hard targets", "BinaryCrossEntropy", "hard", 10, {}),
    Kernel("sigmoid, soft targets", "BinaryCrossEntropy", "soft", 10, {"pos_weight": 3.0}),
    Kernel("quadratic cost", "QuadraticCost", "hard", 10, {}),
)


@dataclass(frozen=True)
class Found:
    """Worst errors in ulp, of the loss and of the gradient, and the time in copies."""

    kernel: str
    dtype: str
    loss: float
    loss_allowed: float
    gradient: float
    gradient_allowed: float
    copies: float

    @property
    def right(self) -> bool:
        """Return whether both errors are in bounds; NaN is not."""
        return self.loss <= self.loss_allowed and self.gradient <= self.gradient_allowed


@click.command()
@output.json_option
def check(as_json: bool) -> None:
    """Check every kernel on this machine: errors in ulp, and speed against a copy.

    The errors are the worst over rows of scores from nearly equal to deep in both tails, beside
    the true loss and gradient in 40 digits. Exits with 1 if one of them is out of bounds. A first
    run compiles the kernels and takes longer.
    """
    machine = _machine()
    found = list(_found(machine["dtypes"]))
    if as_json:
        click.echo(json.dumps({**machine, "kernels": [asdict(one) for one in found]}, indent=1))
    else:
        _print(machine, found)
    wrong = [f"{one.kernel} in {one.dtype}" for one in found if not one.right]
    if wrong:
        click.echo(f"crossent: out of bounds: {'; '.join(wrong)}", err=True)
        sys.exit(1)


def _found(dtypes: list[str]) -> Iterator[Found]:
    """Check kernel by kernel, and say on a terminal which one."""
    for dtype in dtypes:
        copy = _time_of_copy(dtype)
        for kernel in KERNELS:
            if sys.stderr.isatty():
                click.echo(f"\r\033[K{kernel.name}, {dtype}", err=True, nl=False)
            loss, gradient = worst_ulps(kernel, dtype)
            may_loss, may_gradient = kernel.allowed(dtype)
            copies = _time_of_loss(kernel, dtype) / copy
            yield Found(kernel.name, dtype, loss, may_loss, gradient, may_gradient, copies)
    if sys.stderr.isatty():
        click.echo("\r\033[K", err=True, nl=False)


def _print(machine: dict[str, Any], found: list[Found]) -> None:
    click.echo(f"processor      {machine['processor']}, vectors of {machine['vectors']}")
    click.echo(f"threads        {machine['threads']}; no threading layer of a compiler")
    click.echo(f"versions       {machine['versions']}")
    click.echo(f"left out       {machine['left_out'] or 'nothing'}\n")
    heads = ("kernel", "dtype", "loss ulp", "allowed", "gradient ulp", "allowed", "copies", "")
    output.table(
        heads,
        [
            (
                one.kernel,
                one.dtype,
                f"{one.loss:.2f}",
                f"{one.loss_allowed:g}",
                f"{one.gradient:.2f}",
                f"{one.gradient_allowed:g}",
                f"{one.copies:.2f}",
                "" if one.right else "OUT OF BOUNDS",
            )
            for one in found
        ],
    )


# The machine ------------------------------------------------------------------------------------

VECTORS = {  # what a compiler's feature means, widest first
    "avx512f": "512 bits (AVX-512)",
    "avx2": "256 bits (AVX2)",
    "avx": "256 bits (AVX)",
    "sse2": "128 bits (SSE2)",
    "sve": "128 bits or more (SVE)",
    "neon": "128 bits (NEON)",
    "vsx": "128 bits (VSX)",
}


def _machine() -> dict[str, Any]:
    import numba
    import numpy as np
    from numba.core.registry import cpu_target

    import crossent

    _, processor, features = cpu_target.target_context.codegen().magic_tuple()
    dtypes = [name for name in FORMATS if _dtype(name) is not None]
    left_out = [f"{name} (needs ml_dtypes)" for name in FORMATS if name not in dtypes]
    return {
        "processor": processor,
        "vectors": vectors(features),
        "threads": crossent.get_num_threads(),
        "versions": f"crossent {crossent.__version__}, numpy {np.__version__}, "
        f"numba {numba.__version__}",
        "dtypes": dtypes,
        "left_out": ", ".join(left_out),
    }


def vectors(features: str) -> str:
    """Return the widest vectors among the compiler's features, as "+avx2,-avx512f,..."."""
    there = {name[1:] for name in features.split(",") if name.startswith("+")}
    return next((text for name, text in VECTORS.items() if name in there), "unknown width")


def _dtype(name: str) -> Any:
    """Return the NumPy type of a name, None for bfloat16 where its package is missing."""
    import numpy as np

    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


# Errors -----------------------------------------------------------------------------------------


def worst_ulps(kernel: Kernel, dtype: str) -> tuple[float, float]:
    """Return the largest error in ulp of a kernel's losses and of its gradients."""
    import crossent

    logits, targets = _draw(kernel, dtype)
    loss = getattr(crossent, kernel.loss)(reduction="none", **kernel.options)
    values, gradient = loss.value_and_grad(logits, targets)
    wide = _wide(dtype)
    worst = [0.0, 0.0]
    for i in range(len(logits)):
        masses = _masses(kernel, targets[i])
        true = truth(kernel.loss, kernel.options, logits[i].tolist(), masses)
        unit = true.larger if kernel.is_difference(dtype) else true.gradient
        computed = values[i : i + 1].reshape(-1).tolist(), gradient[i].tolist()
        worst[0] = max(worst[0], _ulps(computed[0], true.losses, true.losses, wide))
        worst[1] = max(worst[1], _ulps(computed[1], true.gradient, unit, dtype))
    return worst[0], worst[1]


def _wide(dtype: str) -> str:
    """Return the type of losses and of targets that are probabilities."""
    return "float64" if dtype == "float64" else "float32"


def _draw(kernel: Kernel, dtype: str) -> tuple[Array, Array]:
    """Return rows of scores of every spread, and targets; every other row is right and certain."""
    import numpy as np

    rng = np.random.default_rng(0)
    long = kernel.classes > 100
    spreads = np.repeat(SPREADS[:3] if long else SPREADS, 2 if long else ROWS)
    logits = (rng.standard_normal((len(spreads), kernel.classes)) * spreads[:, None]).astype(
        _dtype(dtype)
    )
    if kernel.targets == "index":
        labels = rng.integers(kernel.classes, size=len(logits))
        labels[::2] = logits[::2].astype(np.float64).argmax(axis=1)
        return logits, labels
    soft = rng.random(logits.shape).astype(_wide(dtype))
    if kernel.targets == "hard":
        return logits, soft.round()
    return logits, soft / soft.sum(axis=1, keepdims=True) if kernel.softmax else soft


def _masses(kernel: Kernel, target: Any) -> Numbers:
    """Return the target mass of every class before smoothing."""
    if kernel.targets == "index":
        return [Decimal(int(j == target)) for j in range(kernel.classes)]
    return [Decimal(y) for y in target.tolist()]


def _ulps(computed: list[float], true: Numbers, unit: Numbers, dtype: str) -> float:
    """Return the largest |computed - true| in units of the dtype's spacing at `unit`."""
    digits, least = FORMATS[dtype]
    errors = []
    with localcontext(prec=60):
        for x, exact, size in zip(computed, true, unit, strict=True):
            exponent = max(math.frexp(float(size))[1] - digits, least) if size else least
            error = abs(Decimal(x) - exact) / Decimal(2) ** exponent
            errors.append(float(error) if error.is_finite() else math.inf)
    return max(errors)


# Speed ------------------------------------------------------------------------------------------


def _time_of_copy(dtype: str) -> float:
    """Return the seconds that all threads need to copy as many scores."""
    import numpy as np

    from crossent.threads import sum_over_rows

    source = np.ones(SCORES, _dtype(dtype))
    target = np.zeros_like(source)

    def copy(start: int, stop: int, sums: Any) -> None:
        target[start:stop] = source[start:stop]

    return _shortest(lambda: sum_over_rows(copy, SCORES, 1))


def _time_of_loss(kernel: Kernel, dtype: str) -> float:
    """Return the seconds that value and gradient of the mean need."""
    import numpy as np

    import crossent

    some_logits, some_targets = _draw(kernel, dtype)
    rows = SCORES // kernel.classes
    logits = np.resize(some_logits, (rows, kernel.classes))
    targets = np.resize(some_targets, (rows, *some_targets.shape[1:]))
    loss = getattr(crossent, kernel.loss)(**kernel.options)
    out = np.zeros_like(logits)
    return _shortest(lambda: loss.value_and_grad(logits, targets, out=out))


def _shortest(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
