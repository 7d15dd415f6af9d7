"""Rows in memory, for tests of what lies under the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scipy import sparse

from crossent.layer import Block, Rows, nbytes_of


class Again:
    """Batches that are read again for every look at them: copies, that nobody keeps."""

    def __init__(self, batches: Sequence[Sequence[Block]]) -> None:
        self.batches, self.looks = batches, 0

    def __iter__(self):
        self.looks += 1
        for batch in self.batches:
            yield [block.copy() for block in batch]


def rows_of(*batches: Sequence[Block]) -> Rows:
    """Return the rows of batches that are kept."""
    blocks = [block for batch in batches for block in batch]
    features = [block.features for block in blocks]
    return Rows(
        list(batches),
        sum(each.shape[0] for each in features),
        features[0].shape[1],
        features[0].dtype,
        sparse.issparse(features[0]),
        sum(map(nbytes_of, features)),
    )


def read_again(rows: Rows) -> Rows:
    """Return the same rows, read again for every look."""
    return replace(rows, batches=Again(list(rows.batches)))
