"""Rows shared out among threads.

Kernels hold no interpreter lock, so ordinary Python threads run them side by side. No threading
layer of a compiler is involved: nothing to abort after a fork or under concurrent callers. Rows
are cut by their number alone, and partial sums are added in the order of the rows, so a result
has the same bits whatever the number of threads.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

Job = Callable[[], object]

CHUNK = 1 << 19  # scores, at most: long enough to hide the call, short enough to share out evenly
LEAST = 1 << 18  # scores, at least: below, waking a helper takes as long as the work
SHARES = 16  # in how many chunks to cut what is in between

_jobs: SimpleQueue[Job | None] = SimpleQueue()  # None sends a helper home
_crew: list[threading.Thread] = []  # helpers, who wait for jobs
_avoided = -1  # the processor that the crew keeps off
_lock = threading.Lock()
_held: list[Any] = []  # the compiler's lock, while this process forks


def _default_threads() -> int:
    own = os.environ.get("CROSSENT_NUM_THREADS", "").strip()
    if own and not (own.isdecimal() and int(own) > 0):
        raise ValueError(
            f"the environment variable CROSSENT_NUM_THREADS is {own!r}; "
            "it must be a whole number, 1 or more"
        )
    others = (os.environ.get(name, "") for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"))
    for text in (own, *others):
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = _default_threads()


def get_num_threads() -> int:
    """Return how many threads a call may use.

    >>> import crossent
    >>> crossent.get_num_threads() >= 1
    True
    """
    return _threads


def set_num_threads(threads: int) -> None:
    """Let every later call use so many threads; the results keep their bits.

    The default is the first of the environment variables CROSSENT_NUM_THREADS, NUMBA_NUM_THREADS
    and OMP_NUM_THREADS that is set, else the number of processors this process may use.

    Raises
    ------
    ValueError
        Unless threads is a whole number, 1 or more.

    Examples
    --------
    >>> import crossent
    >>> threads = crossent.get_num_threads()
    >>> crossent.set_num_threads(1)
    >>> crossent.get_num_threads()
    1
    >>> crossent.set_num_threads(threads)
    """
    global _threads
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads is {threads!r}; it must be a whole number, 1 or more")
    with _lock:
        _threads = threads
        for _ in _crew:
            _jobs.put(None)
        _forget_crew()


def _forget_crew() -> None:
    global _jobs
    _jobs = SimpleQueue()
    _crew.clear()


def _before_fork() -> None:
    """Wait until no thread compiles: the child would lack it, and find its lock locked for ever."""
    compiler = sys.modules.get("numba.core.compiler_lock")
    lock = getattr(compiler, "global_compiler_lock", None)
    if lock is not None:
        lock.acquire()
        _held.append(lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    """Forget the parent's threads: none of them exists in the child, and its lock may be held."""
    global _lock
    _after_fork()
    _lock = threading.Lock()
    _forget_crew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork_in_child,
    )


def _muster(helpers: int) -> None:
    """Let there be so many helpers at least."""
    global _avoided
    if len(_crew) >= helpers:
        return
    with _lock:
        while len(_crew) < helpers:
            helper = threading.Thread(target=_help, args=(_jobs,), name="crossent", daemon=True)
            helper.start()
            _crew.append(helper)
            _avoided = -1  # the new one is told with the others


def _help(jobs: SimpleQueue[Job | None]) -> None:
    for job in iter(jobs.get, None):
        job()
        del job  # and with it a call's arrays


@cache
def _processor() -> Callable[[], int] | None:
    """Return what tells the processor that a thread runs on, where threads can be kept off one."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    import ctypes

    return getattr(ctypes.CDLL(None), "sched_getcpu", None)


def _keep_off_caller() -> None:
    """Let helpers run on every processor the caller may use but the one that it is on.

    A system that fills one processor before it wakes another may start them behind the caller.
    """
    global _avoided
    processor = _processor()
    if processor is None or (here := processor()) == _avoided:
        return
    _avoided = here
    others = os.sched_getaffinity(0) - {here}
    for helper in _crew if others else ():
        with suppress(OSError):  # forbidden to this process, or the helper has just ended
            if helper.is_alive() and helper.native_id:
                os.sched_setaffinity(helper.native_id, others)


def sum_over_rows(
    work: Callable[[int, int, NDArray[np.float64]], object],
    rows: int,
    columns: int,
    width: int = 2,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Call work(start, stop, sums) for chunks of rows; return the total of their sums (width,).

    By so many threads, by default as many as there are.
    """
    if rows * columns <= LEAST:
        return _alone(work, (0, rows), rows, width)
    step = max(1, min(max(rows * columns // SHARES, LEAST), CHUNK) // columns)
    sums = np.zeros((-(-rows // step), width))
    chunks = iter(range(len(sums)))  # shared: whoever is free takes the next

    def take_chunks() -> None:
        for chunk in chunks:
            start = chunk * step
            work(start, min(start + step, rows), sums[chunk])

    with _help_for(take_chunks, min(threads or _threads, len(sums)) - 1):
        try:
            take_chunks()
        finally:
            for _ in chunks:  # interrupted: leave nothing to the helpers, who would go on writing
                pass
    return np.asarray(sums.sum(axis=0))


def sum_over_parts(
    work: Callable[..., object], *arrays: NDArray[Any], width: int = 2
) -> NDArray[np.float64]:
    """Call work(*parts, sums) for chunks of rows of the arrays; return the total of their sums.

    The first array (N, C) or (N,) says how many rows there are; an empty one stays empty.
    """
    first = arrays[0]
    rows = len(first)
    if first.size <= LEAST:  # as they are: cutting them takes as long as a row
        return _alone(work, arrays, rows, width)
    return sum_over_rows(
        lambda start, stop, sums: work(*(array[start:stop] for array in arrays), sums),
        rows,
        first.size // rows,
        width,
    )


def _alone(
    work: Callable[..., object], arguments: tuple[Any, ...], rows: int, width: int
) -> NDArray[np.float64]:
    """Do all the work at once, of which there is too little to share out."""
    sums = np.zeros(width)
    if rows:
        work(*arguments, sums)
    return sums


@contextmanager
def _help_for(job: Job, helpers: int) -> Iterator[None]:
    """Let helpers do the same job, which ends for all at once.

    In the end wait for those who have begun: who has not will find nothing left.
    """
    begun: list[None] = []
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def help_out() -> None:
        begun.append(None)
        ended.put(_error_of(job))

    _ask_for_help(help_out, helpers)
    try:
        yield
    finally:
        errors = [ended.get() for _ in begun]
    for error in errors:
        if error is not None:
            raise error


def _error_of(job: Job) -> BaseException | None:
    try:
        job()
    except BaseException as error:
        return error
    return None


def _ask_for_help(job: Job, helpers: int) -> None:
    jobs = _jobs  # a job for a crew that is sent home meanwhile goes with it
    with suppress(RuntimeError):  # no new threads while the interpreter shuts down
        _muster(helpers)
    _keep_off_caller()
    for _ in range(min(helpers, len(_crew))):
        jobs.put(job)
