"""Every Python block of the documentation runs, in the order it stands in; so do docstrings."""

import doctest
import importlib
import re
import shlex
import webbrowser
from pathlib import Path

import pytest
from click.testing import CliRunner
from sklearn.datasets import load_iris

from crossent.cli.group import COMMANDS, commands

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCE = ROOT / "src"
EXAMPLES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text("utf-8")]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a block writes does not stay
    namespace = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_of_docstrings_run(path):
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_commands_of_the_front_page_run(tmp_path, monkeypatch):
    """In the order they stand in, on tables of the names that they mention."""
    iris = load_iris()
    rows = [",".join(map(str, row)) for row in iris.data]
    species = ["species", *iris.target_names[iris.target]]
    new = ["a,b,c,d", *rows]
    table = list(map(",".join, zip(new, species, strict=True)))
    p = [",".join(f"p_{name}" for name in iris.target_names), *["0.5,0.25,0.25"] * len(rows)]
    answers = map(",".join, zip(species, p, strict=True))
    for name, lines in {"new.csv": new, "table.csv": table, "answers.csv": answers}.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda address: shown.append(address) or True)
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:pip install .* && )?crossent (.*)$", page, re.MULTILINE)
    for line in lines:
        result = CliRunner().invoke(commands, shlex.split(line))
        assert result.exit_code == 0, f"crossent {line}: {result.output}"
    assert {line.split()[0] for line in lines} == set(COMMANDS)
    assert {path.name for path in tmp_path.iterdir()} >= {"report.html", "predictions.parquet"}
    assert len(shown) == 1
