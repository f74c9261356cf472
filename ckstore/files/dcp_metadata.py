"""What `.metadata` of a torch.distributed.checkpoint folder says: what was saved, and where each part of it lies.

It is a pickle of the classes in `metadata` and `filesystem` of that package, read as data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from ckstore.files import pickle_data
from ckstore.files.parsed import damaged
from ckstore.files.pickle_limits import Limits
from ckstore.files.pickle_tensors import MAX_DIMS
from ckstore.files.pickle_values import Call, GlobalRef, NotUnderstoodError
from ckstore.objects.plain import to_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Place = tuple[int, ...]
    """Where a part begins in its tensor; nothing for a value that is no tensor."""

_PACKAGE = "torch.distributed."
_MAX_NUMBER = 1 << 63
_MAX_INDEX = 1 << 31


class Item(NamedTuple):
    """`length` bytes at `start` of a file."""

    file: str
    start: int
    length: int


class Saved(NamedTuple):
    """A value that was saved, and the items that hold it.

    `key` is its flattened key, `path` the keys and list positions that lead to it. A tensor has a shape, and one
    item or more by where in it they begin; any other value has one item, and no shape.
    """

    key: str
    path: tuple[str | int, ...]
    shape: tuple[int, ...] | None
    items: dict[Place, Item]


def read(data: memoryview) -> list[Saved]:
    """What was saved, in the order of the state as far as that is known.

    Raises `Format` where something is missing or impossible, NotUnderstoodError for what is no such metadata. Whether
    the items are there is not checked.
    """
    limits = _Limits(data.nbytes)
    fields = _fields(pickle_data.load(data, limits), "Metadata")
    stored = _stored(_dict(fields.get("storage_data")), limits)
    described = _dict(fields.get("state_dict_metadata"))
    paths = fields.get("planner_data")
    paths = paths if isinstance(paths, dict) else {}
    order = dict.fromkeys([key for key in paths if key in described])
    return [_saved(key, described[key], paths, stored, limits) for key in order | dict.fromkeys(described)]


class _Limits(Limits):
    """Here calls are keys, one for each item. They are told apart by identity, so that none collide."""

    __slots__ = ()

    def key(self, key: object) -> None:
        if type(key) is not Call:
            super().key(key)


def _saved(
    key: object, value: object, paths: Mapping[object, object], stored: Mapping[str, dict[Place, Item]], limits: Limits
) -> Saved:
    if type(key) is not str:
        raise NotUnderstoodError("a key that is no text")
    path, items = _path(key, paths, limits), stored.get(key, {})
    if _is_instance(value, "BytesStorageMetadata"):
        _check_stored(key, [()], items)
        return Saved(key, path, None, items)
    fields = _fields(value, "TensorStorageMetadata")
    chunks = fields.get("chunks")
    if not isinstance(chunks, list):
        raise NotUnderstoodError("a tensor without parts")
    limits.take(len(chunks))
    _check_stored(
        key, [_numbers(_fields(chunk, "ChunkStorageMetadata").get("offsets"), limits) for chunk in chunks], items
    )
    return Saved(key, path, _numbers(fields.get("size"), limits), items)


def _check_stored(key: str, places: Iterable[Place], items: Mapping[Place, Item]) -> None:
    """All parts, and at least one, are stored."""
    missing = set(places) - items.keys()
    if missing or not items:
        raise damaged(f"not all of {key[:200]!a} is stored", f"{len(missing)} parts are in no file")


def _path(key: str, paths: Mapping[object, object], limits: Limits) -> tuple[str | int, ...]:
    """The keys and positions that lead to a value; its flattened key alone where they are not known."""
    path = paths.get(key, (key,))
    if not isinstance(path, tuple) or not path:
        raise NotUnderstoodError("a path that is none")
    limits.take(len(path))
    for step in path:
        if type(step) is str:
            limits.take(0, len(step))
        if not (type(to_key(step)) is str or (type(step) is int and 0 <= step < _MAX_INDEX)):
            raise NotUnderstoodError("a path through what is neither dict nor list")
    return tuple(path)


def _stored(indices: Mapping[object, object], limits: Limits) -> dict[str, dict[Place, Item]]:
    """The items of each key, by where they begin."""
    found: dict[str, dict[Place, Item]] = {}
    for index, value in indices.items():
        fields, info = _fields(index, "MetadataIndex"), _fields(value, "_StorageInfo")
        key, offset = fields.get("fqn"), fields.get("offset")
        file, start, length = info.get("relative_path"), info.get("offset"), info.get("length")
        if type(key) is not str or type(file) is not str or info.get("transform_descriptors"):
            raise NotUnderstoodError("an item that is not stored as it is")
        if not (_is_number(start) and _is_number(length)):
            raise damaged(f"{key[:200]!a} lies at an impossible place in {file[:200]!a}")
        place = () if offset is None else _numbers(offset, limits)
        items = found.setdefault(key, {})
        if place in items:
            raise damaged(f"a part of {key[:200]!a} is stored twice")
        items[place] = Item(file, start, length)
    return found


def _numbers(values: object, limits: Limits) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > MAX_DIMS:
        raise NotUnderstoodError("a shape that is none")
    limits.take(len(values))
    if not all(map(_is_number, values)):
        raise damaged("a tensor in the metadata has an impossible shape", "a size or offset is out of range")
    return tuple(values)


def _is_number(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _is_instance(value: object, name: str) -> bool:
    return (
        isinstance(value, Call)
        and isinstance(value.func, GlobalRef)
        and value.func.module.startswith(_PACKAGE)
        and value.func.name == name
    )


def _fields(value: object, name: str) -> dict[object, object]:
    """The attributes of an instance of the class called `name`."""
    if not isinstance(value, Call) or not _is_instance(value, name):
        raise NotUnderstoodError(f"no {name}")
    return _dict(value.state)


def _dict(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise NotUnderstoodError("no dict where there should be one")
    return value
