"""How long work tells of itself: the caller passes a Progress, the library only calls it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the course of one piece of work. Methods may be called from any thread and must not raise."""

    def start(self, what: str, total_bytes: int) -> None:
        """A phase begins; `total_bytes` is how much it will advance by in all."""

    def advance(self, done_bytes: int) -> None:
        """`done_bytes` more of the current phase are done."""


class Silent:
    """Says nothing."""

    def start(self, what: str, total_bytes: int) -> None: ...

    def advance(self, done_bytes: int) -> None: ...


SILENT: Progress = Silent()


class Part:
    """A phase within a phase that has been started for the whole: only its bytes are passed on."""

    def __init__(self, whole: Progress) -> None:
        self._whole = whole

    def start(self, what: str, total_bytes: int) -> None: ...

    def advance(self, done_bytes: int) -> None:
        self._whole.advance(done_bytes)
