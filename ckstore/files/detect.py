"""Which format a file is in, and its parse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.files import opaque as plain
from ckstore.files import pt, safetensors

if TYPE_CHECKING:
    from ckstore.files.parsed import ParsedFile


def parse(name: str, data: memoryview, *, opaque: bool = False) -> ParsedFile:
    """The file `data` called `name`, by its suffix and its first bytes; as plain bytes where `opaque` is set.

    Raises `Format` for a file that is in a known format but damaged. A file in no known format, or whose
    pickle holds what is not understood as data, is plain bytes.
    """
    if opaque:
        return plain.parse(data)
    if name.lower().endswith(".safetensors"):
        return safetensors.parse(data)
    parsed = pt.parse(data) if data[: len(pt.MAGIC)] == pt.MAGIC else None
    return plain.parse(data) if parsed is None else parsed
