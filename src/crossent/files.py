"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def check_can_write(path: Path) -> None:
    """Raise OSError if there is no directory for the file, before any work is done for it."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no directory {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} cannot be written: it is a directory")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} cannot be written: it is no regular file, which could be replaced")


def check_results(sources: Iterable[str | Path], results: Mapping[str, Path | None]) -> None:
    """Raise unless every result, by the name of its option, can be written to a file of its own.

    Raises
    ------
    OSError
        As `check_can_write`.
    ValueError
        For a result that would take the place of a source, or of another result.
    """
    read = {Path(source).resolve() for source in sources}
    taken: dict[Path, str] = {}
    for option, path in results.items():
        if path is None:
            continue
        check_can_write(path)
        if path.resolve() in read:
            raise ValueError(
                f"{option} is {str(path)!r}, but that is what is read; name another file"
            )
        if (other := taken.setdefault(path.resolve(), option)) != option:
            raise ValueError(f"{option} is {str(path)!r}, but {other} writes it; name another file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside to write to, which takes the place of `path` once all is written.

    Whatever fails in between, the disk being full included, leaves an earlier file as it was. A
    new one may be read by whom the system lets read one; a link goes on to lead where it leads.
    """
    check_can_write(path)
    place = path.resolve()
    beside = place.with_name(f".{os.getpid()}.{place.name}")
    try:
        beside.touch()
        mode = (place if place.exists() else beside).stat().st_mode & 0o777
        yield beside
        beside.chmod(mode)  # whoever wrote it may have made it anew, for the owner alone
        os.replace(beside, place)
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
