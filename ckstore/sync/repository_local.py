"""A repository as pushing and fetching ask for it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.digest import Kind, derived
from ckstore.errors import CkstoreError, Conflict, Integrity
from ckstore.remote.segment_cache import FolderCache
from ckstore.storage.adoption import Adoption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from ckstore.objects.commit import Commit
    from ckstore.repository import Commits, Repository
    from ckstore.storage.location import Location
    from ckstore.storage.record import Target

_SEGMENTS = "segments"


class FolderNotes:
    """`Notes` as the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, data: bytes) -> None:
        with suppress(CkstoreError):
            durable.make_folder(self._folder)
            durable.put(self._folder / name, data)

    def delete(self, name: str) -> None:
        with suppress(CkstoreError):
            durable.unlink(self._folder / name)

    def names(self) -> Sequence[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))
        except OSError:
            return ()


class RepositoryLocal:
    """A `Local` over an open repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._store = repository.store
        self._commits: Commits | None = None
        self.id = self._store.id
        self.cache = FolderCache(self._store.cache / _SEGMENTS)

    def notes(self, url: str) -> FolderNotes:
        return FolderNotes(self._store.layout.remotes / derived("ckstore remote v1", url.encode()).hex()[:16])

    def targets(self) -> Mapping[str, Target]:
        self._commits = self._repository.commits()
        return self._commits.targets

    def commit(self, id: bytes) -> Commit:
        if self._commits is None:
            self._commits = self._repository.commits()
        return self._commits.read_commit(id)

    def read(self, kind: Kind, id: bytes) -> bytes:
        return self._store.objects.read(kind, id)

    def holes(self) -> Mapping[bytes, Mapping[str, str]]:
        return self._repository.absent()

    def known(self, ids: Iterable[bytes]) -> set[bytes]:
        return self._store.objects.known(ids)

    def chain(self, id: bytes) -> Sequence[Location]:
        return self._store.objects.chain(id)

    def payload(self, place: Location) -> bytes:
        try:
            return self._store.objects.payload(place)
        except FileNotFoundError:
            raise Conflict(f"gc has taken pack {place.pack.hex()} meanwhile", hint="try again") from None
        except OSError as error:
            raise Integrity(f"cannot read pack {place.pack.hex()}: {error.strerror}") from error

    def incoming(self) -> Adoption:
        return Adoption(self._store)

    def watch(self) -> Callable[[], bool]:
        store = self._store
        store.refresh()
        since = store.index.cursor()

        def condemned() -> bool:
            return since is None or any(record.condemned for record in store.records_since(since)[0])

        return condemned
