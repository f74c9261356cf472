"""Moving a remote's root: exactly one of several who try wins, and whoever lost the reply finds out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckstore.remote.interface import RootMoved, Unclear
from ckstore.remote.root import ID_BYTES, RECENT, Contents, RemoteRef, decode_root, encode_root
from ckstore.remote.source import Buffers
from ckstore.remote.state import State, encode_state
from ckstore.sync.survey import note_seen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckstore.errors import CkstoreError
    from ckstore.remote.root import SegmentPointer, StatePointer
    from ckstore.remote.state import CondemnedObject, RemoteHole
    from ckstore.sync.levels import NewSegment
    from ckstore.sync.survey import Survey

_SENT_AGAIN = 5


def put_segments(survey: Survey, segments: Sequence[NewSegment]) -> None:
    """Send segments, and keep them here."""
    for segment in segments:
        survey.remote.put(segment.pointer.name, Buffers(segment.data))
        survey.local.cache.put(segment.pointer.digest, segment.data)


def put_state(survey: Survey, holes: Iterable[RemoteHole], condemned: Iterable[CondemnedObject]) -> StatePointer | None:
    """Send a state; what points to it, None for one that says nothing."""
    data, pointer = encode_state(State(b"", tuple(holes), tuple(condemned)))
    if pointer is not None:
        survey.remote.put(pointer.name, Buffers(data))
        survey.local.cache.put(pointer.digest, data)
    return pointer


def following(
    old: Contents,
    refs: Mapping[str, bytes],
    segments: Sequence[SegmentPointer],
    state: StatePointer | None,
    head: str | None,
) -> Contents:
    """The contents of the root after `old`."""
    recent = (old.write_id, *old.recent)[:RECENT] if old.generation else ()
    return Contents(
        repository=old.repository,
        generation=old.generation + 1,
        write_id=os.urandom(ID_BYTES),
        head=head,
        refs=tuple(RemoteRef(name, id) for name, id in sorted(refs.items())),
        segments=tuple(segments),
        state=state,
        recent=recent,
    )


def swap(survey: Survey, contents: Contents) -> bool:
    """Move the root from what was surveyed to `contents`; whether that won.

    After a lost reply the root is read back: whoever moved it since has our write-id among the recent ones. Raises
    `Unclear` where it stays unknown: a later survey shows what happened.
    """
    remote = survey.remote
    data = encode_root(contents)
    lost: CkstoreError | None = None
    for _ in range(_SENT_AGAIN):
        try:
            remote.swap_root(data, survey.version)
        except (RootMoved, Unclear) as error:
            lost = error
        else:
            break
        root = remote.read_root()
        there = None if root is None else decode_root(root.data)
        if there is not None and contents.write_id in (there.write_id, *there.recent):
            note_seen(remote, survey.local, there)
            return True
        if (None if root is None else root.version) != survey.version:
            return False
    else:
        raise Unclear(
            f"{remote.url} does not say whether its root was moved", hint="run the same command again"
        ) from lost
    note_seen(remote, survey.local, contents)
    return True
