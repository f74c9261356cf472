"""Folders of torch.distributed.checkpoint: `.metadata` says which tensor, or which part of one, lies where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.files.parsed import ParsedFile
    from ckstore.files.source import Source
    from ckstore.objects.draft import Draft

METADATA = ".metadata"
"""The file that makes a folder one of these."""

SUFFIX = ".distcp"


@dataclass(frozen=True)
class ParsedFolder:
    """A folder: its components, and each file by its name, with segments on them."""

    components: dict[str, Draft]
    files: dict[str, ParsedFile]


def folders(sources: Mapping[str, Source]) -> dict[str, dict[str, Source]]:
    """The folders among `sources`, by their names (empty, or ending in `/`): the files of each by theirs."""
    found: dict[str, dict[str, Source]] = {}
    for name in sources:
        folder, _, file = name.rpartition("/")
        if file == METADATA:
            found[f"{folder}/" if folder else ""] = {}
    for name, source in sources.items():
        folder, _, file = name.rpartition("/")
        inside = found.get(f"{folder}/" if folder else "")
        if inside is not None and (file == METADATA or file.endswith(SUFFIX)):
            inside[file] = source
    return {folder: inside for folder, inside in found.items() if len(inside) > 1}


def parse(files: Mapping[str, Source]) -> ParsedFolder | None:
    """The folder that holds `files`, `.metadata` among them; None where that is not understood. Raises `Format`."""
    return None
