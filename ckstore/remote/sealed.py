"""Small objects of a remote: a header, canonical MessagePack, and a hash over both; the root and the state are such."""

from __future__ import annotations

import struct
from typing import Generic, TypeVar

import msgspec

from ckstore.digest import ID_SIZE, derived
from ckstore.errors import Format, Integrity

VERSION = 1

_HEADER = struct.Struct("<8sHHI")
HEADER_SIZE = _HEADER.size
OVERHEAD = HEADER_SIZE + ID_SIZE
"""What an object is longer than its payload."""

_ENCODER = msgspec.msgpack.Encoder(order="deterministic")

T = TypeVar("T")


class Sealing(Generic[T]):
    """Objects of one kind: `magic` of eight bytes, `what` people call them, at most `most` bytes long."""

    def __init__(self, type: type[T], magic: bytes, what: str, most: int) -> None:
        self._decoder = msgspec.msgpack.Decoder(type)
        self._magic = magic
        self._what = what
        self._context = f"ckstore {what} v1"
        self._most = most

    def seal(self, value: T) -> bytes:
        """The bytes of a value. Raises `Format` where they are too many."""
        payload = _ENCODER.encode(value)
        data = _HEADER.pack(self._magic, VERSION, 0, len(payload)) + payload
        if len(data) + ID_SIZE > self._most:
            raise Format(f"the {self._what} would have more than {self._most:,} bytes")
        return data + derived(self._context, data)

    def digest(self, data: bytes) -> bytes:
        """The hash at the end, which names what came before it."""
        return data[-ID_SIZE:]

    def open(self, data: bytes) -> T:
        """The value whose bytes are `data`. Raises `Integrity` for damage, `Format` for what this version cannot read.

        Nothing is decoded before the hash is right, and nothing allocated for more than `data` holds.
        """
        what = self._what
        if not OVERHEAD <= len(data) <= self._most:
            raise Integrity(f"a {what} of {len(data):,} bytes is none")
        magic, version, flags, length = _HEADER.unpack_from(data)
        if magic != self._magic:
            raise Format(f"this is no {what} of a ckstore remote", hint="check the remote's URL")
        if version != VERSION or flags:
            raise Format(f"a {what} of format {version} (flags {flags})", hint="use a newer ckstore")
        if length != len(data) - OVERHEAD or derived(self._context, data[:-ID_SIZE]) != data[-ID_SIZE:]:
            raise Integrity(f"the {what} of the remote is damaged")
        payload = memoryview(data)[HEADER_SIZE:-ID_SIZE]
        try:
            value = self._decoder.decode(payload)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise Format(f"not a {what}: {error}") from error
        if _ENCODER.encode(value) != payload:
            raise Format(f"the bytes of a {what} are not canonical")
        return value
