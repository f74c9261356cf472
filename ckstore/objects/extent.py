"""Extents: what a component's tensors cover of the storages they lie on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckstore.objects.draft import DraftTensor


@dataclass(slots=True)
class Extent:
    """Bytes `first` to `last` of one storage; the number, dtype and path of the span it becomes."""

    number: int
    first: int
    last: int
    align: int
    dtype: str
    path: str
    tensors: list[DraftTensor] = field(default_factory=list)


class Extents:
    """Groups a component's tensors by storage: one extent for each, covering them all."""

    def __init__(self) -> None:
        self._all: list[Extent] = []
        self._by_storage: dict[Hashable, Extent] = {}

    def add(self, storage: Hashable, draft: DraftTensor, last: int, item_size: int, path: str) -> Extent:
        """Take in a tensor whose `offset`, and `last`, count from its storage's first byte; sets its span's number.

        `storage` tells storages apart; None is one that nothing shares. The extent is new where `tensors` has one.
        """
        extent = None if storage is None else self._by_storage.get(storage)
        if extent is None:
            extent = Extent(len(self._all), draft.offset, last, 1, draft.dtype, path)
            self._all.append(extent)
            if storage is not None:
                self._by_storage[storage] = extent
        extent.first = min(extent.first, draft.offset)
        extent.last = max(extent.last, last)
        extent.align = max(extent.align, item_size)
        extent.tensors.append(draft)
        draft.span = extent.number
        return extent

    def finish(self) -> list[Extent]:
        """The extents by number, begun at a multiple of their largest element; offsets now count from there."""
        for extent in self._all:
            extent.first -= extent.first % extent.align
            for draft in extent.tensors:
                draft.offset -= extent.first
        return self._all
