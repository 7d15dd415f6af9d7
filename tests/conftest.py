"""What all tests share: examples are drawn alike in every run, threads are given back."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

import crossent

settings.register_profile("same", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("same")


@pytest.fixture
def threads() -> Iterator[None]:
    """Give back the number of threads that a test changes."""
    before = crossent.get_num_threads()
    yield
    crossent.set_num_threads(before)
