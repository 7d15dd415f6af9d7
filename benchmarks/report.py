"""What a run found, as text, as JSON, and as the tables of docs/performance.md and README.md."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import crossent
from benchmarks.features import ABSENT, Library, answers, libraries, questions
from benchmarks.measure import Result, as_json
from benchmarks.pages import DOCS, README, fill, write

PERFORMANCE = DOCS / "performance.md"
COMMAND = "python -m benchmarks"
PACKAGES = (
    *("numpy", "numba", "llvmlite", "torch", "jax", "jaxlib", "optax"),
    *("scikit-learn", "tensorflow", "tensorflow-cpu", "ml_dtypes"),
)


# One case ---------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that reads as text and as Markdown: first column left, others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [line[0].ljust(widths[0])]
        + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
        for line in lines
    ]
    rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def case_table(result: Result) -> str:
    """Return times, rates, ratios and memory of every contestant."""
    limit, baseline = result.case.limit, result.case.baseline
    header = ["contestant", "rounds", "ms", "GB/s", f"times {baseline}"]
    header += [f"times {limit}"] * bool(limit) + ["peak MB"] * bool(result.memory)
    return table(header, (_row(result, name) for name in result.seconds))


def _row(result: Result, name: str) -> list[str]:
    case, seconds = result.case, result.median(name)
    cells = [name, f"{len(result.seconds[name])}", f"{seconds * 1e3:.4g}"]
    cells.append(f"{case.bytes_moved / seconds / 1e9:.3g}")
    cells.append(f"{result.ratio(name, case.baseline):.3g}")
    if case.limit:
        cells.append(f"{result.ratio(name, case.limit):.3g}")
    if result.memory:
        peak = result.memory.get(name)
        cells.append("" if peak is None else f"{peak / 1e6:.1f}")
    return cells


def verdicts(results: Mapping[str, Result]) -> str:
    """Return every target, what was measured, and whether it is met."""
    return table(
        ("case", "target", "measured", "met"),
        (
            (name, str(target), f"{ratio:.3g}", "yes" if met else "NO")
            for name, result in results.items()
            for target, ratio, met in result.verdicts()
        ),
    )


def remarks(result: Result) -> list[str]:
    checks = [f"{text}: {'yes' if held else 'NO'}" for text, held in result.checks.items()]
    left_out = [f"{name} left out: {error}" for name, error in result.left_out.items()]
    return [*result.case.notes, *left_out, *checks]


# The run ----------------------------------------------------------------------------------------


def surroundings(command: str, missing: Sequence[str]) -> dict[str, Any]:
    """Return what a measurement depends on."""
    return {
        "command": command,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": crossent.get_num_threads(),
        "system": platform.platform(),
        "load_at_start": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            "crossent": crossent.__version__,
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
        "not_installed": list(missing),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the processor's name, and what the compiler takes it for."""
    from llvmlite.binding import get_host_cpu_name
    from numba.core.config import CPU_NAME

    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    name = re.search(r"model name\s*: (.+)", text)
    return f"{name[1] if name else platform.processor()} ({CPU_NAME or get_host_cpu_name()})"


def describe(about: Mapping[str, Any]) -> str:
    """Return the surroundings as a paragraph."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    load = about["load_at_start"]
    lines = [
        f"{about['processor']}, {about['cores']} cores, {about['threads']} threads.",
        f"{versions}.",
        f"Load at the start {load[0]:.2f}." if load else "",
        f"Not installed: {', '.join(about['not_installed'])}." if about["not_installed"] else "",
    ]
    return "\n".join(line for line in lines if line)


@dataclass
class Run:
    """A run of some of all cases, so far.

    Attributes
    ----------
    about : mapping
        What `surroundings` found at the start.
    cases : collection of str
        All there are.
    results : dict
        Of the cases that are finished.
    failures : dict
        What was raised by others.
    """

    about: Mapping[str, Any]
    cases: Collection[str]
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def succeeded(self) -> bool:
        held = (all(result.checks.values()) for result in self.results.values())
        return not self.failures and all(held)

    def made(self, cases: Iterable[str]) -> str:
        """Return what made the results of some cases, and which of them there are none of."""
        missing = [name for name in cases if name not in self.results]
        lines = [f"Made by `{self.about['command']}`."]
        lines += [f"Not in this run: {', '.join(missing)}."] * bool(missing)
        return "\n".join(lines) + f"\n\n{describe(self.about)}"


def write_json(path: Path, run: Run) -> None:
    cases = {name: as_json(result) for name, result in run.results.items()}
    found = {**run.about, "cases": cases, "failures": run.failures}
    write(path, json.dumps(found, indent=1) + "\n")


def update_docs(run: Run) -> None:
    """Put the tables between their markers in docs/performance.md and, if it has any, README.md."""
    parts = [run.made(run.cases), verdicts(run.results)]
    for name, result in run.results.items():
        parts.append("\n\n".join([f"### {name}", case_table(result), *remarks(result)]))
    fill(PERFORMANCE, COMMAND, "\n\n".join(parts))
    if HEADLINES.keys() & run.results.keys():
        fill(README, COMMAND, f"{comparison(run.results)}\n\n{run.made(HEADLINES)}")


def update_check() -> None:
    """Put what `crossent check` prints into docs/performance.md."""
    done = subprocess.run(["crossent", "check"], capture_output=True, text=True)
    fill(PERFORMANCE, "crossent check", f"```text\n{(done.stdout + done.stderr).rstrip()}\n```")


# The front page ---------------------------------------------------------------------------------

HEADLINES = {
    "softmax_4096x32768": "4,096 rows of 32,768 scores",
    "softmax_65536x1000": "65,536 rows of 1,000",
    "softmax_1Mx10": "1,000,000 rows of 10",
    "bfloat16_65536x1000": "65,536 rows of 1,000, bfloat16",
    "sigmoid_16M": "16,777,216 sigmoid outputs",
}


def comparison(results: Mapping[str, Result]) -> str:
    """Return one table of all libraries: their answers, times and memory in the headline cases."""
    asked, columns = _asked()
    headlines = {text: results[name] for name, text in HEADLINES.items() if name in results}
    rows = list(zip(questions(), *columns, strict=True))
    for text, result in headlines.items():
        rows.append((f"time, {text}", *(_time(result, each) for each in asked)))
    for text, result in list(headlines.items())[:1]:  # the others show the same
        rows.append((f"memory, {text}", *(_memory(result, each) for each in asked)))
    return table(["", *(each.name for each in asked)], rows)


@cache
def _asked() -> tuple[list[Library], list[list[str]]]:
    asked = list(libraries())
    return asked, list(map(answers, asked))


def _time(result: Result, library: Library) -> str:
    """Return milliseconds of ours, and of others how many times as long they take."""
    if library.name == result.case.baseline:
        return f"{result.median(library.name) * 1e3:.3g} ms"
    ratios = [
        f"{label}{result.ratio(name, result.case.baseline):.2g} x"
        for name, label in library.timed
        if name in result.seconds
    ]
    return ", ".join(ratios) or ABSENT


def _memory(result: Result, library: Library) -> str:
    """Return the peak of a call above what it is given, which may be the gradient's memory."""
    peaks = [(label, result.memory.get(name)) for name, label in library.timed]
    return ", ".join(f"{label}{p / 1e6:.0f} MB" for label, p in peaks if p is not None) or ABSENT
