"""A file as plain bytes: no components, one gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.files.parsed import ParsedFile, assemble

if TYPE_CHECKING:
    from ckstore.files.source import Source


def parse(source: Source) -> ParsedFile:
    """The whole file as its own bytes."""
    return assemble(source.size_bytes, {}, ())
