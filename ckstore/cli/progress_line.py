"""Progress: a bar redrawn in place on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import shutil
import threading
import time
from typing import TextIO

from ckstore.units import about

_REDRAW_S = 0.1
_REPORT_S = 30.0
_NARROWEST = 8
_WIDEST = 30


class ProgressLine:
    """Bytes done, share, rate and time left of the current phase. Safe to call from many threads."""

    def __init__(self, out: TextIO, *, live: bool) -> None:
        self._out = out
        self._live = live
        self._lock = threading.Lock()
        self._what = ""
        self._total = self._done = 0
        self._began = self._told = 0.0

    def start(self, what: str, total_bytes: int) -> None:
        with self._lock:
            self._what, self._total, self._done = what, total_bytes, 0
            self._began = self._told = time.monotonic()

    def advance(self, done_bytes: int) -> None:
        with self._lock:
            self._done += done_bytes
            now = time.monotonic()
            finished = self._done >= self._total
            if now - self._told < (_REDRAW_S if self._live else _REPORT_S) and not finished:
                return
            if self._live:
                self._out.write("\r\x1b[K" + ("" if finished else self._line(now)))
            elif not finished:
                self._out.write(self._line(now) + "\n")
            self._told = now
            self._out.flush()

    def _line(self, now: float) -> str:
        elapsed = max(now - self._began, 1e-6)
        rate = self._done / elapsed
        left = (self._total - self._done) / rate if rate else 0.0
        share = self._done / self._total if self._total else 1.0
        said = (
            f"{self._what} {size(self._done)} of {size(self._total)} ({share:.0%}), "
            f"{size(int(rate))}/s, {left:.0f} s left"
        )
        room = shutil.get_terminal_size().columns - len(said) - 4
        if not self._live or room < _NARROWEST:
            return said
        width = min(room, _WIDEST)
        return f"[{'#' * round(share * width):-<{width}}] {said}"


def size(count: float) -> str:
    """A number of bytes for people: 1.2 GB (powers of 1000)."""
    return about(count)
