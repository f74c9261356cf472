"""The root of a remote: which refs it has, and where segments and state lie. The one object that ever changes."""

from __future__ import annotations

from msgspec import Struct

from ckstore.digest import ID_SIZE
from ckstore.errors import Format
from ckstore.remote.interface import MAX_OBJECT_BYTES, MAX_ROOT_BYTES
from ckstore.remote.sealed import OVERHEAD, Sealing
from ckstore.remote.segment import MAX_ROWS, size_of

ID_BYTES = 16
"""Of a repository's id, and of a write-id."""

RECENT = 64
"""So many write-ids of earlier roots are kept: whoever lost a reply finds its own among them."""

MAX_REF_BYTES = 250
_MAX_LEVEL = 30
_REFS = ("heads/", "tags/")


class RemoteRef(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A branch or tag by its full name (`heads/main`), and its commit."""

    name: str
    commit: bytes


class SegmentPointer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A segment: its digest, how long it is, how many rows and packs it has, how often it was merged."""

    digest: bytes
    size_bytes: int
    rows: int
    packs: int
    level: int

    @property
    def name(self) -> str:
        """What the object is called."""
        return f"index/{self.digest.hex()}"


class StatePointer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A state object: its digest, how long it is, how many holes and condemned objects it lists."""

    digest: bytes
    size_bytes: int
    holes: int
    condemned: int

    @property
    def name(self) -> str:
        """What the object is called."""
        return f"state/{self.digest.hex()}"


class Contents(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """What a root says.

    `generation` counts roots from 1. `write_id` is random, `recent` those of the roots before, the newest first.
    `head` is the branch that a clone stands on. Refs are by name; segments as they came, the oldest first.
    """

    repository: bytes
    generation: int
    write_id: bytes
    head: str | None
    refs: tuple[RemoteRef, ...]
    segments: tuple[SegmentPointer, ...]
    state: StatePointer | None
    recent: tuple[bytes, ...]


_SEALING = Sealing(Contents, b"CKROOT\r\n", "root", MAX_ROOT_BYTES)


def encode_root(contents: Contents) -> bytes:
    """The bytes of a root."""
    return _SEALING.seal(contents)


def decode_root(data: bytes) -> Contents:
    """What the bytes of a root say. Raises `Integrity` for damage, `Format` for what is no root of this version."""
    contents = _SEALING.open(data)
    ids = (contents.repository, contents.write_id, *contents.recent)
    if any(len(id) != ID_BYTES for id in ids) or len(contents.recent) > RECENT or contents.generation < 1:
        raise Format("a root has ids of another length, or too many")
    names = [ref.name for ref in contents.refs]
    if names != sorted(set(names)) or not all(map(_is_sound, contents.refs)):
        raise Format("the refs of a root are not sorted, or are none")
    if contents.head is not None and not contents.head.isprintable():
        raise Format("the head of a root is no branch")
    for pointer in contents.segments:
        _check_segment(pointer)
    state = contents.state
    if state is not None:
        limit = min(state.size_bytes, MAX_OBJECT_BYTES)
        if len(state.digest) != ID_SIZE or not OVERHEAD <= state.size_bytes <= limit:
            raise Format("a root points to a state that is none")
        if min(state.holes, state.condemned) < 0 or state.holes + state.condemned > state.size_bytes:
            raise Format("a root counts more in the state than fits")
    return contents


def _is_sound(ref: RemoteRef) -> bool:
    return (
        ref.name.startswith(_REFS)
        and len(ref.name.encode()) <= MAX_REF_BYTES
        and ref.name.isprintable()
        and len(ref.commit) == ID_SIZE
    )


def _check_segment(pointer: SegmentPointer) -> None:
    sound = (
        len(pointer.digest) == ID_SIZE
        and 0 < pointer.rows <= MAX_ROWS
        and 0 < pointer.packs <= pointer.rows
        and 0 <= pointer.level <= _MAX_LEVEL
        and pointer.size_bytes == size_of(pointer.rows, pointer.packs)
    )
    if not sound or pointer.size_bytes > MAX_OBJECT_BYTES:
        raise Format("a root points to a segment that is none")
