"""A component's tree as the nested state it was."""

from __future__ import annotations

import collections
import pickle
import random
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ckstore.errors import Format, InvalidInput
from ckstore.objects.leaf import Device, Dtype, NumpyArray, NumpyScalar, Pickled, TorchConstant
from ckstore.objects.plain import NOT_PLAIN, from_plain
from ckstore.objects.reader import read_blob
from ckstore.objects.tree import (
    PARAMETER,
    REQUIRES_GRAD,
    Alias,
    Deque,
    Dict,
    Encoded,
    File,
    List,
    NamedFields,
    RngState,
    Set,
    Sparse,
    Tensor,
    Tuple,
    Wrapper,
)
from ckstore.torch.flatten import BIT_GENERATORS, FACTORIES, SPARSE_PARTS
from ckstore.torch.numpy_values import from_numpy_leaf
from ckstore.torch.registry import ENCODERS
from ckstore.torch.storages import Storages
from ckstore.torch.tensors import dtype_named, tensor_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.objects.leaf import Blob, Key
    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.structure import Structure

ABSENT = object()
"""What stands for a value that was not selected."""


def unflatten(
    structure: Structure,
    reader: ObjectReader,
    *,
    root: int = 0,
    wanted: set[int] | None = None,
    allow_pickle: bool = False,
) -> object:
    """The value at entry `root`, new tensors on the CPU; shared storages are shared again.

    With `wanted`, only those entries: dictionaries leave the others out, sequences keep None in their place.
    Nothing is imported and no stored code runs; a `Pickled` leaf needs `allow_pickle`.
    Raises `Integrity`, `Format`, `InvalidInput`.
    """
    below = structure.below(root)
    chosen = set(below) if wanted is None else wanted & set(below)
    owners = {
        structure.owner(value, ordinal)
        for ordinal in chosen
        if isinstance(value := structure.nodes[ordinal].entry.value, (Tensor, Alias))
    }
    storages = Storages(structure)
    storages.fetch(sorted(owners), reader)
    builder = _Builder(structure, storages, chosen, reader, allow_pickle=allow_pickle)
    try:
        return builder.build(root)
    except RecursionError:
        raise Format(f"{structure.component} nests too deep for this thread's stack") from None


class _Builder:
    def __init__(
        self, structure: Structure, storages: Storages, chosen: set[int], reader: ObjectReader, *, allow_pickle: bool
    ) -> None:
        self._structure = structure
        self._storages = storages
        self._chosen = chosen
        self._reader = reader
        self._allow_pickle = allow_pickle

    def build(self, ordinal: int) -> Any:
        """The value at an entry, or ABSENT where neither it nor anything below was chosen."""
        value = self._structure.nodes[ordinal].entry.value
        container = _BUILDERS.get(type(value))
        if container is not None:
            if not any(below in self._chosen for below in self._structure.below(ordinal)):
                return ABSENT
            return container(self, ordinal, value)
        return self._leaf(ordinal, value) if ordinal in self._chosen else ABSENT

    def _leaf(self, ordinal: int, value: Any) -> object:
        if isinstance(value, (Tensor, Alias)):
            return self._tensor(ordinal, value)
        plain = from_plain(value, self._read)
        if plain is not NOT_PLAIN:
            return plain
        if isinstance(value, (NumpyScalar, NumpyArray)):
            return from_numpy_leaf(value, self._read)
        if isinstance(value, Dtype):
            return dtype_named(value.name)
        if isinstance(value, Device):
            return self._device(value)
        if isinstance(value, TorchConstant):
            constant = vars(torch).get(value.name)
            if not isinstance(constant, (torch.layout, torch.memory_format)):
                raise Format(f"this torch has no constant {value.name!r}")
            return constant
        if isinstance(value, Pickled):
            return self._unpickle(ordinal, value)
        if isinstance(value, File):
            return None  # a file is checked out, not loaded
        raise Format(f"{self._structure.path(ordinal)} holds an unknown value")

    def _read(self, blob: Blob) -> bytes | bytearray:
        return read_blob(self._reader, blob, self._structure.tree.chunk_size)

    def _device(self, value: Device) -> torch.device:
        try:
            return torch.device(value.name)
        except RuntimeError as error:
            raise Format(f"this torch has no device {value.name!r}") from error

    def _unpickle(self, ordinal: int, value: Pickled) -> object:
        if not self._allow_pickle:
            raise InvalidInput(
                f"{self._structure.path(ordinal)} is a pickle, which can run any code when it is read",
                hint="pass allow_pickle=True if you trust whoever wrote this checkpoint",
            )
        return pickle.loads(bytes(self._read(value.data)))

    def _tensor(self, ordinal: int, value: Tensor | Alias) -> torch.Tensor:
        tensor = tensor_over(value, self._storages.get(self._structure.owner(value, ordinal)))
        return _flagged(tensor, value.flags)

    def _items(self, ordinal: int) -> list[Any]:
        """The children's values, None for those not chosen."""
        built = [self.build(child.ordinal) for child in self._structure.children(ordinal)]
        return [None if item is ABSENT else item for item in built]

    def _whole(self, ordinal: int) -> list[Any]:
        """The children's values, all of them: for containers that make no sense in part."""
        below = self._structure.below(ordinal)
        if all(child in self._chosen for child in below[1:]):
            return self._items(ordinal)
        raise InvalidInput(
            f"{self._structure.path(ordinal)} cannot be loaded in part", hint="select it whole, or leave it out"
        )

    def _key(self, key: Key) -> Any:
        return key_value(key, self._structure, self._reader)

    def _dict(self, ordinal: int, value: Dict) -> object:
        made = _new_dict(value)
        nodes = list(self._structure.children(ordinal))
        for node in nodes[: value.count]:
            item = self.build(node.ordinal)
            if item is not ABSENT:
                made[self._key(node.entry.key)] = item
        if value.attributes:
            attributes = self.build(nodes[-1].ordinal)
            if isinstance(attributes, dict) and hasattr(made, "__dict__"):
                vars(made).update(attributes)
        return made

    def _set(self, ordinal: int, value: Set) -> object:
        members = [self._key(node.entry.key) for node in self._structure.children(ordinal)]
        return frozenset(members) if value.kind == "frozenset" else set(members)

    def _tuple(self, ordinal: int, value: Tuple) -> object:
        items = self._items(ordinal)
        if value.kind == "torch.Size":
            if not all(isinstance(item, int) for item in items):
                raise Format("a torch.Size holds what is no int")
            return torch.Size(items)
        return tuple(items)

    def _deque(self, ordinal: int, value: Deque) -> object:
        try:
            return collections.deque(self._items(ordinal), value.maxlen)
        except (ValueError, OverflowError) as error:
            raise Format(f"{self._structure.path(ordinal)} claims the maxlen {value.maxlen}") from error

    def _named(self, ordinal: int, value: NamedFields) -> object:
        found = _loaded_class(value.module, value.name)
        if isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == value.fields:
            return tuple.__new__(found, self._items(ordinal))
        make: Callable[[str, tuple[str, ...]], type[tuple[Any, ...]]] = collections.namedtuple  # noqa: PYI024
        try:
            return tuple.__new__(make(value.name.rpartition(".")[2], value.fields), self._items(ordinal))
        except ValueError as error:
            raise Format(f"a named tuple has unusable field names: {error}") from error

    def _sparse(self, ordinal: int, value: Sparse) -> torch.Tensor:
        layout = next((known for known in SPARSE_PARTS if str(known) == f"torch.{value.layout}"), None)
        if layout is None or value.count != len(SPARSE_PARTS[layout]):
            raise Format(f"unknown sparse layout {value.layout!r}")
        parts = self._whole(ordinal)
        if any(isinstance(part, torch.Tensor) and _expanded(part) for part in parts[:-1]):
            raise Format(f"{self._structure.path(ordinal)} claims more indices than it holds")
        try:
            if layout is torch.sparse_coo:
                made = torch.sparse_coo_tensor(
                    parts[0], parts[1], value.shape, check_invariants=True, is_coalesced=value.coalesced or None
                )
            else:
                made = torch.sparse_compressed_tensor(
                    parts[0], parts[1], parts[2], value.shape, layout=layout, check_invariants=True
                )
            return _flagged(made, value.flags)
        except (RuntimeError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise Format(f"{self._structure.path(ordinal)} is no sparse tensor: {error}") from error

    def _wrapper(self, ordinal: int, value: Wrapper) -> object:
        cls = _loaded_class(value.module, value.name)
        if not (isinstance(cls, type) and issubclass(cls, torch.Tensor) and hasattr(cls, "__tensor_unflatten__")):
            raise InvalidInput(
                f"{self._structure.path(ordinal)} is a {value.module}.{value.name}, which is not imported",
                hint=f"import {value.module} before loading",
            )
        *inner, context = self._whole(ordinal)
        parts = dict(zip(value.names, inner, strict=True))
        try:
            return cls.__tensor_unflatten__(parts, context, value.shape, value.strides)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
            raise Format(f"{self._structure.path(ordinal)} is no {value.module}.{value.name}: {error}") from error

    def _rng(self, ordinal: int, value: RngState) -> object:
        (state,) = self._whole(ordinal)
        if not _bounded(state):
            raise Format(f"{self._structure.path(ordinal)} claims more state than it holds")
        try:
            return _GENERATORS[value.kind](state)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise Format(f"{self._structure.path(ordinal)} is no state of a {value.kind}: {error}") from error

    def _encoded(self, ordinal: int, value: Encoded) -> object:
        encoder = ENCODERS.named(value.name)
        return encoder.decode(self._whole(ordinal)[0])


def key_value(key: Key, structure: Structure, reader: ObjectReader) -> Any:
    """The key of a dictionary or member of a set that a stored key stands for. Raises `Format`."""

    def read(blob: Blob) -> bytes | bytearray:
        return read_blob(reader, blob, structure.tree.chunk_size)

    made = from_plain(key, read)
    if isinstance(key, NumpyScalar):
        made = from_numpy_leaf(key, read)
    elif isinstance(key, Dtype):
        made = dtype_named(key.name)
    try:
        hash(made)
    except TypeError:
        made = NOT_PLAIN
    if made is NOT_PLAIN:
        raise Format(f"{structure.component} holds an unknown key")
    return made


def _flagged(tensor: torch.Tensor, flags: int) -> torch.Tensor:
    gradient = bool(flags & REQUIRES_GRAD)
    if flags & PARAMETER:
        return torch.nn.Parameter(tensor, requires_grad=gradient)
    return tensor.requires_grad_() if gradient else tensor


def _expanded(tensor: torch.Tensor) -> bool:
    """Whether a strided tensor has more elements than its memory: checking them would take for ever."""
    return tensor.layout is torch.strided and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _bounded(state: object) -> bool:
    """Whether going through every element of a generator's state comes to an end."""
    if isinstance(state, dict):
        return all(_bounded(item) for item in state.values())
    if isinstance(state, (tuple, list)):
        return all(_bounded(item) for item in state)
    if isinstance(state, torch.Tensor):
        return not _expanded(state)
    return not isinstance(state, np.ndarray) or state.size <= state.nbytes


def _new_dict(value: Dict) -> dict[Any, Any]:
    if value.kind == "dict":
        return {}
    if value.kind == "OrderedDict":
        return collections.OrderedDict()
    if value.kind == "Counter":
        return collections.Counter()
    if value.kind == "defaultdict" and value.factory in FACTORIES:
        return collections.defaultdict(FACTORIES[value.factory])
    raise Format(f"unknown dictionary {value.kind!r} (factory {value.factory!r})")


def _loaded_class(module: str, name: str) -> object:
    """A class of a module that is loaded already; nothing is imported on a checkpoint's word."""
    found: object = sys.modules.get(module)
    for part in name.split("."):
        # Not getattr: a module's own __getattr__ may import what is asked for.
        found = vars(found).get(part) if isinstance(found, (ModuleType, type)) else None
    return found


def _torch_generator(state: dict[str, Any]) -> torch.Generator:
    generator = torch.Generator(device=state["device"])
    generator.set_state(state["state"])
    return generator


def _python_random(state: Any) -> random.Random:
    generator = random.Random()
    generator.setstate(state)
    return generator


def _bit_generator(state: dict[str, Any]) -> np.random.BitGenerator:
    """A bit generator in that state. Positions are checked here: numpy reads wherever they point."""
    if state["bit_generator"] not in BIT_GENERATORS:
        raise ValueError(f"unknown bit generator {state['bit_generator']!r}")
    bits: np.random.BitGenerator = getattr(np.random, state["bit_generator"])(_seed_sequence(state.get("seed_seq")))
    known = bits.state
    for place, held in ((state, known), (state["state"], known["state"])):
        for name, most in (("pos", 624), ("buffer_pos", 4)):
            if name in held and not 0 <= place[name] <= most:
                raise ValueError(f"the position {place[name]} is outside of the state")
    bits.state = state
    return bits


def _seed_sequence(state: dict[str, Any] | None) -> np.random.SeedSequence | None:
    """What a generator spawns its children from; None for one that has no seed sequence."""
    if state is None:
        return None
    if not 4 <= state["pool_size"] <= _LARGEST_POOL:
        raise ValueError(f"a seed sequence claims a pool of {state['pool_size']}")
    return np.random.SeedSequence(**state)


_LARGEST_POOL = 1024


def _numpy_generator(state: dict[str, Any]) -> np.random.Generator:
    return np.random.Generator(_bit_generator(state))


def _numpy_random_state(state: dict[str, Any]) -> np.random.RandomState:
    generator = np.random.RandomState(_bit_generator(state))
    generator.set_state(state)
    return generator


_GENERATORS: dict[str, Callable[[Any], object]] = {
    "torch.Generator": _torch_generator,
    "random.Random": _python_random,
    "numpy.random.Generator": _numpy_generator,
    "numpy.random.RandomState": _numpy_random_state,
}

_BUILDERS: dict[type, Callable[[_Builder, int, Any], object]] = {
    List: lambda builder, ordinal, _: builder._items(ordinal),
    Tuple: _Builder._tuple,
    Dict: _Builder._dict,
    Set: _Builder._set,
    NamedFields: _Builder._named,
    Deque: _Builder._deque,
    RngState: _Builder._rng,
    Sparse: _Builder._sparse,
    Wrapper: _Builder._wrapper,
    Encoded: _Builder._encoded,
}
