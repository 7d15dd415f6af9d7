"""What all tests share: examples are drawn alike in every run, threads are given back."""

from collections.abc import Callable, Iterator

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
