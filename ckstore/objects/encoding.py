"""Canonical bytes of trees and commits: MessagePack, one byte string for one value.

Reading is for hostile input: sizes are capped before anything is allocated, unknown fields are refused, and
bytes that are not the canonical form of what they decode to are refused too.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ckstore.errors import Format
from ckstore.objects.commit import Commit
from ckstore.objects.tree import Entry, Page, Tree, TreeObject

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_OBJECT = 64 << 20
"""Bytes a tree, page or commit may have at most."""

T = TypeVar("T")

_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_TREES: msgspec.msgpack.Decoder[TreeObject] = msgspec.msgpack.Decoder(TreeObject)
_COMMITS = msgspec.msgpack.Decoder(Commit)
_DOUBLE = struct.Struct(">d")


def encode(value: Tree | Page | Commit | Entry) -> bytes:
    """The canonical bytes of `value`."""
    return _ENCODER.encode(value)


def decode_tree(data: Buffer) -> Tree:
    """The tree whose canonical bytes are `data`. Raises `Format`."""
    tree = _decode(_TREES, data, "tree")
    if not isinstance(tree, Tree):
        raise Format("a page of a tree stands where a tree should")
    return tree


def decode_page(data: Buffer) -> Page:
    """The page whose canonical bytes are `data`. Raises `Format`."""
    page = _decode(_TREES, data, "page")
    if not isinstance(page, Page):
        raise Format("a tree stands where a page of one should")
    return page


def decode_commit(data: Buffer) -> Commit:
    """The commit whose canonical bytes are `data`. Raises `Format`."""
    return _decode(_COMMITS, data, "commit")


def _decode(decoder: msgspec.msgpack.Decoder[T], data: Buffer, what: str) -> T:
    view = memoryview(data)
    if view.nbytes > MAX_OBJECT:
        raise Format(f"a {what} of {view.nbytes} bytes is past the limit of {MAX_OBJECT}")
    try:
        value = decoder.decode(view)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Format(f"not a {what}: {error}") from error
    if _ENCODER.encode(value) != view:
        raise Format(f"the bytes of a {what} are not canonical")
    return value


def float_bits(value: float) -> bytes:
    """The eight bytes of a double, big-endian."""
    return _DOUBLE.pack(value)


def bits_float(bits: bytes) -> float:
    """The double that eight big-endian bytes are. Raises `Format`."""
    if len(bits) != _DOUBLE.size:
        raise Format("a float is not eight bytes long")
    value: float = _DOUBLE.unpack(bits)[0]
    return value
