"""`crossent lab` as a user runs it."""

import errno
import os
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from crossent.cli.group import commands

HELD = "the page of an earlier day"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_the_page_and_compiles_next_to_nothing(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compiled = tmp_path_factory.mktemp("compiled")
    done = subprocess.run(
        [sys.executable, "-m", "crossent", "lab"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(compiled)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    written = folder / "lab.html"
    assert done.stdout.startswith(f"Wrote lab.html: {written.stat().st_size / 1000:.0f} kB.")
    assert written.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert os.listdir(folder) == ["lab.html"]
    # A first run takes as long as its compiler: one kernel of a loss, and three small ones.
    kernels = {path.name.partition("-")[0] for path in compiled.rglob("*.nbi")}
    assert kernels == {
        "products.narrow_scores",
        "products.add_narrow_back",
        "scan.scan_indices",
        "short_rows.short_rows",
    }


def test_the_page_is_the_same_every_time_and_replaces_the_old_one(folder: Path) -> None:
    (folder / "a.html").write_text(HELD)
    for name in ("a.html", "b.html"):
        assert CliRunner().invoke(commands, ["lab", "--out", name]).exit_code == 0
    assert (folder / "a.html").read_bytes() == (folder / "b.html").read_bytes()


def test_open_shows_the_file_that_was_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert CliRunner().invoke(commands, ["lab", "--open"]).exit_code == 0
    assert opened == [(folder / "lab.html").as_uri()]


def test_a_machine_without_a_browser_still_gets_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    result = CliRunner().invoke(commands, ["lab", "--open"])
    assert result.exit_code == 0
    assert result.stderr == "There is no browser here to open it with.\n"
    assert (folder / "lab.html").exists()


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("missing/lab.html", "missing/lab.html cannot be written: there is no directory missing"),
        (".", ". cannot be written: it is a directory"),
    ],
)
def test_a_bad_out_is_one_sentence(folder: Path, out: str, sentence: str) -> None:
    result = CliRunner().invoke(commands, ["lab", "--out", out])
    assert result.exit_code == 2
    assert result.stderr == f"crossent: {sentence}\n"
    assert os.listdir(folder) == []


def test_a_full_disk_leaves_the_old_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, **options: Any) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    (folder / "lab.html").write_text(HELD)
    monkeypatch.setattr(Path, "write_text", full)
    result = CliRunner().invoke(commands, ["lab"])
    assert result.exit_code == 2
    assert result.stderr == "crossent: lab.html cannot be written: No space left on device\n"
    assert (folder / "lab.html").read_text() == HELD
    assert os.listdir(folder) == ["lab.html"]
