"""Peak memory of one call in a process of its own, above what it was given.

    python -m benchmarks.memory CASE CONTESTANT

prints bytes. The first call compiles and is not counted; memory that it gave back is returned to
the system, the peak is reset, and the second call is measured. An output that is given with `out=`
belongs to the inputs.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Prepare

LIMIT = 600  # seconds


def measured(case: str, contestant: str) -> int | None:
    """Return the peak of a contestant, None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.memory", case, contestant]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr}")
    return int(finished.stdout.split()[-1])


def peak(prepare: Prepare) -> int:
    call = prepare()
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """Return an entry of this process's status, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    from benchmarks.cases import CASES

    print(peak(CASES[sys.argv[1]](False).contestants[sys.argv[2]]))
