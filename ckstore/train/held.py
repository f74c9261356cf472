"""What the objects of a data pipeline hold that moves: random generators of their own, counters, orders.

The attributes of a sampler, a dataset or a collate function are walked, through objects, short lists and dictionaries,
what functions close over, and the generators that are globals of the functions' modules. What something is found
under is its path, `dataset.transform.rng`. Not found: what lies in `__slots__` or in long lists.

Of a dataset no plain attributes are kept but those named for the epoch: they may be the key of a cache or tell of an
open file, and a new process has neither. A dataset that counts says so in its `state_dict`.
"""

from __future__ import annotations

import copy
import functools
import random
import types
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from ckstore.digest import checksum
from ckstore.errors import InvalidInput
from ckstore.train.streams import GENERATORS, is_global, made_stream, put_stream, stream_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_DEPTH = 8
_LONGEST = 64
_MOST = 4096
_PLAIN = (bool, int, float, str, type(None))
_CLOSED = (
    *_PLAIN, bytes, bytearray, complex, type, np.ndarray, np.generic, torch.Tensor, torch.dtype, torch.device,
    types.ModuleType, types.BuiltinFunctionType, random.SystemRandom,
)  # fmt: skip
"""Values without attributes that move."""

_DATA = {"dataset", "data_source"}
"""Where samplers keep the data that they sample."""

State = dict[str, Any]


class Held:
    """What moves in `roots`, named objects: `state` tells it and `put` brings it back.

    A generator counts always. A plain attribute (number, text, None) of a sampler, an `epoch` of anything, and an order
    (list or array) that a sampler keeps count where they are not what they were when this was made. With `own`, a
    dataset that has `state_dict` and `load_state_dict` also counts with what it says itself.
    """

    def __init__(self, roots: Mapping[str, object], *, own: bool = True) -> None:
        self._says = own
        self._roots = {name: root for name, root in roots.items() if root is not None}
        self._moved: set[str] = set()
        self._plain = self._attributes(self._walk())
        self._orders = {path: _mark(value) for path, value in self._all_orders()}

    def generators(self, *roots: str) -> dict[str, Any]:
        """The random generators in those roots (none named: in all), by path."""
        found = self._generators(self._walk())
        return {path: value for path, value in found if not roots or path.split(".")[0] in roots}

    def state(self, *, orders: bool = False) -> State:
        """Plain values, copied. `orders` also gives the orders of samplers, which are long."""
        found = list(self._walk())
        attributes = self._attributes(found)
        absent = object()
        self._moved.update(path for path, value in attributes.items() if self._plain.get(path, absent) != value)
        state: State = {
            "generators": {path: stream_state(value) for path, value in self._generators(found)},
            "attributes": {path: attributes[path] for path in sorted(self._moved & attributes.keys())},
        }
        if orders:
            now = dict(self._all_orders())
            moved = {
                path: copy.deepcopy(value) for path, value in now.items() if self._orders.get(path) != _mark(value)
            }
            state["orders"] = moved
        own = self._own()
        if own is not None:
            state["own"] = copy.deepcopy(own.state_dict())
        return state

    def check(self, state: State) -> None:
        """Raises `InvalidInput` where `put` would."""
        found = dict(self._generators(self._walk()))
        for path in state["generators"]:
            if path not in found and self._vacant(path) is None:
                raise InvalidInput(
                    f"the data has no random generator {path} any more",
                    hint="resume with the data that the run began with",
                )

    def put(self, state: State) -> None:
        """Bring back what `state` told. Raises `InvalidInput` for a generator that has no place."""
        self.check(state)
        found = dict(self._generators(self._walk()))
        for path, stream in state["generators"].items():
            if path in found:
                put_stream(found[path], stream)
            else:
                self._place(path, made_stream(stream))
        self._moved.update(state["attributes"])
        for path in self._moved:
            if path in state["attributes"] or path in self._plain:
                self._place(path, state["attributes"].get(path, self._plain.get(path)))
        orders = dict(self._all_orders())
        for path, value in state.get("orders", {}).items():
            if path in orders and len(orders[path]) == len(value):
                self._orders.pop(path, None)
                orders[path][:] = copy.deepcopy(value)
            elif path not in orders:
                self._place(path, copy.deepcopy(value))
        own = self._own()
        if own is not None and "own" in state:
            own.load_state_dict(copy.deepcopy(state["own"]))

    def _own(self) -> Any:
        root = self._roots.get("dataset")
        return root if self._says and root is not None and stateful(root) else None

    @staticmethod
    def _generators(found: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        return ((path, value) for path, value in found if isinstance(value, GENERATORS) and not is_global(value))

    @staticmethod
    def _attributes(found: Iterable[tuple[str, Any]]) -> dict[str, object]:
        return {
            f"{path}.{name}": value
            for path, owner in found
            for name, value in _own_attributes(owner).items()
            if isinstance(value, _PLAIN) and ("epoch" in name or _of_sampler(path))
        }

    def _all_orders(self) -> Iterator[tuple[str, Any]]:
        for path, owner in self._walk():
            if _of_sampler(path):
                for name, value in _own_attributes(owner).items():
                    if isinstance(value, (list, np.ndarray, torch.Tensor)) and _mark(value) is not None:
                        yield f"{path}.{name}", value

    def _vacant(self, path: str) -> dict[str, object] | None:
        """The attributes in which `path` may be set: it holds a plain value there, or is one of no generator yet."""
        owner = self._owner(path)
        attributes = getattr(owner, "__dict__", None)
        free = isinstance(attributes, dict) and isinstance(attributes.get(path.rpartition(".")[2]), _PLAIN)
        return attributes if free else None

    def _owner(self, path: str) -> Any:
        where = path.rpartition(".")[0]
        return next((one for at, one in self._walk() if at == where), None)

    def _place(self, path: str, value: object) -> None:
        attributes = self._vacant(path)
        if attributes is None:
            return
        name = path.rpartition(".")[2]
        if name == "epoch" and hasattr(self._owner(path), "set_epoch"):
            self._owner(path).set_epoch(value)
        attributes[name] = value

    def _walk(self) -> Iterator[tuple[str, object]]:
        seen: set[int] = set()
        waiting = [(name, root, 0) for name, root in reversed(self._roots.items())]
        while waiting and len(seen) < _MOST:
            path, value, depth = waiting.pop()
            if isinstance(value, _CLOSED) or id(value) in seen:
                continue
            seen.add(id(value))
            if not isinstance(value, (list, tuple, dict)):
                yield path, value
            if depth < _DEPTH and not isinstance(value, GENERATORS):
                waiting.extend((f"{path}.{name}", part, depth + 1) for name, part in _parts(value))


def stateful(value: object) -> bool:
    """It keeps its own place: it has `state_dict` and `load_state_dict`."""
    return not isinstance(value, (type, torch.nn.Module)) and all(
        callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict")
    )


def _of_sampler(path: str) -> bool:
    names = path.split(".")
    return names[0] in ("sampler", "batch_sampler") and not _DATA.intersection(names)


def _parts(value: object) -> list[tuple[object, object]]:
    parts: list[tuple[object, object]]
    if isinstance(value, (list, tuple)):
        parts = list(enumerate(value)) if len(value) <= _LONGEST else []
    elif isinstance(value, dict):
        parts = list(value.items()) if len(value) <= _LONGEST else []
    elif isinstance(value, functools.partial):
        parts = [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    elif isinstance(value, types.MethodType):
        parts = [("self", value.__self__), ("func", value.__func__)]
    elif isinstance(value, types.FunctionType):
        parts = [*_closed_over(value), *_globals_of(value)]
    else:
        parts = list(_own_attributes(value).items())
        for cls in type(value).__mro__:
            if cls.__module__.split(".")[0] not in ("torch", "builtins", "typing"):
                functions = [one for one in vars(cls).values() if isinstance(one, types.FunctionType)]
                parts += [found for function in functions for found in _globals_of(function)]
    return parts[::-1]


def _closed_over(function: types.FunctionType) -> list[tuple[object, object]]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    return [(name, cell.cell_contents) for name, cell in cells if cell != types.CellType()]


def _globals_of(function: types.FunctionType) -> list[tuple[object, object]]:
    """The generators that are globals of the function's module, where it names them."""
    known = function.__globals__
    named = [(name, known.get(name)) for name in function.__code__.co_names]
    return [(f"{function.__module__}:{name}", value) for name, value in named if isinstance(value, GENERATORS)]


def _own_attributes(value: object) -> dict[str, object]:
    attributes = getattr(value, "__dict__", None)
    closed = (list, tuple, dict, types.FunctionType, types.MethodType)
    return attributes if isinstance(attributes, dict) and not isinstance(value, closed) else {}


def _mark(value: object) -> bytes | None:
    """What tells two orders apart; None for a value that is none: not of numbers, or on another device."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy() if value.device.type == "cpu" and value.layout is torch.strided else None
    if isinstance(value, np.ndarray):
        return None if value.dtype.hasobject else checksum(np.ascontiguousarray(value).tobytes())
    try:
        return checksum(msgspec.msgpack.encode(value)) if isinstance(value, list) else None
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
