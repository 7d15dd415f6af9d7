"""`python -m benchmarks`: speed and memory beside other libraries and the machine's own limit."""

from __future__ import annotations

import argparse
import fnmatch
import shlex
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from benchmarks import measure, memory, report
from benchmarks.cases import CASES, WITH_MEMORY
from benchmarks.measure import Result
from benchmarks.peers import MISSING
from benchmarks.report import Run


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="name or pattern, such as 'softmax_*'"
    )
    parser.add_argument("--rounds", type=int, default=7, help="timings of each (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument(
        "--quick", action="store_true", help="a sixteenth of the rows, no memory: to try things out"
    )
    parser.add_argument(
        "--update-docs",
        action="store_true",
        help="put the tables into docs/performance.md and README.md",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; it must be at least 1")
    for pattern in arguments.cases:
        if not fnmatch.filter(CASES, pattern):
            parser.error(f"no case is named {pattern!r}; there are {', '.join(CASES)}")
    return arguments


def _weighed(name: str, result: Result) -> Result:
    """Return the result with peaks of memory, of those contestants that they are asked for."""
    names = fnmatch.filter(result.seconds, WITH_MEMORY.get(name, ""))
    limits = result.case.groups.get(result.case.limit, ())
    peaks = {each: memory.measured(name, each) for each in names if each not in limits}
    return replace(result, memory=peaks)


def _print(result: Result) -> None:
    print("\n".join([report.case_table(result), *report.remarks(result)]))
    for target, ratio, met in result.verdicts():
        print(f"{'met' if met else 'NOT MET':>8}: {target} (measured {ratio:.3g})")


def _add(run: Run, name: str, rounds: int, quick: bool) -> None:
    """Run a case; one that fails is reported, and is no reason not to run the others."""
    print(f"\n{name}", flush=True)
    start = time.perf_counter()
    try:
        run.results[name] = measure.run(CASES[name](quick), rounds)
        if not quick:
            run.results[name] = _weighed(name, run.results[name])
    except ModuleNotFoundError as error:
        print(f"left out: {error.name} is not installed")
    except Exception as error:
        traceback.print_exc()
        run.failures[name] = f"{type(error).__name__}: {error}"
    if name in run.results:
        _print(run.results[name])
    print(f"{time.perf_counter() - start:.0f} s", flush=True)


def main() -> int:
    arguments = _arguments()
    patterns = arguments.cases or ["*"]
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    run = Run(report.surroundings(command, MISSING), list(CASES))
    print(report.describe(run.about), flush=True)
    for name in CASES:
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            _add(run, name, arguments.rounds, arguments.quick)
            if arguments.json:
                report.write_json(arguments.json, run)
            if arguments.update_docs:  # now: whoever stops the run keeps what there is
                report.update_docs(run)
    if arguments.update_docs:
        report.update_check()
    print(f"\n{report.verdicts(run.results)}")
    for name, text in run.failures.items():
        print(f"{name} FAILED: {text}")
    return 0 if run.succeeded() else 1


if __name__ == "__main__":
    sys.exit(main())
