"""A value read from a torch.save archive as the draft of a component.

The draft is the one that an in-memory commit of the same value gives: the same entries in the same order, the
same spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.files.archive import Region
from ckstore.files.dtypes import ITEM_SIZE
from ckstore.files.parsed import Claim, damaged
from ckstore.files.pickle_values import (
    GlobalRef,
    KnownDeque,
    KnownDict,
    NotUnderstoodError,
    NumpyArray,
    Size,
    TensorRef,
)
from ckstore.files.source import window
from ckstore.objects.draft import Draft, DraftBlob, DraftTensor, Span
from ckstore.objects.encoding import encode
from ckstore.objects.extent import Extents
from ckstore.objects.leaf import Device, Dtype, FilePath, NumpyScalar
from ckstore.objects.plain import NOT_PLAIN, to_key, to_leaf
from ckstore.objects.tree import ATTRIBUTES, MAX_DEPTH, Deque, Dict, Entry, List, Set, Tuple, dotted, row_major

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckstore.files.pickle_limits import Limits
    from ckstore.files.source import Source
    from ckstore.objects.leaf import Key

    Child = tuple[Key, object, object]
    """Key in the tree, name in paths, value."""

_LEAVES = (Device, FilePath, NumpyScalar)


def to_draft(
    component: str, value: object, source: Source, storages: Mapping[str, Region], limits: Limits
) -> tuple[Draft, list[Claim]]:
    """The draft of `value`, and where in the file its spans lie.

    Raises `Format` where tensors and storages do not fit each other, where a container contains itself, nests
    deeper than MAX_DEPTH or unfolds past `limits`; NotUnderstoodError where the value holds what is not known.
    """
    builder = _Builder(component, source, storages, limits)
    builder.build(value)
    return builder.finish()


class _Builder:
    """Walks a value with a stack of its own, so that depth costs no recursion."""

    def __init__(self, component: str, source: Source, storages: Mapping[str, Region], limits: Limits) -> None:
        self._component = component
        self._source = source
        self._storages = storages
        self._limits = limits
        self._draft = Draft()
        self._extents = Extents()
        self._regions: list[Region] = []
        self._names: list[object] = []
        self._open: list[tuple[int, Iterator[Child]]] = []
        self._open_ids: set[int] = set()

    def build(self, root: object) -> None:
        self._add(None, root)
        while self._open:
            if len(self._names) == len(self._open):
                self._names.pop()
            owner, children = self._open[-1]
            child = next(children, None)
            if child is None:
                self._open.pop()
                self._open_ids.discard(owner)
                continue
            key, name, value = child
            self._names.append(name)
            self._add(key, value)

    def finish(self) -> tuple[Draft, list[Claim]]:
        claims = []
        for extent, region in zip(self._extents.finish(), self._regions, strict=True):
            start, length = region.start + extent.first, extent.last - extent.first
            self._draft.spans.append(Span(length, extent.dtype, extent.path, window(self._source, start, length)))
            claims.append(Claim(start, start + length, self._component, extent.number))
        return self._draft, claims

    def _add(self, key: Key, value: object) -> None:
        """Append the entry of `value`; where it has children, open it."""
        self._limits.take(1)
        if isinstance(value, TensorRef):
            self._draft.entries.append((key, self._tensor(value)))
        elif isinstance(value, dict):
            self._add_dict(key, value)
        elif isinstance(value, (list, tuple)):
            self._add_sequence(key, value)
        elif isinstance(value, (set, frozenset)):
            self._add_set(key, value)
        else:
            self._add_leaf(key, value)

    def _add_dict(self, key: Key, value: dict[object, object]) -> None:
        if not isinstance(value, KnownDict):
            self._draft.entries.append((key, Dict("dict", len(value))))
            self._enter(value, self._items(value))
            return
        self._draft.entries.append((key, Dict(value.kind, len(value), value.factory, bool(value.attributes))))
        self._enter(value, self._known_items(value))

    def _items(self, value: dict[object, object]) -> Iterator[Child]:
        for name, item in value.items():
            yield self._key(name), name, item

    def _known_items(self, value: KnownDict) -> Iterator[Child]:
        yield from self._items(value)
        if value.attributes:
            yield None, ATTRIBUTES, value.attributes

    def _add_sequence(self, key: Key, value: list[object] | tuple[object, ...]) -> None:
        count = len(value)
        if isinstance(value, tuple):
            self._draft.entries.append((key, Tuple("torch.Size" if isinstance(value, Size) else "tuple", count)))
        elif isinstance(value, KnownDeque):
            if value.maxlen is not None and count > value.maxlen:
                raise damaged(f"the deque {self._path()} is longer than it may be")
            self._draft.entries.append((key, Deque(count, value.maxlen)))
        else:
            self._draft.entries.append((key, List(count)))
        self._enter(value, ((None, number, item) for number, item in enumerate(value)))

    def _add_set(self, key: Key, value: set[object] | frozenset[object]) -> None:
        self._limits.take(len(value))
        members = sorted((Entry(self._key(member), None) for member in value), key=encode)
        self._draft.entries.append((key, Set(type(value).__name__, len(members))))
        self._draft.entries += [(member.key, None) for member in members]

    def _enter(self, owner: object, children: Iterable[Child]) -> None:
        if id(owner) in self._open_ids:
            raise damaged(f"the value at {self._path()} contains itself")
        if len(self._open) >= MAX_DEPTH:
            raise damaged(f"the value of {self._component} nests more than {MAX_DEPTH} containers")
        self._open_ids.add(id(owner))
        self._open.append((id(owner), iter(children)))

    def _add_leaf(self, key: Key, value: object) -> None:
        if isinstance(value, NumpyArray):
            value = value.leaf
            if isinstance(value, DraftBlob):
                self._limits.take(0, value.length)
            elif value is None:
                raise NotUnderstoodError("an array without a state")
        elif isinstance(value, GlobalRef):
            value = _dtype(value)
        elif not isinstance(value, _LEAVES):
            self._take_payload(value)
            value = to_leaf(value)
            if value is NOT_PLAIN:
                raise NotUnderstoodError(f"{self._path()} is not known as data")
        self._draft.entries.append((key, value))  # type: ignore[arg-type]

    def _take_payload(self, value: object) -> None:
        if isinstance(value, (str, bytes, bytearray)):
            self._limits.take(0, len(value))
        elif isinstance(value, int):
            self._limits.take(0, value.bit_length() >> 3)

    def _key(self, value: object) -> Key:
        self._take_payload(value)
        if type(value) is tuple:
            self._limits.key(value)
        key: object = value if isinstance(value, _LEAVES) else to_key(value)
        if key is NOT_PLAIN and isinstance(value, GlobalRef):
            key = _dtype(value)
        if key is NOT_PLAIN:
            raise NotUnderstoodError(f"a key in {self._path()} is not known as data")
        return key  # type: ignore[return-value]

    def _tensor(self, tensor: TensorRef) -> DraftTensor:
        size = ITEM_SIZE[tensor.dtype]
        storage = self._storages.get(tensor.storage.key)
        declared = tensor.storage.count * ITEM_SIZE[tensor.storage.dtype]
        if storage is None or declared > storage.length:
            raise damaged(f"the storage of tensor {self._path()} is missing or cut short")
        strides = None if tensor.strides == row_major(tensor.shape) else tensor.strides
        reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)) + 1
        first = 0 if 0 in tensor.shape else tensor.offset * size
        last = 0 if 0 in tensor.shape else first + reach * size
        if last > declared:
            raise damaged(f"tensor {self._path()} reaches beyond its storage", f"which has {storage.length} bytes")
        draft = DraftTensor(tensor.dtype, tensor.shape, strides, first, tensor.flags, 0)
        extent = self._extents.add(tensor.storage.key if last else None, draft, last, size, self._dotted())
        if len(extent.tensors) == 1:
            self._regions.append(storage if last else Region(0, 0))
        return draft

    def _dotted(self) -> str:
        return dotted(tuple(name if type(name) is str else _shown(name) for name in self._names))

    def _path(self) -> str:
        return ascii(".".join((self._component, self._dotted()))[:500])


def _dtype(value: GlobalRef) -> Dtype:
    if value.module != "torch" or value.name not in ITEM_SIZE:
        raise NotUnderstoodError(f"the global {value.module}.{value.name}")
    return Dtype(value.name)


def _shown(name: object) -> object:
    """A key as `str` gives it in memory."""
    if isinstance(name, GlobalRef):
        return f"{name.module}.{name.name}"
    if isinstance(name, FilePath):
        return name.text
    if isinstance(name, Device):
        return name.name
    try:
        return str(name)
    except ValueError:
        return "<number>"
