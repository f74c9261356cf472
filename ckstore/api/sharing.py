"""The part of an open repository that shares it: remotes, push, fetch, pull; and clone, which makes one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore.api.environment import default_cache, now, settings_layers
from ckstore.errors import InvalidInput
from ckstore.progress import SILENT
from ckstore.units import parse_span

if TYPE_CHECKING:
    from ckstore.porcelain.clone import CloneResult
    from ckstore.porcelain.fetch import FetchOptions, FetchResult, Manner
    from ckstore.porcelain.pull import PullResult
    from ckstore.porcelain.push import PushResult
    from ckstore.porcelain.remote import Pruned, RemoteAdded, RemoteInfo, RemoteReport
    from ckstore.porcelain.repair_remote import RepairRemoteResult
    from ckstore.porcelain.verify_remote import VerifyRemoteResult
    from ckstore.progress import Progress
    from ckstore.repository import Repository

Path_ = str | os.PathLike[str]
Names = str | Sequence[str]


class Sharing:
    """What a repository has in common with others; a part of `Repo`."""

    _repository: Repository

    @property
    def remotes(self) -> dict[str, str]:
        """The URLs of remotes by name."""
        from ckstore.porcelain.remote import list_remotes

        return {remote.name: remote.url for remote in list_remotes(self._repository)}

    def add_remote(
        self,
        name: str,
        url: Path_,
        *,
        jobs: int | None = None,
        limit_rate: str | None = None,
        timeout: str | None = None,
        test: bool = True,
    ) -> RemoteAdded:
        """Write a remote down: a folder, or `s3://BUCKET/PREFIX?endpoint=...&region=...&profile=...`.

        Its place is tested first, and `report` says what it can do; a folder is made where the one above it is there.
        Credentials come from the cloud's own chain and are never stored. `jobs`, `limit_rate` (`50M` a second) and
        `timeout` (`30s`) hold for all transfers with it. Raises `InvalidInput`, `NotFound`, `Auth`, `RemoteFailed`:
        nothing is written down then.
        """
        from ckstore.porcelain.remote import AddRemoteOptions, add_remote

        token = secrets.token_hex(8) if test else None
        manner = _manner(jobs, limit_rate, timeout)
        options = AddRemoteOptions(name, os.fspath(url), Path.cwd(), token, lambda: now()[0], manner)
        return add_remote(self._repository, options)

    def remove_remote(self, name: str) -> RemoteInfo:
        """Forget a remote; nothing is deleted there. Raises `NotFound`."""
        from ckstore.porcelain.remote import remove_remote

        return remove_remote(self._repository, name, now()[0])

    def test_remote(self, name: str | None = None) -> RemoteReport:
        """Find out what a remote can do, by doing it in a place of its own there, which is cleared afterwards."""
        from ckstore.porcelain.remote import TestRemoteOptions, test_remote

        return test_remote(self._repository, TestRemoteOptions(name, secrets.token_hex(8), lambda: now()[0]))

    def gc_remote(self, name: str | None = None, *, grace: str = "7d", dry_run: bool = False) -> Pruned:
        """Free what no branch and tag of a remote needs any more, `grace` after it was first found so.

        Raises `Integrity` where something needed is missing there: nothing is removed then.
        """
        from ckstore.porcelain.remote import RemoteGcOptions, gc_remote

        grace_ns = 0 if grace == "0" else parse_span(grace)
        if grace_ns is None:
            raise InvalidInput(f"{grace!r} is no span of time", hint="write it as 7d, 12h, 30m or 0")
        return gc_remote(self._repository, RemoteGcOptions(name, grace_ns, dry_run))

    def verify_remote(
        self, name: str | None = None, *, read_data: bool = False, progress: Progress | None = None
    ) -> VerifyRemoteResult:
        """Check that all that a remote's branches and tags reach is there; with `read_data` that every byte is right.

        Damage becomes a finding. Raises `NotFound` where nothing was ever pushed, `Auth`, `RemoteFailed`.
        """
        from ckstore.porcelain.verify_remote import VerifyRemoteOptions, verify_remote
        from ckstore.sync.remotes import reaching, remote_named

        remote = remote_named(self._repository, name)
        with reaching(remote) as (place, _):
            options = VerifyRemoteOptions(read_data, remote.jobs)
            return verify_remote(self._repository, place, options, SILENT if progress is None else progress)

    def repair_remote(
        self, name: str | None = None, *, dry_run: bool = False, progress: Progress | None = None
    ) -> RepairRemoteResult:
        """Send a remote anew what is damaged or missing there and sound here; nothing that is sound there goes.

        Reads everything there. What neither side has is lost, and noted there. Raises `NotFound`, `Integrity`,
        `Conflict`, `Auth`, `RemoteFailed`.
        """
        from ckstore.porcelain.repair_remote import RepairRemoteOptions, repair_remote
        from ckstore.sync.remotes import reaching, remote_named

        remote = remote_named(self._repository, name)
        with reaching(remote) as (place, _):
            options = RepairRemoteOptions(dry_run, remote.jobs)
            return repair_remote(self._repository, place, options, SILENT if progress is None else progress)

    def push(
        self,
        remote: str | None = None,
        refs: Names = (),
        *,
        all: bool = False,
        tags: bool = False,
        delete: bool = False,
        force: bool = False,
        fill: bool = False,
        dry_run: bool = False,
        foreign: bool = False,
        accept_older: bool = False,
        jobs: int | None = None,
        limit_rate: str | None = None,
        timeout: str | None = None,
        progress: Progress | None = None,
    ) -> PushResult:
        """Send a remote (None: the only one, or origin) what it lacks, then move its refs, all or none.

        `refs` are branches or tags by name (none: the current branch); `all` means every one, `tags` every tag as
        well, and `delete` that they go there. `force` moves a branch to what does not descend from where it is.
        `fill` sends what is absent there of older commits too. With `dry_run` nothing is sent. `foreign` goes on where
        the place holds another repository, `accept_older` where it has been put back. Raises `Conflict` where
        a branch there has moved on, `NotFound`, `NoRevision`, `Auth`, `RemoteFailed`; nothing has changed there then,
        and the next push goes on where this one was.
        """
        from ckstore.porcelain.push import PushOptions, push

        options = PushOptions(
            now_ns=now()[0],
            remote=remote,
            refs=_names(refs),
            all=all,
            tags=tags,
            delete=delete,
            force=force,
            fill=fill,
            dry_run=dry_run,
            foreign=foreign,
            older=accept_older,
            manner=_manner(jobs, limit_rate, timeout),
        )
        return push(self._repository, options, SILENT if progress is None else progress)

    def fetch(
        self,
        remote: str | None = None,
        branches: Names = (),
        *,
        only: Names = (),
        depth: int | None = None,
        metadata: bool = False,
        fill: bool = False,
        prune: bool = False,
        dry_run: bool = False,
        foreign: bool = False,
        accept_older: bool = False,
        jobs: int | None = None,
        limit_rate: str | None = None,
        timeout: str | None = None,
        progress: Progress | None = None,
    ) -> FetchResult:
        """Bring a remote's commits here without moving a branch: `repo["origin/main"]` is where its branch is then.

        `branches` by name (none: all, and all tags). Of new commits only the components `only`, the data of the newest
        `depth` of each branch, or with `metadata` none; the rest raises `Absent` when it is loaded. `fill` brings what
        is absent here so far. `prune` forgets branches that are gone there. The rest as for `push`. Raises `NotFound`,
        `Auth`, `RemoteFailed`, `Integrity` for what is damaged there; no ref has moved then.
        """
        from ckstore.porcelain.fetch import fetch

        manner = _manner(jobs, limit_rate, timeout)
        options = _fetching(
            manner, remote, branches, only, depth, metadata, fill, prune, dry_run, foreign, accept_older
        )
        return fetch(self._repository, options, SILENT if progress is None else progress)

    def pull(
        self,
        remote: str | None = None,
        branches: Names = (),
        *,
        all: bool = False,
        force: bool = False,
        only: Names = (),
        depth: int | None = None,
        metadata: bool = False,
        fill: bool = False,
        dry_run: bool = False,
        foreign: bool = False,
        accept_older: bool = False,
        jobs: int | None = None,
        limit_rate: str | None = None,
        timeout: str | None = None,
        progress: Progress | None = None,
    ) -> PullResult:
        """Fetch, and move branches (none named: the current one) to where the remote's are.

        Raises `Conflict` where both sides have commits that the other lacks, unless `force` leaves those here behind,
        which `undo` takes back. The rest as for `fetch`.
        """
        from ckstore.porcelain.pull import PullOptions, pull

        manner = _manner(jobs, limit_rate, timeout)
        options = _fetching(
            manner, remote, branches, only, depth, metadata, fill, False, dry_run, foreign, accept_older
        )
        return pull(self._repository, PullOptions(options, all, force), SILENT if progress is None else progress)


def clone(
    url: Path_,
    path: Path_ | None = None,
    *,
    only: Names = (),
    depth: int | None = None,
    metadata: bool = False,
    jobs: int | None = None,
    limit_rate: str | None = None,
    timeout: str | None = None,
    index: str = "auto",
    cache: Path_ | None = None,
    progress: Progress | None = None,
) -> CloneResult:
    """Make a repository in `path` (None: named like the URL's last part) of what a remote holds; `open` opens it.

    It has the remote's branches and tags, and calls it `origin`. Only the components `only`, the data of the newest
    `depth` commits of each branch, or with `metadata` none; what is left out raises `Absent` when it is loaded, and
    `repo.fetch(fill=True)` brings it. `index` and `cache` are as for `open`. A clone that was cut off goes on when it
    is run again. Raises `InvalidInput` where the folder holds something else, `NotFound`, `Auth`, `RemoteFailed`.
    """
    from ckstore.porcelain.clone import CloneOptions
    from ckstore.porcelain.clone import clone as verb

    options = CloneOptions(
        url=os.fspath(url),
        fetch=_fetching(_manner(jobs, limit_rate, timeout), None, (), only, depth, metadata),
        base=Path.cwd(),
        cache=default_cache() if cache is None else Path(cache),
        folder=None if path is None else Path(path),
        index_in_cache=index == "cache",
        layers=settings_layers(),
    )
    return verb(options, SILENT if progress is None else progress)


def _fetching(
    manner: Manner,
    remote: str | None,
    branches: Names,
    only: Names,
    depth: int | None,
    metadata: bool,
    fill: bool = False,
    prune: bool = False,
    dry_run: bool = False,
    foreign: bool = False,
    older: bool = False,
) -> FetchOptions:
    from ckstore.porcelain.fetch import FetchOptions

    names = _names(branches), _names(only)
    return FetchOptions(now()[0], remote, *names, depth, metadata, fill, prune, dry_run, foreign, older, manner)


def _manner(jobs: int | None, limit_rate: str | None, timeout: str | None) -> Manner:
    from ckstore.porcelain.fetch import Manner

    return Manner(jobs, limit_rate, timeout)


def _names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
