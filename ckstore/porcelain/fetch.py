"""fetch: bring a remote's commits here; only refs that follow the remote move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import RefChange, change
from ckstore.errors import InvalidInput
from ckstore.progress import SILENT
from ckstore.sync import fetch as engine
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository


@dataclass(frozen=True)
class FetchOptions:
    """What to fetch from the remote that is called `name` here; `now_ns` counts from 1970 UTC.

    `branches` None means all, with the tags that are not here yet. What is left out by `only` (components to bring),
    `depth` (commits of each branch that come with data) and `metadata` (none does) is noted as absent. With `prune`
    branches that the remote has no more lose their refs here. `jobs` downloads run at once. `foreign` and `older` are
    as for `push`.
    """

    name: str
    now_ns: int
    branches: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    depth: int | None = None
    metadata: bool = False
    prune: bool = False
    dry_run: bool = False
    jobs: int = 4
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class FetchResult:
    """How refs moved here, and what came; in a dry run what would. `holes` are components noted as absent.

    `record` is what `undo` takes back; None where no ref moved.
    """

    url: str
    moves: tuple[RefChange, ...]
    commits: int
    objects: int
    stored_bytes: int
    requests: int
    holes: int
    record: int | None


def fetch(repository: Repository, remote: Remote, options: FetchOptions, progress: Progress = SILENT) -> FetchResult:
    """Bring what is new of a remote's branches here.

    Raises `NotFound`, `InvalidInput`, `Integrity` where something there is damaged, `Conflict`, `Auth`, `RemoteFailed`.
    A fetch that fails has moved no ref, and goes on where it was when it is run again.
    """
    done = engine.fetch(remote, RepositoryLocal(repository), request_of(options), progress)
    return FetchResult(
        url=remote.url,
        moves=tuple(map(change, done.moves)),
        commits=done.commits,
        objects=done.objects,
        stored_bytes=done.stored_bytes,
        requests=done.requests,
        holes=done.holes,
        record=done.record,
    )


def request_of(options: FetchOptions) -> engine.FetchRequest:
    """The options as the engine takes them. Raises `InvalidInput`."""
    if options.depth is not None and options.depth < 1:
        raise InvalidInput(f"a depth of {options.depth} leaves nothing", hint="give 1 or more, or say --metadata")
    return engine.FetchRequest(
        name=options.name,
        time_ns=options.now_ns,
        branches=options.branches,
        only=options.only,
        depth=options.depth,
        metadata=options.metadata,
        prune=options.prune,
        dry_run=options.dry_run,
        jobs=options.jobs,
        foreign=options.foreign,
        older=options.older,
    )
