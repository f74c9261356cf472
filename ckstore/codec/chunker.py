"""Fixed chunks: a span is cut from its own first byte, so that growth of one tensor never shifts another."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def cut(length: int, chunk_size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each chunk of `length` bytes; the last may be shorter, nothing for no bytes."""
    for start in range(0, length, chunk_size):
        yield start, min(start + chunk_size, length)


def parts(whole: memoryview, lengths: Sequence[int]) -> list[memoryview]:
    """The chunks that lie in `whole` one after another."""
    return [whole[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)]
