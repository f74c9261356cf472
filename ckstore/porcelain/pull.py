"""pull: fetch, then move branches here to where the remote's are, where nothing is lost by that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import RefChange, move_refs
from ckstore.errors import Conflict, InvalidInput
from ckstore.graph.history import reachable
from ckstore.progress import SILENT
from ckstore.storage.record import HEAD, HEADS, REMOTES, RefMove
from ckstore.sync.fetching import FetchOptions, FetchResult, RefUpdate, fetch_from
from ckstore.sync.remotes import SILENTLY, Listening, Manner, remote_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.progress import Progress
    from ckstore.repository import Commits, Repository

__all__ = ["FetchOptions", "Listening", "Manner", "PullOptions", "PullResult", "pull"]


@dataclass(frozen=True)
class PullOptions:
    """What to pull: `fetch.branches` by name (none: the current one), or with `all` every branch there is there.

    `force` puts a branch where the remote's is though it has commits of its own, which the reflog remembers.
    """

    fetch: FetchOptions
    all: bool = False
    force: bool = False


@dataclass(frozen=True)
class PullResult:
    """What came, and how branches moved here. `ahead` are those that have more than the remote's.

    `record` is what `undo` takes back; None where no branch had to move, or in a dry run.
    """

    fetched: FetchResult
    branches: tuple[RefUpdate, ...]
    ahead: tuple[str, ...]
    record: int | None


def pull(
    repository: Repository, options: PullOptions, progress: Progress = SILENT, listening: Listening = SILENTLY
) -> PullResult:
    """Fetch, and fast-forward branches here; one that is not here yet is made.

    Raises `Conflict` where a branch has commits that the remote's lacks and the other way round, or one moved
    meanwhile: what was fetched stays. Else as `fetch`. In a dry run branches move only by what is here already.
    """
    remote = remote_named(repository, options.fetch.remote)
    names = tuple(options.fetch.branches)
    if options.all and names:
        raise InvalidInput("--all means every branch", hint="leave out the names, or --all")
    if not options.all and not names:
        names = (_current(repository.commits()),)
    fetched = fetch_from(repository, remote, replace(options.fetch, branches=names), progress, listening)
    commits = repository.commits()
    prefix = f"{REMOTES}{remote.name}/"
    tips = {name.removeprefix(prefix): id for name, id in commits.refs.items() if name.startswith(prefix)}
    moves, ahead = _moves(commits, tips, names or sorted(tips), remote.name, options)
    moved = move_refs(
        repository,
        f"pull {remote.name}",
        options.fetch.now_ns,
        [move for move, _ in moves],
        dry_run=options.fetch.dry_run,
    )
    branches = [_update(change, forced) for change, (_, forced) in zip(moved.moves, moves, strict=True)]
    return PullResult(fetched, tuple(branches), tuple(ahead), moved.record)


def _update(change: RefChange, forced: bool) -> RefUpdate:
    return RefUpdate(change.name, change.old, change.new, forced)


def _moves(
    commits: Commits, tips: dict[str, bytes], names: Sequence[str], remote: str, options: PullOptions
) -> tuple[list[tuple[RefMove, bool]], list[str]]:
    """How branches have to move, whether each is forced to, and which have more than the remote's. May `Conflict`."""
    moves: list[tuple[RefMove, bool]] = []
    ahead: list[str] = []
    for name in names:
        new, old = tips.get(name), commits.branches.get(name)
        if new is None or new == old:
            continue
        if old is None or old in reachable([new], commits.read_commit):
            moves.append((RefMove(HEADS + name, old, new), False))
        elif new in reachable([old], commits.read_commit) and not options.force:
            ahead.append(name)
        elif options.force:
            moves.append((RefMove(HEADS + name, old, new), True))
        else:
            raise Conflict(
                f"the branch {name!r} and {remote}'s have parted",
                why=f"each has commits that the other lacks; what was fetched is {remote}/{name}",
                hint=f"keep yours as `ckstore branch {name}-mine {name}`, then `ckstore pull {remote} {name} --force`; "
                f"or `ckstore push {remote} {name} --force` leaves the other's behind",
            )
    return moves, ahead


def _current(commits: Commits) -> str:
    name = commits.head_name
    if name is None:
        raise InvalidInput(f"{HEAD} is on no branch", hint="name one: ckstore pull origin BRANCH, or --all")
    return name.removeprefix(HEADS)
