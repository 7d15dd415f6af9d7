"""Rows shared out among processes: the same model, and no job that waits for one that is gone."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from crossent import model_file, tables
from crossent.cli.ranks import shared
from crossent.distributed import ALONE, Alone
from stream_cases import SAME, table, written
from test_stream import crossent

LIMIT = 60  # seconds, in which a job that fails must end
JOB = str(Path(__file__).parent / "job.py")
ROWS = 3000


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def job(size: int, event: str, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Start processes as torchrun does, without it: what they do is then their own doing."""
    port = str(free_port())
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(size)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": str(size)}
    line = [sys.executable, JOB, event, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(line, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}, **pipes)
        for r in range(size)
    ]
    try:
        outputs = [started[0].communicate(timeout=LIMIT)]
        if event == "stopped":  # it would never end by itself
            started[1].kill()
        outputs += [each.communicate(timeout=LIMIT) for each in started[1:]]
    finally:
        for each in started:
            each.kill()
            each.wait(LIMIT)
    return [
        subprocess.CompletedProcess(line, each.returncode, *output)
        for each, output in zip(started, outputs, strict=True)
    ]


def torchrun(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    line += ["--nproc-per-node", str(size), "-m", "crossent", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=3 * LIMIT)


def coefficients(path: str = "m.crossent") -> np.ndarray:
    classifier = model_file.load(path).classifier
    return np.column_stack([classifier.coef_, classifier.intercept_])


def by_one(*arguments: str) -> np.ndarray:
    """Return the coefficients that one process finds in memory."""
    done = crossent("fit", *arguments, "--out", "one.crossent")
    assert done.exit_code == 0, done.output
    return coefficients("one.crossent")


# The same answer --------------------------------------------------------------------------------


def test_two_processes_one_of_them_starved_of_rows_and_time() -> None:
    whole = table(ROWS)
    written("few.csv", whole.slice(0, 40))
    written("many.csv", whole.slice(40))
    line = ("fit", "few.csv", "many.csv", "--target", "y", "--class-weight", "balanced")
    done = job(2, "starved", *line, "--checkpoint", "kept", "--out", "m.crossent")
    assert [each.returncode for each in done] == [0, 0], done[0].stderr + done[1].stderr
    assert coefficients() == pytest.approx(by_one(*line[1:]), rel=SAME)
    assert "validation rows" in done[0].stdout
    assert done[1].stdout == done[1].stderr == done[0].stderr == ""


def test_four_processes_with_classes_of_their_own_and_one_without_rows() -> None:
    whole = table(ROWS).sort_by([("y", "ascending"), ("word", "ascending")])
    written("t.parquet", whole, 1200)  # three row groups
    line = ("fit", "t.parquet", "--target", "y", "--report", "r.html")
    done = torchrun(4, *line, "--out", "m.crossent")
    assert done.returncode == 0, done.stderr
    assert coefficients() == pytest.approx(by_one(*line[1:]), rel=SAME)
    alone = crossent(*line).output
    summary = alone[alone.index("validation rows") : alone.index("Wrote")]
    assert summary in done.stdout
    assert done.stdout.count("Saved m.crossent") == 1


def test_scores_of_two_processes_are_those_of_one() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet([1.0, 1.0, 1.0], ROWS)
    p[[5, 2500]] = [1.0, 0.0, 0.0]
    truth = np.array(list("abc"))[random.integers(3, size=ROWS)]
    truth[[5, 2500]] = "b"  # which was impossible
    whole = pa.table({**{f"p_{name}": p[:, j] for j, name in enumerate("abc")}, "y": truth})
    written("a.parquet", whole.slice(0, 2000), 300)
    written("b.csv", whole.slice(2000))
    line = ("score", "a.parquet", "b.csv", "--target", "y", "--probabilities", "p_*", "--json")
    done = job(2, "nothing", *line, "--report", "r.html")
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    found, alone = (rounded(text) for text in (done[0].stdout, crossent(*line).output))
    assert found == alone
    assert found["rows"] == ROWS
    places = [(place["file"], place["row"]) for place in found["infinite_rows"]]
    assert places == [("a.parquet", 5), ("b.csv", 500)]
    assert done[1].stdout == ""
    assert Path("r.html").exists()


def rounded(text: str) -> dict[str, Any]:
    """Return JSON with numbers to 12 digits, without how long it took."""
    found = json.loads(text, parse_float=lambda number: float(f"{float(number):.12g}"))
    return {name: value for name, value in found.items() if "second" not in name}


class Rank(Alone):
    """One of several, as far as sharing out goes."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize("size", [1, 2, 3, 8, 50])
def test_parts_are_shared_out_evenly_and_in_order(size: int) -> None:
    written("a.parquet", table(ROWS), 100)
    written("b.parquet", table(ROWS), 1700)
    parts = tables.parts(["a.parquet", "b.parquet"])
    shares = [shared(parts, Rank(rank, size)) for rank in range(size)]
    assert [part for share in shares for part in share] == parts
    rows = [sum(part.rows or 0 for part in share) for share in shares]
    assert max(rows) <= 2 * ROWS / size + 1700


def test_one_process_is_alone() -> None:
    assert (ALONE.rank, ALONE.size, ALONE.scan(3), ALONE.first(4)) == (0, 1, (None, 3), 4)
    assert ALONE.alike(1.0)


# Failures ---------------------------------------------------------------------------------------


def test_a_process_that_is_killed_ends_the_job_which_can_be_resumed() -> None:
    written("t.parquet", table(ROWS), 300)
    line = ("fit", "t.parquet", "--target", "y", "--checkpoint", "kept", "--checkpoint-every", "2")
    start = time.monotonic()
    done = job(2, "killed", *line, "--out", "m.crossent")
    assert time.monotonic() - start < LIMIT
    assert [each.returncode for each in done] == [2, -9]
    assert re.fullmatch(r"crossent: a process ended before its work.*\n", done[0].stderr), done
    assert ".cc:" not in done[0].stderr  # where in gloo is nothing to a user
    assert not Path("m.crossent").exists()
    found = sorted(os.listdir("kept"))
    assert found == ["answers-000000", "answers-000001", "job.json"]
    before = [Path("kept", name).read_bytes() for name in found]

    shown = crossent(*line, "--out", "m.crossent")
    assert shown.exit_code == 2
    assert "kept holds a checkpoint already; resume it, or name another directory" in shown.stderr
    assert [Path("kept", name).read_bytes() for name in found] == before
    shown = crossent(*line, "--resume", "--stream", "--out", "m.crossent")
    assert shown.exit_code == 0, shown.output
    assert coefficients() == pytest.approx(by_one("t.parquet", "--target", "y"), rel=SAME)


def test_a_process_that_hangs_ends_the_job() -> None:
    written("t.parquet", table(ROWS), 300)
    start = time.monotonic()
    done = job(2, "stopped", "fit", "t.parquet", "--target", "y", "--checkpoint", "kept")
    assert time.monotonic() - start < LIMIT
    assert done[0].returncode == 2
    assert done[0].stderr == "crossent: process 1 has given no sign of life for 3 seconds\n"


def test_a_file_that_one_process_cannot_read_ends_the_job_with_that_error() -> None:
    written("a.parquet", table(ROWS), 300)
    path = written("b.parquet", table(ROWS), 300)
    content = bytearray(path.read_bytes())
    content[200:-4000] = bytes(len(content) - 4200)
    path.write_bytes(content)
    Path("m.crossent").write_text("earlier")
    line = ("fit", "a.parquet", "b.parquet", "--target", "y", "--out", "m.crossent")
    done = job(2, "nothing", *line)
    assert [each.returncode for each in done] == [2, 2]
    message = r"crossent: b\.parquet is no Parquet file that can be read: .*\n"
    assert re.fullmatch(message, done[0].stderr), done[0].stderr
    assert done[1].stderr == ""
    assert Path("m.crossent").read_text() == "earlier"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("fit t.parquet --target z", "--target is 'z'; t.parquet has no such column but 'x', 'y'"),
        ("fit t.parquet --resume", "--resume is given without --checkpoint DIR: resume from where"),
        ("score t.parquet --target y", "give --probabilities or --logits, one of them: what colum"),
    ],
)
def test_an_error_of_all_is_said_once(arguments: str, said: str) -> None:
    written("t.parquet", pa.table({"x": [1.0, 2.0], "y": ["a", "b"]}))
    done = job(2, "nothing", *arguments.split())
    assert [each.returncode for each in done] == [2, 2]
    assert re.fullmatch(f"crossent: {re.escape(said)}.*\n", done[0].stderr), done[0].stderr
    assert done[1].stderr == ""
