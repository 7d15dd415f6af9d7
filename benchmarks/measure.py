"""Interleaved timing: every contestant once per round, medians and ratios over the rounds."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PAUSE = 0.02  # seconds: lets another library's threads stop spinning before the next one starts
LEAST = 0.02  # seconds a timing lasts at least, by repeating the call
MOST = 10.0  # seconds the timings of a contestant last at most, unless it needs more for FEWEST
FEWEST = 3
LONG = 1.0  # seconds: what takes as long needs no third call to warm up
MEMORY = "MB of memory"  # what a peak is compared with

Call = Callable[[], object]
Prepare = Callable[[], Call]  # lays out what a call needs; memory is counted from there on


@dataclass(frozen=True)
class Target:
    """`of` takes at most (<=) or at least (>=) `factor` times as long as `to`."""

    of: str
    relation: str
    factor: float
    to: str

    def __str__(self) -> str:
        return f"{self.of} {self.relation} {self.factor:g} x {self.to}"

    def is_met(self, ratio: float) -> bool:
        return ratio <= self.factor if self.relation == "<=" else ratio >= self.factor


@dataclass(frozen=True)
class Case:
    """One piece of work and the ways to do it.

    Attributes
    ----------
    bytes_moved : int
        What the work cannot avoid moving: scores and targets read once, gradient written once.
    groups : mapping
        A name for the fastest of some contestants, such as "copy".
    limit : str
        The contestant or group that no way of doing the work can beat; "" if there is none.
    baseline : str
        The contestant that all are compared with.
    checks : mapping
        What must hold after the timings, by description.
    """

    bytes_moved: int
    contestants: Mapping[str, Prepare]
    targets: tuple[Target, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limit: str = ""
    baseline: str = "crossent"
    checks: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What a case has shown.

    Attributes
    ----------
    seconds : dict
        Of every contestant, one entry per round; slow ones take part in the first rounds only.
    checks : dict
        Whether what must hold did.
    left_out : dict
        Other libraries that could not do the work, and their errors.
    memory : dict
        Peak of a call above what it was given, in bytes, where measured.
    """

    case: Case
    seconds: dict[str, list[float]]
    checks: dict[str, bool]
    left_out: dict[str, str]
    memory: dict[str, int | None] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[self.fastest(name)])

    def fastest(self, name: str) -> str:
        """Return the contestant that a name stands for."""
        members = [m for m in self.case.groups.get(name, (name,)) if m in self.seconds]
        return min(members, key=lambda member: statistics.median(self.seconds[member]))

    def ratio(self, of: str, to: str) -> float:
        """Return the median over rounds of one's time / another's, both of one round."""
        if to == "microsecond":
            return self.median(of) * 1e6
        if to == MEMORY:
            return self.memory[of] / 1e6
        pairs = zip(self.seconds[self.fastest(of)], self.seconds[self.fastest(to)], strict=False)
        return statistics.median(a / b for a, b in pairs)

    def verdicts(self) -> list[tuple[Target, float, bool]]:
        """Return every target that was measured, its ratio, whether it is met."""
        targets = [target for target in self.case.targets if self._has_measured(target)]
        ratios = [self.ratio(target.of, target.to) for target in targets]
        return [(t, ratio, t.is_met(ratio)) for t, ratio in zip(targets, ratios, strict=True)]

    def _has_measured(self, target: Target) -> bool:
        if target.to == MEMORY:
            return self.memory.get(target.of) is not None
        there = {*self.seconds, "microsecond"}
        there |= {g for g, members in self.case.groups.items() if there & set(members)}
        return {target.of, target.to} <= there


def run(case: Case, rounds: int) -> Result:
    """Time all contestants, interleaved, then look at what must hold."""
    entries, left_out = _prepare(case)
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    gc.collect()
    for number in range(rounds):
        # Threads and memory that one leaves behind slow the next one down: not always the same one.
        for name in random.Random(number).sample(list(entries), len(entries)):
            entry = entries[name]
            if number < entry.rounds:
                seconds[name].append(_time(entry.call, entry.repeats))
    checks = {text: check() for text, check in case.checks.items()}
    return Result(case, seconds, checks, left_out)


@dataclass(frozen=True)
class _Entry:
    """A call that is compiled, how often to repeat it per timing, and the most timings of it."""

    call: Call
    repeats: int
    rounds: int


def _prepare(case: Case) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Return all entries, and what failed; ours must not."""
    entries: dict[str, _Entry] = {}
    left_out: dict[str, str] = {}
    for name, prepare in case.contestants.items():
        try:
            entries[name] = _warm_up(prepare())
        except Exception as error:
            if name.startswith("crossent"):
                raise
            left_out[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return entries, left_out


def _warm_up(call: Call) -> _Entry:
    """Run a call until it is compiled, and see how long it takes."""
    call()
    seconds, repeats = _time(call, 1), 1
    if seconds < LONG:  # else it is warm enough
        while (seconds := _time(call, repeats)) * repeats < LEAST:
            repeats *= 2
    rounds = max(FEWEST, int(MOST / (seconds * repeats)))
    return _Entry(call, repeats, rounds)


def _time(call: Call, repeats: int) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def as_json(result: Result) -> dict[str, Any]:
    return {
        "bytes_moved": result.case.bytes_moved,
        "seconds": result.seconds,
        "median": {name: result.median(name) for name in result.seconds},
        "peak_bytes_above_inputs": result.memory,
        "targets": [
            {"target": str(target), "ratio": ratio, "met": met}
            for target, ratio, met in result.verdicts()
        ],
        "checks": result.checks,
        "left_out": result.left_out,
        "notes": result.case.notes,
    }
