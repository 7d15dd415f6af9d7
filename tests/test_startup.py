"""Start-up: what an import costs, what the first call costs, and machine code kept on disk.

Every test starts real processes. Those that compile use one small kernel in a cache directory of
their own.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest

import crossent

LIMIT = 60  # seconds for one process
TRIES = 5  # to meet a time: it is processor time, but others may crowd the caches
EXPECTED = 1 / (1 + np.exp(-0.5))

SIGMOID = """
import numpy, crossent
print(float(crossent.sigmoid(numpy.array([0.5]))[0]))
"""


def start(
    program: str, cache: Path, prepare: Callable[[], None] | None = None, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment},
        preexec_fn=prepare,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Return the words that the process prints."""
    try:
        printed, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return printed.split()


def value(program: str, cache: Path, **options: str) -> float:
    return float(finish(start(program, cache, **options))[0])


def files(cache: Path) -> dict[str, int]:
    """Return the files under a directory, and when each was written, in nanoseconds."""
    return {str(path): path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache directory that holds the kernel already."""
    cache = tmp_path_factory.mktemp("warm")
    assert value(SIGMOID, cache) == pytest.approx(EXPECTED, rel=1e-15)
    return cache


# Import -----------------------------------------------------------------------------------------


@pytest.mark.alone
def test_import_adds_at_most_30_ms_to_that_of_numpy(tmp_path: Path) -> None:
    program = """
import time, numpy
start = time.process_time()
import crossent
print(time.process_time() - start)
"""
    assert any(value(program, tmp_path) <= 0.030 for _ in range(TRIES))


def test_import_brings_in_no_compiler_and_no_framework(tmp_path: Path) -> None:
    heavy = {"numba", "llvmlite", "scipy", "torch", "jax", "sklearn", "click", "concurrent.futures"}
    program = f"import sys, crossent; print(*({heavy} & sys.modules.keys()))"
    assert finish(start(program, tmp_path)) == []


# First call -------------------------------------------------------------------------------------


def test_a_second_process_finds_the_machine_code_of_the_first(warm: Path) -> None:
    before = files(warm)
    assert value(SIGMOID, warm) == pytest.approx(EXPECTED, rel=1e-15)
    assert before
    assert files(warm) == before


# The cache directory ----------------------------------------------------------------------------


def _obey_permissions() -> None:
    """Give up the right of a superuser to write where the permissions forbid it."""
    cap_dac_override, drop_from_bounding_set = 1, 24
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(drop_from_bounding_set, cap_dac_override, 0, 0, 0)


def test_without_any_directory_to_write_to_every_process_compiles(tmp_path: Path) -> None:
    cache, home, packages = tmp_path / "cache", tmp_path / "home", tmp_path / "packages"
    cache.mkdir()
    home.mkdir()
    source = Path(crossent.__file__).parent
    shutil.copytree(source, packages / "crossent", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [cache, home, *packages.rglob("*"), packages]:
        folder.chmod(0o555)
    program = "import os, crossent; assert not os.access(crossent.__path__[0], os.W_OK)" + SIGMOID
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(packages)}
    before = files(tmp_path)
    printed = finish(start(program, cache, _obey_permissions, **environment))
    assert float(printed[0]) == pytest.approx(EXPECTED, rel=1e-15)
    assert files(tmp_path) == before


def test_a_shared_directory_can_be_read_by_others(tmp_path: Path) -> None:
    value(SIGMOID, tmp_path)
    assert files(tmp_path)
    for path in files(tmp_path):
        assert Path(path).stat().st_mode & 0o044 == 0o044


def test_a_changed_processor_gets_machine_code_of_its_own(warm: Path) -> None:
    before = files(warm)
    other = value(SIGMOID, warm, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert other == pytest.approx(EXPECTED, rel=1e-15)
    after = files(warm)
    assert len(after) == len(before) + 1
    assert value(SIGMOID, warm) == pytest.approx(EXPECTED, rel=1e-15)
    assert files(warm) == after


def test_processes_that_compile_for_two_types_at_once_keep_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossent.kernels.compiler import kernel

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    cache = kernel(lambda x: x)._cache._cache_file
    with monkeypatch.context() as both_find_nothing:
        both_find_nothing.setattr(cache, "_load_index", dict)
        cache.save("float32", "machine code for float32")
        index_of_the_first = Path(cache._index_path).read_bytes()
        cache.save("float64", "machine code for float64")
    assert cache.load("float64") == "machine code for float64"
    Path(cache._index_path).write_bytes(index_of_the_first)
    assert cache.load("float32") == "machine code for float32"


def test_a_change_in_any_file_of_the_kernels_is_compiled(tmp_path: Path) -> None:
    packages, cache = tmp_path / "packages", tmp_path / "cache"
    source = Path(crossent.__file__).parent
    shutil.copytree(source, packages / "crossent", ignore=shutil.ignore_patterns("__pycache__"))
    assert value(SIGMOID, cache, PYTHONPATH=str(packages)) == pytest.approx(EXPECTED, rel=1e-15)
    intrinsics = packages / "crossent" / "kernels" / "intrinsics.py"
    text = intrinsics.read_text(encoding="utf-8")
    assert text.count('"llvm.fabs"') == 1
    intrinsics.write_text(text.replace("llvm.fabs", "llvm.rint"), encoding="utf-8")
    changed = value(SIGMOID, cache, PYTHONPATH=str(packages))
    assert abs(changed - EXPECTED) > 1e-3


def test_kernels_take_vectors_as_wide_as_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossent.kernels.compiler import kernel
    from crossent.kernels.turning import FEATURES

    def double(x: np.ndarray) -> None:
        for i in range(x.size):
            x[i] *= 2.0

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    compiled = kernel(double)
    compiled(np.ones(3))
    assert ("zmm" in compiled.inspect_asm(compiled.signatures[0])) is ("+avx512f" in FEATURES)


@pytest.mark.parametrize("collecting", [True, False])
def test_compiling_leaves_the_garbage_collector_as_it_was(
    collecting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossent.kernels.compiler import kernel

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    doubled, wrong = kernel(lambda x: 2 * x), kernel(lambda x: x.no_such_thing)
    (gc.enable if collecting else gc.disable)()
    try:
        assert doubled(3) == 6
        assert gc.isenabled() is collecting
        with pytest.raises(numba.TypingError, match="no_such_thing"):
            wrong(3)
        assert gc.isenabled() is collecting
    finally:
        gc.enable()
