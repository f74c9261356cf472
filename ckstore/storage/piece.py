"""Chunks on their way into a save: what is offered, and what of it is new."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckstore.digest import Kind

_BATCH = 2
"""Chunks of a tensor that are encoded together: with fewer, threads meet over the interpreter; more spill caches."""


class Piece(NamedTuple):
    """A chunk to store: `load()` gives its raw bytes (again and again the same), `stream` the pack stream.

    `dtype` is the element type of the numbers in it, the codec's hint; `before` names the chunk that had its place
    in an earlier checkpoint. Pieces of one `tensor` (a number within its stream) that follow each other are encoded
    together. `ordinal` counts the pieces of a stream.
    """

    load: Callable[[], memoryview]
    stream: str
    dtype: str = "uint8"
    before: bytes | None = None
    tensor: int = -1
    ordinal: int = 0


class New(NamedTuple):
    """A chunk that is to be stored."""

    kind: Kind
    id: bytes
    piece: Piece
    length: int


def batches(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """Runs of pieces of one tensor, few enough that the work on them stays near the processor."""
    for _, run in groupby(pieces, key=lambda piece: (piece.tensor, piece.stream)):
        group = list(run)
        for start in range(0, len(group), _BATCH):
            yield group[start : start + _BATCH]
