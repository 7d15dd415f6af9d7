"""What each trick of the kernels gains: `python -m benchmarks.tricks [--update-docs]`.

Every trick is taken out of a copy of the package, by putting one text in place of another, and a
case is timed with and without it, in processes that take turns. A gain is the median of the
ratios; numbers near 1 mean that a trick does not pay.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import DOCS, ROOT, fill

FIRST, CACHED, FEW, SIGMOID = "first call", "in the cache", "16 rows", "sigmoid"
OPTIONS: dict[str, dict[str, float]] = {  # by the text behind a case's number of classes
    "": {},
    FIRST: {},  # with nothing compiled
    CACHED: {},
    FEW: {},
    SIGMOID: {},  # outputs each on its own
    "label smoothing": {"label_smoothing": 0.1},
    "temperature": {"temperature": 2.0},
}
TURNS = 5  # of both processes
ROUNDS = 9  # timings a process, of which the least counts: others use this machine too


@dataclass(frozen=True)
class Trick:
    """A trick, why it is there, the texts that take it out, and where it shows."""

    name: str
    why: str
    file: str
    texts: tuple[tuple[str, str], ...]
    case: str


TRICKS = (
    Trick(
        "a part compiled only within its kernels",
        "Numba optimises every function, and makes machine code of it, on its own as well",
        "compiler.py",
        (('    "pipeline_class": _PartCompiler,\n', ""),),
        f"10 {FIRST}",
    ),
    Trick(
        "no garbage collector while a kernel is compiled",
        "it looks over hundreds of thousands of objects again and again, and finds next to nothing",
        "compiler.py",
        (("        gc.disable()\n", ""),),
        f"10 {FIRST}",
    ),
    Trick(
        "`borrowed` arrays",
        "Numba counts references to an array's owner, atomically, for every row that is sliced off",
        "long_rows.py",
        (
            (
                " = borrowed(logits), borrowed(targets), borrowed(gradient)",
                " = logits, targets, gradient",
            ),
        ),
        "300",
    ),
    Trick(
        "every function inlined",
        "a call hands over all fields of every array, dozens of them",
        "compiler.py",
        (('"forceinline": True', '"forceinline": False'),),
        "300",
    ),
    Trick(
        "vectors as wide as there are",
        "of 512 bits LLVM takes half, on Intel's processors; narrower ones are taken as they are",
        "compiler.py",
        (('"prefer-vector-width"="512"', '"prefer-vector-width"="256"'),),
        f"1000 {CACHED}",
    ),
    Trick(
        "memory asked for ahead, in shares",
        "a row or a tile is read in a burst, and computed on while memory is idle",
        "rows.py",
        (("            fetch_streams(memory,", "            (memory,"),),
        "1000",
    ),
    Trick(
        "four streams of it side by side",
        "by itself, a processor looks but some lines ahead in each page",
        "intrinsics.py",
        (("STREAM = 128", "STREAM = 512"), ("STREAMS = 4", "STREAMS = 1")),
        "1000",
    ),
    Trick(
        "`larger` instead of `maximum`",
        "one instruction instead of six, which tell 0 from -0 and keep NaN, of no use here",
        "rows.py",
        (
            ("larger(m, read(row[j]))", "maximum(m, read(row[j]))"),
            ("fetch_streams, larger", "fetch_streams, larger, maximum"),
        ),
        "32768",
    ),
    Trick(
        "`larger` instead of `select` for a tile's maxima",
        "what is selected in place is stored by masks, which many processors do slowly",
        "tile.py",
        (
            (
                "larger(m[i], scores[i])\n    if holds",
                "select(scores[i] > m[i], scores[i], m[i])\n    if holds",
            ),
        ),
        "10",
    ),
    Trick(
        "rows turned in registers",
        "single elements would take a load and a store each, on the way in and out",
        "turning.py",
        (("return count // lanes * lanes", "return 0"),),
        "100",
    ),
    Trick(
        "smaller tiles for few rows",
        "lanes without a row are computed, and cleared, all the same",
        "short_rows.py",
        (("FEW_LINES if rows <= FEW_LINES else LINES", "LINES"),),
        f"100 {FEW}",
    ),
    Trick(
        "up to eight classes picked out of whole vectors",
        "a square of two columns is turned at the price of one with sixteen",
        "turning.py",
        (
            ("if classes <= MOST:", "if classes < 0:"),
            ("if MOST < classes < lanes", "if classes < lanes"),
        ),
        "2",
    ),
    Trick(
        "up to eight classes told apart by comparing",
        "a loop over lanes takes vectors; going to the right class of each row, it would not",
        "../numpy.py",
        (("() if classes <= MOST else None", "None"),),
        "3",
    ),
    Trick(
        "two classes by the exponential of their difference",
        "that of the larger one is 1, and nothing is added up",
        "narrow_tile.py",
        (("if tile.shape[0] == 2:", "if tile.shape[0] < 0:"),),
        "2",
    ),
    Trick(
        "one logarithm of a product for the losses of a tile",
        "two operations a row instead of a polynomial, where only their sum is asked for",
        "tile.py",
        (("        return of_float32\n", "        pass\n"),),
        "3",
    ),
    Trick(
        "float32 exponentials where only the right class has mass",
        "a temperature or a z-loss takes nothing away from the others' share, so nothing cancels",
        "../numpy.py",
        (("base = None if", "base = base if"),),
        "1000 temperature",
    ),
    Trick(
        "one logarithm of a product for many ln(1 + e)",
        "two operations an output instead of a polynomial; nothing cancels in (1 + a) (1 + b) - 1",
        "sigmoid.py",
        (("ones = isinstance(pos_weight", "ones = False and isinstance(pos_weight"),),
        f"1000 {SIGMOID}",
    ),
    Trick(
        "polynomials two coefficients at a time",
        "half as many products wait for each other; a processor looks only so far ahead",
        "elementary.py",
        (("return fma(q, v, fma(a, x, b))", "return fma(fma(q, x, a), x, b)"),),
        "1000 label smoothing",
    ),
    Trick(
        "44 bits of exp for float32 scores with options",
        "float64 is needed for differences, all of its bits are not",
        "elementary.py",
        (("if like.dtype == types.float64:", "if like.dtype:"),),
        "1000 label smoothing",
    ),
)


def measure(case: str) -> float:
    """Return the least time of one case in this process, or that of its first call."""
    import numpy as np

    import crossent

    crossent.set_num_threads(1)
    rng = np.random.default_rng(0)
    classes, _, option = case.partition(" ")
    rows = 16 if option == FEW else (1 << (18 if option == CACHED else 23)) // int(classes)
    logits = rng.standard_normal((rows, int(classes)), dtype=np.float32)
    targets = rng.integers(int(classes), size=len(logits))
    loss: crossent.BinaryCrossEntropy | crossent.CrossEntropy
    loss = crossent.CrossEntropy(**OPTIONS[option])
    if option == SIGMOID:
        targets, loss = np.eye(int(classes), dtype=bool)[targets], crossent.BinaryCrossEntropy()
    out, times = np.zeros_like(logits), []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        loss.value_and_grad(logits, targets, out=out)
        times.append(time.perf_counter() - start)
    return times[0] if option == FIRST else min(times[1:])


def timed(package: Path, case: str) -> float:
    """Return what `measure` finds in a process with the package at a path."""
    with tempfile.TemporaryDirectory() as empty:
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.tricks", "--measure", case],
            env={
                **os.environ,
                "PYTHONPATH": str(package),
                "NUMBA_CACHE_DIR": empty if case.endswith(FIRST) else "",
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    return float(found.stdout)


def gain(trick: Trick) -> float:
    """Return how many times longer its case takes without the trick."""
    with tempfile.TemporaryDirectory() as name:
        package = Path(name)
        without = package / "without" / "crossent"
        for copy in (package / "with" / "crossent", without):
            shutil.copytree(ROOT / "src" / "crossent", copy)
        path = without / "kernels" / trick.file
        text = path.read_text(encoding="utf-8")
        for old, new in trick.texts:
            if old not in text:
                raise ValueError(f"{trick.file} no longer holds {old!r}")
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        pairs = [
            (timed(without.parent, trick.case), timed(package / "with", trick.case))
            for _ in range(TURNS)
        ]
    return statistics.median(slow / fast for slow, fast in pairs)


def table() -> str:
    """Return the tricks and their gains."""
    lines = ["| trick | why | seen at | gain |", "|---|---|---|---:|"]
    for trick in TRICKS:
        classes, _, option = trick.case.partition(" ")
        place = f"{classes} classes, {option}" if option else f"{classes} classes"
        lines.append(f"| {trick.name} | {trick.why} | {place} | {gain(trick):.2f} times |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(measure(sys.argv[2]))
        return
    found = table()
    if sys.argv[1:] == ["--update-docs"]:
        fill(DOCS / "kernels.md", "tricks", found)


if __name__ == "__main__":
    main()
