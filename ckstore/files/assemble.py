"""A stored file's bytes in order, from its gaps and the spans of its components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.errors import Format
from ckstore.objects.leaf import Chunks
from ckstore.objects.reader import run_requests
from ckstore.objects.tree import InSlab, Tensor, split_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckstore.objects.leaf import Blob
    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.tree import File, Tree

_WINDOW_CHUNKS = 16


def assemble(file: File, own: Tree, trees: Mapping[str, Tree], reader: ObjectReader) -> Iterator[memoryview]:
    """The bytes of `file`, whose entry is in the tree `own`; `trees` holds the components it names.

    Each view is good until the next is asked for. Raises `Integrity` for what is missing or damaged and
    `Format` for a file that contradicts itself; lengths are checked before anything is read.
    """
    if sum(segment.gap + segment.length for segment in file.segments) != file.size or any(
        min(segment.gap, segment.length, segment.start) < 0 for segment in file.segments
    ):
        raise Format("a file's segments do not add up to its size")
    gaps = _Run.of_blob(file.gaps, own.chunk_size, reader)
    if sum(segment.gap for segment in file.segments) != gaps.length:
        raise Format("a file's gaps do not add up")
    slabs = {
        name: [_Run(slab.length, slab.ids, tree.chunk_size, reader) for slab in tree.slabs]
        for name, tree in trees.items()
    }
    position = 0
    for segment in file.segments:
        yield from gaps.read(position, segment.gap)
        position += segment.gap
        if segment.length:
            run, start = _place(file, segment.component, segment.entry, trees, slabs, reader)
            if segment.start + segment.length > run.length - start:
                raise Format("a file's segment reaches beyond its span")
            yield from run.read(start + segment.start, segment.length)


class _Run:
    """A run of chunks, read at any place; the last few chunks stay at hand for short neighbours."""

    def __init__(self, length: int, ids: bytes, chunk_size: int, reader: ObjectReader) -> None:
        run_requests(length, ids, chunk_size, memoryview(b""))  # the count must fit before anything is allocated
        self.length = length
        self._ids = split_ids(ids)
        self._chunk_size = chunk_size
        self._reader = reader
        self._first = 0
        self._window = memoryview(b"")

    @classmethod
    def of_blob(cls, blob: Blob, chunk_size: int, reader: ObjectReader) -> _Run:
        if isinstance(blob, Chunks):
            return cls(blob.length, blob.ids, chunk_size, reader)
        run = cls(0, b"", chunk_size, reader)
        run.length = len(blob)
        run._window = memoryview(blob)
        return run

    def read(self, start: int, length: int) -> Iterator[memoryview]:
        end = start + length
        while start < end:
            if not self._first <= start < self._first + self._window.nbytes:
                self._load(start, end)
            stop = min(end, self._first + self._window.nbytes)
            yield self._window[start - self._first : stop - self._first]
            start = stop

    def _load(self, start: int, end: int) -> None:
        first = start // self._chunk_size
        last = min(-(-end // self._chunk_size), first + _WINDOW_CHUNKS)
        self._first = first * self._chunk_size
        self._window = memoryview(bytearray(min(last * self._chunk_size, self.length) - self._first))
        size = self._chunk_size
        self._reader.fill(
            [
                (self._ids[number], self._window[(number - first) * size : (number - first + 1) * size])
                for number in range(first, last)
            ]
        )


def _place(
    file: File,
    component: int,
    entry: int,
    trees: Mapping[str, Tree],
    slabs: Mapping[str, list[_Run]],
    reader: ObjectReader,
) -> tuple[_Run, int]:
    """The run that holds an entry's span, and where in it the span begins."""
    if not 0 <= component < len(file.components) or file.components[component] not in trees:
        raise Format("a file names a component that is not in its commit")
    name = file.components[component]
    tree = trees[name]
    value = tree.entries[entry].value if 0 <= entry < len(tree.entries) else None
    if not isinstance(value, Tensor):
        raise Format("a file names an entry that holds no bytes")
    if isinstance(value.data, InSlab):
        if not 0 <= value.data.slab < len(slabs[name]):
            raise Format("a tensor names a slab that is not there")
        return slabs[name][value.data.slab], value.data.start
    return _Run(value.data.length, value.data.ids, tree.chunk_size, reader), 0
