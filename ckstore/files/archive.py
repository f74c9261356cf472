"""The zip archive that torch.save writes: where its pickle and its storages lie in the file.

Only the central directory and the local headers are read; nothing is unpacked, and no entry's name is ever
used as a path.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckstore.files.parsed import damaged

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"PK\x03\x04"
"""What such a file starts with."""

_LOCAL = struct.Struct("<4s22xHH")
_END = struct.Struct("<4s8xLL2x")
_LOCATOR_SIZE = 20
_END64 = struct.Struct("<4s36xQQ")
_PICKLE = "/data.pkl"
_ENCRYPTED = 1


class Region(NamedTuple):
    """Bytes of the file, from `start` on."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Archive:
    """Where the pickle lies, and each storage by its key."""

    pickle: Region
    storages: dict[str, Region]


def read(data: memoryview) -> Archive | None:
    """The archive in `data`, or None where it is a zip file that torch.save did not write on a little-endian machine,
    or several of them one after another.

    Raises `Format` where the directory is damaged, or entries overlap or reach beyond the file.
    """
    if _is_behind_another(data):
        return None
    try:
        with zipfile.ZipFile(_View(data)) as directory:
            infos, end = directory.infolist(), directory.start_dir
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, OverflowError, struct.error) as error:
        raise damaged("the zip directory of the file is damaged", str(error)[:200]) from error
    pickles = [info.filename for info in infos if info.filename.endswith(_PICKLE) and info.filename.count("/") == 1]
    if len(pickles) != 1 or any(info.flag_bits & _ENCRYPTED for info in infos):
        return None
    prefix = pickles[0].removesuffix("data.pkl")
    regions = _regions(data, infos, end)
    compressed = {info.filename for info in infos if info.compress_type != zipfile.ZIP_STORED}
    if any(name.startswith(prefix + "data") for name in compressed):
        return None
    if not _little_endian(data, regions.get(prefix + "byteorder")):
        return None
    storages = prefix + "data/"
    found = {name.removeprefix(storages): region for name, region in regions.items() if name.startswith(storages)}
    return Archive(regions[pickles[0]], found)


def _is_behind_another(data: memoryview) -> bool:
    """Whether the archive that `data` ends with begins later, with another in front: some Pythons' zipfile read it
    where it is, others call it damaged.
    """
    end = data.nbytes - _END.size
    if end < 0:
        return False
    magic, size, offset = _END.unpack_from(data, end)
    if magic != b"PK\x05\x06":
        return False
    end64 = end - _LOCATOR_SIZE - _END64.size
    if end64 >= 0:
        magic, size64, offset64 = _END64.unpack_from(data, end64)
        if magic == b"PK\x06\x06":
            end, size, offset = end64, size64, offset64
    start = end - size - offset
    return start > 0 and data[start : start + 4] == MAGIC


def _little_endian(data: memoryview, region: Region | None) -> bool:
    """Whether the note of the byte order says so; archives without one are from before there was a choice."""
    return region is None or bytes(data[region.start : region.start + region.length][:16]) == b"little"


def _regions(data: memoryview, infos: Sequence[zipfile.ZipInfo], end: int) -> dict[str, Region]:
    """Where the bytes of each entry lie, by its name; `end` is where the directory starts."""
    regions: dict[str, Region] = {}
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = ascii(info.filename[:200])
        header = info.header_offset
        if header < position or header + _LOCAL.size > end:
            raise damaged(f"entry {name} of the file is out of range or overlaps", f"it starts at byte {header}")
        magic, name_length, extra_length = _LOCAL.unpack_from(data, header)
        start = header + _LOCAL.size + name_length + extra_length
        position = start + info.compress_size
        if magic != MAGIC or position > end:
            raise damaged(f"entry {name} of the file is damaged or cut short", f"it starts at byte {header}")
        if info.filename in regions:
            raise damaged(f"the file holds two entries named {name}")
        regions[info.filename] = Region(start, info.compress_size)
    return regions


class _View(io.RawIOBase):
    """A memoryview as a file to read; `read` never makes more than is there."""

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self._data = data
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = (0, self._position, self._data.nbytes)[whence]
        if origin + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._data.nbytes if size is None or size < 0 else self._position + size
        part = bytes(self._data[self._position : stop])
        self._position += len(part)
        return part
