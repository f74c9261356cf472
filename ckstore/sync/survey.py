"""What a remote is found to hold: its root, and behind it state and catalog, read when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ckstore.errors import Format, Integrity, InvalidInput, RemoteFailed
from ckstore.graph.revision import check_ref_name
from ckstore.remote.catalog import Catalog
from ckstore.remote.root import Contents, decode_root
from ckstore.remote.state import State, decode_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.remote.interface import Remote, Version
    from ckstore.sync.local import Local

_SEEN = "seen"


class Seen(Struct, frozen=True, array_like=True):
    """The last root that was seen: of which repository, its generation and write-id."""

    repository: bytes
    generation: int
    write_id: bytes


class Foreign(RemoteFailed):
    """A remote holds another repository than this one."""

    code = "foreign-remote"
    retryable = False


_DECODER = msgspec.msgpack.Decoder(Seen)


class Survey:
    """A remote as one root describes it; `version` is what to swap, None where there is no root yet.

    `refs` are the commits of branches and tags by full name. Raises `Format` for a name that none may have.
    """

    def __init__(self, remote: Remote, local: Local, contents: Contents, version: Version | None) -> None:
        self.remote = remote
        self.local = local
        self.contents = contents
        self.version = version
        self._state: State | None = None
        self._catalog: Catalog | None = None
        self.refs = _refs(contents)

    @property
    def state(self) -> State:
        """Holes and condemned objects. Raises `NotFound` where gc was faster, `Integrity`, `Format`."""
        if self._state is None:
            self._state = self._read_state()
        return self._state

    @property
    def catalog(self) -> Catalog:
        """Where everything lies. Raises `NotFound` where gc was faster, `Integrity`, `Format`."""
        if self._catalog is None:
            self._catalog = Catalog(self.remote, self.contents.segments, self.local.cache)
        return self._catalog

    def _read_state(self) -> State:
        pointer = self.contents.state
        if pointer is None:
            return State()
        kept = self.local.cache.get(pointer.digest)
        if kept is not None:
            try:
                return decode_state(bytes(memoryview(kept)), pointer)
            except (Integrity, Format):
                self.local.cache.drop(pointer.digest)
        data = self.remote.get(pointer.name, 0, pointer.size_bytes)
        state = decode_state(data, pointer)
        self.local.cache.put(pointer.digest, data)
        return state

    @property
    def holes(self) -> Mapping[bytes, Mapping[str, str]]:
        """The components that are known to be absent there, with the reason, by commit."""
        found: dict[bytes, dict[str, str]] = {}
        for hole in self.state.holes:
            found.setdefault(hole.commit, {})[hole.component] = hole.reason
        return found

    @property
    def condemned(self) -> frozenset[str]:
        """Names that nothing may rely on."""
        return frozenset(one.name for one in self.state.condemned)

    def note(self) -> None:
        """Remember that this root was seen."""
        note_seen(self.remote, self.local, self.contents)


def survey(remote: Remote, local: Local, *, foreign: bool = False, older: bool = False) -> Survey:
    """Read the root of a remote.

    With `foreign` it may be another repository's, with `older` one that was seen before at a later time: both are
    refused else, with `Foreign` and `Integrity`. A remote may have any repository where there is no commit here.
    """
    root = remote.read_root()
    data = local.notes(remote.url).read(_SEEN)
    seen = _decoded(data)
    if root is None:
        if seen is not None and not older:
            raise _older(remote, "it has none at all now")
        return Survey(remote, local, _empty(local), None)
    contents = decode_root(root.data)
    if seen is not None and not older and not _is_later(contents, seen):
        raise _older(remote, f"its root has generation {contents.generation} after {seen.generation}")
    own = {bytes.fromhex(local.id)} | ({seen.repository} if seen is not None else set())
    if contents.repository not in own and not foreign and _has_commits(local):
        raise Foreign(
            f"{remote.url} holds another repository, {contents.repository.hex()}",
            why=f"this one is {local.id}",
            hint="check the URL; to mix both on purpose say --foreign",
        )
    return Survey(remote, local, contents, root.version)


def _refs(contents: Contents) -> Mapping[str, bytes]:
    for ref in contents.refs:
        kind, _, name = ref.name.partition("/")
        try:
            check_ref_name(name, "branch" if kind == "heads" else "tag")
        except InvalidInput as error:
            raise Format(f"a root has a ref of a name that none may have: {error.what}") from error
    return {ref.name: ref.commit for ref in contents.refs}


def note_seen(remote: Remote, local: Local, contents: Contents) -> None:
    """Remember the newest root that was seen."""
    notes = local.notes(remote.url)
    data = msgspec.msgpack.encode(Seen(contents.repository, contents.generation, contents.write_id))
    if contents.generation and notes.read(_SEEN) != data:
        notes.write(_SEEN, data)


def _decoded(data: bytes | None) -> Seen | None:
    try:
        return None if data is None else _DECODER.decode(data)
    except msgspec.MsgspecError:
        return None


def _is_later(contents: Contents, seen: Seen) -> bool:
    """Whether a root may come after one that was seen, or be that one; another of its generation may not."""
    if contents.repository != seen.repository:
        return False
    if contents.generation == seen.generation:
        return contents.write_id == seen.write_id
    return contents.generation > seen.generation


def _older(remote: Remote, why: str) -> Integrity:
    return Integrity(
        f"{remote.url} is older than when it was last seen",
        why=why,
        hint="find out who put it back; if that is right, `--accept-older` goes on from there",
    )


def _empty(local: Local) -> Contents:
    return Contents(bytes.fromhex(local.id), 0, b"", None, (), (), None, ())


def _has_commits(local: Local) -> bool:
    return any(isinstance(target, bytes) for target in local.targets().values())
