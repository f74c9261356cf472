"""The part of an open repository that reads on remotes: absent data by range, and whether all is sound there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckstore.api.checkpoint import Checkpoint
from ckstore.api.environment import now
from ckstore.api.syncing import connected, pause
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.porcelain.repair_remote import RepairRemoteResult
    from ckstore.porcelain.verify_remote import VerifyRemoteResult
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository
    from ckstore.sync.remote_objects import RemoteObjects


class Reading:
    """What a repository reads on remotes, and mends there; a part of `Repo`."""

    _repository: Repository

    @contextmanager
    def reading_from(self, remote: str | Remote) -> Iterator[RemoteView]:
        """The commits of this repository with their absent data (`clone --metadata`, `--only`, `--depth`) on a remote.

            with repo.reading_from("s3://bucket/runs") as there:
                rows = there["HEAD"]["model"]["embedding.weight"][0:10]

        Only the chunks that are touched come over the line, with those they are kept against, and nothing is stored
        here; what is here is read here. For one thread. Raises `Absent` where the remote lacks it too, `Integrity`
        where it is damaged there, `Auth`, `RemoteFailed`.
        """
        from ckstore.sync.remote_objects import RemoteObjects
        from ckstore.sync.repository_local import RepositoryLocal

        with connected(remote) as place:
            yield RemoteView(self._repository, RemoteObjects(place, RepositoryLocal(self._repository)))

    def verify_remote(
        self, remote: str | Remote, *, read_data: bool = False, jobs: int = 4, progress: Progress | None = None
    ) -> VerifyRemoteResult:
        """Check that everything the refs of a remote reach is there; with `read_data`, that every byte is right.

        Changes nothing; damage becomes a finding. Raises `NotFound` where nothing was pushed, `Auth`, `RemoteFailed`.
        """
        from ckstore.porcelain.verify_remote import VerifyRemoteOptions, verify_remote

        with connected(remote) as place:
            return verify_remote(self._repository, place, VerifyRemoteOptions(read_data, jobs), progress or SILENT)

    def repair_remote(
        self, remote: str | Remote, *, dry_run: bool = False, jobs: int = 4, progress: Progress | None = None
    ) -> RepairRemoteResult:
        """Send anew what is damaged or missing on a remote and sound here; damaged packs there are condemned.

        Reads everything there. What neither side can read becomes absent there. Raises `Integrity` where its root is
        damaged or was put back, `Conflict`, `Auth`, `RemoteFailed`: nothing has changed there then.
        """
        from ckstore.porcelain.repair_remote import RepairRemoteOptions, repair_remote

        with connected(remote) as place:
            options = RepairRemoteOptions(dry_run, jobs)
            return repair_remote(self._repository, place, options, progress or SILENT, pause)


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
