"""What a pickle's values are when nothing of it is imported or called.

None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set and frozenset are themselves;
torch devices, paths and numpy values are the leaves of `ckstore.objects.leaf`; the rest are the classes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class NotUnderstoodError(Exception):
    """A pickle holds what is not known as data; inside this package only: the file is plain bytes then."""


@dataclass(frozen=True, slots=True)
class GlobalRef:
    """A name the pickle refers to; never looked up. Python 2's `__builtin__` is `builtins` here."""

    module: str
    name: str


@dataclass(slots=True, eq=False)
class Call:
    """A call that is not understood: what was to be called, with what, and the state the result was to get.

    What the pickle appends to the result or sets in it is dropped.
    """

    func: object
    args: tuple[object, ...]
    state: object = None


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage outside the pickle: its key, the dtype its class has, and how many elements of it."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A tensor on a storage. Shape, strides and offset count elements of `dtype`; `flags` as in tree.Tensor.

    All numbers are from 0 to 2**63, and there are as many strides as sizes. Whether it fits its storage is
    not checked.
    """

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    flags: int


class KnownDict(dict[object, object]):
    """An OrderedDict, a defaultdict with the name of its factory, or a Counter; `attributes` of the instance."""

    __slots__ = ("attributes", "factory", "kind")

    def __init__(self, kind: str, items: Mapping[object, object] | None = None, factory: str | None = None) -> None:
        super().__init__(items or {})
        self.kind = kind
        self.factory = factory
        self.attributes: dict[object, object] = {}


class KnownDeque(list[object]):
    """A deque."""

    __slots__ = ("maxlen",)

    def __init__(self, items: Iterable[object], maxlen: int | None) -> None:
        super().__init__(items)
        self.maxlen = maxlen


class Size(tuple[int, ...]):
    """A torch.Size."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class NumpyDtype:
    """A numpy dtype: the code it was made with (`f4`); once it has its state, `text`, as numpy writes it (`<f4`)."""

    code: str
    text: str | None = None


@dataclass(slots=True, eq=False)
class NumpyArray:
    """A numpy array: the leaf or DraftBlob it is, once it has its state."""

    leaf: object = None
