"""`python -m benchmarks`: speed and memory beside other libraries and the machine's own limit."""

from __future__ import annotations

import argparse
import fnmatch
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import measure, memory, report
from benchmarks.cases import CASES, WITH_MEMORY
from benchmarks.measure import Result
from benchmarks.peers import MISSING


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


def _run(name: str, rounds: int, quick: bool) -> Result | None:
    print(f"\n{name}", flush=True)
    try:
        result = measure.run(CASES[name](quick), rounds)
    except ModuleNotFoundError as error:
        print(f"left out: {error.name} is not installed")
        return None
    if name in WITH_MEMORY and not quick:
        limits = result.case.groups.get(result.case.limit, ())
        peaks = {w: memory.measured(name, w) for w in result.seconds if w not in limits}
        result = replace(result, memory=peaks)
    print("\n".join([report.case_table(result), *report.remarks(result)]))
    for target, ratio, met in result.verdicts():
        print(f"{'met' if met else 'NOT MET':>8}: {target} (measured {ratio:.3g})")
    return result


def main() -> int:
    arguments = _arguments()
    patterns = arguments.cases or ["*"]
    names = [name for name in CASES if any(fnmatch.fnmatch(name, p) for p in patterns)]
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    about = report.surroundings(command, MISSING)
    print(report.describe(about), flush=True)
    found = {name: _run(name, arguments.rounds, arguments.quick) for name in names}
    results = {name: result for name, result in found.items() if result is not None}
    print(f"\n{report.verdicts(results)}")
    if arguments.json:
        report.write_json(arguments.json, about, results)
    if arguments.update_docs:
        check = subprocess.run(["crossent", "check"], capture_output=True, text=True)
        report.update_docs(about, results, check.stdout + check.stderr)
    return 0 if all(all(result.checks.values()) for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
