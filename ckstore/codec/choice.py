"""Which codec a chunk gets, and the way back. One Coder serves one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.element import element
from ckstore.codec.encoded import Codec, Encoded
from ckstore.codec.zstd import Zstd
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from ckstore.codec.planes import Planes

WORTH = 0.97
"""A payload longer than this share of the raw bytes is not worth decoding: the chunk stays raw."""

_SAMPLE = 16 << 10
_SAMPLE_WORTH = 0.9


class Coder:
    """Encodes and decodes chunks, reusing its buffers and contexts."""

    def __init__(self) -> None:
        self._zstd = Zstd()
        self._check = bytearray()
        self._lazy_planes: Planes | None = None

    def encode(self, raw: memoryview, dtype: str = "uint8") -> Encoded:
        """`raw` as byte planes where `dtype` says numbers, else as zstd, or raw where that gains little.

        What is compressed is decoded again and compared before it is returned.
        """
        kind = element(dtype)
        if kind is not None:
            width, floats = kind
            planes = self._planes().encode(raw, width, rotate=floats)
            if len(planes) <= WORTH * raw.nbytes:
                return Encoded(Codec.PLANES, width, planes)
            return Encoded(Codec.RAW, width, raw)
        if not self._promising(raw):
            return Encoded(Codec.RAW, 1, raw)
        payload = self._zstd.compress(raw)
        if len(payload) > WORTH * raw.nbytes:
            return Encoded(Codec.RAW, 1, raw)
        if len(self._check) < raw.nbytes:
            self._check = bytearray(raw.nbytes)
        target = memoryview(self._check)[: raw.nbytes]
        self._zstd.decompress_into(payload, target)
        if target != raw:
            raise Integrity("a chunk changed between compressing and checking it", hint="check this machine's memory")
        return Encoded(Codec.ZSTD, 1, payload)

    def decode(self, codec: int, payload: memoryview, target: memoryview) -> None:
        """Fill `target`, exactly as long as the raw bytes. Raises `Integrity`."""
        if codec == Codec.RAW:
            if payload.nbytes != target.nbytes:
                raise Integrity("a raw payload has another length than its frame says")
            target[:] = payload
        elif codec == Codec.ZSTD:
            self._zstd.decompress_into(payload, target)
        elif codec == Codec.PLANES:
            self._planes().decode(payload, target)
        else:
            raise Integrity(f"a frame names the unknown codec {codec}", hint="it may need a newer ckstore")

    def _planes(self) -> Planes:
        if self._lazy_planes is None:
            from ckstore.codec.planes import Planes  # numpy: only where numbers are at hand

            self._lazy_planes = Planes()
        return self._lazy_planes

    def _promising(self, raw: memoryview) -> bool:
        if raw.nbytes <= 2 * _SAMPLE:
            return raw.nbytes > 64
        middle = raw.nbytes // 2
        sample = raw[middle : middle + _SAMPLE]
        return len(self._zstd.compress(sample)) <= _SAMPLE_WORTH * _SAMPLE
