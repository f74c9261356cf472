"""Bytes kept as chunks one after another, read at any place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.errors import Format
from ckstore.objects.leaf import Chunks
from ckstore.objects.reader import run_requests
from ckstore.objects.tree import InSlab, split_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.objects.leaf import Blob
    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.tree import Tensor, Tree

_WINDOW_CHUNKS = 16


class Room:
    """Memory that is used again: to take new memory for every window costs as much as to decode into it."""

    def __init__(self) -> None:
        self._held = memoryview(bytearray())

    def take(self, length: int) -> memoryview:
        """`length` bytes; they hold anything, and are good until the next are taken."""
        if self._held.nbytes < length:
            self._held = memoryview(bytearray(length))
        return self._held[:length]


class Run:
    """A run of chunks, read at any place; the last few chunks stay at hand for short neighbours.

    Runs that are read one after another may share `room`: a run's views are good until another of them is read.
    """

    def __init__(
        self, length: int, ids: bytes, chunk_size: int, reader: ObjectReader, room: Room | None = None
    ) -> None:
        run_requests(length, ids, chunk_size, memoryview(b""))  # the count must fit before anything is allocated
        self.length = length
        self._ids = split_ids(ids)
        self._chunk_size = chunk_size
        self._reader = reader
        self._room = Room() if room is None else room
        self._first = 0
        self._window = memoryview(b"")

    @classmethod
    def of_blob(cls, blob: Blob, chunk_size: int, reader: ObjectReader) -> Run:
        if isinstance(blob, Chunks):
            return cls(blob.length, blob.ids, chunk_size, reader)
        run = cls(0, b"", chunk_size, reader)
        run.length = len(blob)
        run._window = memoryview(blob)
        return run

    def read(self, start: int, length: int) -> Iterator[memoryview]:
        """`length` bytes from `start` on; each view is good until the next is asked for.

        Raises `Format` where the run does not hold them, `Integrity`.
        """
        end = start + length
        if not 0 <= start <= end <= self.length:
            raise Format(f"bytes {start} to {end} were asked for of a run of {self.length}")
        while start < end:
            if not self._first <= start < self._first + self._window.nbytes:
                self._load(start, end)
            stop = min(end, self._first + self._window.nbytes)
            yield self._window[start - self._first : stop - self._first]
            start = stop

    def _load(self, start: int, end: int) -> None:
        first = start // self._chunk_size
        last = min(-(-end // self._chunk_size), first + _WINDOW_CHUNKS)
        begin, size = first * self._chunk_size, self._chunk_size
        self._window = memoryview(b"")  # until all of it is there
        window = self._room.take(min(last * size, self.length) - begin)
        self._reader.fill(
            [
                (self._ids[number], window[(number - first) * size : (number - first + 1) * size])
                for number in range(first, last)
            ]
        )
        self._first, self._window = begin, window


class TreeRuns:
    """The runs of one tree: of its slabs, which several tensors share, and of the spans of their own."""

    def __init__(self, tree: Tree, reader: ObjectReader) -> None:
        self._tree = tree
        self._reader = reader
        self._room = Room()
        self._slabs = [Run(slab.length, slab.ids, tree.chunk_size, reader) for slab in tree.slabs]

    def of_tensor(self, value: Tensor) -> tuple[Run, int]:
        """The run that holds a tensor's span, and where in it the span begins. Raises `Format`."""
        data = value.data
        if isinstance(data, InSlab):
            if not 0 <= data.slab < len(self._slabs) or data.start < 0:
                raise Format("a tensor names a slab that is not there")
            return self._slabs[data.slab], data.start
        return Run(data.length, data.ids, self._tree.chunk_size, self._reader, self._room), 0
