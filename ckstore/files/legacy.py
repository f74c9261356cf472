"""Files of torch.save before torch 1.6: pickles one after another, then the bytes of the storages they name.

The pickles are a magic number, the protocol's version, a note of the machine that wrote the file, the value, and
the keys of its storages. Each storage follows in the order of the keys: a count of elements, then its bytes.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from ckstore.files import pickle_calls, pickle_data
from ckstore.files.archive import Region
from ckstore.files.dtypes import ITEM_SIZE
from ckstore.files.parsed import damaged
from ckstore.files.pickle_limits import Limits
from ckstore.files.pickle_values import NotUnderstoodError
from ckstore.files.pt import as_components

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.files.parsed import ParsedFile
    from ckstore.files.pickle_values import StorageRef
    from ckstore.files.source import Source

MAGIC = re.compile(rb"\x80[\x02-\x05](?:\x95\x0d\0{7})?\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\.")
"""What such a file starts with: 0x1950A86A20F9469CFC6C as a pickle of protocol 2 to 5."""

_MAGIC_BYTES = 32
_VERSION = 1001
_COUNT = struct.Struct("<q")


def parse(source: Source) -> ParsedFile | None:
    """The components of a `.pt` file that is no zip archive: the same as of one that holds the same value.

    None where the file is in another format, of another byte order, or its pickle holds what is not known as
    data; storages that are views of others are not. Raises `Format` for a damaged file.
    """
    data = source.view()
    magic = MAGIC.match(data[:_MAGIC_BYTES])
    if magic is None:
        return None
    try:
        return _parsed(source, data, magic.end())
    except NotUnderstoodError:
        return None


def _parsed(source: Source, data: memoryview, position: int) -> ParsedFile:
    """The file after its magic number."""
    version, _, position = _unpickled(data, position, _Storages())
    machine, _, position = _unpickled(data, position, _Storages())
    if type(version) is not int or version != _VERSION:
        raise NotUnderstoodError("another version of the format")
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise NotUnderstoodError("another byte order")
    storages = _Storages()
    root, limits, position = _unpickled(data, position, storages)
    keys, _, position = _unpickled(data, position, _Storages())
    return as_components(root, source, _regions(data, position, keys, storages.found), limits)


def _unpickled(data: memoryview, position: int, storages: _Storages) -> tuple[object, Limits, int]:
    """The value of the pickle that begins at `position`, what is left of its limits, and the position after it."""
    stop = pickle_data.stop_of(data, position)
    limits = Limits(stop - position)
    return pickle_data.load(data[position:stop], limits, storages.named), limits, stop


class _Storages:
    """Collects the storages that a pickle names, by their keys."""

    def __init__(self) -> None:
        self.found: dict[str, StorageRef] = {}

    def named(self, identity: object) -> StorageRef:
        """The storage that torch calls `identity`; NotUnderstoodError for a view, a quantized one, or a module."""
        match identity:
            case ("storage", kind, str(key), str(), int(count), None):
                storage = pickle_calls.storage_ref(kind, key, count)
                # torch loads a storage as what it is named first; only empty ones have more than one dtype.
                if storage is not None and (self.found.setdefault(key, storage) == storage or self._empty(key, count)):
                    return storage
        raise NotUnderstoodError("an id that is no plain storage")

    def _empty(self, key: str, count: int) -> bool:
        return self.found[key].count == count == 0


def _regions(data: memoryview, position: int, keys: object, storages: Mapping[str, StorageRef]) -> dict[str, Region]:
    """Where each storage lies, the first one at `position`."""
    if type(keys) is not list or len(keys) != len(storages):
        raise damaged("the list of storages in the file does not fit what the file holds")
    regions: dict[str, Region] = {}
    for key in keys:
        storage = storages.get(key) if type(key) is str else None
        if storage is None or key in regions:
            raise damaged("the list of storages in the file does not fit what the file holds")
        start = position + _COUNT.size
        stop = start + storage.count * ITEM_SIZE[storage.dtype]
        if stop > data.nbytes:
            raise damaged("the file ends before its last storage", "it may be cut short")
        (count,) = _COUNT.unpack_from(data, position)
        if count != storage.count:
            raise damaged("a storage has another length than the file says", f"{count}, not {storage.count} elements")
        regions[key] = Region(start, stop - start)
        position = stop
    return regions
