"""What pushing and fetching ask of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from ckstore.digest import Kind
    from ckstore.objects.commit import Commit
    from ckstore.pack.format import Frame
    from ckstore.remote.segment_cache import SegmentCache
    from ckstore.storage.location import Location
    from ckstore.storage.packer import Pieces
    from ckstore.storage.record import Record, Target


class Notes(Protocol):
    """Small notes about one remote, by name. They carry no promise: any may be gone."""

    def read(self, name: str) -> bytes | None:
        """A note, or None."""

    def write(self, name: str, data: bytes) -> None:
        """Write one whole; where nothing can be written nothing is noted."""

    def delete(self, name: str) -> None:
        """Delete one; fine if it is gone."""

    def names(self) -> Sequence[str]:
        """All there are, in order."""


class Incoming(Protocol):
    """Frames on their way in: `storage.adoption.Adoption`."""

    def add(self, stream: str, frame: Frame, payload: Pieces) -> None:
        """Take a frame in. May be called by many threads."""

    def publish(self, record: Record, check: Callable[[], None] = lambda: None) -> int | None:
        """Verify all, then record it. Raises `Integrity`, `Conflict`."""


class Local(Protocol):
    """A repository, or what stands in for one."""

    @property
    def id(self) -> str:
        """The repository's id, 32 hexadecimal digits."""

    @property
    def cache(self) -> SegmentCache:
        """Where segments of remotes are kept."""

    def notes(self, url: str) -> Notes:
        """The notes about a remote."""

    def targets(self) -> Mapping[str, Target]:
        """All refs by full name, HEAD too."""

    def commit(self, id: bytes) -> Commit:
        """A commit. Raises `Integrity`, `Format`."""

    def read(self, kind: Kind, id: bytes) -> bytes:
        """The raw bytes of any object, verified. Raises `Integrity`."""

    def holes(self) -> Mapping[bytes, Mapping[str, str]]:
        """The components that are known to be absent, with the reason, by commit."""

    def known(self, ids: Iterable[bytes]) -> set[bytes]:
        """Those of `ids` that are here and can be read."""

    def chain(self, id: bytes) -> Sequence[Location]:
        """Where an object lies, its base, that one's base, and so on; empty where it is not here."""

    def payload(self, place: Location) -> bytes:
        """The payload of a frame, checked. Raises `Integrity`, or `Conflict` where gc has taken it."""

    def incoming(self) -> AbstractContextManager[Incoming]:
        """A place for frames that come."""

    def watch(self) -> Callable[[], bool]:
        """Asked later, under the lock: whether anything here has been condemned since this was called."""
