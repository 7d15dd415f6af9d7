"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_can_write(path: Path) -> None:
    """Raise OSError if there is no directory for the file, before any work is done for it."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no directory {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} cannot be written: it is a directory")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside to write to, which takes the place of `path` once all is written.

    Whatever fails in between, the disk being full included, leaves an earlier file as it was.
    """
    check_can_write(path)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
