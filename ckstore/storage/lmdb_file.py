"""Whether an LMDB data file can be mapped: LMDB reads pages beyond a truncated file's end, which is SIGBUS."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = 0xBEEFC0DE
_PAGE_HEADER = 16
_META = struct.Struct("<IIQQ I44x 48x QQ")
"""MDB_meta of LMDB 0.9 on 64 bits: magic, version, address, map size, page size, last page, transaction."""


def is_mappable(path: Path) -> bool:
    """Whether the file is as long as its newest meta page says. A file that is absent or empty is fine: it is made."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(4096)
            page_size = _meta(first)[4] if len(first) == 4096 and _meta(first)[0] == _MAGIC else 4096
            file.seek(page_size)
            metas = [first, file.read(4096)]
    except FileNotFoundError:
        return True
    if not size:
        return True
    found = [meta for page in metas if len(page) >= _PAGE_HEADER + _META.size and (meta := _meta(page))[0] == _MAGIC]
    if not found:
        return False
    newest = max(found, key=lambda meta: meta[6])
    return size >= (newest[5] + 1) * page_size


def _meta(page: bytes) -> tuple[int, ...]:
    return _META.unpack_from(page, _PAGE_HEADER)
