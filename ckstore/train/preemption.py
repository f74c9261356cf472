"""Signals that ask a run to save: where they are noted, and what they lead to between two steps."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)
SAVING = (signal.SIGUSR1,)

_WITHOUT_LOCKS = frozenset(
    f"ckstore.{name}"
    for name in (
        "train.run", "train.data", "train.loader", "train.replayed", "train.held", "train.tape", "train.workers",
        "demo.train",
    )
)  # fmt: skip
"""What runs around a training's own code."""


class Preempted(SystemExit):
    """The process was asked to end by a signal; the run's state has been saved. Ends it with code 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + int(number))


class Signals:
    """Notes signals while a run is open; `notice` is called from the handler, in the main thread.

    A second Ctrl-C is a KeyboardInterrupt at once, wherever the training is.
    """

    def __init__(self, notice: Callable[[], None], patience_s: float) -> None:
        self.asked = False
        """Whether to save."""
        self.stopping: signal.Signals | None = None
        """The signal that asked the process to end."""
        self.late = False
        """Whether `patience_s` have gone by since then."""
        self.forced = False
        """Whether there was a second Ctrl-C."""
        self._interrupts = 0
        self._notice = notice
        self._patience_s = patience_s
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None
        self._pid = os.getpid()

    def install(self) -> bool:
        """Take the signals; whether that was possible: only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in (*STOPPING, *SAVING):
            if number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._handle)
        return True

    def restore(self) -> None:
        """Give the signals back."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def saved(self) -> None:
        """Note that what was asked for has been done; to end the process stays asked for until it has ended."""
        self.asked = self.stopping is not None

    def leave(self) -> None:
        """End the process as the signal asked. Raises `Preempted` or KeyboardInterrupt."""
        if self.stopping is None or self.stopping is signal.SIGINT:
            raise KeyboardInterrupt
        raise Preempted(self.stopping)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked worker has the handler, but is no run
            before = self._before.get(number)
            if callable(before):
                before(number, frame)
            elif before != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if number in STOPPING and self.stopping is None:
            self.stopping = signal.Signals(number)
            self._timer = threading.Timer(self._patience_s, self._run_out)
            self._timer.daemon = True
            self._timer.start()
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                self.forced = True
                raise KeyboardInterrupt
        self.asked = True
        if not _within_ckstore(frame):
            self._notice()

    def _run_out(self) -> None:
        """Wake the main thread, also where it sleeps in a system call."""
        self.late = True
        for number in (*SAVING, signal.SIGTERM):
            if signal.getsignal(number) == self._handle:
                signal.pthread_kill(threading.main_thread().ident or 0, number)
                return


def _within_ckstore(frame: FrameType | None) -> bool:
    """Whether code of ckstore is being run that may hold locks, which a commit needs."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name.startswith("ckstore.") and name not in _WITHOUT_LOCKS:
            return True
        frame = frame.f_back
    return False
