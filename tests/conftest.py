"""What all tests share: examples are drawn alike, threads are given back, times are taken alone."""

from collections.abc import Callable, Generator, Iterator
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path

import pytest
from hypothesis import settings

import crossent

settings.register_profile("same", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("same")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """What sets the number of threads, until the test ends."""
    before = crossent.get_num_threads()
    yield crossent.set_num_threads
    crossent.set_num_threads(before)


GATE, ROOM = Path(__file__), Path(__file__).with_name("cases.py")  # any two files can be locked


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Let no test run in another process of pytest-xdist while one that is marked `alone` does."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    with GATE.open() as gate, ROOM.open() as room:
        flock(gate, LOCK_EX)  # whoever waits for an empty room keeps the others at the gate
        flock(room, LOCK_EX if alone else LOCK_SH)
        if not alone:
            flock(gate, LOCK_UN)
        try:
            return (yield)
        finally:
            for lock in (room, gate):  # closed, they would be kept by children that live on
                flock(lock, LOCK_UN)
