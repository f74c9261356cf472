"""The bytes of a pack. docs/format.md has the tables.

    pack    = header, frame*, table, trailer
    frame   = frame header, payload
    table   = one row a frame, sorted by id
    trailer = where the table is, and the pack's digest over header and table

All integers are little-endian. Checksums are eight bytes of BLAKE3. A pack whose table is lost can be read
frame by frame.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ckstore.digest import CHECKSUM_SIZE, NO_ID, Kind, checksum, derived
from ckstore.errors import Format

VERSION = 2
READABLE = (0, 1, 2)
"""Formats whose packs can be read: they are the same but for this number and the modes of planes that they know."""

NAME_SIZE = 16
MAX_RAW = 64 << 20
"""Raw bytes one frame may stand for, at most."""

_MAGIC = b"CKPACK\r\n"
_END = b"CKPEND\r\n"
FRAME_MAGIC = b"CKFR"
_HEADER = struct.Struct("<8sHHI16s")
_FRAME = struct.Struct("<4sBBBBIIII32s32s8s")
_ROW = struct.Struct("<32s32sQIIIIBBBB")
_TRAILER = struct.Struct("<8sQQ32s")
_KINDS = {int(kind): kind for kind in Kind}

HEADER_SIZE = _HEADER.size + CHECKSUM_SIZE
FRAME_HEADER_SIZE = _FRAME.size + CHECKSUM_SIZE
ROW_SIZE = _ROW.size
TRAILER_SIZE = _TRAILER.size + CHECKSUM_SIZE


class Frame(NamedTuple):
    """What a frame says of itself. `base` is zero and `version` 0 unless the payload is a delta.

    `busy` counts the raw bytes that decoding brings back one by one (`Encoded.busy`): what the frame costs its readers.
    """

    kind: Kind
    codec: int
    width: int
    id: bytes
    raw_length: int
    stored_length: int
    base: bytes
    version: int
    busy: int


class Row(NamedTuple):
    """A frame and the place of its header in the pack."""

    frame: Frame
    offset: int


class Trailer(NamedTuple):
    """`table_offset` is where the frames end; `digest` covers header and table."""

    table_offset: int
    rows: int
    digest: bytes


def pack_header(name: bytes) -> bytes:
    """The first bytes of pack `name`."""
    return _sealed(_HEADER.pack(_MAGIC, VERSION, 0, 0, name))


def read_header(data: bytes) -> bytes:
    """The name in a pack's header. Raises `Format`."""
    magic, version, flags, _, name = _HEADER.unpack(_opened(data, HEADER_SIZE, "pack header"))
    if magic != _MAGIC:
        raise Format("not a pack")
    if version not in READABLE or flags:
        raise Format(f"a pack of format {version} (flags {flags})", hint="use a newer ckstore")
    return bytes(name)


def frame_header(frame: Frame, payload_checksum: bytes) -> bytes:
    """The bytes before a frame's payload."""
    return _sealed(
        _FRAME.pack(
            FRAME_MAGIC,
            frame.kind,
            frame.codec,
            frame.width,
            0,
            frame.raw_length,
            frame.stored_length,
            frame.version,
            frame.busy,
            frame.id,
            frame.base,
            payload_checksum,
        )
    )


def read_frame_header(data: bytes | bytearray | memoryview) -> tuple[Frame, bytes]:
    """The frame that `data` begins, and its payload's checksum. Raises `Format`; lengths are within MAX_RAW."""
    magic, kind, codec, width, _, raw_length, stored_length, version, busy, id, base, check = _FRAME.unpack(
        _opened(data, FRAME_HEADER_SIZE, "frame header")
    )
    if magic != FRAME_MAGIC:
        raise Format("no frame begins here")
    frame = Frame(known_kind(kind), codec, width, bytes(id), raw_length, stored_length, bytes(base), version, busy)
    return checked(frame), bytes(check)


def known_kind(kind: int) -> Kind:
    """The kind of that number. Raises `Format`."""
    try:
        return _KINDS[kind]
    except KeyError:
        raise Format(f"a frame has the unknown kind {kind}", hint="it may need a newer ckstore") from None


def checked(frame: Frame) -> Frame:
    """The frame, once what is known of any frame holds for it. Raises `Format`."""
    raw_length, stored_length = frame.raw_length, frame.stored_length
    if raw_length > MAX_RAW or stored_length > MAX_RAW:
        raise Format(f"a frame claims {max(raw_length, stored_length)} bytes, past the limit of {MAX_RAW}")
    if frame.base != NO_ID and frame.kind is not Kind.CHUNK:
        raise Format("a frame that is no chunk claims to be a delta")
    if frame.busy > raw_length:
        raise Format(f"a frame claims {frame.busy} busy bytes of {raw_length}")
    return frame


def table(rows: list[Row]) -> bytes:
    """The table of `rows`, which are sorted by id, then offset."""
    return b"".join(
        _ROW.pack(f.id, f.base, offset, f.raw_length, f.stored_length, f.version, f.busy, f.kind, f.codec, f.width, 0)
        for f, offset in rows
    )


def read_table(data: bytes, frames_end: int) -> list[Row]:
    """The rows of a table. Raises `Format` unless they are sorted and every frame lies before `frames_end`."""
    if len(data) % ROW_SIZE:
        raise Format("a pack's table is cut short")
    rows: list[Row] = []
    before: tuple[bytes, int] = (b"", 0)
    for id, base, offset, raw_length, stored_length, version, busy, kind, codec, width, _ in _ROW.iter_unpack(data):
        frame = checked(Frame(known_kind(kind), codec, width, id, raw_length, stored_length, base, version, busy))
        if offset < HEADER_SIZE or offset + FRAME_HEADER_SIZE + stored_length > frames_end:
            raise Format("a pack's table points outside its frames")
        if (frame.id, offset) <= before:
            raise Format("a pack's table is not sorted")
        before = (frame.id, offset)
        rows.append(Row(frame, offset))
    return rows


def digest(header: bytes, table_bytes: bytes) -> bytes:
    """The pack's digest: binds its name, every id, and where each frame lies."""
    return derived("ckstore pack v1", header, table_bytes)


def trailer(end: Trailer) -> bytes:
    """The last bytes of a pack."""
    return _sealed(_TRAILER.pack(_END, end.table_offset, end.rows, end.digest))


def read_trailer(data: bytes, pack_size: int) -> Trailer:
    """The trailer that `data`, the last TRAILER_SIZE bytes of a pack, holds. Raises `Format`."""
    magic, table_offset, count, pack_digest = _TRAILER.unpack(_opened(data, TRAILER_SIZE, "pack trailer"))
    if magic != _END:
        raise Format("a pack has no trailer")
    if table_offset < HEADER_SIZE or table_offset + count * ROW_SIZE + TRAILER_SIZE != pack_size:
        raise Format("a pack's trailer does not fit its size")
    return Trailer(table_offset, count, bytes(pack_digest))


def _sealed(data: bytes) -> bytes:
    return data + checksum(data)


def _opened(data: bytes | bytearray | memoryview, size: int, what: str) -> memoryview:
    view = memoryview(data)[:size]
    if view.nbytes < size or checksum(view[:-CHECKSUM_SIZE]) != view[-CHECKSUM_SIZE:]:
        raise Format(f"a {what} is damaged or cut short")
    return view[:-CHECKSUM_SIZE]
