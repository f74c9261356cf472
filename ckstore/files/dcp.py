"""Folders of torch.distributed.checkpoint: `.metadata` says which tensor, or which part of one, lies where.

The other files are items one after another, each an archive of torch.save. What an item holds that is not known
as data, and what lies between items, is the file's own bytes.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckstore.errors import Format
from ckstore.files import pickle_data
from ckstore.files.archive import MAGIC
from ckstore.files.archive import read as read_archive
from ckstore.files.dcp_metadata import read as read_metadata
from ckstore.files.join import depth, under_keys
from ckstore.files.parsed import Claim, assemble, damaged
from ckstore.files.pickle_limits import Limits
from ckstore.files.pickle_values import NotUnderstoodError, TensorRef
from ckstore.files.pt import WHOLE
from ckstore.files.pt_draft import to_draft
from ckstore.files.source import PartSource
from ckstore.objects.commit import is_component_name
from ckstore.objects.draft import DraftTensor
from ckstore.objects.tree import MAX_DEPTH, List

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckstore.files.archive import Archive
    from ckstore.files.dcp_metadata import Item, Place, Saved
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


class _Part(NamedTuple):
    """A draft, and where in which file its spans lie; the claims name no component yet."""

    draft: Draft
    claims: list[tuple[str, Claim]]


_Node = dict[str | int, "_Part | _Node"]


def folders(sources: Mapping[str, Source]) -> dict[str, dict[str, Source]]:
    """The folders among `sources`, by their names (empty, or ending in `/`): the files of each by theirs.

    Those that no component may be named after are left out.
    """
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
    return {
        folder: inside for folder, inside in found.items() if len(inside) > 1 and is_component_name(folder + METADATA)
    }


def parse(files: Mapping[str, Source]) -> ParsedFolder | None:
    """The folder that holds `files`, `.metadata` among them; None where that is not understood. Raises `Format`.

    A component is a top entry of the state that was saved, with dicts and lists as they were; one of another type
    that held tensors is a dict or list too. A tensor in several parts is a dict of them by where they begin: `0,0`.
    """
    try:
        saved = read_metadata(files[METADATA].view())
        roots = _roots(saved, _Items(saved, files))
    except NotUnderstoodError:
        return None
    claims: dict[str, list[Claim]] = {}
    for name, part in roots.items():
        for file, claim in part.claims:
            claims.setdefault(file, []).append(claim._replace(component=name))
    return ParsedFolder(
        {name: part.draft for name, part in roots.items()},
        {name: assemble(source.size_bytes, {}, claims.get(name, ())) for name, source in files.items()},
    )


def _roots(saved: Iterable[Saved], items: _Items) -> dict[str, _Part]:
    """The components: the top entries of the state, or the whole where it is a bare state dict."""
    tree: _Node = {}
    nested = False
    for one in saved:
        nested |= len(one.path) > 1
        part = items.part(one)
        if part is not None:
            _put(tree, one.path, part)
    if nested and all(map(is_component_name, tree)):
        return {str(name): _joined(node) for name, node in tree.items()}
    return {WHOLE: _joined(tree)} if tree else {}


def _put(tree: _Node, path: tuple[str | int, ...], part: _Part) -> None:
    for step in path[:-1]:
        below = tree.setdefault(step, {})
        if isinstance(below, _Part):
            raise NotUnderstoodError("a value that lies in another")
        tree = below
    if tree.setdefault(path[-1], part) is not part:
        raise NotUnderstoodError("two values in one place")


def _joined(node: _Part | _Node) -> _Part:
    """What lies below a node as one draft: a list where its keys are the positions of one, else a dict."""
    if isinstance(node, _Part):
        return node
    is_list = all(type(key) is int for key in node) and set(node) == set(range(len(node)))
    keys = sorted(node) if is_list else list(node)
    below = [_joined(node[key]) for key in keys]
    if len(set(map(str, keys))) != len(keys):
        raise NotUnderstoodError("a number and its text as keys")
    draft, firsts = under_keys([(str(key), part.draft) for key, part in zip(keys, below, strict=True)])
    if is_list:
        _make_list(draft, [len(part.draft.entries) for part in below])
    claims = [
        (file, claim._replace(span=first + claim.span))
        for first, part in zip(firsts, below, strict=True)
        for file, claim in part.claims
    ]
    return _Part(draft, claims)


def _make_list(draft: Draft, lengths: list[int]) -> None:
    """A dict whose values have so many entries each, as a list of those values."""
    draft.entries[0] = (None, List(len(lengths)))
    position = 1
    for length in lengths:
        draft.entries[position] = (None, draft.entries[position][1])
        position += length


class _Items:
    """Reads what the items hold. What they unfold to is limited by the pickles in all of them together."""

    def __init__(self, saved: Iterable[Saved], files: Mapping[str, Source]) -> None:
        self._files = files
        self._archives = _archives((item for one in saved for item in one.items.values()), files)
        self._limits = Limits(sum(archive.pickle.length for archive in self._archives.values()))

    def part(self, saved: Saved) -> _Part | None:
        """The draft of one value; None where an item of it is not known as data."""
        try:
            if saved.shape is None:
                return self._read(saved, saved.items[()], None)
            found = {place: self._read(saved, item, place) for place, item in sorted(saved.items.items())}
        except NotUnderstoodError:
            return None
        tensors = [part.draft.entries[0][1] for part in found.values()]
        shapes = [tensor.shape for tensor in tensors if isinstance(tensor, DraftTensor)]
        if sum(map(math.prod, shapes)) != math.prod(saved.shape):
            raise damaged(f"the parts of {saved.key[:200]!a} do not make up the whole")
        for shape, part in zip(shapes, found.values(), strict=True):
            if shape == saved.shape:
                return part
        return _joined({",".join(map(str, place)): part for place, part in found.items()})

    def _read(self, saved: Saved, item: Item, place: Place | None) -> _Part:
        """The draft of one item: a tensor that begins at `place`, or any value."""
        archive = self._archives.get(item)
        if archive is None:
            raise NotUnderstoodError("an item that is no archive of torch.save")
        source = PartSource(self._files[item.file], item.start, item.length)
        start, length = archive.pickle
        with _naming(item):
            value = pickle_data.load(source.view()[start : start + length], self._limits)
            if place is not None:
                _check_tensor(saved, place, value)
            draft, claims = to_draft(saved.key, value, source, archive.storages, self._limits)
        steps = len(saved.path) + 1
        if steps + depth(draft) > MAX_DEPTH:
            raise NotUnderstoodError("a value that nests too deep in the whole")
        self._limits.take(steps * len(draft.entries), len(draft.spans) * sum(len(str(step)) for step in saved.path))
        moved = [claim._replace(start=item.start + claim.start, stop=item.start + claim.stop) for claim in claims]
        return _Part(draft, [(item.file, claim) for claim in moved])


def _archives(items: Iterable[Item], files: Mapping[str, Source]) -> dict[Item, Archive]:
    """The archives among the items, each read in its place.

    Raises `Format` for an item outside of its file, in a file that is not there, or on another archive.
    """
    found: dict[Item, Archive] = {}
    ends: dict[str, int] = {}
    for item in sorted(items):
        if not item.file.endswith(SUFFIX):
            raise NotUnderstoodError("a file of another name")
        with _naming(item):
            if item.file not in files:
                raise damaged("the file is missing", f"{METADATA} says that something lies in it")
            if item.start + item.length > files[item.file].size_bytes:
                raise damaged("the file is cut short", f"{METADATA} says that something lies beyond its end")
            data = PartSource(files[item.file], item.start, item.length).view()
            if data[: len(MAGIC)] != MAGIC:
                continue
            if item.start < ends.get(item.file, 0):
                raise damaged("two values lie in the same place", f"at byte {item.start}")
            ends[item.file] = item.start + item.length
            archive = read_archive(data)
            if archive is not None:
                found[item] = archive
    return found


def _check_tensor(saved: Saved, place: Place, value: object) -> None:
    if not isinstance(value, TensorRef):
        raise NotUnderstoodError("a tensor of a class of its own")
    whole = saved.shape or ()
    if not len(place) == len(value.shape) == len(whole) or any(
        first + size > limit for first, size, limit in zip(place, value.shape, whole, strict=True)
    ):
        raise damaged(f"{saved.key[:200]!a} is not of the shape that {METADATA} says")


@contextmanager
def _naming(item: Item) -> Iterator[None]:
    """Says in which file the damage is."""
    try:
        yield
    except Format as error:
        raise damaged(f"{item.file[:200]!a}: {error.what}", error.why) from error
