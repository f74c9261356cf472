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
PINS = "pins/"
REMOTES = "remotes/"

FETCH = "fetch"
"""The reason of records that bring what a remote has."""

NOT_FETCHED = "not fetched"
SHALLOW = "shallow"
"""Reasons of holes: what was left out of a fetch, by component and by age."""


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


class Hole(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The data of a commit's component is known to be absent here: `reason` says in a word why."""

    commit: bytes
    component: str
    reason: str


class Filled(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The data of a commit's component is here again."""

    commit: bytes
    component: str


class Condemned(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A pack not needed any more, since `since_ns` by the file system's clock; its file goes after the grace."""

    pack: PackEntry
    since_ns: int


class Record(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """One step of the repository's history. `reason` says in a word what did it.

    `packs` are there from now on: new ones, or condemned ones that are back. `condemned` are not used any more,
    `removed` names those of them whose files may go.
    """

    time_ns: int
    reason: str
    packs: tuple[PackEntry, ...] = ()
    refs: tuple[RefMove, ...] = ()
    holes: tuple[Hole, ...] = ()
    filled: tuple[Filled, ...] = ()
    condemned: tuple[Condemned, ...] = ()
    removed: tuple[bytes, ...] = ()


class Ref(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A ref and where it points."""

    name: str
    target: Target


class Snapshot(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Everything the records so far amount to: packs in the order they came, refs by name, holes, what is condemned."""

    packs: tuple[PackEntry, ...]
    refs: tuple[Ref, ...]
    holes: tuple[Hole, ...] = ()
    condemned: tuple[Condemned, ...] = ()


def fold(contents: Sequence[Record | Snapshot]) -> Snapshot:
    """What a snapshot and the records after it amount to; a later snapshot begins anew."""
    packs: dict[bytes, PackEntry] = {}
    refs: dict[str, Target] = {}
    holes: dict[tuple[bytes, str], Hole] = {}
    condemned: dict[bytes, Condemned] = {}
    for content in contents:
        if isinstance(content, Snapshot):
            packs, refs, holes, condemned = {}, {ref.name: ref.target for ref in content.refs}, {}, {}
        else:
            refs |= {move.name: move.new for move in content.refs}
            for filled in content.filled:
                holes.pop((filled.commit, filled.component), None)
            for name in content.removed:
                condemned.pop(name, None)
        for entry in content.packs:
            packs[entry.name] = entry
            condemned.pop(entry.name, None)
        for one in content.condemned:
            packs.pop(one.pack.name, None)
            condemned[one.pack.name] = one
        holes |= {(hole.commit, hole.component): hole for hole in content.holes}
    return Snapshot(
        packs=tuple(packs.values()),
        refs=tuple(Ref(name, target) for name, target in sorted(refs.items()) if target is not None),
        holes=tuple(hole for _, hole in sorted(holes.items())),
        condemned=tuple(one for _, one in sorted(condemned.items())),
    )
