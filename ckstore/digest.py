"""BLAKE3 object ids: 32 bytes that name a stored object by its content.

A chunk id is the plain BLAKE3-256 of the raw bytes (`b3sum` prints the same). Tree and commit ids use
BLAKE3's derive-key mode with a context of their own, so that bytes of one kind never pass for another.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from blake3 import blake3
from xxhash import xxh3_64, xxh3_64_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

ID_SIZE = 32
CHECKSUM_SIZE = 8
NO_ID = bytes(ID_SIZE)


class Kind(IntEnum):
    """The three kinds of stored object; the values are part of the format."""

    CHUNK = 1
    TREE = 2
    COMMIT = 3


_CONTEXTS = {Kind.TREE: "ckstore tree v1", Kind.COMMIT: "ckstore commit v1"}


def object_id(kind: Kind, raw: Buffer) -> bytes:
    """Id of an object of `kind` whose raw bytes are `raw`. Releases the GIL while hashing large input."""
    if kind is Kind.CHUNK:
        return blake3(raw).digest()
    return blake3(raw, derive_key_context=_CONTEXTS[kind]).digest()


def checksum(*parts: Buffer) -> bytes:
    """Eight bytes of BLAKE3 over the concatenation of `parts`: guards small headers and rows against damage."""
    return blake3(b"".join(parts)).digest(CHECKSUM_SIZE)


def payload_checksum(pieces: Sequence[Buffer]) -> bytes:
    """Eight bytes of XXH3 over the concatenation of `pieces`: sees damage at memory speed, and stops no forger."""
    if len(pieces) == 1:
        return xxh3_64_digest(pieces[0])
    hasher = xxh3_64()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def derived(context: str, *parts: Buffer) -> bytes:
    """32 bytes of BLAKE3 in derive-key mode over the concatenation of `parts`."""
    hasher = blake3(derive_key_context=context)
    for part in parts:
        hasher.update(part)
    return hasher.digest()
