"""Nothing is left out of the documentation: names, options, commands, messages."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import click
import pytest

import crossent
from crossent.cli.group import COMMANDS, commands
from crossent.sklearn import CrossEntropyClassifier

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SOURCES = sorted((ROOT / "src" / "crossent").rglob("*.py"))
RAISES = re.compile(r"Error$|^exit$")
NEVER_SEEN = {  # raised and caught within one file
    "shapes do not fit",
    "kernels are compiled",
    "… …",  # a path, before a message that is listed itself
}


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", crossent.__all__)
def test_every_public_name_and_its_docstring_are_in_the_reference(name):
    directive = rf"^\.\. auto(class|function):: crossent\.{name}$"
    assert re.search(rf"`{name}[`(]", read("api.md"))
    assert re.search(directive, read("api.md"), re.MULTILINE)


LOSSES = [each for each in map(vars(crossent).get, crossent.__all__) if hasattr(each, "hvp")]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_every_option_of_a_loss_is_in_the_reference(loss):
    row = next(line for line in read("api.md").splitlines() if f"| `{loss.__name__}` |" in line)
    assert [each.name for each in dataclasses.fields(loss) if f"`{each.name}`" not in row] == []


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_every_option_of_a_loss_is_in_its_docstring(loss):
    options = [field.name for field in dataclasses.fields(loss)]
    assert options
    assert [name for name in options if not re.search(rf"\b{name}s?\b", loss.__doc__)] == []


def test_every_option_of_the_classifier_is_in_its_docstring():
    options = list(inspect.signature(CrossEntropyClassifier).parameters)
    assert options
    assert [
        name for name in options if f"\n    {name} : " not in CrossEntropyClassifier.__doc__
    ] == []


# Numbers ----------------------------------------------------------------------------------------


MEASURED = {  # on some machine
    "accuracy.md",
    "design.md",
    "kernels.md",
    "performance.md",
    "performance-elsewhere.md",
}
ELSEWHERE = {"lab.md"}  # tests/test_lab_page.py holds them to the page
HELD = sorted({path.name for path in DOCS.glob("*.md")} - MEASURED - ELSEWHERE)


@pytest.mark.parametrize("name", ["../README.md", *HELD])
def test_every_number_in_the_text_stands_in_a_block_that_runs(name):
    page = re.sub(r"<!-- \S.*: begin -->.*?<!-- \S.*: end -->", "", read(name), flags=re.DOTALL)
    blocks = " ".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S))
    text = re.sub(r"^(```.*?^```|\|[^\n]*|    [^\n]*)", "", page, flags=re.M | re.S)
    numbers = set(re.findall(r"(?<!Python )\b\d+\.\d{2,}(?:e-?\d+)?", text))
    assert numbers or name not in ("math.md", "tutorial.md")
    assert [number for number in sorted(numbers) if number not in blocks] == []


# Commands ---------------------------------------------------------------------------------------


def section(command):
    """Return what the reference says of a command."""
    found = re.search(rf"^### crossent {command}\n(.*?)(?=^#|\Z)", read("api.md"), re.M | re.S)
    assert found, f"docs/api.md has no section on crossent {command}"
    return found.group(1)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name):
    command = commands.get_command(click.Context(commands), name)
    text = section(name)
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            assert f"`{parameter.name.upper()}`" in text
        else:
            assert all(f"`{option}" in text for option in parameter.opts if option.startswith("--"))
            _default_is_right(parameter, text)


def _default_is_right(option, text):
    """Assert that the row of an option names its default and its choices."""
    row = next(line for line in text.splitlines() if line.startswith(f"| `{option.opts[0]}"))
    if isinstance(option.type, click.Choice):
        assert all(f"`{choice}`" in row for choice in option.type.choices)
    if getattr(option, "show_default", False):
        assert f"`{option.default}`" in row or f" {option.default} " in row


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_documented_that_is_not_there(name):
    command = commands.get_command(click.Context(commands), name)
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"^\| `(--[\w-]+)", section(name), re.M)) <= options


# Messages ---------------------------------------------------------------------------------------


def template(node):
    """Return a message with … for what is filled in, empty if it is no literal text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
        return re.sub("…+", "…", "".join(parts))
    return ""


def messages(path):
    """Yield the template of every message of a source file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if RAISES.search(name) and (text := template(node.args[0])):
                yield text


def test_messages_are_found():
    found = set(messages(ROOT / "src" / "crossent" / "checks.py"))
    assert "… is …; a probability must be in [0, 1]" in found
    assert len(found) > 30


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_message_is_explained(path):
    page = read("errors.md")
    missing = [
        text
        for text in messages(path)
        if text not in NEVER_SEEN and f"`{_listed(text)}`" not in page
    ]
    assert missing == []


def test_nothing_is_explained_that_is_never_said():
    nodes = (n for path in SOURCES for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    said = "\n".join(map(template, nodes))
    explained = re.findall(r"^\| `([^|]*)` \|", read("errors.md"), re.M)
    assert len(explained) > 100
    # A message may be put together from several texts: its pieces are what must be there.
    assert [m for m in explained if any(p not in said for p in re.split(" ?… ?|; ", m))] == []


def _listed(text):
    """Return a template as the page has it: a message that begins with "has" follows a path."""
    return f"… {text}" if text.startswith("has ") else text
