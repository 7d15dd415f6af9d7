"""`python -m benchmarks` as a user runs it, and its arithmetic on times that are given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import measure, report
from benchmarks.cases import CASES, SLOW, WITH_MEMORY
from benchmarks.measure import MEMORY, Call, Case, Prepare, Result, Target
from benchmarks.pages import fill
from benchmarks.tricks import TRICKS, Trick

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


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def never() -> Call:
    raise AssertionError


def test_ratios_are_taken_within_rounds_and_targets_to_the_faster_copy() -> None:
    seconds = {
        "crossent": [3.0, 4.0, 20.0],
        "slow copy": [9.0, 9.0, 1.0],
        "fast copy": [2.0, 2.0, 9.0],
        "peer": [30.0, 48.0, 300.0],
        "slow peer": [60.0, 40.0],
    }
    case = Case(
        3_000_000_000,
        dict.fromkeys(seconds, never),
        (
            Target("crossent", "<=", 2.2, "copy"),
            Target("peer", ">=", 12, "crossent"),
            Target("absent", ">=", 1, "crossent"),
            Target("crossent", "<=", 15, "microsecond"),
            Target("crossent", "<=", 1.2, MEMORY),
            Target("peer", "<=", 1.2, MEMORY),
        ),
        groups={"copy": ("slow copy", "fast copy")},
        limit="copy",
    )
    result = Result(case, seconds, {}, {}, {"crossent": 2_000_000, "peer": None})
    rows = cells(report.case_table(result))
    assert ["crossent", "3", "4000", "0.75", "1", "2", "2.0"] in rows
    assert ["peer", "3", "4.8e+04", "0.0625", "12", "24", ""] in rows
    assert ["slow peer", "2", "5e+04", "0.06", "15", "25", ""] in rows
    assert cells(report.verdicts({"given": result}))[2:] == [
        ["given", "crossent <= 2.2 x copy", "2", "yes"],
        ["given", "peer >= 12 x crossent", "12", "yes"],
        ["given", "crossent <= 15 x microsecond", "4e+06", "NO"],
        ["given", f"crossent <= 1.2 x {MEMORY}", "2", "NO"],
    ]


def test_slow_contestants_take_part_in_the_first_rounds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    durations: dict[Call, float] = {}

    def lasting(seconds: float) -> Prepare:
        def call() -> None:
            pass

        durations[call] = seconds
        return lambda: call

    monkeypatch.setattr(measure, "_time", lambda call, repeats: durations[call])
    ways = {f"{seconds}": lasting(seconds) for seconds in (0.03, 2.0, 60.0)}
    result = measure.run(Case(1, ways), 9)
    assert {name: len(times) for name, times in result.seconds.items()} == {
        "0.03": 9,
        "2.0": 5,
        "60.0": 3,
    }


def test_every_finished_case_is_in_the_docs_and_one_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = "python -m benchmarks"
    page, json_file, seen = tmp_path / "page.md", tmp_path / "found.json", []
    page.write_text(f"<!-- {marker}: begin -->\n<!-- {marker}: end -->\n", encoding="utf-8")

    def good(quick: bool) -> Case:
        seen.append(page.read_text(encoding="utf-8"))
        return Case(1, {"crossent": lambda: lambda: None})

    def broken(quick: bool) -> Case:
        raise ValueError("no rows")

    cases = {"first": good, "broken": broken, "last": good, "not asked for": never}
    monkeypatch.setattr(command, "CASES", cases)
    monkeypatch.setattr(report, "PERFORMANCE", page)
    monkeypatch.setattr(report, "README", tmp_path / "none.md")  # no case of it is in this run
    monkeypatch.setattr(report, "update_check", lambda: None)
    arguments = ["first", "broken", "last", "--update-docs", "--json", str(json_file)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    assert command.main() == 1
    made = f"Made by `python -m benchmarks {' '.join(arguments)}`.\nNot in this run: "
    assert f"{made}broken, last, not asked for.\n" in seen[1]
    assert "### first" in seen[1]
    after = page.read_text(encoding="utf-8")
    assert f"{made}broken, not asked for.\n" in after
    assert "### last" in after
    found = json.loads(json_file.read_text(encoding="utf-8"))
    assert [*found["cases"]] == ["first", "last"]
    assert found["failures"] == {"broken": "ValueError: no rows"}
    assert "broken FAILED: ValueError: no rows\n" in capsys.readouterr().out


def test_a_run_of_all_cases_says_nothing_of_others() -> None:
    result = Result(Case(1, {"crossent": never}), {"crossent": [1.0]}, {}, {})
    whole = report.Run(report.surroundings("the command", []), ["a"], {"a": result})
    assert whole.made(["a"]).startswith("Made by `the command`.\n\n")
    assert whole.succeeded()


def test_long_cases_come_last() -> None:
    slow = [name.startswith(SLOW) for name in CASES]
    assert slow == sorted(slow)
    assert any(slow)
    assert set(WITH_MEMORY) <= set(CASES)


MARKED = "a\n<!-- m: begin -->\nold\n<!-- m: end -->\nb\n"


@pytest.mark.parametrize(
    ("text", "after"), [(MARKED, MARKED.replace("old", "new")), (2 * MARKED, None), ("", None)]
)
def test_results_go_between_their_markers(tmp_path: Path, text: str, after: str | None) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    if after is None:
        with pytest.raises(
            ValueError, match=r"must hold <!-- m: begin --> and <!-- m: end -->, once"
        ):
            fill(page, "m", "new")
    else:
        fill(page, "m", "new")
    assert page.read_text(encoding="utf-8") == (after or text)


PAGES = """
import sys
from pathlib import Path
from benchmarks import report
from benchmarks.measure import Case, Result

seconds = {
    "crossent": [0.001, 0.002, 0.01],
    "torch eager": [0.012, 0.026, 0.12],
    "torch.compile": [0.003, 0.006, 0.03],
    "sklearn _loss": [0.004, 0.008, 0.04],
}
memory = {"crossent": 0, "torch eager": 120_400_000, "torch.compile": None}
case = Case(3_000_000_000, dict.fromkeys(seconds))
results = {"softmax_1Mx10": Result(case, seconds, {}, {}, memory)}
report.README, report.PERFORMANCE = (Path(path) for path in sys.argv[1:])
about = report.surroundings("the command", [])
report.update_docs(report.Run(about, ["softmax_1Mx10", "other"], results))
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return copies of README.md and docs/performance.md, filled with results that are given."""
    folder = tmp_path_factory.mktemp("pages")
    copies = [folder / "README.md", folder / "performance.md"]
    for copy, page in zip(
        copies, [ROOT / "README.md", ROOT / "docs" / copies[1].name], strict=True
    ):
        copy.write_bytes(page.read_bytes())
    done = run("-W", "error", "-c", PAGES, *map(str, copies))
    assert done.returncode == 0, done.stderr
    readme, performance = (copy.read_text(encoding="utf-8") for copy in copies)
    return readme, performance


def comparison(readme: str) -> dict[str, dict[str, str]]:
    """Return the cells of the front page's table, by question and library without its version."""
    block = readme.partition("begin -->\n")[2].partition("\n<!--")[0].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
    names = [name.partition(" ")[0] for name in rows[0][1:]]
    return {question: dict(zip(names, cells, strict=True)) for question, *cells in rows[2:]}


def test_the_front_page_is_filled_with_times_and_memory(pages: tuple[str, str]) -> None:
    cells = comparison(pages[0])
    times, memory = cells["time, 1,000,000 rows of 10"], cells["memory, 1,000,000 rows of 10"]
    assert times["crossent"] == "2 ms"
    assert times["PyTorch"] == "12 x, compiled 3 x"
    assert times["scikit-learn"] == "4 x"
    assert memory["crossent"] == "0 MB"
    assert memory["PyTorch"] == "120 MB"
    assert memory["scikit-learn"] == "-"
    assert [question for question in cells if question.startswith("time, ")] == [*cells][-2:-1]
    made = "Made by `the command`.\nNot in this run: "
    assert f"{made}softmax_4096x32768, softmax_65536x1000, bfloat16_65536x1000, sig" in pages[0]
    assert f"{made}other.\n" in pages[1]
    assert "\n### softmax_1Mx10\n" in pages[1]


def test_the_front_page_asks_every_library_the_same(pages: tuple[str, str]) -> None:
    cells = comparison(pages[0])
    ours = {question: answers["crossent"] for question, answers in cells.items()}
    assert ours["loss of scores (18, 0, 0) for class 0, float32"] == "3.05e-08"
    assert ours["its slope in the first score"] == "-3.05e-08"
    assert ours["loss of a sigmoid, z = -20 for target 0"] == "2.06e-09"
    assert ours["slope of a sigmoid, z = 20 for target 1"] == "-2.06e-09"
    assert ours["loss of scores (inf, 0) for class 0"] == "0"
    assert ours["loss of scores (1, 2, 3) for class 5"] == ours["the same for class -1"]
    assert ours["the same for class -1"] == ours["for probabilities (2, -1, 0)"] == "ValueError"
    assert ours["mean when all rows are ignored"] == ours["slope in an ignored row of NaN"] == "0"
    assert ours["options of the softmax loss"].startswith("class_weight, ignore_index, ")
    torch = cells["its slope in the first score"]["PyTorch"]
    assert torch == "0"
    assert cells["mean when all rows are ignored"]["PyTorch"] == "nan"
    assert cells["the same for class -1"]["PyTorch"] == "IndexError"
    assert cells["the same for class -1"]["scikit-learn"] == "ValueError"
    both = cells["for probabilities (0.5, 0.5, 0)"]  # 3.4076 - (1 + 2) / 2
    assert both["crossent"] == both["PyTorch"] == "1.91"


def test_the_answers_on_the_front_page_are_those_of_today(pages: tuple[str, str]) -> None:
    printed = comparison((ROOT / "README.md").read_text(encoding="utf-8"))
    today = comparison(pages[0])
    measured = ("time, ", "memory, ", "options ", "layer ")
    answered = [question for question in today if not question.startswith(measured)]
    assert len(answered) > 10
    for question in answered:
        assert printed[question]["crossent"] == today[question]["crossent"], question


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
def test_every_trick_can_be_taken_out(trick: Trick) -> None:
    source = (ROOT / "src" / "crossent" / "kernels" / trick.file).read_text(encoding="utf-8")
    assert all(old in source for old, _ in trick.texts)
