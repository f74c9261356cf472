"""Chunks on their way into a save: what is offered, and what of it is new."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.digest import Kind


class Piece(NamedTuple):
    """A chunk to store: `load()` gives its raw bytes (again and again the same), `stream` the pack stream.

    `dtype` is the element type of the numbers in it, the codec's hint; `before` names the chunk that had its place
    in an earlier checkpoint. What is found out about differences holds for pieces of one `tensor` (a number within its
    stream) that follow each other. `ordinal` counts the pieces of a stream.
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
