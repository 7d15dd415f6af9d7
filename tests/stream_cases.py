"""Tables that are too long for memory, in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, feather, parquet

SAME = 1e-6  # relative, of coefficients: what is promised; what is seen is about 1e-12


def table(rows: int) -> pa.Table:
    """Return numbers with gaps, text, and three classes that they tell something of."""
    random = np.random.default_rng(0)
    x, word = random.standard_normal((rows, 4)), random.choice(["red", "green", "blue"], rows)
    scores = x[:, :3] + random.gumbel(size=(rows, 3)) + (word == "red")[:, None] * [1, 0, 0]
    x[random.uniform(size=rows) < 0.05, 2] = np.nan
    numbers = {f"x{j}": np.round(x[:, j], 6) for j in range(4)}
    columns = {"y": np.array(["a", "b", "c"])[scores.argmax(axis=1)], **numbers, "word": word}
    return pa.table({k: pa.array(v, from_pandas=True) for k, v in columns.items()})


def written(name: str, content: pa.Table, group_rows: int = 400) -> Path:
    """Write a table in pieces."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(content, path, row_group_size=group_rows)
    elif path.suffix == ".csv":
        csv.write_csv(content, path)
    else:
        feather.write_feather(content, str(path), chunksize=group_rows)
    return path


class Again:
    """Batches that nobody keeps: copies, made anew for every look."""

    def __init__(self, batches: list[tuple[Any, ...]]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        for batch in self.batches:
            yield tuple(np.copy(x) if isinstance(x, np.ndarray) else x for x in batch)
