"""`crossent` as one of several processes, to which something happens when a checkpoint is written.

python job.py EVENT ARGUMENT...     with torchrun's environment variables
"""

from __future__ import annotations

import os
import signal
import sys
import time

from crossent import distributed
from crossent.checkpoint import Checkpoint
from crossent.cli import data, main

distributed.SILENCE = 3.0
data.BATCH_BYTES, data.LEAST_ROWS = 1, 300

EVENTS = {
    "nothing": lambda: None,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "starved": lambda: time.sleep(2 * distributed.SILENCE),
}


def happen(event: str) -> None:
    """Let something happen to process 1, after its third iteration."""
    note = Checkpoint.after

    def after(self: Checkpoint, iteration: int) -> None:
        note(self, iteration)
        if os.environ.get("RANK") == "1" and iteration == 3:
            EVENTS[event]()

    Checkpoint.after = after


if __name__ == "__main__":
    happen(sys.argv.pop(1))
    main()
