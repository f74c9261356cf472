"""The closed list of calls in a pickle that are understood as data; every other becomes a Call.

A handler gets the arguments and gives the value, or None where the arguments are not those it knows.
"""

from __future__ import annotations

import pathlib
import re
from typing import TYPE_CHECKING

from ckstore.files import pickle_numpy
from ckstore.files.dtypes import STORAGE_DTYPE
from ckstore.files.pickle_tensors import TENSOR_CALLS
from ckstore.files.pickle_values import (
    Call,
    GlobalRef,
    KnownDeque,
    KnownDict,
    NotUnderstoodError,
    NumpyArray,
    NumpyDtype,
    Size,
    StorageRef,
)
from ckstore.objects.leaf import Device, FilePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckstore.files.pickle_limits import Limits

    Args = tuple[object, ...]
    Handler = Callable[[Args, Limits], object]

FACTORIES = frozenset({"list", "dict", "set", "int", "float", "str", "tuple"})
"""What a defaultdict may make, by name in `builtins`."""

_PYTHON2_BUILTINS = {"unicode": "str", "long": "int"}
_DEVICE = re.compile("[a-z][a-z0-9_]{0,31}(:[0-9]{1,5})?", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PERSISTENT = GlobalRef("pickle", "persistent_load")


def global_ref(module: str, name: str) -> GlobalRef:
    """The name as Python 3 has it: protocol 2 writes Python 2's."""
    if module == "__builtin__":
        return GlobalRef("builtins", _PYTHON2_BUILTINS.get(name, name))
    return GlobalRef(module, name)


def call(func: object, args: Args, limits: Limits) -> object:
    """What calling `func` gives, as data. Raises `Format` for numbers that cannot be."""
    limits.take(len(args))
    if isinstance(func, GlobalRef):
        handler = _HANDLERS.get((func.module, func.name))
        value = None if handler is None else handler(args, limits)
        if value is not None:
            return value
    return Call(func, args)


def build(target: object, state: object, limits: Limits) -> None:
    """Give `target` its state. Raises TypeError where it has none, NotUnderstoodError where that is not known."""
    if isinstance(target, Call):
        target.state = state
    elif isinstance(target, NumpyDtype):
        pickle_numpy.set_dtype(target, state)
    elif isinstance(target, NumpyArray):
        pickle_numpy.set_array(target, state, limits)
    elif isinstance(target, KnownDict):
        if target.kind != "OrderedDict" or type(state) is not dict:
            raise NotUnderstoodError(f"a {target.kind} with a state")
        limits.take(len(state))
        if not all(type(key) is str for key in state):
            raise NotUnderstoodError("attributes that have no names")
        target.attributes.update(state)
    else:
        raise TypeError("a state is given to what has none")


def persistent(identity: object) -> object:
    """The storage that torch calls `identity`."""
    match identity:
        case ("storage", kind, str(key), str(), int(count)):
            found = storage_ref(kind, key, count)
            if found is not None:
                return found
    return Call(_PERSISTENT, (identity,))


def storage_ref(kind: object, key: str, count: int) -> StorageRef | None:
    """The storage of the class `kind` with `count` elements; None where that is not known."""
    match kind:
        case GlobalRef(module="torch" | "torch.storage", name=name) if name in STORAGE_DTYPE and count >= 0:
            return StorageRef(key, STORAGE_DTYPE[name], count)
    return None


def add_all(target: set[object], items: Iterable[object], limits: Limits) -> set[object]:
    """Put `items` into `target`, each checked."""
    for item in items:
        limits.key(item)
        target.add(item)
    return target


def _ordered_dict(args: Args, limits: Limits) -> object:
    return None if args else KnownDict("OrderedDict")


def _default_dict(args: Args, limits: Limits) -> object:
    match args:
        case () | (None,):
            return KnownDict("defaultdict", factory="")
        case (GlobalRef(module="builtins", name=name),) if name in FACTORIES:
            return KnownDict("defaultdict", factory=name)
    return None


def _counter(args: Args, limits: Limits) -> object:
    match args:
        case ():
            return KnownDict("Counter")
        case (dict(counts),) if type(counts) is dict:
            limits.take(len(counts))
            return KnownDict("Counter", counts)
    return None


def _deque(args: Args, limits: Limits) -> object:
    match args:
        case () | ((),):
            return KnownDeque((), None)
        case (() | [], None | int() as maxlen) if maxlen is None or maxlen >= 0:
            return KnownDeque((), maxlen)
    return None


def _members(args: Args, limits: Limits) -> set[object] | None:
    match args:
        case ():
            return set()
        case (list() | tuple() as items,):
            limits.take(len(items))
            return add_all(set(), items, limits)
    return None


def _frozen_members(args: Args, limits: Limits) -> object:
    members = _members(args, limits)
    return None if members is None else frozenset(members)


def _complex(args: Args, limits: Limits) -> object:
    match args:
        case (float(real), float(imaginary)):
            return complex(real, imaginary)
    return None


def _bytes(args: Args, limits: Limits) -> object:
    return None if args else b""


def _bytearray(args: Args, limits: Limits) -> object:
    match args:
        case ():
            return bytearray()
        case (bytes() | bytearray() as data,):
            limits.take(1, len(data))
            return bytearray(data)
        case (str(), "latin-1" | "latin1"):
            encoded = _encode(args, limits)
            return None if encoded is None else bytearray(encoded)
    return None


def _encode(args: Args, limits: Limits) -> bytes | None:
    match args:
        case (str(text), "latin-1" | "latin1"):
            limits.take(1, len(text))
            return text.encode("latin-1")
    return None


def _size(args: Args, limits: Limits) -> object:
    match args:
        case (tuple() | list() as sizes,):
            limits.take(len(sizes))
            return Size(sizes) if all(type(size) is int for size in sizes) else None
    return None


def _device(args: Args, limits: Limits) -> object:
    match args:
        case (str(kind),) if _DEVICE.fullmatch(kind):
            return Device(kind)
        case (str(kind), int(index)) if _DEVICE.fullmatch(kind) and 0 <= index < 1 << 15:
            return Device(f"{kind}:{index:d}")
    return None


def _path(flavour: str, pure: type[pathlib.PurePath]) -> Handler:
    def handler(args: Args, limits: Limits) -> object:
        parts = [part for part in args if isinstance(part, str)]
        if len(parts) != len(args):
            return None
        limits.take(len(parts), sum(map(len, parts)))
        text = str(pure(*parts))
        # A path that is no Unicode has no leaf, in memory either.
        return None if _SURROGATE.search(text) else FilePath(flavour, text)

    return handler


_HANDLERS: dict[tuple[str, str], Handler] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "defaultdict"): _default_dict,
    ("collections", "Counter"): _counter,
    ("collections", "deque"): _deque,
    ("builtins", "set"): _members,
    ("builtins", "frozenset"): _frozen_members,
    ("builtins", "complex"): _complex,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytearray,
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    **TENSOR_CALLS,
    **pickle_numpy.CALLS,
}

for _module in ("pathlib", "pathlib._local"):
    _HANDLERS[_module, "PosixPath"] = _path("Path", pathlib.PurePosixPath)
    _HANDLERS[_module, "PurePosixPath"] = _path("PurePosixPath", pathlib.PurePosixPath)
    _HANDLERS[_module, "PureWindowsPath"] = _path("PureWindowsPath", pathlib.PureWindowsPath)
