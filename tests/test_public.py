"""What the package shows: its names, their documentation, and which way imports point.

That importing it brings in no framework and no compiler is held by test_startup.py.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crossent
from benchmarks.rows import LOSSES
from crossent import reference

SOURCE = Path(crossent.__file__).parent
PUBLIC = [getattr(crossent, name) for name in crossent.__all__]


# Names --------------------------------------------------------------------------------------------


def test_public_list_is_sorted_and_is_all_there_is() -> None:
    assert crossent.__all__ == sorted(crossent.__all__)
    assert {
        "BinaryCrossEntropy",
        "CrossEntropy",
        "LossSums",
        "QuadraticCost",
        "SoftmaxBinaryCrossEntropy",
        "binary_cross_entropy",
        "cross_entropy",
        "log_sigmoid",
        "log_softmax",
        "logsumexp",
        "one_hot",
        "quadratic_cost",
        "sigmoid",
        "softmax",
        "softmax_binary_cross_entropy",
    } <= set(crossent.__all__)
    visible = {
        name
        for name, value in vars(crossent).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert visible == set(crossent.__all__)


def test_functions_take_options_by_name_only() -> None:
    for name in LOSSES:
        parameters = inspect.signature(getattr(crossent, name)).parameters
        kinds = {key: parameter.kind for key, parameter in parameters.items()}
        assert list(kinds)[:2] == ["logits", "targets"]
        assert kinds["sample_weight"] is kinds["normalizer"] is inspect.Parameter.KEYWORD_ONLY
        assert kinds["options"] is inspect.Parameter.VAR_KEYWORD


def test_every_loss_has_every_method() -> None:
    methods = "__call__ value_and_grad hvp sums activation predict from_probabilities"
    for loss in LOSSES.values():
        for name in [*methods.split(), "from_log_probabilities", "chain_rule"]:
            assert callable(getattr(loss, name))


# Documentation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_every_public_name_says_what_it_returns_and_shows_it(thing: Any) -> None:
    text = inspect.getdoc(thing) or ""
    assert text.split("\n", 1)[0].endswith((".", ":"))
    assert ">>> " in text


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.__name__)
def test_every_loss_states_formula_gradient_shapes_and_source(loss: Any) -> None:
    text = " ".join((inspect.getdoc(loss) or "").split())
    assert re.search(r"ln |\^2", text)
    assert "gradient in the scores" in text
    assert re.search(r"shape|Shapes", text)
    assert "References" in text
    for name, _ in inspect.getmembers(loss, inspect.isfunction):
        if not name.startswith("_") or name == "__call__":
            assert inspect.getdoc(getattr(loss, name))


@pytest.mark.parametrize(
    "function",
    [f for name, f in inspect.getmembers(reference, inspect.isfunction) if name[0] != "_"],
    ids=lambda function: function.__name__,
)
def test_every_formula_stands_in_its_docstring(function: Any) -> None:
    text = inspect.getdoc(function) or ""
    assert text.startswith("Return ")
    assert re.search(r" [-+=^/*] |ln |: 1 for", text)
    if not re.search(
        r"_dE_|_prime|^one_hot|^logsumexp|^chain|^ratio|smooth_|weighted", function.__name__
    ):
        assert re.search(r"Source: |The same sum as", text)


def test_nats_and_bits_are_said() -> None:
    assert "nats" in (reference.__doc__ or "")
    assert "nats" in (inspect.getdoc(crossent.CrossEntropy.__call__) or "")
    assert "nats" in (inspect.getdoc(crossent.LossSums) or "")


# Imports ------------------------------------------------------------------------------------------

# Whoever stands lower may not know of whoever stands higher.
LAYERS = (
    ("checks", "reference", "layout", "sums", "threads", "files", "distributed"),
    ("kernels",),
    ("targets",),
    (
        "numpy",
        "plain",
        "torch_front_end",
        "torch_plain",
        "torch_checks",
        "torch_tensors",
        "torch_operators",
        "torch_group",
    ),
    ("losses",),
    ("linear", "scoring"),
    ("",),  # the package itself: the public list
    ("linear_layer", "linear_targets", "linear_numpy"),
    ("torch_linear_tensors", "torch_linear_plain", "torch_linear", "torch_linear_statistics"),
    (
        "torch",
        "torch_modules",
        "torch_shards",
        "torch_parallel",
        "torch_parallel_linear",
        "jax",
        "layer",
        "curvature",
        "labels",
        "task",
        "search",
        "row_space",
        "separation",
        "checkpoint",
        "training",
        "sklearn",
        "encoding",
    ),
    ("tables", "model_file", "predictions"),
    ("cli", "lab", "__main__"),
)
RANK = {module: rank for rank, modules in enumerate(LAYERS) for module in modules}
# A loss finds the front end of an array when one comes.
LATE = {
    ("losses", "jax"),
    *(("linear", name) for name in ("linear_numpy", "torch_linear", "torch_parallel_linear")),
}
AT_HOME = {  # who may import a package that is not there for everyone
    "torch": {
        "torch_front_end",
        "torch_plain",
        "torch_checks",
        "torch_group",
        "torch_shards",
        "torch_modules",
        "torch_parallel",
        "torch_parallel_linear",
        "torch_linear",
        "torch_linear_plain",
        "torch_linear_statistics",
        "torch_linear_tensors",
        "torch_tensors",
        "torch_operators",
        "distributed",
    },
    "jax": {"jax"},
    "numba": {"kernels", "cli"},
    "llvmlite": {"kernels"},
    "triton": {"kernels"},
    "click": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"cli"},
    "pyarrow": {"tables", "encoding", "predictions", "cli"},
    "safetensors": {"model_file"},
}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Return (package, module of it) of every import in a file, but for those of type checkers."""
    tree = ast.parse(path.read_text())
    typing = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    skipped = {id(child) for node in typing for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            yield package, rest.partition(".")[0]


def modules() -> dict[str, list[Path]]:
    """Return the files of every module or subpackage."""
    found: dict[str, list[Path]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        found.setdefault("" if name == "__init__" else name, []).append(path)
    return found


def known(name: str) -> str:
    """Return the module that a name imported from the package is, or "" for the package."""
    return name if (SOURCE / f"{name}.py").exists() or (SOURCE / name).is_dir() else ""


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    assert module in RANK, f"say in LAYERS where crossent.{module} stands"
    for path in modules()[module]:
        for package, name in imports(path):
            if package == "crossent" and (module, name) not in LATE and known(name) != module:
                assert RANK[known(name)] <= RANK[module], f"{path.name} imports crossent.{name}"
            assert module in AT_HOME.get(package, {module}), f"{path.name} imports {package}"


def test_every_layer_but_the_planned_ones_exists() -> None:
    planned = {"jax"}
    assert {module for module in RANK if module and not known(module)} <= planned
