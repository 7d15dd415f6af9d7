"""Predictions in files: scored, beside just reading them and beside scikit-learn's log_loss."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

import crossent
from benchmarks.measure import Call, Case, Prepare, Target
from benchmarks.peers import installed

ROWS, CLASSES = 10_000_000, 10
FEW, MANY = 1_000_000, 50_000_000
MOST_MEMORY = 400e6  # bytes
BATCH, GROUP = 1 << 17, 1 << 18  # rows
DRAWN = 4  # groups that differ; the others repeat them: drawing takes longer than writing
PATTERN = ("--target", "y", "--probabilities", "p_*")

BY_HAND = """
import sys
import numpy as np
from pyarrow import parquet
from sklearn.metrics import log_loss
table = parquet.read_table(sys.argv[1])
p = np.column_stack([table[f"p_{j}"] for j in range(10)])
print(log_loss(table["y"].to_numpy(), p, labels=range(10)))
"""


def table() -> Iterator[tuple[str, Callable[[bool], Case]]]:
    """Yield the cases by name."""
    yield "score_arrays_1Mx10", _arrays
    yield "score_parquet_10Mx10", _parquet
    yield "score_memory", _memory


@cache
def _draw(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities in float32, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    p = crossent.softmax(2 * rng.standard_normal((rows, CLASSES), dtype=np.float32))
    labels = (rng.random((rows, 1)) > p.cumsum(axis=1)).sum(axis=1)
    return p, labels.clip(0, CLASSES - 1)


@cache
def _folder() -> Path:
    """Return a directory that is there until the end."""
    folder = tempfile.mkdtemp(prefix="crossent-benchmark-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


def _written(rows: int) -> Path:
    """Return a Parquet file of so many rows, written batch by batch."""
    import pyarrow as pa
    from pyarrow import parquet

    path = _folder() / f"{rows}.parquet"
    fields = [(f"p_{j}", pa.float32()) for j in range(CLASSES)]
    schema = pa.schema([*fields, ("y", pa.int64())])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, GROUP):
            p, labels = _draw(min(GROUP, rows - start), start // GROUP % DRAWN)
            writer.write_table(pa.table([*p.T.copy(), labels], schema=schema))
    return path


# The arithmetic alone ---------------------------------------------------------------------------


def _arrays(quick: bool) -> Case:
    p, labels = _draw(FEW // 16 if quick else FEW, 0)
    logits = np.log(p)
    ways: dict[str, Prepare] = {
        "crossent": _calling(p, labels, "probabilities"),
        "crossent, logits": _calling(logits, labels, "logits"),
    }
    if installed("sklearn"):
        ways["sklearn log_loss"] = partial(_log_loss, p, labels)
    targets = (Target("sklearn log_loss", ">=", 20, "crossent"),)
    return Case(p.nbytes + labels.nbytes, ways, targets)


def _calling(predictions: np.ndarray, labels: np.ndarray, outputs: str) -> Prepare:
    return lambda: lambda: crossent.score_batches([(predictions, labels)], outputs)


def _log_loss(p: np.ndarray, labels: np.ndarray) -> Call:
    from sklearn.metrics import log_loss

    return lambda: log_loss(labels, p, labels=range(CLASSES))


# A file -----------------------------------------------------------------------------------------


def _parquet(quick: bool) -> Case:
    """Score a file by the library and by the command, and read it without looking."""
    path = _written(ROWS // 16 if quick else ROWS)
    command = [sys.executable, "-m", "crossent", "score", str(path), *PATTERN]
    ways: dict[str, Prepare] = {
        "crossent": partial(_library, path),
        "reading the batches": partial(_read_batches, path),
        "pyarrow read_table": partial(_read_table, path),
        "crossent score": lambda: partial(_run, command),
    }
    if installed("sklearn"):
        by_hand = [sys.executable, "-c", BY_HAND, str(path)]
        ways["read_table and log_loss, a script"] = lambda: partial(_run, by_hand)
    targets = (
        Target("crossent", "<=", 1.3, "reading the batches"),
        Target("read_table and log_loss, a script", ">=", 1.5, "crossent score"),
    )
    return Case(path.stat().st_size, ways, targets, limit="reading the batches")


def _library(path: Path) -> Call:
    from crossent import tables
    from crossent.predictions import Predictions, score_parts
    from crossent.scoring import Scoring

    parts = tables.parts([path])
    predictions = Predictions.found_in(parts, "probabilities", "p_*", "y")
    return lambda: score_parts(parts, predictions, Scoring("probabilities"))


def _read_batches(path: Path) -> Call:
    from pyarrow import parquet

    def call() -> None:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            for _ in file.iter_batches(BATCH):
                pass

    return call


def _read_table(path: Path) -> Call:
    from pyarrow import parquet

    return lambda: parquet.read_table(path)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


# Memory -----------------------------------------------------------------------------------------

MEASURED = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "crossent", "score", *sys.argv[1:]], check=True,
               stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _memory(quick: bool) -> Case:
    """Look at the peak of the command's resident memory: it must not grow with the file."""
    few, many = (FEW // 16, FEW // 4) if quick else (FEW, MANY)
    peaks = {rows: _peak(_written(rows)) for rows in (few, many)}
    (_folder() / f"{many}.parquet").unlink()
    path = _folder() / f"{few}.parquet"
    checks = {
        f"{rows:,} rows in {peak / 1e6:.0f} MB, less than {MOST_MEMORY / 1e6:.0f}": partial(
            float(MOST_MEMORY).__gt__, peak
        )
        for rows, peak in peaks.items()
    }
    ways = {"crossent": partial(_library, path)}
    return Case(path.stat().st_size, ways, checks=checks)


def _peak(path: Path) -> int:
    """Return the most resident memory of the command, in bytes."""
    line = [sys.executable, "-c", MEASURED, str(path), *PATTERN]
    finished = subprocess.run(line, check=True, capture_output=True, text=True)
    return int(finished.stdout) * 1024
