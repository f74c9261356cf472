"""Zstandard payloads (RFC 8878), one frame each, with contexts that are reused."""

from __future__ import annotations

import zstandard

from ckstore.errors import Integrity

_LEVEL = 3
_MAX_WINDOW = 16 << 20
ENTROPY = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    hash_log=6,
    min_match=7,
    target_length=0,
    window_log=20,
    write_content_size=True,
)
"""Settings under which zstd is an entropy coder that passes over noise at memory speed."""


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

    def declared(self, payload: bytes | memoryview) -> int:
        """How many bytes a frame says that it holds; -1 where it does not say. Raises `Integrity`."""
        try:
            size: int = zstandard.frame_content_size(payload)
        except zstandard.ZstdError as error:
            raise Integrity(f"a compressed payload is damaged: {error}") from error
        return size

    def decompress(self, payload: bytes | memoryview, length: int) -> bytes:
        """The `length` bytes that a frame holds, which must declare as many. Raises `Integrity`.

        One call that lets other threads run, where a stream needs several.
        """
        declared = self.declared(payload)
        if declared != length:
            raise Integrity(f"a compressed payload declares {declared} bytes instead of {length}")
        try:
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
