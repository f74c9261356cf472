"""Signals that ask a run to save: where they are noted, and what they lead to between two steps."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)
SAVING = (signal.SIGUSR1,)


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
        """Note that what was asked for has been done."""
        self.asked = False

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
        if number in STOPPING:
            if self._woke():
                pass
            elif number == signal.SIGINT and self.stopping == signal.SIGINT:
                self.forced = True
                raise KeyboardInterrupt
            elif self.stopping is None:
                self.stopping = signal.Signals(number)
                self._timer = threading.Timer(self._patience_s, self._run_out)
                self._timer.daemon = True
                self._timer.start()
        self.asked = True
        self._notice()

    def _woke(self) -> bool:
        """Whether the handler was called because time ran out; says so once."""
        called, self._woken = self._woken, False
        return called

    _woken = False

    def _run_out(self) -> None:
        self.late = self._woken = True
        if self.stopping is not None:
            _thread.interrupt_main(self.stopping)
