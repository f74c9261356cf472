"""The part of an open repository that reads absent data on a remote, by range, without bringing it here."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckstore.api.checkpoint import Checkpoint
from ckstore.api.environment import now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository
    from ckstore.sync.remote_objects import RemoteObjects


class Reading:
    """Reads what is not here; a part of `Repo`."""

    _repository: Repository

    @contextmanager
    def reading_from(self, remote: str | Remote | None = None) -> Iterator[RemoteView]:
        """The commits of this repository with their absent data (`clone --metadata`, `--only`, `--depth`) on a remote.

            with repo.reading_from("origin") as there:
                rows = there["HEAD"]["model"]["embedding.weight"][0:10]

        Only the chunks that are touched come over the line, with those they are kept against, and nothing is stored
        here; what is here is read here. `remote` is a name (None: origin, or the only one). For one thread. Raises
        `Absent` where the remote lacks it too, `Integrity` where it is damaged there, `Auth`, `RemoteFailed`.
        """
        from ckstore.sync.remote_objects import RemoteObjects
        from ckstore.sync.remotes import reaching, remote_named
        from ckstore.sync.repository_local import RepositoryLocal

        local = RepositoryLocal(self._repository)
        if remote is None or isinstance(remote, str):
            with reaching(remote_named(self._repository, remote)) as (place, _):
                yield RemoteView(self._repository, RemoteObjects(place, local))
        else:
            yield RemoteView(self._repository, RemoteObjects(remote, local))


class RemoteView:
    """A repository's commits, by revision; what is absent is read on a remote."""

    def __init__(self, repository: Repository, objects: RemoteObjects) -> None:
        self._repository = repository
        self._objects = objects

    def __getitem__(self, revision: str) -> Checkpoint:
        """The commit a revision names, of those that are known here. Raises `NoRevision`, `InvalidInput`."""
        id, commit = self._repository.resolve(revision, now()[0])
        return Checkpoint(self._repository, id, commit, self._objects)

    @property
    def read_bytes(self) -> int:
        """What has been read of packs so far; the catalog's `catalog_bytes` come on top."""
        return self._objects.read_bytes

    @property
    def catalog_bytes(self) -> int:
        """What has been read of the catalog so far, to find where things lie."""
        return self._objects.catalog_bytes
