"""Which codec a chunk gets, and the way back. One Coder serves one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.element import element
from ckstore.codec.encoded import Codec, Encoded
from ckstore.codec.room import Room
from ckstore.codec.zstd import Zstd
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from ckstore.codec.planes import Planes

WORTH = 0.97
"""A payload longer than this share of the raw bytes is not worth decoding: the chunk stays raw."""

DELTA_WORTH = 0.92
"""A delta is taken only where it comes to less than this share of the chunk by itself."""

_CHECK_WHOLE = 64
_SAMPLES = 4
_SAMPLE_BYTES = 8 << 10
_SAMPLE = 16 << 10
_SAMPLE_WORTH = 0.9


class Coder:
    """Encodes and decodes chunks, reusing its buffers and contexts."""

    def __init__(self) -> None:
        self._zstd = Zstd()
        self._check = Room()
        self._encoded = 0
        self._lazy_planes: Planes | None = None

    def encode(self, raw: memoryview, dtype: str = "uint8", base: memoryview | None = None) -> Encoded:
        """`raw` as byte planes where `dtype` says numbers, else as zstd, or raw where that gains little.

        With `base`, an older version as long as `raw`, as the difference to it where a sample says that this saves
        enough. What is compressed is decoded again and compared, a share of the chunks whole.
        """
        kind = element(dtype)
        if kind is not None:
            return self._encode_numbers(raw, *kind, base)
        if not self._promising(raw):
            return Encoded(Codec.RAW, 1, raw)
        payload = self._zstd.compress(raw)
        if len(payload) > WORTH * raw.nbytes:
            return Encoded(Codec.RAW, 1, raw)
        target = self._check.take(raw.nbytes)
        self._zstd.decompress_into(payload, target)
        if target != raw:
            raise Integrity("a chunk changed between compressing and checking it", hint="check this machine's memory")
        return Encoded(Codec.ZSTD, 1, payload)

    def decode(self, codec: int, payload: memoryview, target: memoryview, base: memoryview | None = None) -> None:
        """Fill `target`, exactly as long as the raw bytes; a delta needs its `base`. Raises `Integrity`."""
        if codec == Codec.RAW:
            if payload.nbytes != target.nbytes:
                raise Integrity("a raw payload has another length than its frame says")
            target[:] = payload
        elif codec == Codec.ZSTD:
            self._zstd.decompress_into(payload, target)
        elif codec == Codec.PLANES:
            self._planes().decode(payload, target)
        elif codec == Codec.DELTA and base is not None:
            self._planes().decode(payload, target, base)
        else:
            raise Integrity(f"a frame names the unknown codec {codec}", hint="it may need a newer ckstore")

    def _encode_numbers(self, raw: memoryview, width: int, floats: bool, base: memoryview | None) -> Encoded:
        planes = self._planes()
        if base is not None and not self._closer(raw, width, floats, base):
            base = None
        payload = planes.encode(raw, width, rotate=floats, base=base)
        if len(payload) > WORTH * raw.nbytes:
            return Encoded(Codec.RAW, width, raw)
        self._encoded += 1
        if self._encoded % _CHECK_WHOLE == 0:
            target = self._check.take(raw.nbytes)
            planes.decode(memoryview(payload), target, base)
            if target != raw:
                raise Integrity("a chunk does not come back from its encoding", hint="check this machine's memory")
        return Encoded(Codec.PLANES if base is None else Codec.DELTA, width, payload)

    def _closer(self, raw: memoryview, width: int, floats: bool, base: memoryview) -> bool:
        """Whether, on a sample, the difference to `base` is enough shorter than `raw` by itself."""
        step = max(raw.nbytes // _SAMPLES, _SAMPLE_BYTES)
        starts = range(0, raw.nbytes, step - step % 8)
        mine = memoryview(b"".join([raw[start : start + _SAMPLE_BYTES] for start in starts]))
        theirs = memoryview(b"".join([base[start : start + _SAMPLE_BYTES] for start in starts]))
        planes = self._planes()
        alone = planes.entropy(mine, width, rotate=floats)
        return planes.entropy(mine, width, rotate=floats, base=theirs) < DELTA_WORTH * min(alone, mine.nbytes)

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
