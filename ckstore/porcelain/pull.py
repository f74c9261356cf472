"""pull: fetch the branch HEAD is on, and move it forward to where the remote's is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import RefChange, change, move_refs
from ckstore.errors import Conflict, InvalidInput
from ckstore.graph.history import reachable
from ckstore.progress import SILENT
from ckstore.storage.record import HEADS, RefMove
from ckstore.sync import fetch as engine
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository


@dataclass(frozen=True)
class PullOptions:
    """The remote that is called `name` here, and the `branch` to pull (None: the one HEAD is on).

    With `force` the branch here is put on the remote's commit whatever it was on. The rest is as for `fetch`.
    """

    name: str
    now_ns: int
    branch: str | None = None
    only: tuple[str, ...] | None = None
    depth: int | None = None
    metadata: bool = False
    force: bool = False
    dry_run: bool = False
    jobs: int = 4
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class PullResult:
    """How refs moved here, the branch among them, and what came; in a dry run what would."""

    url: str
    branch: str
    moves: tuple[RefChange, ...]
    commits: int
    objects: int
    stored_bytes: int
    requests: int
    holes: int
    record: int | None


def pull(repository: Repository, remote: Remote, options: PullOptions, progress: Progress = SILENT) -> PullResult:
    """Bring what is new of a branch here, and move the branch there.

    Raises `Conflict` where the branch here has commits that the remote's has not: they are never merged; what was
    fetched stays. Raises besides what `fetch` does.
    """
    commits = repository.commits()
    branch = options.branch
    if branch is None:
        if commits.head_name is None:
            raise InvalidInput("HEAD is on no branch", hint="name the branch to pull")
        branch = commits.head_name.removeprefix(HEADS)
    request = engine.FetchRequest(
        name=options.name,
        time_ns=options.now_ns,
        branches=(branch,),
        only=options.only,
        depth=options.depth,
        metadata=options.metadata,
        dry_run=options.dry_run,
        jobs=options.jobs,
        foreign=options.foreign,
        older=options.older,
    )
    done = engine.fetch(remote, RepositoryLocal(repository), request, progress)
    here = f"{engine.REMOTES}{options.name}/{branch}"
    moves, record = tuple(map(change, done.moves)), done.record
    if not options.dry_run:
        moved = move_refs(repository, "pull", options.now_ns, _forward(repository, branch, here, force=options.force))
        moves, record = (*moves, *moved.moves), moved.record if moved.record is not None else record
    return PullResult(
        remote.url,
        branch,
        moves,
        done.commits,
        done.objects,
        done.stored_bytes,
        done.requests,
        done.holes,
        record,
    )


def _forward(repository: Repository, branch: str, here: str, *, force: bool) -> list[RefMove]:
    """The move of a branch to where the remote's is; none where it is there or ahead. Raises `Conflict`."""
    commits = repository.commits()
    old, new = commits.branches.get(branch), commits.refs[here]
    if old == new or (old is not None and not force and new in reachable([old], commits.read_commit)):
        return []
    if old is not None and not force and old not in reachable([new], commits.read_commit):
        raise Conflict(
            f"the branch {branch!r} here and {here.removeprefix(engine.REMOTES)} have both moved on",
            why="commits are never merged",
            hint=f"keep yours: `ckstore branch NEW {branch}`, then `ckstore pull --force`; or push with --force",
        )
    return [RefMove(HEADS + branch, old, new)]
