"""Which format a file is in, and its parse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.files import gguf, legacy, pt, safetensors
from ckstore.files import opaque as plain

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
    for parse_known in (pt.parse, legacy.parse, gguf.parse):
        parsed = parse_known(source)
        if parsed is not None:
            return parsed
    return plain.parse(source)
