"""Which format a file is in, and its parse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.files import opaque as plain
from ckstore.files import pt, safetensors

if TYPE_CHECKING:
    from ckstore.files.parsed import ParsedFile
    from ckstore.files.source import Source


def parse(name: str, source: Source, *, opaque: bool = False) -> ParsedFile:
    """The file called `name`, by its suffix and its first bytes; as plain bytes where `opaque` is set.

    Raises `Format` for a file that is in a known format but damaged. A file in no known format, or whose
    pickle holds what is not understood as data, is plain bytes.
    """
    if opaque:
        return plain.parse(source)
    if name.lower().endswith(".safetensors"):
        return safetensors.parse(source)
    parsed = pt.parse(source)
    return plain.parse(source) if parsed is None else parsed
