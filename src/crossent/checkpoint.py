"""Checkpoints of a training: what the objective answered, so that it need not be asked again.

SciPy's minimiser cannot be put back to where it was, but it is deterministic. So a checkpoint
holds the answers that a search was given, in order. Whoever resumes begins at the beginning, hears
the same answers without a look at the rows, makes the same steps, and goes on from the last one to
the same coefficients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from crossent import checks
from crossent.distributed import ALONE, Alone
from crossent.files import replacing
from crossent.layer import Float64, Objective, Value

JOB = "job.json"
ANSWERS = "answers-*"
SAME = 1e-6  # relative: positions that differ by rounding only are taken for the same
HEAD = 3  # numbers before an answer's vector: where it was asked, loss, objective


class Checkpoint:
    """A directory with the answers so far.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    every : int
        Iterations from one writing to the next, at least 1.
    resume : bool
        Whether to go on from what is there, if anything is.
    ranks : crossent.distributed.Alone
        The processes that train together; the first of them reads and writes.

    Raises
    ------
    FileExistsError
        If a checkpoint is there and shall not be resumed.
    ValueError, TypeError
        Unless `every` is a whole number, 1 or more.
    """

    def __init__(
        self, folder: str | Path, every: int = 10, resume: bool = False, ranks: Alone = ALONE
    ) -> None:
        every = checks.whole_number("every", every)
        self.folder, self.ranks = Path(folder), ranks
        self.every = int(checks.number("every", every, 1, math.inf))
        self._new: list[Float64] = []
        self._files = 0  # that are there
        if ranks.rank == 0:
            held = (path for name in (JOB, ANSWERS) for path in self.folder.glob(name))
            if not resume and next(held, None):
                raise FileExistsError(
                    f"{folder} holds a checkpoint already; resume it, or name another directory"
                )
            self.folder.mkdir(parents=True, exist_ok=True)

    def around(self, objective: Objective, job: dict[str, Any]) -> Remembered:
        """Return the objective with its answers remembered.

        Raises
        ------
        ValueError
            If those that are there are of another job.
        """
        job = {**job, "SciPy": scipy.__version__}
        if self.ranks.rank == 0:
            self._check(job)
        return Remembered(objective, self)

    def after(self, iteration: int) -> None:
        """Take note of an iteration: write, if it is time to."""
        if iteration % self.every == 0:
            self.write()

    def write(self) -> None:
        """Write the answers that are new; those written before stay as they are."""
        if self.ranks.rank == 0 and self._new:
            with replacing(self._file(self._files)) as beside, beside.open("wb") as file:
                for answer in self._new:
                    file.write(answer.tobytes())
            self._files += 1
        self._new = []

    def recall(self, length: int) -> Iterator[Float64]:
        """Yield the answers that are there, in every process."""
        own = self._read(length) if self.ranks.rank == 0 else iter(())
        while (answer := self.ranks.first(next(own, None))) is not None:
            yield answer

    def note(self, answer: Float64) -> None:
        """Keep an answer for the next writing."""
        self._new.append(answer)

    def _file(self, number: int) -> Path:
        return self.folder / f"answers-{number:06d}"

    def _read(self, length: int) -> Iterator[Float64]:
        for number in count():
            path = self._file(number)
            if not path.exists():
                self._forget_after(number)
                return
            content = path.read_bytes()
            if len(content) % (8 * length):
                raise ValueError(f"{path} is no part of this checkpoint, or it was cut short")
            self._files = number + 1
            yield from np.frombuffer(content).reshape(-1, length)

    def _forget_after(self, number: int) -> None:
        """Remove answers behind a gap: without those that are missing nobody comes that far."""
        for path in self.folder.glob(ANSWERS):
            if path > self._file(number):
                path.unlink()

    def _check(self, job: dict[str, Any]) -> None:
        """Compare a job with that of the answers that are there, or write it."""
        path = self.folder / JOB
        if not path.exists():
            with replacing(path) as beside:
                beside.write_text(json.dumps(job), encoding="utf-8")
            return
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is no part of this checkpoint, or it was cut short") from None
        for name, value in job.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.folder} is the checkpoint of another training: "
                    f"{name} was {before.get(name)} and is {value}"
                )


class Remembered:
    """An objective that answers from a checkpoint as long as that lasts, then by itself."""

    def __init__(self, objective: Objective, checkpoint: Checkpoint) -> None:
        self.objective, self.rows, self.affine = objective, objective.rows, objective.affine
        self._checkpoint = checkpoint
        self._recalled: Iterator[Float64] | None = None

    def value_and_grad(self, parameters: Float64) -> Value:
        """Return the objective at the parameters, in one pass over the rows at most."""

        def ask() -> tuple[float, float, Float64]:
            return self.objective.value_and_grad(parameters)

        answer = self._answer(parameters, ask)
        return Value(float(answer[1]), float(answer[2]), answer[HEAD:].reshape(parameters.shape))

    def hvp(self, parameters: Float64, vector: Float64) -> Float64:
        """Return the Hessian of the objective at the parameters, times a vector like them."""

        def ask() -> tuple[float, float, Float64]:
            return 0.0, 0.0, self.objective.hvp(parameters, vector)

        return self._answer(vector, ask)[HEAD:].reshape(vector.shape)

    def _answer(self, where: Float64, ask: Callable[[], tuple[float, float, Float64]]) -> Float64:
        if self._recalled is None:
            self._recalled = self._checkpoint.recall(HEAD + where.size)
            return self._same_beginning(next(self._recalled, None), self._asked(where, ask))
        answer = next(self._recalled, None)
        if answer is None:
            answer = self._asked(where, ask)
            self._checkpoint.note(answer)
        elif not np.isclose(answer[0], np.linalg.norm(where), rtol=SAME):
            raise ValueError(
                f"{self._checkpoint.folder} does not fit: the steps made there are not those made "
                "here; was it written on another machine?"
            )
        return answer

    def _same_beginning(self, recalled: Float64 | None, asked: Float64) -> Float64:
        """Return the first answer, asked for again to see whether the rows are the same."""
        if recalled is None:
            self._checkpoint.note(asked)
            return asked
        if not np.allclose(recalled, asked, rtol=SAME, atol=SAME * np.abs(asked).max()):
            raise ValueError(
                f"{self._checkpoint.folder} is the checkpoint of a training on other rows: the "
                f"loss began at {recalled[1]:.6g} there and begins at {asked[1]:.6g} here"
            )
        return recalled

    @staticmethod
    def _asked(where: Float64, ask: Callable[[], tuple[float, float, Float64]]) -> Float64:
        loss, objective, vector = ask()
        return np.concatenate([[np.linalg.norm(where), loss, objective], vector.ravel()])
