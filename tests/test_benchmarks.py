"""`python -m benchmarks` as a user runs it, and its arithmetic on times that are given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_a_case_is_printed_and_written_as_json(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    arguments = ["options_1Mx10", "--quick", "--rounds", "2", "--json", str(file)]
    done = run("-m", "benchmarks", *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["command"] == " ".join(["python", "-m", "benchmarks", *arguments])
    assert {"python", "numpy", "numba", "crossent"} <= found["versions"].keys()
    case = found["cases"]["options_1Mx10"]
    assert {"crossent", "softcap", "all"} <= case["seconds"].keys()
    assert all(len(times) == 2 and min(times) > 0 for times in case["seconds"].values())
    assert {target["target"] for target in case["targets"]} >= {"all <= 3 x crossent"}
    for name in case["seconds"]:
        assert f"\n| {name} " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_an_unknown_case_is_named() -> None:
    done = run("-m", "benchmarks", "softmax_1x1")
    assert done.returncode == 2
    assert "no case is named 'softmax_1x1'; there are softmax_4096x32768, " in done.stderr


GIVEN = """
from benchmarks.measure import Case, Result, Target
from benchmarks.report import case_table, verdicts

def never():
    raise AssertionError

names = ("crossent", "slow copy", "fast copy", "peer")
case = Case(
    3_000_000_000,
    dict.fromkeys(names, never),
    (
        Target("crossent", "<=", 2.2, "copy"),
        Target("peer", ">=", 12, "crossent"),
        Target("absent", ">=", 1, "crossent"),
        Target("crossent", "<=", 15, "microsecond"),
    ),
    groups={"copy": ("slow copy", "fast copy")},
    limit="copy",
)
seconds = {
    "crossent": [3.0, 4.0, 20.0],
    "slow copy": [9.0, 9.0, 1.0],
    "fast copy": [2.0, 2.0, 9.0],
    "peer": [30.0, 48.0, 300.0],
}
result = Result(case, seconds, {}, {})
print(case_table(result))
print(verdicts({"given": result}))
"""


def test_ratios_are_taken_within_rounds_and_targets_to_the_faster_copy() -> None:
    done = run("-c", GIVEN)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert ["crossent", "4000", "0.75", "1", "2"] in rows
    assert ["peer", "4.8e+04", "0.0625", "12", "24"] in rows
    assert ["given", "crossent <= 2.2 x copy", "2", "yes"] in rows
    assert ["given", "peer >= 12 x crossent", "12", "yes"] in rows
    assert ["given", "crossent <= 15 x microsecond", "4e+06", "NO"] in rows
    assert not any("absent" in cell for row in rows for cell in row)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (
            "a\n<!-- m: begin -->\nold\n<!-- m: end -->\nb\n",
            "a\n<!-- m: begin -->\nnew\n<!-- m: end -->\nb\n",
        ),
        ("no markers", "ValueError"),
    ],
)
def test_results_go_between_their_markers(text: str, result: str) -> None:
    program = f"""
from benchmarks.report import _between
try:
    print(_between("m", "new", {text!r}), end="")
except ValueError:
    print("ValueError", end="")
"""
    assert run("-c", program).stdout == result
