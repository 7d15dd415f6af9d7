"""The processes that share out the rows: one alone, or those that torchrun started.

Rows are shared out in their order, so that "before" means the same as in one process. Sums are
float64; every process gets the same bits of them, and then takes the same step by itself.

A job must not wait for a process that is gone. Where one ends, its connections end with it, and
torchrun ends the others; but a process that hangs, or whose machine is gone, is told by its
silence alone. So each gives a sign of life in torchrun's store, and whoever misses one, or reads
there that another failed, ends too.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

BEAT = 0.5  # seconds from one sign of life to the next
SILENCE = 20.0  # seconds without one, after which a process counts as gone
MEETING = timedelta(seconds=60)  # to reach the store
WAIT = timedelta(days=1)  # for a sum: the others may have many rows; silence is what ends a wait
FAILED = 2  # exit code

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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
        """Return the sum of what earlier processes have, None for the first, and that of all.

        None, too, is what a process has that has nothing to add.
        """
        return None, own

    def first(self, own: Any) -> Any:
        """Return what the first process has."""
        return own

    def alike(self, own: float) -> bool:
        """Return whether all processes have the same number, but for rounding."""
        return True


ALONE = Alone()


def several() -> bool:
    """Return whether torchrun started this process together with others."""
    return all(name in os.environ for name in _TORCHRUN) and os.environ["WORLD_SIZE"] != "1"


class Ranks(Alone):
    """The processes that torchrun started, on one machine or several.

    Sums go through NCCL where every process has a GPU to itself, else through gloo.

    Parameters
    ----------
    tell : callable
        In the first process: says what went wrong in another, before the process ends.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        import torch

        dist: Any = torch.distributed
        self._torch, self._dist = torch, dist
        store, self.rank, self.size = next(dist.rendezvous("env://", timeout=MEETING))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._life = _Life(self.rank, self.size, f"crossent/{attempt}", tell)
        self._device = self._choose_device(dist.PrefixStore(f"crossent/device/{attempt}", store))
        dist.init_process_group(
            "gloo" if self._device == "cpu" else "nccl",
            store=dist.PrefixStore(f"crossent/group/{attempt}", store),
            rank=self.rank,
            world_size=self.size,
            timeout=WAIT,
        )

    def _choose_device(self, store: Any) -> str:
        """Return "cuda:i" if all processes have a GPU to themselves, "cpu" else."""
        local, count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        own = self._torch.cuda.is_available() and self._torch.cuda.device_count() >= count
        store.set(str(self.rank), str(int(own)))
        if not all(int(store.get(str(rank))) for rank in range(self.size)):
            return "cpu"
        self._torch.cuda.set_device(local)
        return f"cuda:{local}"

    def sum(self, own: Float64) -> Float64:
        """Return the sum of the arrays of all processes."""
        return self._reduced(own, self._dist.ReduceOp.SUM)

    def minimum(self, own: Float64) -> Float64:
        """Return the least of each entry over all processes."""
        return self._reduced(own, self._dist.ReduceOp.MIN)

    def scan(self, own: Any) -> tuple[Any, Any]:
        """Return the sum of what earlier processes have, None for the first, and that of all."""
        before = total = None
        for rank in range(self.size):  # one after another: memory holds one of them
            if rank == self.rank:
                before = total
            theirs = self._sent(own, rank)
            if theirs is not None:
                total = theirs if total is None else total + theirs
        return before, total

    def first(self, own: Any) -> Any:
        """Return what the first process has."""
        return self._sent(own, 0)

    def alike(self, own: float) -> bool:
        """Return whether all processes have the same number, but for rounding."""
        least = self.minimum(np.array([own, -own]))
        return bool(np.isclose(least[0], -least[1], rtol=1e-9, atol=0.0))

    def _reduced(self, own: Float64, operation: Any) -> Float64:
        tensor = self._torch.tensor(own, device=self._device)
        self._together(lambda: self._dist.all_reduce(tensor, operation))
        return np.asarray(tensor.cpu().numpy())

    def _sent(self, own: Any, source: int) -> Any:
        parcel = [own if source == self.rank else None]
        self._together(lambda: self._dist.broadcast_object_list(parcel, source))
        return parcel[0]

    def _together(self, exchange: Callable[[], object]) -> None:
        """Exchange with all processes, and say so if there is one no more."""
        try:
            exchange()
        except RuntimeError as error:
            reason = re.sub(r"^\[\S*\] ", "", str(error)).split(". ", 1)[0]  # no place in gloo
            raise ConnectionError(f"a process ended before its work was done: {reason}") from error

    def close(self) -> None:
        """Wait for all others to have done their work, and part."""
        self.sum(np.zeros(1))
        self._life.end()
        self._dist.destroy_process_group()

    def fail(self, sentence: str) -> bool:
        """Tell the others why the job ends; return whether the first process told the user."""
        return self._life.fail(sentence)


class _Life:
    """Signs of life in the store, from a thread, and what it says of the others'."""

    def __init__(self, rank: int, size: int, prefix: str, tell: Callable[[str], object]) -> None:
        import torch

        dist: Any = torch.distributed
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=MEETING)  # a connection
        self._store = dist.PrefixStore(prefix, store)  # of its own: the other may wait
        self._rank, self._tell = rank, tell
        self._seen = {other: (0, 0.0) for other in (range(1, size) if rank == 0 else (0,))}
        self._over = threading.Event()
        self._beat()  # at once: the work may be short, and who never gave a sign is not missed
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """Give no more signs of life, and expect none."""
        self._over.set()

    def fail(self, sentence: str) -> bool:
        """Leave a sentence to the others; return whether the first process has passed it on."""
        self._over.set()
        try:
            self._store.compare_set("failure", "", sentence)
            if self._rank == 0:
                self._store.set("told", "yes")
                return False
            deadline = time.monotonic() + 10 * BEAT
            while time.monotonic() < deadline and not self._store.check(["told"]):
                time.sleep(BEAT / 5)
            return bool(self._store.check(["told"]))
        except RuntimeError:  # the store is gone, and with it whoever could have been told
            return False

    def _beat(self) -> None:
        self._store.add(f"beat/{self._rank}", 1)

    def _watch(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self._beat()
                silent = [rank for rank in self._seen if self._is_silent(rank)]
                if silent:
                    self._store.compare_set("failure", "", _gone(silent[0]))
                if self._store.check(["failure"]):
                    self._stop(self._store.get("failure").decode())
            except RuntimeError as error:
                self._stop(f"the first machine can be reached no more: {error}")

    def _is_silent(self, rank: int) -> bool:
        """Return whether a process that gave signs of life has given none for long."""
        count, now = self._store.add(f"beat/{rank}", 0), time.monotonic()
        before, since = self._seen[rank]
        if count != before:
            self._seen[rank] = count, now
        return count == before > 0 and now - since > SILENCE

    def _stop(self, sentence: str) -> None:
        """End this process: its own thread may be waiting for ever."""
        if self._over.is_set():
            return
        try:
            if self._rank == 0:
                self._tell(sentence)
                self._store.set("told", "yes")
        finally:  # the store may be gone as well
            os._exit(FAILED)


def _gone(rank: int) -> str:
    return f"process {rank} has given no sign of life for {SILENCE:.0f} seconds"
