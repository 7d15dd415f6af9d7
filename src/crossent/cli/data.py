"""Tables to learn from: their labels, which rows are learnt, and the rows in batches.

Nothing here grows with the number of rows: what must be known of all of them is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crossent import checks, encoding, tables
from crossent.cli.ranks import shared
from crossent.distributed import Alone
from crossent.encoding import Rows, Summary, TableEncoder

Array = NDArray[Any]

BATCH_BYTES = 32 << 20  # of features, in a batch that is not kept
BATCH_ROWS = 1 << 16  # in a batch of which no features are made
LEAST_ROWS = 1 << 10


class Piece(NamedTuple):
    """Some rows of a table, and what names one of them in a message."""

    table: pa.Table
    row: Rows


class Chunk(NamedTuple):
    """Some rows to learn from, or to check with: features, classes, numbers in the table."""

    columns: pa.Table
    codes: Array
    numbers: Array
    row: Rows


@dataclass(frozen=True)
class Tables:
    """Several tables as one.

    Attributes
    ----------
    source : str
        What they are called.
    schema : pyarrow.Schema
        That of the first; all have the same columns.
    read : callable
        Given names of columns and how many rows to read at a time, yields the rows of this
        process, anew with every call.
    kept : bool
        Whether they lie in memory.
    """

    source: str
    schema: pa.Schema
    read: Callable[[list[str], int], Iterator[Piece]]
    kept: bool


def in_memory(sources: Sequence[str], ranks: Alone) -> Tables:
    """Return tables, or a sample, that are read once; the first process has them all."""
    if len(sources) == 1 and sources[0] in tables.SAMPLES:
        found = [(sources[0], tables.read_table(sources[0]))]
    else:
        parts = tables.parts(sources)
        tables.common_schema(parts)
        first = [next(group) for _, group in groupby(parts, key=lambda part: part.path)]
        found = [(str(part.path), tables.read_table(part.path)) for part in first]
        pairs = zip(first, found, strict=True)  # of CSV files, the types that all rows have
        tables.common_schema(replace(part, schema=table.schema) for part, (_, table) in pairs)

    def read(columns: list[str], _: int) -> Iterator[Piece]:
        for name, table in found if ranks.rank == 0 else []:
            called = "row {}" if len(found) == 1 else "row {} of " + _braces(name)
            yield Piece(table.select(columns), called.format)

    return Tables(_called(sources), found[0][1].schema, read, kept=True)


def streamed(sources: Sequence[str], target: str | None, ranks: Alone) -> Tables:
    """Return tables whose row groups are shared out, and read anew for every look at them."""
    parts = tables.parts(sources)
    schema = tables.common_schema(parts)
    own = shared(parts, ranks)
    wide = {
        name: pa.float64()  # a whole number in the first rows, a fraction in later ones
        for part in parts
        if part.rows is None
        for name, kind in zip(part.schema.names, part.schema.types, strict=True)
        if pa.types.is_integer(kind) and name != target
    }

    def read(columns: list[str], batch_rows: int) -> Iterator[Piece]:
        for batch in tables.batches(own, columns, batch_rows, wide):
            yield Piece(pa.Table.from_batches([batch.data]), batch.row)

    return Tables(_called(sources), schema, read, kept=False)


def _called(sources: Sequence[str]) -> str:
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return f"{sources[0]}{more}"


def _braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


# What is learnt from them -----------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Tables with a column to learn, and the share of the rows that is kept back to check with.

    Attributes
    ----------
    columns : list of str
        The columns to learn from.
    classes : (K,) array
        The labels, sorted.
    counts, before : (K,) arrays
        How many rows each class has: in all, and of other processes before those of this one.
    """

    tables: Tables
    target: str
    columns: list[str]
    share: float
    seed: int
    ranks: Alone
    classes: Array
    counts: Array
    before: Array

    @classmethod
    def of(
        cls,
        found: Tables,
        target: str | None,
        drop: Sequence[str],
        share: float,
        seed: int,
        ranks: Alone,
    ) -> Data:
        """Return tables whose labels have been counted, in one pass.

        Raises
        ------
        ValueError
            For a column that is not there, labels that are none, and a single class.
        """
        target = _target(found, target, drop)
        before, total = ranks.scan(_count_labels(found, target))
        if not total:
            raise ValueError(f"{found.source} has {len(found.schema)} columns but no rows")
        if len(total) == 1:
            raise ValueError(
                f"column {target!r} holds one class only, {next(iter(total))!r}; it takes two to "
                "learn"
            )
        if len({isinstance(label, str) for label in total}) > 1:
            raise ValueError(encoding.mixed(target, "text", "numbers"))
        labels = sorted(total)
        classes = np.array(labels, dtype=object if isinstance(labels[0], str) else None)
        counts, earlier = (np.array([c[x] for x in labels]) for c in (total, before or Counter()))
        names = Counter(found.schema.names)  # several columns may have no name
        columns = [name for name in names if name not in (target, *drop) and names[name] == 1]
        return cls(found, target, columns, share, seed, ranks, classes, counts, earlier)

    @property
    def source(self) -> str:
        """Return what the tables are called."""
        return self.tables.source

    @property
    def keep(self) -> Array:
        """Return how many rows of each class are kept back; one at least is learnt."""
        share = np.round(self.share * self.counts).astype(np.int64)
        return np.asarray(np.minimum(share, self.counts - 1))

    @property
    def kept(self) -> int:
        """Return how many rows are kept back."""
        return int(self.keep.sum())

    @property
    def learnt(self) -> int:
        """Return how many rows are learnt."""
        return int(self.counts.sum()) - self.kept

    @property
    def checked_kind(self) -> str:
        """Return what rows predictions are judged by: all, if none were kept back."""
        return "validation rows" if self.kept else "training rows"

    def to_learn(self, batch_rows: int = BATCH_ROWS) -> Iterator[Chunk]:
        """Yield the rows of this process that are learnt."""
        return self._rows(False, batch_rows)

    def to_check(self, batch_rows: int = BATCH_ROWS) -> Iterator[Chunk]:
        """Yield the rows of this process that predictions are judged by."""
        return self._rows(self.kept > 0, batch_rows)

    def _rows(self, kept: bool, batch_rows: int) -> Iterator[Chunk]:
        seen, number = self.before.copy(), int(self.before.sum())
        for table, row in self.tables.read([*self.columns, self.target], batch_rows):
            codes = encoding.label_codes(table, self.target, self.classes)
            rows = np.flatnonzero(self._is_kept(codes, seen) == kept)
            if len(rows):
                some = table if len(rows) == len(codes) else table.take(rows)
                name = _Names(row, rows)
                yield Chunk(some.select(self.columns), codes[rows], number + rows, name)
            number += len(codes)

    def _is_kept(self, codes: Array, seen: Array) -> Array:
        """Return whether rows are kept back: of each class one at random in every n / k.

        `seen` counts the rows of each class so far, and is brought up to date.
        """
        rank = seen[codes] + _among_alike(codes)
        seen += np.bincount(codes, minlength=len(seen))
        n, k = self.counts[codes], self.keep[codes]
        turn = ((rank + 1) * k - 1) // n
        start, stop = (turn * n // np.maximum(k, 1), (turn + 1) * n // np.maximum(k, 1))
        chosen = start + _random(self.seed, codes, turn) % np.maximum(stop - start, 1)
        return np.asarray((k > 0) & (rank == chosen))


class _Names:
    """Names rows that were chosen from others."""

    def __init__(self, row: Rows, rows: Array) -> None:
        self.row, self.rows = row, rows

    def __call__(self, i: int) -> str:
        return self.row(int(self.rows[i]))


def _target(found: Tables, target: str | None, drop: Sequence[str]) -> str:
    """Return the column to learn, once all columns that are named are there."""
    names = found.schema.names
    if target is None and found.source in tables.SAMPLES:
        target = tables.SAMPLE_TARGET
    if target is None:
        raise ValueError(f"--target is missing; the columns are {checks.listed(names)}")
    for option, name in (("--target", target), *(("--drop", name) for name in drop)):
        if name not in names:
            raise ValueError(
                f"{option} is {name!r}; {found.source} has no such column but "
                f"{checks.listed(names)}"
            )
    return target


def _count_labels(found: Tables, target: str) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for table, row in found.read([target], BATCH_ROWS):
        total.update(encoding.label_counts(table, target, row))
        if len(total) > encoding.MOST_WORDS:
            raise ValueError(
                f"column {target!r} holds more than {encoding.MOST_WORDS} different labels: they "
                "name rows, not classes"
            )
    return total


def _among_alike(codes: Array) -> Array:
    """Return how many rows before each have its code."""
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    rank = np.empty(len(codes), np.int64)
    rank[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def _random(seed: int, codes: Array, turns: Array) -> Array:
    """Return a number in [0, 2^62) for every pair, the same in every process and pass.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014).
    """
    with np.errstate(over="ignore"):
        z = np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15) + turns.astype(np.uint64)
        for salt in (codes.astype(np.uint64), np.uint64(1)):
            z = (z + salt) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
    return np.asarray(z >> np.uint64(2)).astype(np.int64)


# Features ---------------------------------------------------------------------------------------


def learn_columns(data: Data) -> TableEncoder:
    """Return the encoder that the rows to learn from teach, in one pass."""
    own: Summary | None = None
    for chunk in data.to_learn():
        found = Summary.of(chunk.columns, chunk.row)
        own = found if own is None else own + found
    return TableEncoder.learnt(data.ranks.scan(own)[1])


@dataclass(frozen=True)
class Encoded:
    """The rows to learn from as features and positions in the classes, anew for every look."""

    data: Data
    encoder: TableEncoder

    def __iter__(self) -> Iterator[tuple[Any, Array]]:
        return ahead(self._batch(chunk) for chunk in self.data.to_learn(self.batch_rows))

    def _batch(self, chunk: Chunk) -> tuple[Any, Array]:
        return self.encoder.transform(chunk.columns, self.data.learnt, chunk.row), chunk.codes

    @property
    def batch_rows(self) -> int:
        """Return how many rows to read at a time."""
        return max(LEAST_ROWS, BATCH_BYTES // (8 * len(self.encoder.feature_names)))


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield items, while a thread makes the next one."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="crossent-reader") as thread:
        following = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield item
