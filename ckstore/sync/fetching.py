"""Fetching from a remote by its name: what fetch, pull and clone have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.progress import SILENT
from ckstore.storage.record import HEADS, spelled
from ckstore.sync.fetch import FetchRequest, fetch, walk
from ckstore.sync.fill import FillRequest, fill
from ckstore.sync.remotes import AS_SET, SILENTLY, Listening, mannered, reaching
from ckstore.sync.repository_local import RepositoryLocal
from ckstore.sync.survey import survey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository
    from ckstore.sync.remotes import Manner, RemoteInfo


@dataclass(frozen=True)
class FetchOptions:
    """What to fetch, and how.

    `branches` by name (none: all, and all tags). Of new commits only the components `only` (none: all), or with
    `metadata` nothing but themselves; only of the newest `depth` commits of each branch anything but themselves.
    `fill` also brings what is absent here of older commits, as far as `branches`, `only` and `depth` go. `prune`
    forgets branches that are not there any more. `foreign` takes another repository's commits in, `older` goes on
    from a remote that has been put back.
    """

    now_ns: int
    remote: str | None = None
    branches: Sequence[str] = ()
    only: Sequence[str] = ()
    depth: int | None = None
    metadata: bool = False
    fill: bool = False
    prune: bool = False
    dry_run: bool = False
    foreign: bool = False
    older: bool = False
    manner: Manner = AS_SET


@dataclass(frozen=True)
class RefUpdate:
    """How a ref moved, here or there: its full name, ids of 64 hexadecimal digits, or None for not there.

    `forced`: the new commit does not descend from the old one.
    """

    name: str
    old: str | None
    new: str | None
    forced: bool = False


@dataclass(frozen=True)
class FetchResult:
    """What came from a remote, or in a dry run would come: refs that follow it, commits, objects and their bytes.

    `holes` are new components that stay absent here, `filled` were absent before; `filled_bytes` came for those.
    `requests` and `received_bytes` went over the line. `head` is the branch that a clone stands on.
    """

    remote: str
    url: str
    moves: tuple[RefUpdate, ...]
    commits: int
    objects: int
    stored_bytes: int
    holes: int
    filled: int
    filled_bytes: int
    requests: int
    received_bytes: int
    generation: int
    head: str | None
    record: int | None


def fetch_from(
    repository: Repository,
    remote: RemoteInfo,
    options: FetchOptions,
    progress: Progress = SILENT,
    listening: Listening = SILENTLY,
) -> FetchResult:
    """Bring a remote's commits here, and move the refs that follow it. Raises as `fetch.fetch` and `connect` do."""
    check_fetch(options)
    remote = mannered(remote, options.manner)
    request = FetchRequest(
        name=remote.name,
        time_ns=options.now_ns,
        branches=tuple(options.branches) or None,
        only=tuple(options.only) or None,
        depth=options.depth,
        metadata=options.metadata,
        prune=options.prune,
        dry_run=options.dry_run,
        jobs=remote.jobs,
        foreign=options.foreign,
        older=options.older,
    )
    local = RepositoryLocal(repository)
    with reaching(remote, listening) as (opened, traffic):
        done = fetch(opened, local, request, progress)
        filled, filled_bytes = _fill(opened, local, request, progress) if options.fill else (0, 0)
        moved = traffic()
    return FetchResult(
        remote=remote.name,
        url=remote.url,
        moves=tuple(RefUpdate(move.name, spelled(move.old), spelled(move.new)) for move in done.moves),
        commits=done.commits,
        objects=done.objects,
        stored_bytes=done.stored_bytes,
        holes=done.holes,
        filled=filled,
        filled_bytes=filled_bytes,
        requests=moved.total + (done.requests if options.dry_run else 0),
        received_bytes=moved.down_bytes,
        generation=done.generation,
        head=done.head,
        record=done.record,
    )


def check_fetch(options: FetchOptions) -> None:
    """Raise `InvalidInput` for what cannot be meant together."""
    if options.depth is not None and options.depth < 1:
        raise InvalidInput(f"a depth of {options.depth} is none", hint="--depth 1 brings the newest commit of a branch")
    if options.metadata and (options.only or options.fill or options.depth is not None):
        raise InvalidInput("--metadata brings no data at all", hint="leave out --only, --depth and --fill, or it")


def _fill(remote: Remote, local: RepositoryLocal, request: FetchRequest, progress: Progress) -> tuple[int, int]:
    """Bring what is absent here, and wanted, and there. How many components of commits, and the bytes for them."""
    found = survey(remote, local)
    names = None if request.branches is None else {HEADS + name for name in request.branches}
    tips = [id for name, id in found.refs.items() if names is None or name in names]
    commits = walk(local.commit, sorted(local.known(tips)), set())
    absent, there = local.holes(), found.holes
    holes = []
    for id, (commit, depth) in commits.items():
        near = request.depth is None or depth < request.depth
        for component in commit.named() if near and id in absent else ():
            name = component.name
            chosen = request.only is None or name in request.only or name.startswith("@")
            if chosen and name in absent[id] and name not in there.get(id, {}):
                holes.append((id, name))
    if not holes:
        return 0, 0
    wanted = FillRequest(holes, request.time_ns, request.jobs, request.dry_run)
    return len(holes), fill(remote, local, wanted, progress)
