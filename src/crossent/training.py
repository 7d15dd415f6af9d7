"""The training of one layer: which way down is gone, and on what objective.

Letters as in `crossent.layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from crossent.checkpoint import Checkpoint, Remembered
from crossent.curvature import Memory
from crossent.layer import Float64, Objective, parameters_of
from crossent.row_space import RowSearch, in_row_space
from crossent.search import Descent, Progress, Search
from crossent.task import Task


class Goal(NamedTuple):
    """What is minimised, and how far: options of the classifier."""

    loss: str
    l2: float
    tol: float
    max_iter: int


def descend(
    task: Task,
    memory: Memory,
    goal: Goal,
    start: Float64 | None = None,
    report: Callable[[Progress], object] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Descent:
    """Return the way to where the objective is least: the layer found, and how it was.

    It is gone in the space of the rows where that saves memory; where that is not so, or comes to
    no end, among the parameters themselves.
    """
    if checkpoint is not None or not in_row_space(task.rows, goal.l2, start):
        return _among_parameters(task, memory, goal, start, report, checkpoint)
    way = RowSearch(task, memory, goal.l2, report).run(goal.tol, goal.max_iter)
    if way.reason:
        return way
    start = parameters_of(*way.layer(), memory.origin)
    return _among_parameters(task, memory, goal, start, report, history=way.history)


def _among_parameters(
    task: Task,
    memory: Memory,
    goal: Goal,
    start: Float64 | None,
    report: Callable[[Progress], object] | None,
    checkpoint: Checkpoint | None = None,
    history: Sequence[float] = (),
) -> Search:
    """Return a way from a start, or from no weights; it goes on from a history."""
    if start is None:
        scores = task.start()
        start = np.vstack([np.zeros((task.rows.columns, len(scores))), scores])
    total = memory.weight + task.total
    prior = memory.prior(goal.l2, start, total)
    objective: Objective | Remembered
    objective = Objective(task.loss, task.rows, total, memory.origin, prior)
    if checkpoint is not None:
        job = {"l2": goal.l2, "loss": goal.loss, "parameters": list(start.shape)}
        objective = checkpoint.around(objective, job)
    precision = prior.precision.mean(axis=1)
    coordinates = task.coordinates(memory.origin, precision[:-1], float(precision[-1]))
    search = Search(objective, coordinates, start, report, history)
    return search.run(goal.tol, goal.max_iter)
