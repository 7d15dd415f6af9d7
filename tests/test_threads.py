"""Threads and processes: the same bits from everywhere, no abort, no waiting for ever.

Most tests start this file as a program of its own, with a time limit: what may hang or abort must
not take the test run with it. A program prints a digest of results, bit for bit, which the test
compares with its own, computed by one thread.
"""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import crossent
from crossent import threads

LIMIT = 60  # seconds for a program that may compile first
SEED = 7


def digest(seed: int) -> str:
    """Return a digest of losses and gradients large enough for all helpers."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((2600, 1000), dtype=np.float32)
    labels = rng.integers(1000, size=len(z))
    soft, soft_gradient = crossent.CrossEntropy().value_and_grad(z, labels)
    hard, hard_gradient = crossent.BinaryCrossEntropy().value_and_grad(z, (z > 0.5) * 1.0)
    state = hashlib.sha256()
    for part in (soft, soft_gradient, hard, hard_gradient):
        state.update(np.asarray(part).tobytes())
    return state.hexdigest()


def digests(seeds: range) -> list[str]:
    """Return the digests of several seeds, computed by as many threads at once."""
    with ThreadPoolExecutor(len(seeds)) as pool:
        return list(pool.map(digest, seeds, timeout=LIMIT))


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """What one thread computes for four seeds."""
    before = crossent.get_num_threads()
    crossent.set_num_threads(1)
    try:
        return [digest(seed) for seed in range(SEED, SEED + 4)]
    finally:
        crossent.set_num_threads(before)


# In this process --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calls() -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(SEED)
    z = rng.standard_normal((2600, 1000), dtype=np.float32)
    short = rng.standard_normal((300_000, 10), dtype=np.float32)
    labels, short_labels = z.argmin(axis=1), rng.integers(10, size=len(short))
    p = crossent.softmax(z)
    options = {"label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 30.0, "temperature": 2.0}
    return {
        "long rows": lambda: crossent.CrossEntropy().value_and_grad(z, labels),
        "short rows": lambda: crossent.CrossEntropy().value_and_grad(short, short_labels),
        "options": lambda: crossent.CrossEntropy(**options).value_and_grad(z, labels, p[:, 0]),
        "dense targets": lambda: crossent.CrossEntropy().value_and_grad(z, p),
        "two terms": lambda: crossent.SoftmaxBinaryCrossEntropy().value_and_grad(z, p),
        "sigmoid": lambda: crossent.BinaryCrossEntropy().value_and_grad(z, p),
        "quadratic": lambda: crossent.QuadraticCost().value_and_grad(z, p),
        "float64 sums": lambda: (crossent.CrossEntropy().sums(z, labels).sum,),
        "activations": lambda: (crossent.logsumexp(z), crossent.softmax(short)),
    }


def _bits(results: tuple[Any, ...]) -> list[bytes]:
    return [np.asarray(result).tobytes() for result in results]


def test_results_have_the_same_bits_for_any_number_of_threads(
    calls: dict[str, Callable[[], Any]], set_threads: Callable[[int], None]
) -> None:
    results = []
    for count in (1, 2, 3, 4):
        set_threads(count)
        results.append({name: _bits(call()) for name, call in calls.items()})
    assert results[1:] == results[:1] * 3


def test_the_digest_sees_a_single_bit(alone: list[str]) -> None:
    assert len(set(alone)) == len(alone)


def test_concurrent_callers_get_what_one_alone_gets(
    alone: list[str], set_threads: Callable[[int], None]
) -> None:
    set_threads(4)
    for _ in range(3):
        assert digests(range(SEED, SEED + 4)) == alone


def test_the_number_of_threads_may_change_under_concurrent_callers(
    alone: list[str], set_threads: Callable[[int], None]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(digest, seed) for seed in range(SEED, SEED + 4)]
        for count in (3, 1, 4, 2) * 5:
            set_threads(count)
            time.sleep(0.002)
        assert [future.result(timeout=LIMIT) for future in futures] == alone


def test_helpers_keep_off_the_processor_of_their_caller(
    set_threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_threads(3)
    allowed = os.sched_getaffinity(0)
    z = np.zeros((2600, 1000), np.float32)
    labels = np.zeros(2600, int)
    crossent.cross_entropy(z, labels)
    assert eventually(lambda: bool(threads._crew))  # helpers are only made when there is work
    for processor in (min(allowed), max(allowed), -2):
        monkeypatch.setattr(threads, "_processor", lambda here=processor: lambda: here)
        wanted = allowed - {processor} or allowed

        def all_keep_off(wanted: set[int] = wanted) -> bool:
            crossent.cross_entropy(z, labels)
            return all(os.sched_getaffinity(each.native_id) == wanted for each in threads._crew)

        assert eventually(all_keep_off)  # not at once: another helper may only just have been made
    assert os.sched_getaffinity(0) == allowed


def eventually(holds: Callable[[], bool]) -> bool:
    """Return whether something holds before the time is over."""
    end = time.monotonic() + LIMIT
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def test_threads_work_side_by_side_and_no_more_than_asked_for(
    set_threads: Callable[[int], None],
) -> None:
    set_threads(3)
    seen = set()
    meeting = threading.Barrier(3)

    def work(start: int, stop: int, sums: Any) -> None:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            meeting.wait(timeout=10)  # passes only if three are here at the same time
        sums[0] = stop - start

    total = threads.sum_over_rows(work, 3 * threads.CHUNK // 10, 30)
    assert total[0] == 3 * threads.CHUNK // 10
    assert len(seen) == 3


def test_an_error_of_a_helper_reaches_the_caller(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    caller = threading.get_ident()
    failed = threading.Event()

    def work(start: int, stop: int, sums: Any) -> None:
        if threading.get_ident() != caller:
            failed.set()
            raise MemoryError("a helper's")
        failed.wait(timeout=10)

    with pytest.raises(MemoryError, match="a helper's"):
        threads.sum_over_rows(work, 8, threads.CHUNK)


def test_an_interrupted_call_leaves_nobody_writing(
    set_threads: Callable[[int], None],
) -> None:
    set_threads(2)
    caller = threading.get_ident()
    begun = threading.Event()
    written = []

    def work(start: int, stop: int, sums: Any) -> None:
        if threading.get_ident() == caller:
            begun.wait(timeout=10)
            raise KeyboardInterrupt
        begun.set()
        time.sleep(0.01)
        written.append(start)

    with pytest.raises(KeyboardInterrupt):
        threads.sum_over_rows(work, 1000, threads.CHUNK)
    count = len(written)
    time.sleep(0.1)
    assert len(written) == count <= 2


def test_helpers_let_go_of_what_they_worked_on(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    z = np.zeros((2600, 1000), np.float32)
    alive = weakref.ref(z)
    crossent.cross_entropy(z, np.zeros(2600, int))
    del z
    assert eventually(lambda: alive() is None)


def test_helpers_that_are_not_wanted_any_more_go_home(set_threads: Callable[[int], None]) -> None:
    set_threads(3)
    crossent.cross_entropy(np.zeros((2600, 1000), np.float32), np.zeros(2600, int))
    crew = list(threads._crew)
    assert len(crew) == 2
    set_threads(2)
    assert eventually(lambda: not any(helper.is_alive() for helper in crew))


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, None])
def test_a_number_of_threads_is_a_whole_number(count: Any) -> None:
    before = crossent.get_num_threads()
    with pytest.raises(ValueError, match="it must be a whole number, 1 or more"):
        crossent.set_num_threads(count)
    assert crossent.get_num_threads() == before


# In programs of their own -----------------------------------------------------------------------


def run(program: str, **environment: str) -> list[str]:
    """Run one of the functions below in a new process; return the lines it prints."""
    names = ("CROSSENT_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
    inherited = {name: text for name, text in os.environ.items() if name not in names}
    finished = subprocess.run(
        [sys.executable, __file__, program],
        env={**inherited, "CROSSENT_NUM_THREADS": "4", **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


def use_helpers() -> None:
    """Compute something, and make sure that helpers took part in it."""
    digest(SEED)
    assert threading.active_count() > 1


def fork(child: Callable[[], None]) -> None:
    """Run child in a fork of this process, and pass its failure on."""
    process = os.fork()
    if process == 0:
        try:
            child()
            sys.stdout.flush()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0


def print_digests() -> None:
    print(*digests(range(SEED, SEED + 4)))


def count_threads() -> None:
    print(crossent.get_num_threads())


def forked() -> None:
    """Fork after helpers have worked: parent and child both go on."""

    def child() -> None:
        assert threading.active_count() == 1  # the parent's helpers are gone
        use_helpers()
        print_digests()

    use_helpers()
    fork(child)
    print_digests()


def forked_with_lock() -> None:
    """Fork while the lock on the helpers is held, as another thread may."""
    use_helpers()
    with threads._lock:
        fork(print_digests)


def forked_while_compiling() -> None:
    """Fork while another thread holds the compiler's lock for a while."""
    from numba.core.compiler_lock import global_compiler_lock

    holds = threading.Event()

    def compile_for_a_while() -> None:
        with global_compiler_lock:
            holds.set()
            time.sleep(0.5)

    compiler = threading.Thread(target=compile_for_a_while)
    compiler.start()
    holds.wait()
    fork(print_digests)
    compiler.join()


def after_the_end() -> None:
    """Call while the interpreter shuts down, when no thread can be started any more."""
    atexit.register(print_digests_alone)


def print_digests_alone() -> None:
    print(*[digest(seed) for seed in range(SEED, SEED + 4)])


def _pool_of_processes(method: str) -> None:
    if method == "fork":
        use_helpers()
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        print(*pool.map_async(digest, range(SEED, SEED + 4)).get(timeout=LIMIT))


def multiprocessing_fork() -> None:
    _pool_of_processes("fork")


def multiprocessing_spawn() -> None:
    _pool_of_processes("spawn")


def process_pool() -> None:
    use_helpers()
    with ProcessPoolExecutor(2) as pool:
        print(*pool.map(digest, range(SEED, SEED + 4), timeout=LIMIT))


def joblib_loky() -> None:
    import joblib

    use_helpers()
    calls = (joblib.delayed(digest)(seed) for seed in range(SEED, SEED + 4))
    print(*joblib.Parallel(n_jobs=2, backend="loky", timeout=LIMIT)(calls))


def data_loader() -> None:
    """Compute in forked workers of a DataLoader, after PyTorch's own threads have worked."""
    import torch

    class Digests(torch.utils.data.Dataset[str]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> str:
            return digest(SEED + i)

    use_helpers()
    torch.ones(3000, 1000).exp().sum()
    loader = torch.utils.data.DataLoader(
        Digests(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=LIMIT
    )
    print(*loader)


def test_a_forked_child_and_its_parent_both_go_on(alone: list[str]) -> None:
    assert run("forked") == alone * 2


@pytest.mark.parametrize("program", ["forked_with_lock", "forked_while_compiling"])
def test_a_child_forked_at_a_bad_moment_does_not_wait_for_ever(
    program: str, alone: list[str]
) -> None:
    assert run(program) == alone


@pytest.mark.parametrize(
    "program",
    [
        "multiprocessing_fork",
        "multiprocessing_spawn",
        "process_pool",
        "joblib_loky",
        "after_the_end",
    ],
)
def test_processes_get_what_one_alone_gets(program: str, alone: list[str]) -> None:
    pytest.importorskip("joblib")
    assert run(program) == alone


def test_workers_of_a_data_loader_get_what_one_alone_gets(alone: list[str]) -> None:
    pytest.importorskip("torch")
    assert run("data_loader") == alone


@pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])
def test_no_threading_layer_of_numba_is_in_the_way(layer: str, alone: list[str]) -> None:
    assert run("forked", NUMBA_THREADING_LAYER=layer) == alone * 2


def test_one_thread_by_environment(alone: list[str]) -> None:
    assert run("print_digests", CROSSENT_NUM_THREADS="", NUMBA_NUM_THREADS="1") == alone


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"CROSSENT_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "5"}, 3),
        ({"CROSSENT_NUM_THREADS": "", "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "5"}, 1),
        ({"CROSSENT_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
        ({"CROSSENT_NUM_THREADS": "", "OMP_NUM_THREADS": "4,2"}, threads._default_threads()),
    ],
)
def test_the_environment_sets_the_number_of_threads(
    environment: dict[str, str], count: int
) -> None:
    assert run("count_threads", **environment) == [str(count)]


@pytest.mark.parametrize("text", ["0", "two", "-1", "1.5"])
def test_a_bad_number_of_threads_in_the_environment_is_named(text: str) -> None:
    message = f"CROSSENT_NUM_THREADS is '{text}'; it must be a whole number, 1 or more"
    with pytest.raises(AssertionError, match=message):
        run("count_threads", CROSSENT_NUM_THREADS=text)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
