"""Pages that hold results between two markers."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"


def write(path: Path, text: str) -> None:
    """Write beside and rename: a file is never half written."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def fill(path: Path, marker: str, new: str) -> None:
    """Replace what stands between two markers of a page."""
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path} must hold {begin} and {end}, once each")
    before, rest = text.split(begin)
    write(path, f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}")
