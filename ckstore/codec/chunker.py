"""Fixed chunks: a span is cut from its own first byte, so that growth of one tensor never shifts another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def cut(length: int, chunk_size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each chunk of `length` bytes; the last may be shorter, nothing for no bytes."""
    for start in range(0, length, chunk_size):
        yield start, min(start + chunk_size, length)
