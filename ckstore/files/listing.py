"""Committed files as a component of their own: the draft from which `assemble` brings them back."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.objects.draft import Draft, DraftBlob, DraftTensor
from ckstore.objects.plain import NOT_PLAIN, to_key
from ckstore.objects.tree import Dict, File, Folder, Link, Segment

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from ckstore.files.bundle import Bundle
    from ckstore.files.parsed import ParsedFile
    from ckstore.files.source import MappedSource
    from ckstore.objects.leaf import Blob, Key


def files_draft(
    bundle: Bundle,
    sources: Mapping[str, MappedSource],
    folders: Mapping[str, os.stat_result],
    links: Mapping[str, bytes],
) -> Draft:
    """A dict of files, folders and links by their names, in the order of those."""
    owners = {name: _owners(draft) for name, draft in bundle.components.items()}
    draft = Draft([(None, Dict("dict", len(sources) + len(folders) + len(links)))])
    for name in sorted([*sources, *folders, *links], key=lambda name: name.encode("utf-8", "surrogateescape")):
        key: Key = to_key(name)  # type: ignore[assignment]
        if key is NOT_PLAIN:
            raise InvalidInput(f"the name {name[:80]!a}... is too long", hint="commit a folder further down")
        if name in sources:
            draft.entries.append((key, _file(sources[name], bundle.files[name], owners)))
        elif name in folders:
            draft.entries.append((key, Folder(folders[name].st_mode & 0o7777, folders[name].st_mtime_ns)))
        else:
            draft.entries.append((key, Link(links[name])))
    return draft


def _file(source: MappedSource, parsed: ParsedFile, owners: Mapping[str, Mapping[int, int]]) -> DraftBlob:
    names = tuple(dict.fromkeys(segment.component for segment in parsed.segments if segment.length))
    numbers = {component: number for number, component in enumerate(names)}
    segments = tuple(
        Segment(s.gap, numbers[s.component], owners[s.component][s.span], s.start, s.length)
        if s.length
        else Segment(s.gap, 0, 0, 0, 0)
        for s in parsed.segments
    )
    about = source.about

    def make(blob: Blob) -> File:
        return File(source.size_bytes, about.st_mode & 0o7777, about.st_mtime_ns, blob, names, segments)

    ends = list(accumulate(stop - start for start, stop in parsed.gaps))
    return DraftBlob(ends[-1] if ends else 0, partial(_gap_bytes, source, parsed.gaps, ends), make)


def _owners(draft: Draft) -> dict[int, int]:
    """The ordinal of the first entry on each span."""
    owners: dict[int, int] = {}
    for ordinal, (_, value) in enumerate(draft.entries):
        if isinstance(value, DraftTensor):
            owners.setdefault(value.span, ordinal)
    return owners


def _gap_bytes(source: MappedSource, gaps: list[tuple[int, int]], ends: list[int], start: int, stop: int) -> memoryview:
    """Bytes `start` to `stop` of the gaps put end to end; no copy where they lie in one gap."""
    data = source.view()
    number = bisect_right(ends, start)
    parts: list[memoryview] = []
    while start < stop:
        first, last = gaps[number]
        offset = start - (ends[number] - (last - first))
        count = min(stop - start, last - first - offset)
        parts.append(data[first + offset : first + offset + count])
        start += count
        number += 1
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
