"""Many files as the components of one commit.

A file's component has the file's name without its suffix; where the file is a whole checkpoint, the component of
each of its parts is below that name. The shards of a model are one component, and so are the files of a
`torch.distributed.checkpoint` folder for each of its parts.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from posixpath import splitext
from typing import TYPE_CHECKING, NamedTuple

from ckstore.errors import Format
from ckstore.files import dcp
from ckstore.files.detect import parse
from ckstore.files.join import depth, side_by_side, under_keys
from ckstore.files.parsed import ParsedFile
from ckstore.files.pt import WHOLE
from ckstore.objects.commit import is_component_name
from ckstore.objects.tree import MAX_DEPTH, children

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckstore.files.source import Source
    from ckstore.objects.draft import Draft

_SHARD = re.compile(r"(?P<stem>.*[^/])-\d{5}-of-(?P<count>\d{5})")


@dataclass(frozen=True)
class Bundle:
    """The components, and each file by its name as segments of theirs and gaps of its own."""

    components: dict[str, Draft]
    files: dict[str, ParsedFile]


class _Part(NamedTuple):
    """A component in the making: its name, a longer one in case that is taken, and what it is made from.

    `places` names each file, the component of it that is in here, and the number of that one's first span.
    """

    name: str
    longer: str
    draft: Draft
    places: list[tuple[str, str, int]]


def bundle_file(name: str, source: Source, *, opaque: bool = False) -> Bundle:
    """One file: its parts are the components, as an in-memory commit of what it holds has them. Raises `Format`."""
    parsed = _parsed(name, source, opaque=opaque)
    return Bundle(parsed.components, {name: parsed})


def bundle_files(sources: Mapping[str, Source], *, opaque: bool = False) -> Bundle:
    """Files of one or more folders, by their names. Raises `Format`, naming the file."""
    files: dict[str, ParsedFile] = {}
    parts: list[_Part] = []
    for folder, inside in {} if opaque else dcp.folders(sources).items():
        with _naming(folder + dcp.METADATA):
            found = dcp.parse(inside)
        if found is not None:
            files |= {folder + name: parsed for name, parsed in found.files.items()}
            parts += [
                _Part(folder + name, folder + name, draft, [(folder + file, name, 0) for file in found.files])
                for name, draft in found.components.items()
            ]
    alone = [name for name in sources if name not in files]
    for name in alone:
        with _naming(name):
            files[name] = _parsed(name, sources[name], opaque=opaque or not is_component_name(name))
    for names in _shards(alone):
        parts += _joined(names, files) or [part for name in names for part in _parts(name, files[name])]
    return _assembled(files, parts)


def _parsed(name: str, source: Source, *, opaque: bool) -> ParsedFile:
    """A file's parts; as plain bytes where one of them has a name that no component may have."""
    parsed = parse(name, source, opaque=opaque)
    usable = all(map(is_component_name, parsed.components))
    return parsed if usable else parse(name, source, opaque=True)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Says which file it is that is damaged."""
    try:
        yield
    except Format as error:
        raise Format(f"{name!a}: {error.what}", why=error.why, hint=error.hint) from error


def _shards(names: Iterable[str]) -> list[list[str]]:
    """The names, those of one model's shards together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        base, suffix = splitext(name)
        match = _SHARD.fullmatch(base)
        key = (name,) if match is None else (match["stem"], match["count"], suffix)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _joined(names: list[str], files: Mapping[str, ParsedFile]) -> list[_Part] | None:
    """The shards of one model as one component; None where they are none."""
    if len(names) < 2 or not all(_is_whole(files[name]) for name in names):
        return None
    joined = side_by_side([files[name].components[WHOLE] for name in names])
    if joined is None:
        return None
    draft, firsts = joined
    base, suffix = splitext(names[0])
    match = _SHARD.fullmatch(base)
    stem = base if match is None else match["stem"]
    places = [(name, WHOLE, first) for name, first in zip(names, firsts, strict=True)]
    return [_Part(stem, stem + suffix, draft, places)]


def _is_whole(parsed: ParsedFile) -> bool:
    """Whether the only component is all that the file holds."""
    return not parsed.split and set(parsed.components) == {WHOLE}


def _parts(name: str, parsed: ParsedFile) -> list[_Part]:
    """The components of a file among others: those it has where it is a whole checkpoint, else one."""
    base, _ = splitext(name)
    components = parsed.components
    holding = [draft for draft in components.values() if draft.spans and children(draft.entries[0][1]) > 0]
    if not components:
        return []
    if _is_whole(parsed):
        return [_Part(base, name, components[WHOLE], [(name, WHOLE, 0)])]
    if len(holding) > 1 or any(depth(draft) >= MAX_DEPTH for draft in components.values()):
        return [
            _Part(f"{base}/{part}", f"{name}/{part}", draft, [(name, part, 0)]) for part, draft in components.items()
        ]
    draft, firsts = under_keys(list(components.items()))
    return [_Part(base, name, draft, [(name, part, first) for part, first in zip(components, firsts, strict=True)])]


def _assembled(files: Mapping[str, ParsedFile], parts: list[_Part]) -> Bundle:
    """The components under names that are told apart, and the files' segments on them."""
    components: dict[str, Draft] = {}
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for name, part in zip(_told_apart(parts), parts, strict=True):
        components[name] = part.draft
        places |= {(file, component): (name, first) for file, component, first in part.places}
    return Bundle(components, {name: _placed(name, parsed, places) for name, parsed in files.items()})


def _told_apart(parts: list[_Part]) -> list[str]:
    """A name for each part: its own where no other has that, else the longer one, with a number where that is taken."""
    count = Counter(part.name for part in parts)
    taken = {name for name in count if count[name] == 1}
    names = []
    for part in parts:
        name = part.name
        if count[name] > 1:
            name = next(name for name in _numbered(part.longer) if name not in taken)
            taken.add(name)
        names.append(name)
    return names


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}~{number}" for number in itertools.count(2))


def _placed(name: str, parsed: ParsedFile, places: Mapping[tuple[str, str], tuple[str, int]]) -> ParsedFile:
    segments = []
    for segment in parsed.segments:
        if segment.length:
            component, first = places[name, segment.component]
            segment = replace(segment, component=component, span=first + segment.span)
        segments.append(segment)
    return ParsedFile({}, segments, parsed.gaps)
