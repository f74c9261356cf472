"""Zstandard payloads (RFC 8878), one frame each, with contexts that are reused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zstandard

from ckstore.errors import Integrity

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEVEL = 3
_MAX_WINDOW = 16 << 20
_AT_ONCE = hasattr(zstandard.ZstdCompressor, "multi_compress_to_buffer")
"""Whether many frames can be made in one call: the package's other backend has none."""


class Zstd:
    """A compressor and a decompressor, for one thread at a time; `parameters` instead of the usual level."""

    def __init__(self, parameters: zstandard.ZstdCompressionParameters | None = None) -> None:
        if parameters is None:
            parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, write_content_size=True)
        self._compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)

    def compress(self, raw: memoryview) -> bytes:
        """One zstd frame that decodes to `raw`."""
        return self._compressor.compress(raw)

    def compress_all(self, raws: Sequence[memoryview]) -> Sequence[bytes]:
        """A frame for each; one call, as other threads wait less often for one."""
        if len(raws) == 1 or not _AT_ONCE:
            return [self._compressor.compress(raw) for raw in raws]
        found = self._compressor.multi_compress_to_buffer(list(raws))
        return [found[number].tobytes() for number in range(len(raws))]

    def decompress_own(self, frames: Sequence[bytes], lengths: Sequence[int]) -> Sequence[bytes | memoryview]:
        """What frames that `compress_all` just made hold, which is so long. Raises `Integrity`."""
        if len(frames) == 1 or not _AT_ONCE:
            return [self.decompress(frame, length) for frame, length in zip(frames, lengths, strict=True)]
        try:
            found = self._decompressor.multi_decompress_to_buffer(list(frames))
        except zstandard.ZstdError as error:
            raise Integrity(f"a compressed payload is damaged: {error}") from error
        segments: list[Any] = [found[number] for number in range(len(frames))]
        return [memoryview(segment) for segment in segments]

    def decompress(self, payload: bytes | memoryview, length: int) -> bytes:
        """The `length` bytes that a frame holds, which must declare as many. Raises `Integrity`.

        One call that lets other threads run, where a stream needs several.
        """
        try:
            declared = zstandard.frame_content_size(payload)
            if declared != length:
                raise Integrity(f"a compressed payload declares {declared} bytes instead of {length}")
            raw: bytes = self._decompressor.decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Integrity(f"a compressed payload is damaged: {error}") from error
        if len(raw) != length:
            raise Integrity(f"a compressed payload ends after {len(raw)} of {length} bytes")
        return raw

    def decompress_into(self, payload: bytes | memoryview, target: memoryview) -> None:
        """Fill `target` exactly. Raises `Integrity`; never writes past `target`, whatever the frame declares."""
        done = 0
        try:
            with self._decompressor.stream_reader(payload, read_across_frames=False) as stream:
                while done < target.nbytes:
                    count = stream.readinto(target[done:])
                    if not count:
                        raise Integrity(f"a compressed payload ends after {done} of {target.nbytes} bytes")
                    done += count
                if stream.read(1):
                    raise Integrity(f"a compressed payload holds more than {target.nbytes} bytes")
        except zstandard.ZstdError as error:
            raise Integrity(f"a compressed payload is damaged: {error}") from error
