"""Figures of stored tensors: their chunks read on all threads, one after another, and added up.

A tensor whose elements lie without gaps is never in memory as a whole; any other one is while it is looked at.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ckstore.codec.room import Room
from ckstore.errors import InvalidInput
from ckstore.graph.numbers import Scratch, compare, is_numeric, row_major, summarise
from ckstore.graph.placement import grid, is_measurable, is_streamed
from ckstore.graph.portions import are_different, are_same, paired, portions
from ckstore.graph.sums import PairSums, added_up, pairs_added_up, statistics
from ckstore.objects.run import Run
from ckstore.objects.tree import CHUNK_SIZE
from ckstore.storage.workers import PerThread, jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ckstore.graph.placement import Grid, Place
    from ckstore.graph.portions import Portion, PortionPair
    from ckstore.graph.sums import Statistics, Summary
    from ckstore.objects.reader import ObjectReader
    from ckstore.progress import Progress
    from ckstore.storage.store import Store

K = TypeVar("K")
T = TypeVar("T")
Views = tuple[memoryview, ...]

_SLICE = 1 << 20
_NO_MEMORY = "leave it out (only=...), or use a machine with more memory"


def summaries(store: Store, tensors: Sequence[Place], progress: Progress) -> list[Summary | None]:
    """The sums over each tensor's elements; None where they are no numbers, or overlap.

    Elements of an expanded tensor count once. Raises `Integrity`, and `InvalidInput` where memory does not suffice.
    """
    shapes = [grid(one) for one in tensors]
    fit = {n for n, one in enumerate(tensors) if is_numeric(one.dtype) and is_measurable(shapes[n], one)}
    streamed = [n for n in sorted(fit) if is_streamed(shapes[n], tensors[n])]

    def compute(number: int, views: Views, scratch: Scratch) -> Summary:
        return summarise(tensors[number].dtype, views[0], scratch)

    def items() -> Iterator[_Item]:
        for n in _by_run(streamed, tensors):
            yield from (_Item(n, (portion,)) for portion in portions(tensors[n].stretch))

    work = _Measuring(store, progress, len(tensors), compute, added_up)
    work.stream(items())
    for n in sorted(fit.difference(streamed)):
        work.gather(n, (tensors[n],), shapes[n])
    return [work.total(n) if n in fit else None for n in range(len(tensors))]


def figures(store: Store, tensors: Mapping[K, Place], progress: Progress) -> dict[K, Statistics | None]:
    """The figures of each tensor; None where `summaries` has none. Raises as that does."""
    sums = summaries(store, list(tensors.values()), progress)
    return {
        key: None if found is None else statistics(found, grid(one).repeats)
        for (key, one), found in zip(tensors.items(), sums, strict=True)
    }


class _Way(Enum):
    """How a pair of tensors is looked at."""

    STREAM = "their elements, as the chunks come"
    BYTES = "whether bytes differ, where ids do not say it"
    GATHER = "their elements, brought into order first"
    NONE = "not at all"


def _way(before: Place, after: Place, shape: Grid, *, stat: bool) -> _Way:
    if (stat or not shape.elements) and is_streamed(shape, before, after):
        return _Way.STREAM
    if before.steps == after.steps and (shape.is_dense or not is_measurable(shape, before, after)):
        return _Way.GATHER if stat and shape.is_dense else _Way.BYTES
    return _Way.GATHER if is_measurable(shape, before, after) else _Way.NONE


def pair_sums(
    store: Store, pairs: Sequence[tuple[Place, Place]], progress: Progress, *, stat: bool
) -> list[PairSums | None]:
    """The sums over each pair of tensors of the same dtype and shape; None where their elements overlap differently.

    Without `stat` only what ids leave open is read, and only `differing` (0 where the tensors are equal) and
    `differing_bytes` mean anything. So it is for tensors that overlap themselves. Elements that both tensors expand
    count once. Raises `Integrity`, and `InvalidInput` where memory does not suffice.
    """
    shapes = [grid(*pair) for pair in pairs]
    ways = [_way(*pair, shape, stat=stat) for pair, shape in zip(pairs, shapes, strict=True)]

    def compute(number: int, views: Views, scratch: Scratch) -> PairSums:
        if ways[number] is _Way.BYTES:
            return _bytes_differ(views)
        (before, after), place = views, pairs[number][0]
        return compare(place.dtype, place.item_size, before, after, scratch)

    def items() -> Iterator[_Item]:
        streamed = [n for n, way in enumerate(ways) if way in (_Way.STREAM, _Way.BYTES)]
        for n in _by_run(streamed, [after for _, after in pairs]):
            for pair in paired(portions(pairs[n][0].stretch), portions(pairs[n][1].stretch)):
                if ways[n] is _Way.STREAM or not (are_same(pair) or are_different(pair)):
                    yield _Item(n, pair)
                else:
                    if are_different(pair):
                        work.add(n, -1, PairSums(differing=1, differing_bytes=pair[0].length))
                    progress.advance(pair[0].length)

    work = _Measuring(store, progress, len(pairs), compute, pairs_added_up)
    work.stream(items())
    for n, way in enumerate(ways):
        if way is _Way.GATHER:
            work.gather(n, pairs[n], shapes[n])
    return [None if way is _Way.NONE else work.total(n) for n, way in enumerate(ways)]


def differ(store: Store, contents: Sequence[Iterator[PortionPair]], progress: Progress) -> list[bool]:
    """Of each pair of contents, cut into portions, whether any byte differs. Raises `Integrity`."""

    def items() -> Iterator[_Item]:
        for n, content in enumerate(contents):
            for pair in content:
                if not (are_same(pair) or are_different(pair)):
                    yield _Item(n, pair)
                    continue
                progress.advance(pair[0].length)
                if are_different(pair):
                    work.add(n, -1, PairSums(differing=1))
                    break

    work = _Measuring(store, progress, len(contents), lambda _, views, __: _bytes_differ(views), pairs_added_up)
    work.stream(items())
    return [work.total(n).differing > 0 for n in range(len(contents))]


def _bytes_differ(views: Views) -> PairSums:
    before, after = views
    return PairSums(differing=1, differing_bytes=before.nbytes) if bytes(before) != bytes(after) else PairSums()


class _Item(NamedTuple):
    """Portions of number `number` that stand for the same place."""

    number: int
    portions: tuple[Portion, ...]


def _by_run(numbers: Sequence[int], tensors: Sequence[Place]) -> list[int]:
    """Numbers of tensors in their order, but those of one slab together and in the order they have there."""
    first: dict[bytes, int] = {}
    for n in numbers:
        first.setdefault(tensors[n].stretch.ids, n)
    return sorted(numbers, key=lambda n: (first[tensors[n].stretch.ids], tensors[n].stretch.start))


class _Buffers:
    """A thread's own: the last chunk of each side, and blocks of numbers."""

    def __init__(self) -> None:
        self.scratch = Scratch()
        self._rooms = (Room(CHUNK_SIZE), Room(CHUNK_SIZE))
        self._held = [(b"", memoryview(b"")), (b"", memoryview(b""))]

    def read(self, side: int, portion: Portion, reader: ObjectReader) -> memoryview:
        """The bytes of a portion; good until one of the same side or of one before is read. Raises `Integrity`."""
        part = slice(portion.offset, portion.offset + portion.length)
        if not portion.id:
            return memoryview(portion.inline)[part]
        for id, held in self._held[: side + 1]:
            if id == portion.id and held.nbytes == portion.chunk_length:
                return held[part]
        self._held[side] = (b"", memoryview(b""))
        chunk = self._rooms[side].take(portion.chunk_length)
        reader.read_into(portion.id, chunk)
        self._held[side] = (portion.id, chunk)
        return chunk[part]


class _Measuring(Generic[T]):
    """What the parts of each of `count` things came to.

    `compute` takes a number and the bytes of one part, from each side; `join` adds parts up. Parts have an order, so
    that sums do not depend on which thread was first.
    """

    def __init__(
        self,
        store: Store,
        progress: Progress,
        count: int,
        compute: Callable[[int, Views, Scratch], T],
        join: Callable[[Iterable[T]], T],
    ) -> None:
        self._store = store
        self._progress = progress
        self._compute = compute
        self._join = join
        self._found: list[list[tuple[int, T]]] = [[] for _ in range(count)]
        self._buffers = PerThread()
        self._runs: dict[int, tuple[bytes, Run]] = {}

    def add(self, number: int, order: int, part: T) -> None:
        self._found[number].append((order, part))

    def total(self, number: int) -> T:
        """What the parts so far add up to."""
        return self._join(part for _, part in sorted(self._found[number], key=lambda found: found[0]))

    def stream(self, items: Iterable[_Item]) -> None:
        """Take in parts as their chunks are read."""

        def work(job: tuple[int, list[_Item]]) -> None:
            order, listed = job
            buffers, parts = self._buffers.get(_Buffers), dict[int, list[T]]()
            for item in listed:
                views = tuple(
                    buffers.read(side, portion, self._store.objects) for side, portion in enumerate(item.portions)
                )
                parts.setdefault(item.number, []).append(self._compute(item.number, views, buffers.scratch))
                self._progress.advance(views[-1].nbytes)
            for number, some in parts.items():
                self.add(number, order, self._join(some))

        self._store.workers.map(work, enumerate(jobs(items, lambda item: item.portions[-1].length)))

    def gather(self, number: int, places: tuple[Place, ...], shape: Grid) -> None:
        """Take in tensors whose elements must be brought into row-major order first."""
        views = tuple(self._row_major(side, one, shape.sizes, shape.steps[side]) for side, one in enumerate(places))
        step = max(_SLICE // places[0].item_size, 1) * places[0].item_size

        def work(start: int) -> None:
            scratch = self._buffers.get(_Buffers).scratch
            parts = tuple(view[start : start + step] for view in views)
            self.add(number, start, self._compute(number, parts, scratch))
            self._progress.advance(parts[-1].nbytes)

        self._store.workers.map(work, range(0, views[0].nbytes, step))

    def _row_major(self, side: int, one: Place, sizes: tuple[int, ...], steps: tuple[int, ...]) -> memoryview:
        stretch = one.stretch
        try:
            data = memoryview(bytearray(stretch.length))
            position = 0
            for view in self._run(side, one).read(stretch.start, stretch.length):
                data[position : position + view.nbytes] = view
                position += view.nbytes
            return row_major(data, one.item_size, sizes, steps)
        except MemoryError as error:
            what = f"a tensor of shape {one.shape} needs {2 * stretch.length} bytes of memory, which are not there"
            raise InvalidInput(what, hint=_NO_MEMORY) from error

    def _run(self, side: int, one: Place) -> Run:
        """The run a tensor lies in; that of the tensor before where it is the same, with what it has at hand."""
        ids = one.stretch.ids
        held = self._runs.get(side)
        if held is None or held[0] is not ids:
            stretch = one.stretch
            held = ids, Run(stretch.run_length, ids, stretch.chunk_size, self._store.objects)
            self._runs[side] = held
        return held[1]
