"""The command line as a whole: what it lists, how fast it starts, and how it fails."""

from __future__ import annotations

import errno
import os
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from crossent.cli import group
from crossent.cli.group import COMMANDS, commands

TRIES = 9  # to meet a time: it is processor time, but others may crowd the caches


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "crossent", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)


def processor_seconds(*arguments: str) -> float:
    """Return what a Python of its own spends on a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert subprocess.run([sys.executable, *arguments], capture_output=True).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.alone
def test_help_starts_in_less_than_0_3_seconds() -> None:
    """Or, on a slow machine, in half as much again as NumPy and click take to import."""
    whole, imports = [], []
    for _ in range(TRIES):
        whole.append(processor_seconds("-m", "crossent", "--help"))
        imports.append(processor_seconds("-c", "import numpy, click"))
    assert min(whole) < max(0.3, 1.5 * statistics.median(imports))


def test_help_imports_nothing_heavy() -> None:
    program = """
import sys
from crossent.cli.group import commands
commands(["--help"], standalone_mode=False)
heavy = {"numba", "scipy", "sklearn", "pyarrow", "rich", "matplotlib", "safetensors", "torch"}
sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_is_listed_and_has_help() -> None:
    listed = CliRunner().invoke(commands, ["--help"]).output
    for name in COMMANDS:
        assert re.search(rf"^  {name}  +\S", listed, re.MULTILINE), name
        shown = CliRunner().invoke(commands, [name, "--help"])
        assert shown.exit_code == 0
        command = commands.get_command(click.Context(commands), name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in ("help", "loss"):
                assert option.help, f"{name} {option.name}"


def test_the_version_is_that_of_the_package() -> None:
    import crossent

    done = CliRunner().invoke(commands, ["--version"])
    assert done.output.endswith(f"{crossent.__version__}\n")


@pytest.mark.parametrize("arguments", [["nothing"], ["fit"], ["fit", "iris", "--l2", "-1"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == 2
    assert "Error:" in done.stderr


ERRORS: list[tuple[BaseException, str]] = [
    (ValueError("a  sentence\nin two lines"), "crossent: a sentence in two lines\n"),
    (TypeError("a type"), "crossent: a type\n"),
    (FileNotFoundError(errno.ENOENT, "No such file", "t.csv"), "crossent: t.csv: No such file\n"),
    (OSError("of its own"), "crossent: of its own\n"),
    (MemoryError("8 GiB"), "crossent: there is not enough memory: 8 GiB\n"),
    (
        ModuleNotFoundError("No module", name="pyarrow"),
        "crossent: this needs pyarrow, which is not installed: pip install 'crossent[fit]'\n",
    ),
    (
        ModuleNotFoundError("No module", name="torch"),
        "crossent: this needs torch, which is not installed: pip install 'crossent[torch]'\n",
    ),
    (ValueError(), "crossent: ValueError\n"),
]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `crossent explain` fail."""

    def with_error(error: BaseException) -> None:
        @click.command()
        def broken() -> None:
            raise error

        monkeypatch.setattr(group.Commands, "get_command", lambda *_: broken)

    return with_error


@pytest.mark.parametrize(("error", "message"), ERRORS)
def test_an_error_is_a_sentence(
    fail: Callable[[BaseException], None], error: BaseException, message: str
) -> None:
    fail(error)
    done = CliRunner().invoke(commands, ["explain"])
    assert done.exit_code == 2
    assert done.stderr == message
    assert done.stdout == ""


def test_a_traceback_can_be_asked_for(
    fail: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSENT_TRACEBACK", "1")
    fail(ValueError("here"))
    assert isinstance(CliRunner().invoke(commands, ["explain"]).exception, ValueError)


def test_without_click_the_package_to_install_is_named(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    done = run("--help", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == "crossent: the commands need more packages: pip install 'crossent[fit]'\n"


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    line = f"{sys.executable} -m crossent fit iris | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("iris: 150 rows")
    assert "Traceback" not in done.stderr
