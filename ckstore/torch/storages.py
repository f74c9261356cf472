"""Brings tensors' bytes back: one new storage for every span that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckstore.errors import Format
from ckstore.objects.reader import run_requests
from ckstore.objects.tree import InSlab, Slab, Tensor, Whole, split_ids
from ckstore.torch.tensors import check_place, host_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.structure import Structure

_WINDOW_BYTES = 16 << 20


class Storages:
    """CPU storages for the tensor entries of one component, by the ordinal of the entry that owns the bytes."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._by_owner: dict[int, torch.UntypedStorage] = {}

    def get(self, owner: int) -> torch.UntypedStorage:
        """The storage of an owner that was fetched."""
        return self._by_owner[owner]

    def fetch(self, owners: Iterable[int], reader: ObjectReader) -> None:
        """Read the spans of `owners`. Raises `Integrity` or `Format`.

        Slabs pass through a window of a few MiB; everything else is read straight into its storage.
        """
        tree = self._structure.tree
        requests: list[tuple[bytes, memoryview]] = []
        short: dict[int, list[tuple[InSlab, memoryview]]] = {}
        for owner in owners:
            value = self._structure.nodes[owner].entry.value
            assert isinstance(value, Tensor)
            check_place(value, value.data.length)
            if isinstance(value.data, Whole) and value.data.length:
                # Before the storage is allocated: the claimed length must fit the chunks that are named.
                run_requests(value.data.length, value.data.ids, tree.chunk_size, memoryview(b""))
            storage = torch.UntypedStorage(value.data.length)  # type: ignore[no-untyped-call]
            self._by_owner[owner] = storage
            if not value.data.length:
                continue
            target = host_view(storage, 0, value.data.length)
            if isinstance(value.data, Whole):
                requests += run_requests(value.data.length, value.data.ids, tree.chunk_size, target)
            else:
                short.setdefault(value.data.slab, []).append((value.data, target))
        reader.fill(requests)
        for number, members in short.items():
            if not 0 <= number < len(tree.slabs):
                raise Format("a tensor names a slab that is not there")
            _fill_slab(tree.slabs[number], tree.chunk_size, members, reader)


def _fill_slab(slab: Slab, chunk_size: int, members: Sequence[tuple[InSlab, memoryview]], reader: ObjectReader) -> None:
    """Copy the members out of their slab, window by window; only chunks that a member touches are read."""
    ids = split_ids(slab.ids)
    members = sorted(members, key=lambda member: member[0].start)
    if any(place.start < 0 or place.start + place.length > slab.length for place, _ in members):
        raise Format("a tensor reaches beyond its slab")
    step = max(1, _WINDOW_BYTES // chunk_size)
    for first in range(0, len(ids), step):
        begin, end = first * chunk_size, min((first + step) * chunk_size, slab.length)
        inside = [
            (place, target) for place, target in members if place.start < end and place.start + place.length > begin
        ]
        touched = {
            number
            for place, _ in inside
            for number in range(
                max(place.start, begin) // chunk_size, (min(place.start + place.length, end) - 1) // chunk_size + 1
            )
        }
        window = memoryview(bytearray(end - begin)) if touched else memoryview(b"")
        reader.fill(
            [(ids[n], window[n * chunk_size - begin : min((n + 1) * chunk_size, end) - begin]) for n in sorted(touched)]
        )
        for place, target in inside:
            start, stop = max(place.start, begin), min(place.start + place.length, end)
            target[start - place.start : stop - place.start] = window[start - begin : stop - begin]
