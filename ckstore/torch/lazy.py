"""A component that is read as it is asked for: one leaf, one tensor, a few rows of one."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ckstore.errors import InvalidInput
from ckstore.objects.structure import nearest
from ckstore.objects.tree import Alias, Dict, InSlab, Set, Tensor, children, row_major, split_ids
from ckstore.torch.storages import allocate, check_data
from ckstore.torch.tensors import check_place, dtype_named, host_view
from ckstore.torch.unflatten import key_value, unflatten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.structure import Structure


class Section:
    """A container of a commit, unread: index it by key or position; `load()` reads all of it."""

    def __init__(self, structure: Structure, reader: ObjectReader, ordinal: int = 0) -> None:
        self._structure = structure
        self._reader = reader
        self._ordinal = ordinal

    def __getitem__(self, key: object) -> Any:
        """The value at `key`: a Section, a LazyTensor, or a plain value. Raises `InvalidInput` for no such key."""
        ordinals = dict(self._items())
        if key in ordinals:
            return lazy(self._structure, self._reader, ordinals[key])
        hint = nearest(str(key), [str(name) for name in ordinals])
        raise InvalidInput(f"{self._structure.path(self._ordinal)} has no entry {key!r}", hint=hint)

    def __iter__(self) -> Iterator[object]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in dict(self._items())

    def keys(self) -> list[object]:
        """Keys, or positions of a sequence."""
        return [name for name, _ in self._items()]

    def load(self) -> object:
        """All of it, as it was committed."""
        return unflatten(self._structure, self._reader, root=self._ordinal)

    def _items(self) -> Iterator[tuple[object, int]]:
        """Keys as they were committed, or positions, each with the ordinal of its entry."""
        value = self._structure.nodes[self._ordinal].entry.value
        nodes = self._structure.children(self._ordinal)
        if isinstance(value, Dict):
            for node in islice(nodes, value.count):
                yield key_value(node.entry.key, self._structure, self._reader), node.ordinal
        else:
            yield from ((node.keys[-1], node.ordinal) for node in nodes)

    def __repr__(self) -> str:
        return f"<Section {self._structure.path(self._ordinal)}: {len(self)} entries>"


class LazyTensor:
    """A stored tensor, unread. `tensor[...]` reads only the chunks that the leading index touches."""

    def __init__(self, structure: Structure, reader: ObjectReader, ordinal: int) -> None:
        value = structure.nodes[ordinal].entry.value
        assert isinstance(value, (Tensor, Alias))
        owner = structure.nodes[structure.owner(value, ordinal)].entry.value
        assert isinstance(owner, Tensor)
        check_place(value, owner.data.length)
        check_data(owner.data, structure.tree)
        self._structure = structure
        self._reader = reader
        self._ordinal = ordinal
        self._value = value
        self._owner = owner

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self._value.shape)

    @property
    def dtype(self) -> torch.dtype:
        return dtype_named(self._value.dtype)

    def load(self) -> torch.Tensor:
        """The whole tensor, on the CPU."""
        loaded = unflatten(self._structure, self._reader, root=self._ordinal)
        assert isinstance(loaded, torch.Tensor)
        return loaded

    def __getitem__(self, index: Any) -> torch.Tensor:
        """As indexing the loaded tensor, and equal to it."""
        first = index[0] if isinstance(index, tuple) and index else index
        rest = index[1:] if isinstance(index, tuple) else ()
        by_rows = isinstance(first, (int, slice)) and not isinstance(first, bool)
        if self._value.strides is not None or not self.shape or not by_rows:
            return self.load()[index]
        if isinstance(first, int):
            row = range(self.shape[0])[first]
            return self._rows(row, row + 1)[(0, *rest)]
        start, stop, step = first.indices(self.shape[0])
        if step < 1:
            raise InvalidInput("a tensor is not sliced backwards", hint="use .load().flip(0)")
        return self._rows(start, max(start, stop))[(slice(None, None, step), *rest)]

    def __repr__(self) -> str:
        return f"<LazyTensor {self._structure.path(self._ordinal)}: {self._value.dtype} {tuple(self.shape)}>"

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a contiguous tensor."""
        row_bytes = self.dtype.itemsize
        for n in self.shape[1:]:
            row_bytes *= n
        length = (stop - start) * row_bytes
        storage = allocate(length, self._structure, self._ordinal)
        if length:
            self._read(self._owner, self._value.offset + start * row_bytes, host_view(storage, 0, length))
        shape = (stop - start, *self.shape[1:])
        return torch.empty(0, dtype=self.dtype).set_(storage, 0, shape, row_major(shape))

    def _read(self, owner: Tensor, start: int, target: memoryview) -> None:
        tree = self._structure.tree
        if isinstance(owner.data, InSlab):
            slab = tree.slabs[owner.data.slab]
            start, length, ids = start + owner.data.start, slab.length, slab.ids
        else:
            length, ids = owner.data.length, owner.data.ids
        size, end = tree.chunk_size, start + target.nbytes
        names = split_ids(ids)
        requests, edges = [], []
        for number in range(start // size, -(-end // size)):
            first, last = number * size, min((number + 1) * size, length)
            begin, stop = max(first, start), min(last, end)
            inside = target[begin - start : stop - start]
            if (begin, stop) == (first, last):
                requests.append((names[number], inside))
            else:
                whole = memoryview(bytearray(last - first))
                requests.append((names[number], whole))
                edges.append((inside, whole[begin - first : stop - first]))
        self._reader.fill(requests)
        for inside, part in edges:
            inside[:] = part


def lazy(structure: Structure, reader: ObjectReader, ordinal: int = 0) -> object:
    """The value at an entry: a Section, a LazyTensor, or a plain value read at once."""
    value = structure.nodes[ordinal].entry.value
    if isinstance(value, (Tensor, Alias)):
        return LazyTensor(structure, reader, ordinal)
    if children(value) and not isinstance(value, Set):
        return Section(structure, reader, ordinal)
    return unflatten(structure, reader, root=ordinal)
