"""A tree before its chunks have ids: what flattening a state or parsing a file yields, and storing takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.objects.encoding import encode
from ckstore.objects.tree import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.objects.leaf import Blob, Key
    from ckstore.objects.tree import Value

_STEP = 1 << 20


@dataclass(slots=True)
class Span:
    """The bytes of one storage that a component's tensors cover.

    `open(start, stop)` gives those bytes of the span; it may copy them from a device. `dtype` is the element
    type its owner has (the codec's hint), `path` the owner's dotted path (the order inside a slab).
    """

    length: int
    dtype: str
    path: str
    open: Callable[[int, int], memoryview]


@dataclass(slots=True)
class DraftTensor:
    """A tensor whose bytes are span number `span`; the rest as in `Tensor` and `Alias`."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    offset: int
    flags: int
    span: int


@dataclass(slots=True)
class DraftBlob:
    """A leaf whose payload is still to be stored: `make(blob)` gives the leaf. The rest as in Span."""

    length: int
    open: Callable[[int, int], memoryview]
    make: Callable[[Blob], Value]
    dtype: str = "uint8"


@dataclass(slots=True)
class Draft:
    """One component: entries in pre-order, and the spans its tensors lie on."""

    entries: list[tuple[Key, Value | DraftTensor | DraftBlob]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


def raw_bytes(draft: Draft) -> int:
    """How many bytes a draft's spans and payloads have."""
    payloads = sum(value.length for _, value in draft.entries if isinstance(value, DraftBlob))
    return payloads + sum(span.length for span in draft.spans)


def same(left: Draft, right: Draft) -> bool:
    """Whether two drafts describe the same value, every bit of it read and compared."""
    return (
        len(left.entries) == len(right.entries)
        and len(left.spans) == len(right.spans)
        and all(_same_entry(one, other) for one, other in zip(left.entries, right.entries, strict=True))
        and all(_same_bytes(one, other) for one, other in zip(left.spans, right.spans, strict=True))
    )


def _same_entry(
    left: tuple[Key, Value | DraftTensor | DraftBlob], right: tuple[Key, Value | DraftTensor | DraftBlob]
) -> bool:
    """By their canonical bytes: to Python 1 and True are equal."""
    (key, value), (other_key, other) = left, right
    if isinstance(value, DraftBlob) and isinstance(other, DraftBlob):
        if not _same_bytes(value, other):
            return False
        value, other = value.make(b""), other.make(b"")
    if isinstance(value, (DraftTensor, DraftBlob)) or isinstance(other, (DraftTensor, DraftBlob)):
        return value == other and encode(Entry(key, None)) == encode(Entry(other_key, None))
    return encode(Entry(key, value)) == encode(Entry(other_key, other))


def _same_bytes(left: Span | DraftBlob, right: Span | DraftBlob) -> bool:
    return (left.length, left.dtype) == (right.length, right.dtype) and all(
        bytes(left.open(start, min(start + _STEP, left.length)))
        == bytes(right.open(start, min(start + _STEP, left.length)))
        for start in range(0, left.length, _STEP)
    )


def held(data: bytes | memoryview) -> Callable[[int, int], memoryview]:
    """The `open` of a payload that is in memory."""
    view = memoryview(data)
    return lambda start, stop: view[start:stop]
