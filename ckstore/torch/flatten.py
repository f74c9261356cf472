"""A nested state as a draft: containers, leaves, and tensors on the spans they share."""

from __future__ import annotations

import collections
import pickle
import random
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ckstore.errors import InvalidInput
from ckstore.objects.draft import Draft, DraftBlob
from ckstore.objects.encoding import encode
from ckstore.objects.leaf import Blob, Device, Dtype, Pickled, TorchConstant
from ckstore.objects.plain import NOT_PLAIN, to_key, to_leaf, with_blob
from ckstore.objects.tree import (
    MAX_DEPTH,
    PARAMETER,
    REQUIRES_GRAD,
    Deque,
    Dict,
    Encoded,
    Entry,
    List,
    NamedFields,
    RngState,
    Set,
    Sparse,
    Tuple,
    Wrapper,
    dotted,
)
from ckstore.torch.numpy_values import array_leaf, scalar_leaf
from ckstore.torch.registry import ENCODERS
from ckstore.torch.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FACTORIES: dict[str, type | None] = {
    "": None,
    "list": list,
    "dict": dict,
    "set": set,
    "int": int,
    "float": float,
    "str": str,
    "tuple": tuple,
}
"""What a defaultdict may make, by name."""

BIT_GENERATORS = frozenset({"PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"})
"""numpy's bit generators whose state is kept."""

SPARSE_PARTS: dict[torch.layout, tuple[str, ...]] = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}
"""The parts that make up a sparse tensor, in the order they are stored."""


def flatten(value: object, component: str, *, allow_pickle: bool = False) -> Draft:
    """The draft of one component. Copies nothing: spans refer to the tensors' own memory.

    Objects with `state_dict` and `load_state_dict` are kept as their state dict. Raises `InvalidInput`, naming
    the path, for an object that cannot be kept, a container inside itself, or nesting beyond MAX_DEPTH.
    """
    flattener = _Flattener(component, allow_pickle=allow_pickle)
    try:
        flattener.add(None, value)
    except RecursionError:
        raise InvalidInput(f"{component} nests too deep", hint=f"keep it under {MAX_DEPTH} containers") from None
    return flattener.finish()


class _Flattener:
    def __init__(self, component: str, *, allow_pickle: bool) -> None:
        self._component = component
        self._allow_pickle = allow_pickle
        self._draft = Draft()
        self._spans = Spans()
        self._keys: list[object] = []
        self._open: list[int] = []

    def finish(self) -> Draft:
        self._draft.spans = self._spans.finish()
        return self._draft

    def add(self, key: Any, value: object) -> None:
        """Append the entries of `value` under the encoded `key`."""
        handler = _HANDLERS.get(type(value))
        if handler is not None:
            handler(self, key, value)
            return
        leaf = to_leaf(value)
        if leaf is not NOT_PLAIN:
            self._emit(key, leaf)
        else:
            self._add_other(key, value)

    def _emit(self, key: Any, value: Any) -> None:
        self._draft.entries.append((key, value))

    def _children(self, owner: object, items: Iterable[tuple[object, Any, object]]) -> None:
        """Add (name in paths, encoded key, value) of a container one by one."""
        if id(owner) in self._open:
            raise InvalidInput(f"{self._path()} contains itself", hint="break the cycle before committing")
        self._check_depth()
        self._open.append(id(owner))
        for name, key, value in items:
            self._keys.append(name)
            self.add(key, value)
            self._keys.pop()
        self._open.pop()

    def _check_depth(self) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise InvalidInput(
                f"{self._path():.200} nests more than {MAX_DEPTH} containers", hint="commit a flatter structure"
            )

    def _sequence(self, owner: object, values: Iterable[object]) -> None:
        self._children(owner, ((number, None, value) for number, value in enumerate(values)))

    def _add_list(self, key: Any, value: list[object]) -> None:
        self._emit(key, List(len(value)))
        self._sequence(value, value)

    def _add_tuple(self, key: Any, value: tuple[object, ...]) -> None:
        self._emit(key, Tuple("torch.Size" if isinstance(value, torch.Size) else "tuple", len(value)))
        self._sequence(value, value)

    def _add_deque(self, key: Any, value: collections.deque[object]) -> None:
        self._emit(key, Deque(len(value), value.maxlen))
        self._sequence(value, value)

    def _add_dict(self, key: Any, value: dict[object, object]) -> None:
        factory = None
        if isinstance(value, collections.defaultdict):
            factory = next((name for name, known in FACTORIES.items() if known is value.default_factory), None)
            if factory is None:
                raise self._refusal(value, f"its default_factory is {value.default_factory!r}")
        attributes = dict(vars(value)) if hasattr(value, "__dict__") else {}
        self._emit(key, Dict(type(value).__name__, len(value), factory, bool(attributes)))
        items: Iterable[tuple[object, Any, object]] = ((name, self._key(name), item) for name, item in value.items())
        if attributes:
            items = chain(items, [("<attributes>", None, attributes)])
        self._children(value, items)

    def _add_set(self, key: Any, value: set[object] | frozenset[object]) -> None:
        members = sorted((Entry(self._key(member), None) for member in value), key=encode)
        self._emit(key, Set(type(value).__name__, len(members)))
        self._check_depth()
        for member in members:
            self._emit(member.key, None)

    def _key(self, value: object) -> Any:
        key = to_key(value)
        if key is NOT_PLAIN and isinstance(value, np.generic):
            key = scalar_leaf(value)
        elif key is NOT_PLAIN and isinstance(value, torch.dtype):
            key = Dtype(str(value).removeprefix("torch."))
        if key is NOT_PLAIN or isinstance(key, DraftBlob):
            raise self._refusal(value, "it is used as a key")
        return key

    def _add_tensor(self, key: Any, tensor: torch.Tensor) -> None:
        if tensor.layout in SPARSE_PARTS:
            self._add_sparse(key, tensor)
            return
        for bad, why in (
            (tensor.is_meta, "a meta tensor has no data"),
            (tensor.is_quantized, "quantized tensors are not kept: commit int_repr() and the quantizer's parameters"),
            (tensor.is_nested, "nested tensors are not kept: commit unbind()"),
            (tensor.layout is not torch.strided, f"the layout {tensor.layout} is not kept"),
        ):
            if bad:
                raise InvalidInput(f"cannot keep the tensor {self._path()}: {why}")
        parameter = isinstance(tensor, torch.nn.Parameter)
        plain = tensor.detach()
        if plain.is_conj() or plain.is_neg():
            plain = plain.resolve_conj().resolve_neg()
        draft = self._spans.add(plain, dotted(tuple(self._keys)), parameter=parameter)
        draft.flags |= REQUIRES_GRAD * tensor.requires_grad
        self._emit(key, draft)

    def _add_sparse(self, key: Any, tensor: torch.Tensor) -> None:
        parts = SPARSE_PARTS[tensor.layout]
        plain = tensor.detach()
        coalesced = tensor.layout is torch.sparse_coo and plain.is_coalesced()
        layout = str(tensor.layout).removeprefix("torch.")
        flags = PARAMETER * isinstance(tensor, torch.nn.Parameter) | REQUIRES_GRAD * tensor.requires_grad
        self._emit(key, Sparse(layout, tuple(tensor.shape), coalesced, flags, len(parts)))
        *indices, values = (getattr(plain, part)() for part in parts)
        self._sequence(tensor, [*(_unexpanded(part) for part in indices), values])

    def _add_array(self, key: Any, array: np.ndarray) -> None:
        leaf = array_leaf(np.asarray(array))
        if leaf is NOT_PLAIN:
            raise self._refusal(array, f"its dtype is {array.dtype}")
        self._emit(key, leaf)

    def _add_rng(self, key: Any, value: object) -> None:
        state: object
        if isinstance(value, torch.Generator):
            kind, state = "torch.Generator", {"device": value.device, "state": value.get_state()}
        elif isinstance(value, random.Random):
            kind, state = "random.Random", value.getstate()
        elif isinstance(value, np.random.Generator):
            kind, state = "numpy.random.Generator", {**value.bit_generator.state, "seed_seq": _seed(value)}
        else:
            assert isinstance(value, np.random.RandomState)
            kind, state = "numpy.random.RandomState", value.get_state(legacy=False)
        if isinstance(state, dict) and state.get("bit_generator", "PCG64") not in BIT_GENERATORS:
            raise self._refusal(value, f"its bit generator is {state['bit_generator']}")
        self._emit(key, RngState(kind))
        self._children(value, [("state", None, state)])

    def _add_other(self, key: Any, value: Any) -> None:
        encoder = ENCODERS.for_class(type(value))
        if encoder is not None:
            self._emit(key, Encoded(encoder.name))
            self._children(value, [("state", None, encoder.encode(value))])
        elif isinstance(value, np.generic) and (leaf := scalar_leaf(value)) is not NOT_PLAIN:
            self._emit(key, leaf)
        elif isinstance(value, torch.Tensor) and hasattr(value, "__tensor_flatten__"):
            self._add_wrapper(key, value)
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            cls = type(value)
            self._emit(key, NamedFields(cls.__module__, cls.__qualname__, tuple(value._fields)))
            self._children(value, zip(value._fields, [None] * len(value), value, strict=True))
        elif not isinstance(value, type) and hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            self.add(key, value.state_dict())
        elif self._allow_pickle and not isinstance(value, torch.Tensor):
            self._emit(key, with_blob(pickle.dumps(value, protocol=4), _pickled))
        else:
            raise self._refusal(value, "its class is not one ckstore knows")

    def _add_wrapper(self, key: Any, tensor: Any) -> None:
        names, context = tensor.__tensor_flatten__()
        cls = type(tensor)
        self._emit(
            key,
            Wrapper(cls.__module__, cls.__qualname__, tuple(names), tuple(tensor.shape), tuple(tensor.stride())),
        )
        parts = [(name, None, getattr(tensor, name)) for name in names]
        self._children(tensor, [*parts, ("<context>", None, context)])

    def _refusal(self, value: object, why: str) -> InvalidInput:
        cls = type(value)
        return InvalidInput(
            f"cannot keep {self._path()}, a {cls.__module__}.{cls.__qualname__}: {why}",
            hint="commit plain values instead, ckstore.register_encoder(...) for its class, "
            "or allow_pickle=True for this call (loading it then needs allow_pickle=True too)",
        )

    def _path(self) -> str:
        return dotted((self._component, *self._keys))


def _unexpanded(indices: torch.Tensor) -> torch.Tensor:
    """Indices with memory for each of them."""
    held = indices.untyped_storage().nbytes()
    return indices if indices.numel() * indices.element_size() <= held else indices.contiguous()


def _seed(generator: np.random.Generator) -> dict[str, object] | None:
    """What a generator's children are spawned from."""
    sequence = generator.bit_generator.seed_seq
    return dict(sequence.state) if isinstance(sequence, np.random.SeedSequence) else None


def _pickled(blob: Blob) -> Pickled:
    return Pickled(blob)


def _constant(flattener: _Flattener, key: Any, value: object) -> None:
    flattener._emit(key, TorchConstant(str(value).removeprefix("torch.")))


_HANDLERS: dict[type, Callable[[_Flattener, Any, Any], None]] = {
    list: _Flattener._add_list,
    tuple: _Flattener._add_tuple,
    torch.Size: _Flattener._add_tuple,
    collections.deque: _Flattener._add_deque,
    dict: _Flattener._add_dict,
    collections.OrderedDict: _Flattener._add_dict,
    collections.defaultdict: _Flattener._add_dict,
    collections.Counter: _Flattener._add_dict,
    set: _Flattener._add_set,
    frozenset: _Flattener._add_set,
    torch.Tensor: _Flattener._add_tensor,
    torch.nn.Parameter: _Flattener._add_tensor,
    np.ndarray: _Flattener._add_array,
    np.memmap: _Flattener._add_array,
    torch.Generator: _Flattener._add_rng,
    random.Random: _Flattener._add_rng,
    np.random.Generator: _Flattener._add_rng,
    np.random.RandomState: _Flattener._add_rng,
    torch.dtype: lambda f, key, value: f._emit(key, Dtype(str(value).removeprefix("torch."))),
    torch.device: lambda f, key, value: f._emit(key, Device(str(value))),
    torch.layout: _constant,
    torch.memory_format: _constant,
}
