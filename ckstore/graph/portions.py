"""Bytes that are kept in chunks, cut where the chunks end: what two of them share is seen from ids alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import ID_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Stretch(NamedTuple):
    """`length` bytes from `start` on of a run of `run_length` bytes, in chunks of `chunk_size` named by `ids`."""

    ids: bytes
    run_length: int
    chunk_size: int
    start: int
    length: int


class Portion(NamedTuple):
    """`length` bytes at `offset` of chunk `id`, which has `chunk_length` bytes.

    Where `id` is empty the bytes lie in no chunk: they are those of `inline`.
    """

    id: bytes
    chunk_length: int
    offset: int
    length: int
    inline: bytes = b""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its chunk."""
        return bool(self.id) and self.length == self.chunk_length

    def part(self, start: int, length: int) -> Portion:
        """`length` of its bytes, from its byte `start` on."""
        return self._replace(offset=self.offset + start, length=length)


PortionPair = tuple[Portion, Portion]
"""Two portions of the same length that stand for the same place."""


def inline_portion(data: bytes) -> Portion:
    """Bytes that lie in no chunk."""
    return Portion(b"", len(data), 0, len(data), data)


def portions(stretch: Stretch) -> Iterator[Portion]:
    """The portions of a stretch in order, one a chunk that it touches."""
    size, end = stretch.chunk_size, stretch.start + stretch.length
    start = stretch.start
    while start < end:
        number = start // size
        stop = min((number + 1) * size, end)
        chunk_length = min(size, stretch.run_length - number * size)
        id = stretch.ids[number * ID_SIZE : (number + 1) * ID_SIZE]
        yield Portion(id, chunk_length, start - number * size, stop - start)
        start = stop


def paired(before: Iterable[Portion], after: Iterable[Portion]) -> Iterator[PortionPair]:
    """Two runs of portions of the same length in all, cut at the bounds of both."""
    left, right = iter(before), iter(after)
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        length = min(one.length, other.length)
        if length:
            yield one.part(0, length), other.part(0, length)
        one = one.part(length, one.length - length) if one.length > length else next(left, None)
        other = other.part(length, other.length - length) if other.length > length else next(right, None)


def are_same(pair: PortionPair) -> bool:
    """Whether ids alone say that both have the same bytes."""
    before, after = pair
    return bool(before.id) and (before.id, before.offset) == (after.id, after.offset)


def are_different(pair: PortionPair) -> bool:
    """Whether ids alone say that the bytes of both differ: two whole chunks of different names."""
    before, after = pair
    return before.is_whole and after.is_whole and before.id != after.id


def stretches_are_same(before: Stretch, after: Stretch) -> bool:
    """Whether ids alone say that two stretches have the same bytes."""
    if before.length != after.length:
        return False
    if before.chunk_size == after.chunk_size and not (before.start - after.start) % before.chunk_size:
        return _touched(before) == _touched(after)
    return all(are_same(pair) for pair in paired(portions(before), portions(after)))


def _touched(stretch: Stretch) -> bytes:
    """The ids of the chunks that hold a byte of the stretch."""
    first, last = stretch.start // stretch.chunk_size, -(-(stretch.start + stretch.length) // stretch.chunk_size)
    return stretch.ids[first * ID_SIZE : last * ID_SIZE] if stretch.length else b""
