"""Chunks of the save before whose bytes are still in memory: whoever finds them again need not hash them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.storage.piece import Piece

_FIRST = 4096
"""What changed mostly shows in so many bytes."""


class Remembered:
    """Where the bytes of chunks lie, by their ids. `note` may be called by many threads.

    Whoever noted them promises that they stay as they are until the save after the next begins.
    """

    def __init__(self) -> None:
        self._chunks: dict[bytes, Callable[[], memoryview]] = {}
        self._noted: dict[bytes, Callable[[], memoryview]] = {}

    def id_of(self, piece: Piece, raw: memoryview, same: Callable[[memoryview, memoryview], bool]) -> bytes | None:
        """The id of `raw` if that is, byte by byte, what had its place in the save before; None if it is not known."""
        load = None if piece.before is None else self._chunks.get(piece.before)
        if load is None:
            return None
        old = load()
        if old.nbytes != raw.nbytes or bytes(old[:_FIRST]) != bytes(raw[:_FIRST]):
            return None
        return piece.before if same(raw, old) else None

    def note(self, id: bytes, piece: Piece) -> None:
        """Remember a chunk for the next save."""
        self._noted[id] = piece.load

    def turn(self) -> None:
        """The save is made: what was noted in it is what the next one looks at."""
        self._chunks, self._noted = self._noted, {}

    def forget(self) -> None:
        """Nothing is in memory any more as it was."""
        self._chunks, self._noted = {}, {}
