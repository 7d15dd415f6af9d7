"""The processes that share out the rows: one alone, or those that torchrun started.

Rows are shared out in their order, so that "before" means the same as in one process. Sums are
float64; every process gets the same bits of them, and then takes the same step by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


class Alone:
    """One process with all the rows; what several do together is then done already.

    Attributes
    ----------
    rank, size : int
        Which process this is, and how many there are.
    """

    rank: int = 0
    size: int = 1

    def sum(self, own: Float64) -> Float64:
        """Return the sum of the arrays of all processes."""
        return own

    def minimum(self, own: Float64) -> Float64:
        """Return the least of each entry over all processes."""
        return own

    def scan(self, own: Any) -> tuple[Any, Any]:
        """Return the sum of what earlier processes have, None for the first, and that of all."""
        return None, own

    def first(self, own: Any) -> Any:
        """Return what the first process has."""
        return own


ALONE = Alone()
