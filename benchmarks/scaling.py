"""What two threads do of one thread's work: commits of a state that is all new, and of its next version, in turn.

Of each the quickest counts: a ratio of two medians says more of what else the machine was doing. A round goes before,
each commit begins with nothing left to be written, and no memory is given up just before, which the host of a virtual
machine takes back meanwhile. One thread leaves the disk idle half of the time, and two may have to wait for it: so the
same is done where no disk is, in memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import ckstore

ROUNDS = 10
MEMORY = Path("/dev/shm")


def scaling(folder: Path, states: dict[str, object]) -> dict[str, float]:
    """By kind of state, one thread's time over two threads', on the disk of `folder` and in memory."""
    found = rates(folder / "scaling", states)
    if MEMORY.is_dir():
        with tempfile.TemporaryDirectory(dir=MEMORY) as memory:
            found |= {f"{kind}, in memory": rate for kind, rate in rates(Path(memory) / "scaling", states).items()}
    return found


def rates(folder: Path, states: dict[str, object]) -> dict[str, float]:
    """The ratios for one place."""
    runs: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for threads in (1, 2):
            with ckstore.open(folder, threads=threads) as repo:
                for kind, state in states.items():
                    os.sync()
                    began = time.perf_counter()
                    repo.commit(state)
                    runs.setdefault((kind, threads), []).append(time.perf_counter() - began)
            shutil.rmtree(folder)
    least = {name: min(seconds[1:]) for name, seconds in runs.items()}
    return {kind: least[kind, 1] / least[kind, 2] for kind in states}
