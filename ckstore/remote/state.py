"""The state of a remote: what is known to be absent there, and which objects are to be deleted."""

from __future__ import annotations

import os
from itertools import pairwise

from msgspec import Struct

from ckstore.digest import ID_SIZE
from ckstore.errors import CkstoreError, Format
from ckstore.remote.interface import MAX_OBJECT_BYTES, check_name
from ckstore.remote.root import StatePointer
from ckstore.remote.sealed import Sealing

_NONCE_BYTES = 16


class RemoteHole(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The data of a commit's component is known to be absent: `reason` says in a word why."""

    commit: bytes
    component: str
    reason: str


class CondemnedObject(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An object that nothing may rely on any more since `since_ns` by the server's clock; deleted after the grace."""

    name: str
    size_bytes: int
    since_ns: int


class State(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Holes by commit and component, condemned objects by name. `nonce` gives each state a name of its own."""

    nonce: bytes = b""
    holes: tuple[RemoteHole, ...] = ()
    condemned: tuple[CondemnedObject, ...] = ()


_SEALING = Sealing(State, b"CKSTAT\r\n", "state", MAX_OBJECT_BYTES)


def encode_state(state: State) -> tuple[bytes, StatePointer | None]:
    """The bytes of a state under a name that no other has, and what points to it; nothing for an empty state."""
    if not state.holes and not state.condemned:
        return b"", None
    holes = tuple(sorted(state.holes, key=_place))
    condemned = tuple(sorted(state.condemned, key=lambda one: one.name))
    data = _SEALING.seal(State(os.urandom(_NONCE_BYTES), holes, condemned))
    return data, StatePointer(_SEALING.digest(data), len(data), len(holes), len(condemned))


def decode_state(data: bytes, pointer: StatePointer) -> State:
    """The state that a pointer means. Raises `Integrity`, `Format`."""
    state = _SEALING.open(data)
    if _SEALING.digest(data) != pointer.digest:
        raise Format("a state is not the one that the root points to")
    if (len(state.holes), len(state.condemned)) != (pointer.holes, pointer.condemned):
        raise Format("a state lists another number than the root says")
    places = [_place(hole) for hole in state.holes]
    if any(one >= two for one, two in pairwise(places)):
        raise Format("the holes of a state are not sorted")
    if not all(len(hole.commit) == ID_SIZE and hole.component and hole.reason.isprintable() for hole in state.holes):
        raise Format("a state lists a hole that is none")
    names = [one.name for one in state.condemned]
    try:
        for name in names:
            check_name(name)
    except CkstoreError as error:
        raise Format(f"a state condemns what is no object: {error.what}") from error
    if names != sorted(set(names)):
        raise Format("the condemned objects of a state are not sorted")
    return state


def _place(hole: RemoteHole) -> tuple[bytes, bytes]:
    return hole.commit, hole.component.encode("utf-8", "surrogatepass")
