"""Which codec a chunk gets, and the way back. One Coder serves one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.element import WIDTHS, element
from ckstore.codec.encoded import Codec, Encoded
from ckstore.codec.plan import estimate
from ckstore.codec.planes import Planes
from ckstore.codec.preset import BALANCED
from ckstore.codec.zstd import Zstd
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.codec.passes import Passes
    from ckstore.codec.preset import Preset

WORTH = 0.97
"""A payload longer than this share of the raw bytes is not worth decoding: the chunk stays raw."""

DELTA_WORTH = 0.92
"""A delta is taken only where it comes to less than this share of the chunk by itself."""

_CHECK_WHOLE = 64
_SAMPLE = 16 << 10
_SAMPLE_WORTH = 0.9


class Coder:
    """Encodes and decodes chunks, reusing its buffers and contexts; with other passes than the best, if told so."""

    def __init__(self, passes: Callable[[int], Passes] | None = None) -> None:
        self._passes = passes
        self._zstd = Zstd()
        self._encoded = 0
        self._planes: dict[int, Planes] = {}
        self._checker: Coder | None = None

    def encode(
        self, raw: memoryview, dtype: str = "uint8", preset: Preset = BALANCED, base: memoryview | None = None
    ) -> Encoded:
        """A chunk: as byte planes where `dtype` says numbers, else zstd; or raw. With `base`, as long as it, as the
        difference to that.

        What is compressed has been decoded again and compared, a share of the chunks whole.
        """
        kind = element(dtype)
        if kind is None:
            return self._encode_bytes(raw)
        width, floats = kind
        if not preset.plane_worth:
            return _raw(raw, width)
        rotate = floats and base is None
        payload = self._planes_of(width).encode(raw, base, rotate=rotate, worth=preset.plane_worth)
        if payload.length > WORTH * raw.nbytes:
            return _raw(raw, width)
        encoded = Encoded(Codec.PLANES if base is None else Codec.DELTA, width, *payload)
        self._encoded += 1
        if self._encoded % _CHECK_WHOLE == 0:
            self._check(encoded, raw, base)
        return encoded

    def copy(self, raw: memoryview, target: memoryview, dtype: str) -> None:
        """Copy a chunk as it is now; of numbers without holding up other threads."""
        kind = element(dtype)
        if kind is not None:
            self._planes_of(kind[0]).copy(raw, target)
        else:
            target[:] = raw

    def same(self, one: memoryview, other: memoryview) -> bool:
        """Whether two chunks of numbers have the same bytes."""
        return self._planes_of(1).same(one, other)

    def decode(self, codec: int, width: int, payload: memoryview, target: memoryview) -> None:
        """Fill `target`, exactly as long as the raw bytes. Raises `Integrity`."""
        if codec == Codec.RAW:
            if payload.nbytes != target.nbytes:
                raise Integrity("a raw payload has another length than its frame says")
            target[:] = payload
        elif codec == Codec.ZSTD:
            self._zstd.decompress_into(payload, target)
        elif codec == Codec.PLANES:
            self._planes_of(width).decode(payload, target)
        else:
            raise Integrity(f"a frame names the unknown codec {codec}", hint="it may need a newer ckstore")

    def add(self, width: int, payload: memoryview, target: memoryview) -> None:
        """Turn the base in `target` into what the delta `payload` was encoded from. Raises `Integrity`."""
        self._planes_of(width).add(payload, target)

    def gains(self, raw: memoryview, dtype: str, preset: Preset, base: memoryview) -> bool:
        """Whether, on a sample, the difference to `base`, as long as `raw`, is enough shorter than `raw` by itself."""
        kind = element(dtype)
        if kind is None:
            return False
        width, floats = kind
        planes = self._planes_of(width)
        alone = estimate(planes.survey(raw, rotate=floats), preset.plane_worth)
        return estimate(planes.survey(raw, base, rotate=False), preset.plane_worth) < DELTA_WORTH * alone

    def _encode_bytes(self, raw: memoryview) -> Encoded:
        payload = self._zstd.compress(raw) if self._promising(raw) else None
        if payload is None or len(payload) > WORTH * raw.nbytes:
            return _raw(raw, 1)
        target = bytearray(raw.nbytes)
        self._zstd.decompress_into(payload, memoryview(target))
        _compare(target, raw)
        return Encoded(Codec.ZSTD, 1, (payload,), len(payload), raw.nbytes)

    def _check(self, encoded: Encoded, raw: memoryview, base: memoryview | None) -> None:
        """Decode a chunk whole and compare; by another coder, as the payload is views of this one's buffers."""
        if self._checker is None:
            self._checker = Coder(self._passes)
        payload = memoryview(b"".join(encoded.pieces))
        target = bytearray(raw.nbytes) if base is None else bytearray(base)
        if base is None:
            self._checker.decode(encoded.codec, encoded.width, payload, memoryview(target))
        else:
            self._checker.add(encoded.width, payload, memoryview(target))
        _compare(target, raw)

    def _planes_of(self, width: int) -> Planes:
        planes = self._planes.get(width)
        if planes is None:
            from ckstore.codec.compiled import passes_of  # only where numbers are at hand

            if width not in WIDTHS:
                raise Integrity(f"a frame claims elements of {width} bytes")
            planes = self._planes[width] = Planes((self._passes or passes_of)(width))
        return planes

    def _promising(self, raw: memoryview) -> bool:
        if raw.nbytes <= 2 * _SAMPLE:
            return raw.nbytes > 64
        middle = raw.nbytes // 2
        sample = raw[middle : middle + _SAMPLE]
        return len(self._zstd.compress(sample)) <= _SAMPLE_WORTH * _SAMPLE


def _raw(raw: memoryview, width: int) -> Encoded:
    return Encoded(Codec.RAW, width, (raw,), raw.nbytes, raw.nbytes)


def _compare(decoded: bytearray, raw: memoryview) -> None:
    # Not of two memoryviews: those are compared byte by byte.
    if decoded != raw:
        raise Integrity("a chunk does not come back from its encoding", hint="check this machine's memory")
