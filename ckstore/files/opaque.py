"""A file as plain bytes: no components, one gap."""

from __future__ import annotations

from ckstore.files.parsed import ParsedFile, assemble


def parse(data: memoryview) -> ParsedFile:
    """The whole of `data` as the file's own bytes."""
    return assemble(data.nbytes, {}, ())
