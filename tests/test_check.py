"""`crossent check`: its truth against mpmath, and what it does when a kernel is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from mpmath import mp, mpf

import crossent
from benchmarks import oracle
from crossent.cli import check as checking
from crossent.cli.truth import truth

SNAKE = {
    "CrossEntropy": "cross_entropy",
    "SoftmaxBinaryCrossEntropy": "softmax_binary_cross_entropy",
    "BinaryCrossEntropy": "binary_cross_entropy",
    "QuadraticCost": "quadratic_cost",
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check two kernels in two types, and time few scores."""
    names = ("class index, long rows", "quadratic cost")
    monkeypatch.setattr(checking, "KERNELS", [k for k in checking.KERNELS if k.name in names])
    formats = {name: checking.FORMATS[name] for name in ("float32", "float64")}
    monkeypatch.setattr(checking, "FORMATS", formats)
    monkeypatch.setattr(checking, "SCORES", 1 << 12)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(checking.check, arguments)


@pytest.mark.parametrize("kernel", checking.KERNELS, ids=lambda kernel: kernel.name)
def test_the_truth_is_that_of_mpmath(kernel: checking.Kernel) -> None:
    logits, targets = checking._draw(kernel, "float32")
    options = {**kernel.options, "reduction": "none"}
    if "pos_weight" in options:
        options["pos_weight"] = [options["pos_weight"]]
    for i in (0, len(logits) - 1):
        masses = checking._masses(kernel, targets[i])
        found = truth(kernel.loss, kernel.options, logits[i].tolist(), masses)
        true = oracle.truth(SNAKE[kernel.loss], options, logits[i : i + 1], targets[i : i + 1])
        pairs = [
            *zip(found.losses, true.value.flat, strict=True),
            *zip(found.gradient, true.gradient.flat, strict=True),
            *zip(found.larger, true.larger_term.flat, strict=True),
        ]
        with mp.workdps(60):
            assert max(abs(mpf(str(ours)) / theirs - 1) for ours, theirs in pairs) < mpf(10) ** -25


def test_ulps_are_those_of_the_type() -> None:
    one = [checking.Decimal(1)]
    assert checking._ulps([1 + 2.0**-23], one, one, "float32") == 1.0
    assert checking._ulps([1 + 2.0**-52], one, one, "float64") == 1.0
    assert checking._ulps([1 - 2.0**-11], one, one, "float16") == 0.5
    assert checking._ulps([1 + 2.0**-7], one, one, "bfloat16") == 1.0
    tiny = [checking.Decimal(2) ** -140]
    assert checking._ulps([2.0**-140 + 2.0**-149], tiny, tiny, "float32") == 1.0
    assert checking._ulps([float("nan")], one, one, "float32") == float("inf")
    assert checking._ulps([float("inf")], one, one, "float32") == float("inf")


@pytest.mark.usefixtures("quick")
def test_a_table_of_kernels_and_types() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if "float" in line]
    assert len(rows) == len(checking.KERNELS) * len(checking.FORMATS)
    assert all(float(loss) <= 8 for *_, loss, _, _, _, _ in rows)
    assert f"threads        {crossent.get_num_threads()};" in result.output
    assert "bits" in result.output
    assert "OUT OF BOUNDS" not in result.output


@pytest.mark.usefixtures("quick")
def test_everything_as_json() -> None:
    result = run("--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["threads"] == crossent.get_num_threads()
    assert {(one["kernel"], one["dtype"]) for one in found["kernels"]} == {
        (kernel.name, dtype) for kernel in checking.KERNELS for dtype in checking.FORMATS
    }
    assert all(0 < one["loss"] <= one["loss_allowed"] for one in found["kernels"])
    assert all(0 < one["gradient"] <= one["gradient_allowed"] for one in found["kernels"])
    assert all(one["copies"] > 0 for one in found["kernels"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", ["loss", "gradient"])
@pytest.mark.parametrize("wrong", [lambda x: x * np.float32(1 + 1e-6), lambda x: x * np.nan])
def test_a_kernel_out_of_bounds_is_named(
    part: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(crossent.QuadraticCost):
        def value_and_grad(self, *arguments: Any, **options: Any) -> tuple[Any, Any]:
            value, gradient = super().value_and_grad(*arguments, **options)
            return (wrong(value), gradient) if part == "loss" else (value, wrong(gradient))

    monkeypatch.setattr(crossent, "QuadraticCost", Broken)
    result = run()
    assert result.exit_code == 1
    message = "out of bounds: quadratic cost in float32; quadratic cost in float64"
    assert f"crossent: {message}" in result.stderr
    assert result.stdout.count("OUT OF BOUNDS") == 2
    assert run("--json").exit_code == 1


def test_bfloat16_is_left_out_by_name_where_its_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    machine = checking._machine()
    assert machine["dtypes"] == ["float32", "float64", "float16"]
    assert machine["left_out"] == "bfloat16 (needs ml_dtypes)"


@pytest.mark.parametrize(
    ("features", "width"),
    [
        ("+sse2,+avx,+avx2,+avx512f", "512 bits (AVX-512)"),
        ("+sse2,+avx,+avx2,-avx512f", "256 bits (AVX2)"),
        ("+neon,+fp-armv8", "128 bits (NEON)"),
        ("", "unknown width"),
    ],
)
def test_the_width_of_vectors(features: str, width: str) -> None:
    assert checking.vectors(features) == width


def test_the_command_line_knows_it() -> None:
    command = [sys.executable, "-m", "crossent", "check", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Check every kernel on this machine" in done.stdout
