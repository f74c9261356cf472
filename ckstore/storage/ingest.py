"""Stores drafts: chunks on all threads, then the trees that name them."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ckstore.codec.chunker import cut
from ckstore.digest import ID_SIZE, Kind
from ckstore.errors import InvalidInput
from ckstore.objects.draft import Draft, DraftBlob, DraftTensor, Span
from ckstore.objects.encoding import encode
from ckstore.objects.leaf import Chunks
from ckstore.objects.tree import (
    CHUNK_SIZE,
    MAX_ENTRIES,
    PAGE_LIMIT,
    SLAB_LIMIT,
    Alias,
    Entry,
    InSlab,
    Page,
    PageRef,
    Slab,
    Tensor,
    Tree,
    Whole,
)
from ckstore.storage.piece import Piece
from ckstore.storage.versions import Versions
from ckstore.storage.workers import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckstore.progress import Progress
    from ckstore.storage.workers import Workers


class _Slot(NamedTuple):
    """A chunk to store, and where its id goes."""

    piece: Piece
    length: int
    ids: bytearray
    position: int


class _Member(NamedTuple):
    """A short span's place in its slab."""

    span: Span
    start: int


class Sink(Protocol):
    """Where objects go: a `Transaction`, or what only counts them."""

    def put(self, kind: Kind, piece: Piece) -> bytes:
        """Take in a chunk; its id."""

    def put_meta(self, kind: Kind, data: bytes) -> bytes:
        """Take in a tree or page; its id."""


def ingest(
    drafts: Mapping[str, Draft],
    sink: Sink,
    workers: Workers,
    progress: Progress,
    earlier: Mapping[str, Tree] = MappingProxyType({}),
) -> dict[str, bytes]:
    """Store every component; the ids of their trees. The name of a component is its pack stream.

    `earlier` holds trees of an older checkpoint, by component: what lay in the same place there may become a base.
    """
    plans = {name: _Plan(draft, name, Versions(earlier.get(name))) for name, draft in drafts.items()}
    slots = [slot for plan in plans.values() for slot in plan.slots]
    progress.start("storing", sum(slot.length for slot in slots))

    def store(job: list[_Slot]) -> None:
        for slot in job:
            slot.ids[slot.position : slot.position + ID_SIZE] = sink.put(Kind.CHUNK, slot.piece)
        progress.advance(sum(slot.length for slot in job))

    workers.map(store, list(jobs(slots, lambda slot: slot.length)))
    return {name: _put_tree(plan.tree(), sink) for name, plan in plans.items()}


class _Plan:
    """One component on its way from draft to tree: which chunks to store, and where their ids go."""

    def __init__(self, draft: Draft, stream: str, versions: Versions) -> None:
        self.slots: list[_Slot] = []
        self._draft = draft
        self._stream = stream
        self._tensors = 0
        self._versions = versions
        self._slabs: list[tuple[str, int, bytearray]] = []
        self._data: list[tuple[int, bytearray] | InSlab] = []
        self._blobs: dict[int, tuple[int, bytearray]] = {}
        short: dict[str, list[int]] = {}
        for number, span in enumerate(draft.spans):
            if 0 < span.length < SLAB_LIMIT:
                short.setdefault(span.dtype, []).append(number)
                self._data.append(InSlab(0, 0, 0))
            else:
                self._data.append((span.length, self._cut(span.length, span.open, span.dtype, versions.of_span(span))))
        for dtype in sorted(short):
            self._join(dtype, sorted(short[dtype], key=lambda number: (draft.spans[number].path.encode(), number)))
        for ordinal, (_, value) in enumerate(draft.entries):
            if isinstance(value, DraftBlob):
                self._blobs[ordinal] = (value.length, self._cut(value.length, value.open, value.dtype, b""))

    def tree(self) -> Tree:
        """The tree, once every slot's id is there."""
        owners: dict[int, int] = {}
        entries: list[Entry] = []
        for ordinal, (key, value) in enumerate(self._draft.entries):
            if isinstance(value, DraftTensor):
                owner = owners.setdefault(value.span, ordinal)
                place = (value.dtype, value.shape, value.strides, value.offset)
                if owner == ordinal:
                    entries.append(Entry(key, Tensor(*place, self._stored(value.span), value.flags)))
                else:
                    entries.append(Entry(key, Alias(*place, owner, value.flags)))
            elif isinstance(value, DraftBlob):
                length, ids = self._blobs[ordinal]
                entries.append(Entry(key, value.make(Chunks(length, bytes(ids)))))
            else:
                entries.append(Entry(key, value))
        slabs = tuple(Slab(dtype, length, bytes(ids)) for dtype, length, ids in self._slabs)
        return Tree(CHUNK_SIZE, slabs, tuple(entries))

    def _stored(self, span: int) -> Whole | InSlab:
        data = self._data[span]
        return data if isinstance(data, InSlab) else Whole(data[0], bytes(data[1]))

    def _cut(self, length: int, load: Callable[[int, int], memoryview], dtype: str, before: bytes) -> bytearray:
        ids = bytearray(-(-length // CHUNK_SIZE) * ID_SIZE)
        tensor = self._tensors
        self._tensors += 1
        for number, (start, stop) in enumerate(cut(length, CHUNK_SIZE)):
            position = number * ID_SIZE
            older = before[position : position + ID_SIZE] or None
            piece = Piece(partial(load, start, stop), self._stream, dtype, older, tensor, len(self.slots))
            self.slots.append(_Slot(piece, stop - start, ids, position))
        return ids

    def _join(self, dtype: str, numbers: list[int]) -> None:
        members: list[_Member] = []
        total = 0
        for number in numbers:
            span = self._draft.spans[number]
            self._data[number] = InSlab(len(self._slabs), total, span.length)
            members.append(_Member(span, total))
            total += span.length
        gather = partial(_slab_bytes, members, [member.start for member in members])
        self._slabs.append((dtype, total, self._cut(total, gather, dtype, self._versions.of_slab(dtype, total))))


def _slab_bytes(members: list[_Member], starts: list[int], start: int, stop: int) -> memoryview:
    """Bytes `start` to `stop` of a slab, gathered from the spans that lie there."""
    gathered = bytearray(stop - start)
    number = bisect_right(starts, start) - 1
    while number < len(members) and members[number].start < stop:
        span, at = members[number]
        first, last = max(start - at, 0), min(stop - at, span.length)
        gathered[at + first - start : at + last - start] = span.open(first, last)
        number += 1
    return memoryview(gathered)


def _put_tree(tree: Tree, sink: Sink) -> bytes:
    if len(tree.entries) > MAX_ENTRIES:
        raise InvalidInput(
            f"a component has {len(tree.entries)} values, more than {MAX_ENTRIES}",
            hint="keep long lists of numbers as one array or tensor",
        )
    data = encode(tree)
    if len(data) > PAGE_LIMIT:
        pages = tuple(
            PageRef(sink.put_meta(Kind.TREE, encode(Page(run))), len(run)) for run in _page_runs(tree.entries)
        )
        data = encode(Tree(tree.chunk_size, tree.slabs, (), pages))
    return sink.put_meta(Kind.TREE, data)


def _page_runs(entries: tuple[Entry, ...]) -> Iterator[tuple[Entry, ...]]:
    run: list[Entry] = []
    size = 0
    for entry in entries:
        length = len(encode(entry))
        if run and size + length > PAGE_LIMIT // 2:
            yield tuple(run)
            run, size = [], 0
        run.append(entry)
        size += length
    yield tuple(run)
