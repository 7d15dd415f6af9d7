"""The examples as a reader runs them: processes of their own, any warning an error.

They share the compiled kernels of this checkout with each other and with the other tests.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from crossent.cli.group import commands

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *arguments, directory):
    """Return what an example prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command,
        cwd=directory,
        env={
            **os.environ,
            "MPLCONFIGDIR": str(directory),
            "OMP_NUM_THREADS": "1",  # threads that wait for others spin, on a machine that is busy
            "OPENBLAS_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(text, before):
    """Return the number that follows some words."""
    return float(re.search(rf"{re.escape(before)}\s*(-?[\d.]+(?:e-?\d+)?)", text).group(1))


def test_every_example_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    names = [path.name for path in EXAMPLES.glob("*.py")]
    assert names
    assert [name for name in names if f'run("{name}"' not in text] == []


def test_learning_slowdown(tmp_path):
    printed = run("learning_slowdown.py", "slowdown.png", directory=tmp_path)
    assert (tmp_path / "slowdown.png").read_bytes().startswith(b"\x89PNG")
    lines = [line.split()[2:] for line in printed.splitlines()[1:5]]
    assert lines == [
        ["quadratic", "0.1219", "36", "0.0940"],
        ["cross-entropy", "0.8176", "8", "0.0116"],
        ["quadratic", "0.0173", "232", "0.2028"],
        ["cross-entropy", "0.9820", "17", "0.0120"],
    ]


def test_learning_slowdown_says_what_it_needs():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "learning_slowdown.py")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "usage: python learning_slowdown.py PICTURE\n"


def test_layer_gradients_agree(tmp_path):
    printed = run("layer_gradients.py", directory=tmp_path)
    exact = [float(x) for x in re.findall(r"(?:fused|\(a - y\)) +differs by (\S+)", printed)]
    measured = [float(x) for x in re.findall(r"finite differences +differ by (\S+)", printed)]
    assert len(exact) == 3
    assert max(exact) < 1e-14
    assert len(measured) == 2
    assert max(measured) < 1e-8


def test_train_on_a_table(tmp_path):
    printed = run("train_on_a_table.py", directory=tmp_path)
    assert "gradient below tol" in printed
    assert number(printed, "accuracy on new rows") > 0.95
    assert number(printed, "cross-entropy of new rows") < 0.15
    assert len(re.findall(r"^class_\d: .*, .*, .*$", printed, re.MULTILINE)) == 3


def test_score_in_batches_as_all_at_once(tmp_path):
    printed = run("score_in_batches.py", directory=tmp_path)
    mean = number(printed, "mean    ")
    assert number(printed, "all at once") == pytest.approx(mean, abs=2e-6)
    assert number(printed, "mean of means would be") > 1.1 * mean
    assert number(printed, "rows") + number(printed, "decided,") == 3 * 4096 + 17


def test_digits_network_learns_alike_by_both_losses(tmp_path):
    printed = run("digits_network.py", "digits.png", directory=tmp_path)
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert number(printed, "accuracy on new digits") > 0.95
    assert number(printed, "The curves differ by") < 1e-4


def test_language_model_learns_alike_by_both_losses(tmp_path):
    printed = run("language_model.py", "model.png", directory=tmp_path)
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
    assert number(printed, "->") < 2.5
    assert number(printed, "The curves differ by") < 1e-4


def test_the_commands_of_the_tutorial(tmp_path, monkeypatch):
    """Every console line of the tutorial on its own table, but those that open a window."""
    monkeypatch.chdir(tmp_path)
    page = (EXAMPLES.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
    table = re.findall(r"^```python\n(.*?)^```", page.partition("## 5")[2], re.M | re.S)
    exec(compile("import numpy as np\n" + table[0], "tutorial.md", "exec"), {})
    consoles = re.findall(r"^```console\n(.*?)^```", page, re.M | re.S)
    lines = [line.split() for console in consoles for line in console.splitlines()]
    printed = {}
    for words in (words[1:] for words in lines if words[0] == "crossent"):
        result = CliRunner().invoke(commands, words)
        assert result.exit_code == 0, result.output
        printed[words[0]] = result.output
    assert sorted(printed) == ["explain", "fit", "predict"]
    assert "p - c holds" in printed["explain"]
    assert number(printed["fit"], "accuracy") > 0.85
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    predictions = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert len(predictions) == 301
