"""A writer is stopped (SIGSTOP) at a call of its save: others read on, may not write while it has the lock, see who.

Once it goes on, its save is done or refused as if nothing had been.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from ckstore.errors import Locked
from ckstore.lock import FileLock
from ckstore.repository import open_repository
from ckstore.storage import store as storage
from ckstore.storage.store import Store
from tests.crash import traced
from tests.crash.oracle import judge
from tests.crash.replaced import replaced
from tests.crash.states import Label, history, read, save, state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.traced import Point

CALLS = ["rename", "fdatasync", "fsync"]
JOURNAL_SYNC = traced.Point("fdatasync", 3)
"""The last call before LMDB's own: who opens a repository waits for LMDB's lock, which a stopped writer holds then."""
POINTS = 14
PATIENCE_S = 0.2
OTHER = Label("small", 900)
SAVE: list[object] = ["--first", 2, "--shape", "chain"]


def test_a_stopped_writer(tmp_path: Path, count: Callable[[str, int], None], scale: int) -> None:
    traced.need_strace()
    template = tmp_path / "template"
    prepared = traced.run(template, ["--init", "--saves", 2, "--shape", "chain"]).acknowledged
    counted = tmp_path / "counted"
    shutil.copytree(template, counted)
    points = traced.points(traced.trace(counted, SAVE, CALLS, None, tmp_path / "trace").trace)
    points = points[: points.index(JOURNAL_SYNC) + 1]
    chosen = points[:: max(1, len(points) // (POINTS * scale))]
    refused = 0
    for point in chosen:
        folder = tmp_path / "repo"
        shutil.copytree(template, folder)
        violations, locked = _stopped_at(folder, point, dict(prepared), tmp_path / "log")
        assert not violations, f"stopped at {point}: {violations}"
        refused += locked
        shutil.rmtree(folder)
    count("stopped writers", len(chosen))
    count("writers refused while another is stopped", refused)
    assert 0 < refused < len(chosen)


def _stopped_at(folder: Path, point: Point, known: dict[str, Label], log: Path) -> tuple[list[str], bool]:
    """What was wrong, and whether another writer was refused meanwhile."""
    child = traced.Child(folder, SAVE)
    pid = child.pid
    inject = f"inject={point.call}:signal=SIGSTOP:when={point.n}"
    command = ["strace", "-f", "-o", str(log), "-e", f"trace={point.call}", "-e", inject, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        child.go()
        try:
            _wait_until_stopped(pid)
            wrong, done = _meanwhile(folder, known, pid)
            os.kill(pid, signal.SIGCONT)
            assert not child.listen(20), "the child hangs"
        except BaseException:
            child.kill()  # else its tracer waits for ever
            raise
        outcome = child.outcome()
    if len(outcome.acknowledged) != 1 or outcome.status:
        wrong.append(f"{outcome}")
    return wrong + judge(folder, {**known, **done, **outcome.acknowledged}), not done


def _meanwhile(folder: Path, known: dict[str, Label], pid: int) -> tuple[list[str], dict[str, Label]]:
    """Read and try to save beside a stopped writer; what is wrong, and what was acknowledged."""
    wrong: list[str] = []
    with (
        replaced(storage, "_READER_PATIENCE_S", PATIENCE_S),
        replaced(Store.locked.__wrapped__, "__defaults__", (PATIENCE_S,)),  # type: ignore[attr-defined]
        replaced(FileLock.held.__wrapped__, "__defaults__", (PATIENCE_S,)),  # type: ignore[attr-defined]
        open_repository(folder, folder.with_name("cache"), threads=1) as repository,
    ):
        found = {id: read(repository, commit) for id, commit in history(repository)}
        wrong += [f"{id} does not read back" for id, label in known.items() if found.get(id) != state(label)]
        began = time.monotonic()
        try:
            return wrong, {save(repository, OTHER): OTHER}
        except Locked as error:
            told = re.search(r"held by process (\d+) on (\S+) since \S+", str(error))
            if told is None or (int(told[1]), told[2]) != (pid, socket.gethostname()):
                wrong.append(f"process {pid} holds the lock, and it is said: {error}")
        if time.monotonic() - began > 10 * PATIENCE_S:
            wrong.append(f"refused after {time.monotonic() - began} s only")
    return wrong, {}


def _wait_until_stopped(pid: int) -> None:
    """A traced process is halted at each call for a moment; this one stays so."""
    deadline, seen = time.monotonic() + traced.PATIENCE_S, 0
    while seen < 8:
        assert time.monotonic() < deadline, "it does not stop"
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            seen = seen + 1 if file.read().rpartition(")")[2].split()[0] in "tT" else 0
        time.sleep(0.01)
