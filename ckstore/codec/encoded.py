"""What encoding yields: a codec, the width of its elements, the payload to store."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Codec(IntEnum):
    """How a frame's payload stands for its raw bytes; the values are part of the format."""

    RAW = 0
    ZSTD = 1
    PLANES = 2
    DELTA = 3


class Encoded(NamedTuple):
    """`payload` stored as `codec`; `width` is the element size in bytes (1 where it plays no part)."""

    codec: Codec
    width: int
    payload: bytes | memoryview
