"""One chunk through a Coder and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.encoded import Codec
from ckstore.codec.preset import BALANCED

if TYPE_CHECKING:
    from ckstore.codec.choice import Coder
    from ckstore.codec.encoded import Encoded
    from ckstore.codec.preset import Preset


def encode(
    coder: Coder, raw: bytes, dtype: str, base: bytes | None = None, preset: Preset = BALANCED
) -> tuple[Encoded, bytes]:
    """The encoding of one chunk, and its payload in one piece."""
    old = None if base is None else memoryview(base)
    encoded = coder.encode(memoryview(raw), dtype, preset, old)
    payload = b"".join(encoded.pieces)
    assert len(payload) == encoded.length
    assert 0 <= encoded.busy <= len(raw)
    return encoded, payload


def decode(coder: Coder, codec: int, width: int, payload: bytes, base: bytes, length: int) -> bytes:
    """The raw bytes; `base` is used by deltas alone. Raises `Integrity`."""
    if codec == Codec.DELTA:
        target = bytearray(base)
        coder.add(width, memoryview(payload), memoryview(target))
    else:
        target = bytearray(length)
        coder.decode(codec, width, memoryview(payload), memoryview(target))
    return bytes(target)


def round_trip(coder: Coder, raw: bytes, dtype: str, base: bytes | None = None, preset: Preset = BALANCED) -> Encoded:
    """Encode and decode one chunk, which must come back."""
    encoded, payload = encode(coder, raw, dtype, base, preset)
    assert decode(coder, encoded.codec, encoded.width, payload, base or b"", len(raw)) == raw
    return encoded
