"""Values as a line of text, for people: short, whatever the value."""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING

from ckstore.digest import Kind, object_id
from ckstore.errors import Format
from ckstore.graph.tree_diff import container_text
from ckstore.objects.leaf import (
    BigInt,
    Bytes,
    Chunks,
    Complex,
    Device,
    Dtype,
    FilePath,
    Float,
    NumpyArray,
    NumpyScalar,
    Pickled,
    Text,
    TorchConstant,
)
from ckstore.objects.plain import NOT_PLAIN, from_plain
from ckstore.objects.run import Run
from ckstore.objects.tree import Container, Set, plain_key

if TYPE_CHECKING:
    from ckstore.objects.leaf import Blob, Key
    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.structure import Structure

_LONGEST = 120
_BEFORE_DIFFERENCE = 20
_MEMBERS = 16
_ELEMENTS = 6
_DIGITS_BYTES = 64
"""Longer integers are not written out."""


def value_text(structure: Structure, ordinal: int, reader: ObjectReader) -> str:
    """What the value at an entry is. Reads one chunk at most; runs and builds nothing that is stored.

    Raises `Integrity`, and `Format` where the entry is no value.
    """
    value = structure.nodes[ordinal].entry.value
    if isinstance(value, Set):
        members = [_key_text(node.entry.key) for node in islice(structure.children(ordinal), _MEMBERS)]
        return f"{_printable(value.kind)} {{{', '.join(members)}{', …' * (value.count > _MEMBERS)}}}"
    if isinstance(value, Container):
        return _printable(container_text(value)) + " (empty)" * (structure.below(ordinal).stop == ordinal + 1)
    if isinstance(value, (NumpyArray, NumpyScalar)):
        return _numpy_text(value)
    if isinstance(value, (Text, Bytes, BigInt, Pickled)):
        return _blob_text(value, structure.tree.chunk_size, reader)
    if isinstance(value, FilePath):
        return f"{_printable(value.flavour)}({value.text!r})"
    if isinstance(value, (Dtype, TorchConstant)):
        return f"torch.{_printable(value.name)}"
    if isinstance(value, Device):
        return f"device({value.name!r})"
    plain = from_plain(value, _inline) if isinstance(value, (int, str, Float, Complex)) or value is None else NOT_PLAIN
    if plain is NOT_PLAIN:
        raise Format(f"{structure.path(ordinal)} is no value")
    return repr(plain)


def side_by_side(before: str | None, after: str | None) -> tuple[str | None, str | None]:
    """Two texts of values that differ, no longer than a line takes, from about where they differ on."""
    if before is not None and before == after:
        return _cut(before, 0), f"{_cut(before, 0)} (other bytes)"
    both = [text for text in (before, after) if text is not None]
    long = len(both) > 1 and max(map(len, both)) > _LONGEST
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*both, strict=False))) if long else 0
    start = max(0, alike - _BEFORE_DIFFERENCE)
    return None if before is None else _cut(before, start), None if after is None else _cut(after, start)


def _cut(text: str, start: int) -> str:
    shown = f"…{text[start:]}" if start else text
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _blob_text(value: Text | Bytes | BigInt | Pickled, chunk_size: int, reader: ObjectReader) -> str:
    data = value.data
    length = data.length if isinstance(data, Chunks) else len(data)
    if isinstance(value, Pickled):
        return f"a pickle of {length:,} bytes{_which(data)}"
    if isinstance(value, BigInt) and length > _DIGITS_BYTES:
        return f"an integer of {length:,} bytes{_which(data)}"
    if not isinstance(data, Chunks):
        return repr(from_plain(value, lambda _: data))
    run = Run.of_blob(data, chunk_size, reader)
    head = b"".join(run.read(0, min(length, 4 * _LONGEST)))
    shown = head.decode("utf-8", "ignore") if isinstance(value, Text) else head
    return f"{length:,} bytes{_which(data)}: {shown!r:.{_LONGEST}}"


def _which(data: Blob) -> str:
    """A few digits that tell one content in chunks from another."""
    return f" ({object_id(Kind.CHUNK, data.ids).hex()[:8]})" if isinstance(data, Chunks) else ""


def _numpy_text(value: NumpyArray | NumpyScalar) -> str:
    from ckstore.torch.numpy_values import from_numpy_leaf  # numpy

    if isinstance(value.data, Chunks):
        shape = f" array {value.shape}" if isinstance(value, NumpyArray) else ""
        return f"{_printable(value.dtype)}{shape}, {value.data.length:,} bytes{_which(value.data)}"
    made = from_numpy_leaf(value, lambda _: _inline(value.data))
    if isinstance(value, NumpyScalar):
        return f"{made.dtype}({made.item()!r})"  # type: ignore[attr-defined]
    some = [repr(element.item()) for element in islice(made.flat, _ELEMENTS)]  # type: ignore[attr-defined]
    return f"{made.dtype} array {value.shape}: {', '.join(some)}{', …' * (made.size > _ELEMENTS)}"  # type: ignore[attr-defined]


def _key_text(key: Key) -> str:
    try:
        plain = from_plain(key, _inline)
        return str(plain_key(key)) if plain is NOT_PLAIN else repr(plain)
    except ValueError:  # an integer with more digits than Python is willing to write
        return "<number>"


def _printable(text: str) -> str:
    """A name as it is, with what a terminal would act on escaped."""
    return repr(text)[1:-1]


def _inline(blob: Blob) -> bytes:
    if isinstance(blob, Chunks):
        raise Format("a key or a short value lies in chunks")
    return blob
