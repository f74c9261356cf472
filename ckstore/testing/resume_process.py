"""A process of its own for a training: what it tells is collected, and nothing of it is left in the end."""

from __future__ import annotations

import os
import pickle
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from ckstore.testing.resume_events import Event, Job

_PATIENCE_S = 5.0
"""What a process that has run out of its time gets to say where it stands."""


@dataclass(frozen=True)
class Ran:
    """A process that has ended: with `code` as subprocess has it, or None where its time ran out."""

    events: list[Event]
    errors: str
    code: int | None


def ran(context: BaseContext, job: Job) -> Ran:
    """Run a job in a new process. Raises `InvalidInput` where its function cannot be found there."""
    pipes = _Pipes(context)
    process: Any = context.Process(target=_work, args=(job, *pipes.far), name="ckstore-training")  # type: ignore[attr-defined]
    try:
        process.start()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InvalidInput(
            f"{job.train!r} and its arguments cannot be sent to another process",
            why=str(error),
            hint="pass a function of a module, not a lambda, and arguments that can be pickled",
        ) from error
    finally:
        for one in pipes.far:
            one.close()
    late = True
    try:
        late = pipes.follow(process, time.monotonic() + job.timeout_s + _PATIENCE_S)
    finally:
        _end(process)
        pipes.drain()
    return Ran(pipes.found, pipes.text.decode(errors="replace"), None if late else process.exitcode)


def _work(job: Job, events: Connection, errors: Connection) -> None:
    from ckstore.testing.resume_watch import work  # torch

    work(job, events, errors)


class _Pipes:
    """What a process tells: events, and what it writes to stderr."""

    def __init__(self, context: BaseContext) -> None:
        self._events, events = context.Pipe(duplex=False)
        self._errors, errors = context.Pipe(duplex=False)
        self.far = (events, errors)
        self.found: list[Event] = []
        self.text = bytearray()

    def follow(self, process: BaseProcess, until_s: float) -> bool:
        """Take in what the process tells until it ends; whether its time ran out before."""
        left = [self._events, self._errors]
        while True:
            ready = wait([*left, process.sentinel], max(0, until_s - time.monotonic()))
            if not ready or process.sentinel in ready:
                return not ready
            left = [one for one in left if one not in ready or self._read(one)]

    def drain(self) -> None:
        """Take in what is left; nobody writes any more."""
        for one in (self._events, self._errors):
            while one.poll() and self._read(one):
                pass
            one.close()

    def _read(self, one: Connection) -> bool:
        """Take in an event or a piece of text; False at the end."""
        if one is self._events:
            try:
                self.found.append(one.recv())
            except EOFError:
                return False
            return True
        piece = os.read(one.fileno(), 1 << 16)
        self.text += piece
        return bool(piece)


def _end(process: BaseProcess) -> None:
    """Kill what is left of the process and of those that it started."""
    if process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
