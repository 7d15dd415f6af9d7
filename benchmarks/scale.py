"""The cost model of docs/scale.md against local processes: `python -m benchmarks.scale`.

With `--update-docs` the tables are put into the page. Every job is a torchrun of `crossent fit`
whose processes count what they read, compute and exchange in each look at the rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import DOCS, fill

SIZES = (1, 2, 4)
ROWS, FEATURES, CLASSES = 400_000, 20, 10
GROUP = 25_000  # rows
LIMIT = 300  # seconds
GIGA = 1e9


@dataclass(frozen=True)
class Model:
    """What one look at the rows costs each process, and all of them together.

    Attributes
    ----------
    rows, row_bytes : float
        Of the table: how many, and bytes of each in the file.
    """

    rows: float
    row_bytes: float
    features: int
    outputs: int
    processes: int

    @property
    def read(self) -> float:
        """Return the bytes that a process reads."""
        return self.rows * self.row_bytes / self.processes

    @property
    def flops(self) -> float:
        """Return the multiplications and additions of a process: two products."""
        return 4 * self.rows * self.features * self.outputs / self.processes

    @property
    def reduced(self) -> int:
        """Return the bytes that are added up over all processes: loss, gradient; their check."""
        return 8 * (1 + (self.features + 1) * self.outputs) + 16 if self.processes > 1 else 0

    @property
    def sent(self) -> float:
        """Return the bytes that a process sends if it is added up in a ring."""
        return 2 * (self.processes - 1) / self.processes * self.reduced


# In each process --------------------------------------------------------------------------------


def count(folder: str, *arguments: str) -> None:
    """Run the command line, and write what each look at the rows cost this process."""
    from crossent import layer
    from crossent.cli import main
    from crossent.distributed import Ranks

    looks: list[dict[str, float]] = []
    look, work = layer.Objective.value_and_grad, layer.Objective._sum_of_batch
    now = {"reduced": 0.0, "rows": 0.0}

    def counted(function: Any) -> Any:
        def exchange(self: Any, own: Any) -> Any:
            now["reduced"] += own.nbytes
            return function(self, own)

        return exchange

    def batch(number: int, blocks: Any, *rest: Any) -> Any:
        now["rows"] += sum(len(block.targets) for block in blocks)
        return work(number, blocks, *rest)

    def timed(self: Any, parameters: Any) -> Any:
        before, read, start = dict(now), _read_so_far(), time.process_time()
        value = look(self, parameters)
        seconds, bytes_read = time.process_time() - start, _read_so_far() - read
        costs = {name: now[name] - before[name] for name in now}
        looks.append({"seconds": seconds, "read": bytes_read, **costs})
        return value

    changes: list[tuple[type, str, Any]] = [
        (layer.Objective, "value_and_grad", timed),
        (layer.Objective, "_sum_of_batch", staticmethod(batch)),
        (Ranks, "sum", counted(Ranks.sum)),
        (Ranks, "minimum", counted(Ranks.minimum)),
    ]
    for owner, name, change in changes:
        setattr(owner, name, change)
    sys.argv[1:] = arguments
    try:
        main()
    finally:
        path = Path(folder) / os.environ.get("RANK", "0")
        path.write_text(json.dumps(looks), encoding="ascii")


def _read_so_far() -> float:
    """Return the bytes that this process has read, from the page cache too."""
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return float(text.split("rchar:")[1].split()[0])


# All of them ------------------------------------------------------------------------------------


def table(path: Path) -> float:
    """Write a table, and return the bytes of a row."""
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, FEATURES), dtype=np.float32)
    labels = (x[:, :CLASSES] + random.gumbel(size=(ROWS, CLASSES))).argmax(axis=1)
    columns = {f"x{j}": x[:, j] for j in range(FEATURES)}
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    content = pa.table({**columns, "y": labels.astype(np.int32)})
    parquet.write_table(content, path, row_group_size=GROUP, **plain)
    return path.stat().st_size / ROWS


def measured(size: int, path: Path) -> list[list[dict[str, float]]]:
    """Return the looks of each process of a job."""
    with tempfile.TemporaryDirectory() as folder:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc-per-node", str(size), "-m", "benchmarks.scale", "--count", folder]
        fit = ["fit", str(path), "--target", "y", "--stream", "--valid", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}
        done = subprocess.run(
            [*start, *fit], capture_output=True, text=True, timeout=LIMIT, env=environment
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        paths = (Path(folder) / str(rank) for rank in range(size))
        return [json.loads(path.read_text(encoding="ascii")) for path in paths]


def checked() -> Iterator[str]:
    """Yield the table of what was measured, beside the model."""
    yield (
        "| processes | rows of each | read, MB | flops, billions | summed, bytes "
        "| processor seconds |"
    )
    yield "|---:|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        row_bytes = table(path)
        alone = 0.0
        for size in SIZES:
            model = Model(ROWS, row_bytes, FEATURES, CLASSES, size)
            looks = measured(size, path)
            seconds = max(min(each["seconds"] for each in own[1:]) for own in looks)
            alone = alone or seconds
            yield line(model, looks, seconds, alone / size)
    RATE.append(ROWS / alone)


RATE: list[float] = []  # rows per second of one process, once it has been measured


def line(model: Model, looks: list[list[dict[str, float]]], seconds: float, expected: float) -> str:
    """Return a row of the table, after a look at whether the model is right."""
    second = [own[1] for own in looks]  # the first opens files
    rows = [each["rows"] for each in second]
    read = max(each["read"] for each in second)
    reduced = second[0]["reduced"]
    assert sum(rows) == model.rows, "every row is looked at once"
    assert reduced == model.reduced, f"{reduced} bytes are summed, not {model.reduced}"
    assert abs(read / model.read - 1) < 0.1, f"{read:.3g} bytes are read, not {model.read:.3g}"
    cells = [
        f"{model.processes}",
        f"{max(rows):.0f}",
        f"{read / 1e6:.1f} ({model.read / 1e6:.1f})",
        f"{4 * max(rows) * model.features * model.outputs / GIGA:.2f} ({model.flops / GIGA:.2f})",
        f"{reduced:.0f} ({model.reduced})",
        f"{seconds:.3f} ({expected:.3f})",
    ]
    return "| " + " | ".join(cells) + " |"


def ahead() -> Iterator[str]:
    """Yield what the model says of a billion rows, with the rate of one process as measured."""
    rows, features, outputs, row_bytes, looks = 1e9, 100, 10, 404, 30
    rate = RATE[0] * FEATURES / features  # reading and products both grow with the features
    yield ""
    yield (
        f"A billion rows of {features} float32 features and {outputs} classes, {row_bytes} bytes a "
        f"row; {rate:,.0f} rows per second of one processor, from the {RATE[0]:,.0f} above:"
    )
    yield ""
    yield (
        "| processes | read, GB each | flops, billions each | summed, bytes | sent, bytes each "
        f"| seconds for a look | minutes for {looks} looks |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for size in (1, 16, 64, 256):
        model = Model(rows, row_bytes, features, outputs, size)
        seconds = rows / size / rate
        cells = [
            f"{size}",
            f"{model.read / GIGA:.3g}",
            f"{model.flops / GIGA:,.0f}",
            f"{model.reduced:,}",
            f"{model.sent:,.0f}",
            f"{seconds:,.0f}",
            f"{seconds * looks / 60:,.0f}",
        ]
        yield "| " + " | ".join(cells) + " |"
    yield from tokens()


def tokens() -> Iterator[str]:
    """Yield what a trillion tokens take, with the rate of one process as measured here."""
    import crossent

    classes, count = 50_257, 1e12
    logits = np.random.default_rng(0).standard_normal((2000, classes), dtype=np.float32)
    labels = np.random.default_rng(1).integers(classes, size=len(logits))
    loss = crossent.CrossEntropy()
    crossent.set_num_threads(1)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        loss.sums(logits, labels)
        times.append(time.perf_counter() - start)
    rate = len(logits) / min(times)
    yield ""
    yield (
        f"A trillion tokens over {classes:,} classes: {4 * classes:,} bytes of float32 scores a "
        f"token. One process judges {rate:,.0f} tokens ({rate * 4 * classes / GIGA:.1f} GB of "
        "scores) per second here, from memory:"
    )
    yield ""
    yield "| processes | scores judged, TB each | sums that merge, bytes each | days |"
    yield "|---:|---:|---:|---:|"
    for size in (1, 1000, 10_000):
        share = count / size
        terabytes, days = share * 4 * classes / 1e12, share / rate / 86_400
        yield f"| {size:,} | {terabytes:,.0f} | {8 * 7} | {days:.2g} |"


def main() -> None:
    if sys.argv[1:2] == ["--count"]:
        count(*sys.argv[2:])
        return
    lines = []
    for text in (*checked(), *ahead()):
        print(text, flush=True)
        lines.append(text)
    if "--update-docs" in sys.argv:
        fill(DOCS / "scale.md", "measured", "\n".join(lines))


if __name__ == "__main__":
    main()
