"""What encoding yields: a codec, the width of its elements, the payload to store."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Codec(IntEnum):
    """How a frame's payload stands for its raw bytes; the values are part of the format."""

    RAW = 0
    ZSTD = 1
    PLANES = 2
    DELTA = 3


class Encoded(NamedTuple):
    """A payload of `length` bytes, in pieces that may be views of buffers in use: they last until the next encoding.

    `width` is the element size in bytes (1 where it plays no part). `busy` counts the raw bytes that decoding has to
    bring back one by one: those of planes that are not the same all over.
    """

    codec: Codec
    width: int
    pieces: Sequence[bytes | memoryview]
    length: int
    busy: int
