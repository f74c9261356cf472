"""The part of an open repository that speaks with remotes: push, fetch, pull; and clone, which makes one."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore.api.environment import now
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.porcelain.fetch import FetchResult
    from ckstore.porcelain.pull import PullResult
    from ckstore.porcelain.push import PushResult
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository

_LONGEST_PAUSE_S = 5.0


class Syncing:
    """What a repository does with remotes; a part of `Repo`.

    A remote is a URL (`s3://bucket/prefix`, a path) or a `Remote`; `name` is what it is called here: its branches are
    followed by `remotes/NAME/BRANCH`.
    """

    _repository: Repository

    def push(
        self,
        remote: str | Remote,
        *refs: str,
        name: str = "origin",
        all_branches: bool = False,
        tags: bool = False,
        delete: bool = False,
        force: bool = False,
        dry_run: bool = False,
        jobs: int = 4,
        progress: Progress | None = None,
    ) -> PushResult:
        """Send what a remote lacks of some branches and tags (none named: the current branch), and move them there.

        Raises `Conflict` where a branch there has moved on (pull, or `force`), `Auth`, `RemoteFailed`. A push that
        fails has changed nothing there, and goes on where it was when it is called again.
        """
        from ckstore.porcelain.push import PushOptions, push

        options = PushOptions(
            name=name,
            now_ns=now()[0],
            refs=refs,
            all_branches=all_branches,
            tags=tags,
            delete=delete,
            force=force,
            dry_run=dry_run,
            jobs=jobs,
        )
        with connected(remote) as place:
            return push(self._repository, place, options, progress or SILENT, pause)

    def fetch(
        self,
        remote: str | Remote,
        branches: Sequence[str] | None = None,
        *,
        name: str = "origin",
        only: Sequence[str] | None = None,
        depth: int | None = None,
        metadata: bool = False,
        prune: bool = False,
        dry_run: bool = False,
        jobs: int = 4,
        progress: Progress | None = None,
    ) -> FetchResult:
        """Bring what is new of a remote's branches here; no branch of this repository moves.

        With `only` some components come, with `depth` the data of that many commits of each branch, with `metadata`
        none: what is left out is noted as absent. Raises `Integrity` where something there is damaged: it is not
        adopted.
        """
        from ckstore.porcelain.fetch import FetchOptions, fetch

        options = FetchOptions(
            name=name,
            now_ns=now()[0],
            branches=None if branches is None else tuple(branches),
            only=None if only is None else tuple(only),
            depth=depth,
            metadata=metadata,
            prune=prune,
            dry_run=dry_run,
            jobs=jobs,
        )
        with connected(remote) as place:
            return fetch(self._repository, place, options, progress or SILENT)

    def pull(
        self,
        remote: str | Remote,
        branch: str | None = None,
        *,
        name: str = "origin",
        only: Sequence[str] | None = None,
        depth: int | None = None,
        metadata: bool = False,
        force: bool = False,
        jobs: int = 4,
        progress: Progress | None = None,
    ) -> PullResult:
        """Fetch a branch (None: the current one), and move it forward to where the remote's is.

        Raises `Conflict` where both have moved on: commits are never merged.
        """
        from ckstore.porcelain.pull import PullOptions, pull

        options = PullOptions(
            name=name,
            now_ns=now()[0],
            branch=branch,
            only=None if only is None else tuple(only),
            depth=depth,
            metadata=metadata,
            force=force,
            jobs=jobs,
        )
        with connected(remote) as place:
            return pull(self._repository, place, options, progress or SILENT)


@contextmanager
def connected(remote: str | Remote) -> Iterator[Remote]:
    """A remote that is tried again while failures may be over in a moment; one of the caller's stays open."""
    from ckstore.remote.connect import connect, full_url
    from ckstore.remote.retry import Retrying

    if isinstance(remote, str):
        with Retrying(connect(full_url(remote, Path.cwd()))) as place:
            yield place
    else:
        yield Retrying(remote)


def pause(tries: int) -> None:
    """Wait before another try, where others have moved a remote's root meanwhile."""
    time.sleep(min(_LONGEST_PAUSE_S, 0.02 * 2 ** min(tries, 8)) * (time.monotonic_ns() % 1000) / 1000)
