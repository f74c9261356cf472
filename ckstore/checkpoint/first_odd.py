"""Where in a stored tensor the first element is that is NaN or infinite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.room import Room
from ckstore.graph.numbers import first_not_finite
from ckstore.graph.portions import portions
from ckstore.objects.tree import row_major

if TYPE_CHECKING:
    from ckstore.graph.placement import Place
    from ckstore.storage.store import Store


def first_odd(store: Store, at: Place) -> int | None:
    """Its number among the elements in row-major order, or None where all are finite.

    Reads the chunks up to it, one at a time. None too for elements that do not lie in that order. Raises `Integrity`.
    """
    if at.steps != row_major(at.sizes) or not at.is_aligned:
        return None
    room, before = Room(), 0
    for portion in portions(at.stretch):
        chunk = room.take(portion.chunk_length)
        store.objects.read_into(portion.id, chunk)
        found = first_not_finite(at.dtype, chunk[portion.offset : portion.offset + portion.length])
        if found is not None:
            return before + found
        before += portion.length // at.item_size
    return None
