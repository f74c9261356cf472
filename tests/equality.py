"""Whether two states are the same to the last bit: types, values, layout, and which tensors share memory."""

from __future__ import annotations

import collections
import pathlib
import random
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SPARSE_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def assert_same(left: object, right: object, path: str = "state") -> None:
    """Raise AssertionError, naming the path of the first difference.

    Types are compared exactly and values by their bits. Which tensors share a storage, and how far apart they
    begin on it, must be the same on both sides; where on its storage the first of them begins may differ.
    """
    _Comparison().compare(path, left, right)


def assert_same_components(left: Mapping[str, object], right: Mapping[str, object]) -> None:
    """`assert_same` for each component by itself: tensors share memory inside a component only."""
    assert type(left) is type(right)
    assert list(left) == list(right)
    for name, value in left.items():
        assert_same(value, right[name], name)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The elements of a strided tensor in row-major order, whatever its dtype."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    storage, size = plain.untyped_storage(), plain.element_size()
    flat = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    if plain.numel() == 0:
        return b""
    strides = [step * size for step in plain.stride()]
    view = np.lib.stride_tricks.as_strided(
        flat[plain.storage_offset() * size :], (*plain.shape, size), (*strides, 1), writeable=False
    )
    return view.tobytes()


def fingerprint(value: object) -> object:
    """What tells a dictionary key or set member from every other, type and bits included."""
    if isinstance(value, tuple):
        return type(value), tuple(fingerprint(item) for item in value)
    if isinstance(value, float) and type(value) is float:
        return float, struct.pack(">d", value)
    if isinstance(value, complex) and type(value) is complex:
        return complex, struct.pack(">dd", value.real, value.imag)
    if isinstance(value, np.generic):
        return type(value), value.dtype.str, value.tobytes()
    return type(value), value


def _packed(array: np.ndarray[Any, Any]) -> bytes:
    """The elements of an array in C order, with zeros between the fields of a structured one."""
    made = np.zeros(array.shape, array.dtype)
    made[...] = array
    return made.tobytes()


class _Comparison:
    """One comparison: remembers which storages on the left stand for which on the right."""

    def __init__(self) -> None:
        self._storages: dict[int, tuple[int, int]] = {}
        self._mirror: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []
        self._by_type: dict[type, Callable[[str, Any, Any], None]] = {
            list: self._sequence,
            tuple: self._sequence,
            torch.Size: self._sequence,
            collections.deque: self._deque,
            dict: self._mapping,
            collections.OrderedDict: self._mapping,
            collections.defaultdict: self._mapping,
            collections.Counter: self._mapping,
            set: self._members,
            frozenset: self._members,
            torch.Tensor: self._tensor,
            torch.nn.Parameter: self._tensor,
            np.ndarray: self._array,
            torch.Generator: self._generator,
            random.Random: lambda path, a, b: self.compare(path, a.getstate(), b.getstate()),
            np.random.RandomState: lambda path, a, b: self.compare(
                path, a.get_state(legacy=False), b.get_state(legacy=False)
            ),
            np.random.Generator: lambda path, a, b: self.compare(path, a.bit_generator.state, b.bit_generator.state),
        }

    def compare(self, path: str, left: Any, right: Any) -> None:
        assert type(left) is type(right), f"{path}: {type(left).__name__} and {type(right).__name__}"
        compare = self._by_type.get(type(left))
        if compare is not None:
            compare(path, left, right)
        elif isinstance(left, tuple):
            assert left._fields == right._fields, f"{path}: other fields"  # type: ignore[attr-defined]
            self._sequence(path, left, right)
        elif isinstance(left, pathlib.PurePath):
            assert str(left) == str(right), f"{path}: {left!r} and {right!r}"
        else:
            assert fingerprint(left) == fingerprint(right), f"{path}: {left!r:.200} and {right!r:.200}"

    def _sequence(self, path: str, left: Any, right: Any) -> None:
        assert len(left) == len(right), f"{path}: {len(left)} and {len(right)} items"
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            self.compare(f"{path}[{number}]", a, b)

    def _deque(self, path: str, left: Any, right: Any) -> None:
        assert left.maxlen == right.maxlen, f"{path}: maxlen {left.maxlen} and {right.maxlen}"
        self._sequence(path, left, right)

    def _mapping(self, path: str, left: Any, right: Any) -> None:
        mine, theirs = [fingerprint(key) for key in left], [fingerprint(key) for key in right]
        assert mine == theirs, f"{path}: keys {mine!r:.300} and {theirs!r:.300}"
        if isinstance(left, collections.defaultdict):
            assert left.default_factory is right.default_factory, f"{path}: other default_factory"
        for key, a, b in zip(left, left.values(), right.values(), strict=True):
            self.compare(f"{path}[{key!r:.80}]", a, b)
        self.compare(f"{path}.__dict__", getattr(left, "__dict__", None), getattr(right, "__dict__", None))

    def _members(self, path: str, left: Any, right: Any) -> None:
        mine = collections.Counter(fingerprint(member) for member in left)
        theirs = collections.Counter(fingerprint(member) for member in right)
        assert mine == theirs, f"{path}: members {mine!r:.300} and {theirs!r:.300}"

    def _array(self, path: str, left: Any, right: Any) -> None:
        assert left.dtype == right.dtype, f"{path}: dtype {left.dtype} and {right.dtype}"
        assert left.dtype.str == right.dtype.str, f"{path}: dtype {left.dtype.str} and {right.dtype.str}"
        assert left.shape == right.shape, f"{path}: shape {left.shape} and {right.shape}"
        order = [array.flags.f_contiguous and not array.flags.c_contiguous for array in (left, right)]
        assert order[0] == order[1], f"{path}: other memory order"
        assert _packed(left) == _packed(right), f"{path}: other values"

    def _generator(self, path: str, left: Any, right: Any) -> None:
        assert left.device == right.device, f"{path}: device {left.device} and {right.device}"
        assert torch.equal(left.get_state(), right.get_state()), f"{path}: other state"

    def _tensor(self, path: str, left: torch.Tensor, right: torch.Tensor) -> None:
        for what in ("dtype", "shape", "requires_grad", "layout"):
            a, b = getattr(left, what), getattr(right, what)
            assert a == b, f"{path}: {what} {a} and {b}"
        if left.layout in SPARSE_PARTS:
            self._sparse(path, left, right)
            return
        left, right = (one.detach().resolve_conj().resolve_neg() for one in (left, right))
        assert left.stride() == right.stride(), f"{path}: strides {left.stride()} and {right.stride()}"
        assert raw_bytes(left) == raw_bytes(right), f"{path}: other values"
        if left.numel():
            self._place(path, left, right)

    def _sparse(self, path: str, left: torch.Tensor, right: torch.Tensor) -> None:
        left, right = left.detach(), right.detach()
        if left.layout is torch.sparse_coo:
            assert left.is_coalesced() == right.is_coalesced(), f"{path}: coalesced on one side only"
        for part in SPARSE_PARTS[left.layout]:
            self._tensor(f"{path}.{part}", getattr(left, part)(), getattr(right, part)())

    def _place(self, path: str, left: torch.Tensor, right: torch.Tensor) -> None:
        """Both lie on storages that stand for each other, as far from the first tensor seen there."""
        self._alive += (left, right)
        mine, theirs = left.untyped_storage().data_ptr(), right.untyped_storage().data_ptr()
        shift = int(right.storage_offset() * right.element_size() - left.storage_offset() * left.element_size())
        known = self._storages.setdefault(mine, (theirs, shift))
        assert known[0] == theirs, f"{path}: shares memory with another tensor on the left only"
        assert self._mirror.setdefault(theirs, mine) == mine, f"{path}: shares memory on the right only"
        assert known[1] == shift, f"{path}: begins elsewhere on its storage"
