"""What the journal says: records of packs and ref moves, and the snapshot that begins a segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class Symbolic(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Another ref, by name; only HEAD points so."""

    name: str


Target = bytes | Symbolic | None
"""Where a ref points: a commit id, another ref, or nothing."""

HEAD = "HEAD"
HEADS = "heads/"
TAGS = "tags/"


def spelled(target: Target) -> str | None:
    """A target as people read it: an id in hexadecimal digits, or the other ref's name."""
    if isinstance(target, bytes):
        return target.hex()
    return target.name if target is not None else None


class PackEntry(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A pack that exists: name, digest, size."""

    name: bytes
    digest: bytes
    size_bytes: int


class RefMove(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Ref `name` goes from `old` to `new`; None means it is not there."""

    name: str
    old: Target
    new: Target


class Record(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """One step of the repository's history. `reason` says in a word what did it."""

    time_ns: int
    reason: str
    packs: tuple[PackEntry, ...] = ()
    refs: tuple[RefMove, ...] = ()


class Ref(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A ref and where it points."""

    name: str
    target: Target


class Snapshot(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Everything the records so far amount to: packs in the order they came, refs by name."""

    packs: tuple[PackEntry, ...]
    refs: tuple[Ref, ...]


def fold(contents: Sequence[Record | Snapshot]) -> Snapshot:
    """What a snapshot and the records after it amount to; a later snapshot begins anew."""
    packs: list[PackEntry] = []
    refs: dict[str, Target] = {}
    for content in contents:
        if isinstance(content, Snapshot):
            packs, refs = list(content.packs), {ref.name: ref.target for ref in content.refs}
            continue
        packs += content.packs
        refs |= {move.name: move.new for move in content.refs}
    kept = tuple(Ref(name, target) for name, target in sorted(refs.items()) if target is not None)
    return Snapshot(tuple(packs), kept)
