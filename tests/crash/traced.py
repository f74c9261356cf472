"""Children under strace: counted, killed at a call, or given an error for one (`inject`)."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.crash.states import Label, label
from tests.nursery import bear

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DISK_CALLS = (
    "write", "writev", "pwrite64", "pwritev", "pwritev2", "fsync", "fdatasync", "msync", "sync_file_range", "syncfs",
    "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "link", "linkat", "symlink",
    "ftruncate", "truncate", "fallocate", "sendfile", "copy_file_range", "creat",
)  # fmt: skip
"""What can change a disk, the opening of new files apart."""

OPEN, REPORT = "openat", "sendto"
"""The call that makes files, among many that do not; and the one that acknowledges."""

PATIENCE_S = 60.0


@dataclass
class Outcome:
    """How a child ended: its exit status (negative: the signal) and its reports, in order."""

    status: int
    reports: list[dict[str, object]] = field(default_factory=list)
    trace: str = ""
    errors: str = ""

    @property
    def acknowledged(self) -> dict[str, Label]:
        """The commits whose save had returned, by id."""
        return {str(report["id"]): label(str(report["name"])) for report in self.reports if "id" in report}

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Child:
    """A process that does what driver.py says, once it is told to `go`."""

    def __init__(self, folder: Path, arguments: Sequence[object]) -> None:
        self._socket, theirs = socket.socketpair()
        self._errors = os.memfd_create("stderr")
        with theirs:
            given = [theirs.fileno(), self._errors]
            self._born = bear("tests.crash.driver:live", [folder, *arguments], given, ["numpy", "tests.crash.driver"])
        self._received = b""
        assert self._socket.recv(1) == b"?", self.end()

    @property
    def pid(self) -> int:
        return self._born.pid

    def go(self) -> None:
        self._socket.sendall(b"!")

    def listen(self, patience_s: float = PATIENCE_S) -> bool:
        """Take in what is reported within `patience_s` or until the child has ended; whether it goes on."""
        deadline = time.monotonic() + patience_s
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                try:
                    data = self._socket.recv(1 << 16)
                except ConnectionResetError:  # it ended before it had read that it may go
                    data = b""
                if not data:
                    return False
                self._received += data
        return True

    def kill(self) -> None:
        self._born.kill()

    def end(self) -> Outcome:
        """Kill the child if it still runs. A report cut short by that was not received."""
        self.kill()
        self.listen()
        return self.outcome()

    def outcome(self) -> Outcome:
        """What came of a child that has ended."""
        self._socket.close()
        status = self._born.ended()
        with open(self._errors, "rb") as file:
            file.seek(0)
            errors = file.read().decode()
        lines = self._received.split(b"\n")[:-1]
        return Outcome(status, [json.loads(line) for line in lines], errors=errors)


def run(folder: Path, arguments: Sequence[object]) -> Outcome:
    """A child from beginning to end."""
    child = Child(folder, arguments)
    child.go()
    assert not child.listen(), "the child hangs"
    return child.outcome()


def trace(folder: Path, arguments: Sequence[object], calls: Sequence[str], inject: str | None, log: Path) -> Outcome:
    """A child under strace, which follows `calls` from the moment when all is imported, and does `inject`."""
    child = Child(folder, arguments)
    command = ["strace", "-f", "-s", "0", "-o", str(log), "-e", f"trace={','.join(calls)}"]
    if inject is not None:
        command += ["-e", f"inject={inject}"]
    with subprocess.Popen([*command, "-p", str(child.pid)], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert "attached" in said, said
        child.go()
        assert not child.listen(), "the child hangs"
        outcome = child.outcome()
    outcome.trace = log.read_text(encoding="utf-8", errors="replace")
    return outcome


@dataclass(frozen=True)
class Point:
    """The `n`th call of a kind that a child makes, counted from 1."""

    call: str
    n: int

    def __str__(self) -> str:
        return f"{self.call}:when={self.n}"


def points(traced: str) -> list[Point]:
    """Every call in a trace that changes the disk or acknowledges; of openat those that may make a file."""
    counted: Counter[str] = Counter()
    found = []
    for line in traced.splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)", line)
        if match is None:
            continue
        call, rest = match.groups()
        counted[call] += 1
        if call != OPEN or "O_CREAT" in rest:
            found.append(Point(call, counted[call]))
    return found


def need_strace() -> None:
    """Skip where processes cannot be traced."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    if subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
