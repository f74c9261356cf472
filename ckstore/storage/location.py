"""Where an object lies, and the index row that says so."""

from __future__ import annotations

import struct
from typing import NamedTuple

from ckstore.digest import NO_ID
from ckstore.pack.format import Frame, known_kind

_VALUE = struct.Struct("<16sQIIIIBBB")
_PLACE = struct.Struct("<16sQ")


class Location(NamedTuple):
    """Where an object lies: a frame, the pack it is in, the offset of its header."""

    pack: bytes
    offset: int
    frame: Frame


def to_row(place: Location) -> bytes:
    """The index row of an object: what its frame says, and nothing that other rows could change."""
    pack, offset, frame = place
    lengths = (frame.raw_length, frame.stored_length, frame.version, frame.busy)
    value = _VALUE.pack(pack, offset, *lengths, frame.kind, frame.codec, frame.width)
    return value + frame.base if frame.base != NO_ID else value


def from_row(id: bytes, value: bytes) -> Location:
    """What a row says of object `id`. Raises `Format` or struct.error."""
    pack, offset, raw_length, stored_length, version, busy, kind, codec, width = _VALUE.unpack_from(value)
    base = value[_VALUE.size :] or NO_ID
    frame = Frame(known_kind(kind), codec, width, id, raw_length, stored_length, base, version, busy)
    return Location(pack, offset, frame)


def lies_at(value: bytes, place: Location) -> bool:
    """Whether a row says that its object lies at a place."""
    return value.startswith(_PLACE.pack(place.pack, place.offset))
