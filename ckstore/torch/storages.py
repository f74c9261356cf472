"""Brings tensors' bytes back: one new storage for every span that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckstore.errors import Format, InvalidInput
from ckstore.objects.reader import run_requests
from ckstore.objects.tree import Alias, InSlab, Slab, Tensor, Tree, Whole, check_run, split_ids
from ckstore.torch.large_pages import prefer_large_pages
from ckstore.torch.tensors import check_place, host_view, tensor_over

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
        """Read the spans of `owners`. Raises `Integrity` or `Format`, or `InvalidInput` where memory does not suffice.

        Slabs pass through a window of a few MiB; everything else is read straight into its storage.
        """
        tree = self._structure.tree
        requests: list[tuple[bytes, memoryview]] = []
        short: dict[int, list[tuple[InSlab, memoryview]]] = {}
        left = [slab.length for slab in tree.slabs]
        for owner in owners:
            value = self._structure.nodes[owner].entry.value
            assert isinstance(value, Tensor)
            # Before the storage is allocated: the claimed lengths must fit the chunks that are named.
            check_place(value, value.data.length)
            check_data(value.data, tree)
            if isinstance(value.data, InSlab):
                left[value.data.slab] -= value.data.length
                if left[value.data.slab] < 0:
                    raise Format("the tensors in a slab overlap")
            self._by_owner[owner] = storage = allocate(value.data.length, self._structure, owner)
            if not value.data.length:
                continue
            target = host_view(storage, 0, value.data.length)
            if isinstance(value.data, Whole):
                requests += run_requests(value.data.length, value.data.ids, tree.chunk_size, target)
            else:
                short.setdefault(value.data.slab, []).append((value.data, target))
        reader.fill(requests)
        for number, members in short.items():
            _fill_slab(tree.slabs[number], tree.chunk_size, members, reader)


def load_tensors(structure: Structure, ordinals: Sequence[int], reader: ObjectReader) -> list[torch.Tensor]:
    """The tensors at some entries, read together; those that share memory share it again. Raises as `fetch`."""
    found: list[tuple[Tensor | Alias, int]] = []
    for ordinal in ordinals:
        value = structure.nodes[ordinal].entry.value
        assert isinstance(value, (Tensor, Alias))
        found.append((value, structure.owner(value, ordinal)))
    storages = Storages(structure)
    storages.fetch(sorted({owner for _, owner in found}), reader)
    return [tensor_over(value, storages.get(owner)) for value, owner in found]


def allocate(length: int, structure: Structure, ordinal: int) -> torch.UntypedStorage:
    """Memory for the tensor at an entry. Raises `InvalidInput` where there is not enough."""
    try:
        storage = torch.UntypedStorage(length)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        what = f"{structure.path(ordinal)} needs {length} bytes of memory, which are not there"
        raise InvalidInput(what, hint="load a part: only=..., or slices of the tensor") from error
    prefer_large_pages(storage.data_ptr(), length)
    return storage


def check_data(data: Whole | InSlab, tree: Tree) -> None:
    """Raise `Format` unless what `data` claims lies within its chunks or its slab."""
    if isinstance(data, Whole):
        check_run(data.length, data.ids, tree.chunk_size)
    elif not 0 <= data.slab < len(tree.slabs):
        raise Format("a tensor names a slab that is not there")
    elif data.length < 0 or not 0 <= data.start <= tree.slabs[data.slab].length - data.length:
        raise Format("a tensor reaches beyond its slab")


def _fill_slab(slab: Slab, chunk_size: int, members: Sequence[tuple[InSlab, memoryview]], reader: ObjectReader) -> None:
    """Copy the members out of their slab, window by window; only chunks that a member touches are read."""
    ids = split_ids(slab.ids)
    members = sorted(members, key=lambda member: member[0].start)
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
