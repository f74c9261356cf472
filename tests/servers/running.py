"""A server as a process: started on a free port, waited for, stopped by its pid."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]


@contextmanager
def running(module: str, *arguments: str, log: Path) -> Iterator[int]:
    """The port that `python -m module` listens on, as it says in its first line; its process ends with the body."""
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, *arguments],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert server.stdout is not None
    try:
        said = server.stdout.readline().split()  # ends too when the process does
        assert said[:1] == [b"READY"], f"{module} did not start: {log.read_text()}"
        yield int(said[1])
        assert server.poll() is None, f"{module} died: {log.read_text()}"
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()
