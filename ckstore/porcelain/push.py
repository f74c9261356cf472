"""push: send branches and tags to a remote."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import RefChange, move_refs
from ckstore.errors import CkstoreError, CkstoreWarning, InvalidInput, NoRevision, nearest
from ckstore.progress import SILENT
from ckstore.storage.record import HEADS, TAGS, RefMove
from ckstore.sync import push as engine
from ckstore.sync.fetch import REMOTES
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Commits, Repository


@dataclass(frozen=True)
class PushOptions:
    """What to push to the remote that is called `name` here; `now_ns` counts from 1970 UTC.

    `refs` are branches or tags by their short names; empty: the branch HEAD is on. `all_branches` and `tags` add all of
    either; `delete` deletes `refs` there instead. `force` may leave commits there behind; `fill` sends what the remote
    is known to lack of older commits. `jobs` uploads run at once. `foreign` and `older` accept a remote that holds
    another repository, or one older than it was.
    """

    name: str
    now_ns: int
    refs: tuple[str, ...] = ()
    all_branches: bool = False
    tags: bool = False
    delete: bool = False
    force: bool = False
    fill: bool = False
    dry_run: bool = False
    jobs: int = 4
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class PushResult:
    """How refs of the remote moved, and what was sent for that; in a dry run what would be.

    `objects` and `stored_bytes` are of the frames, `packs` and `sent_bytes` of what they were sent in; `resumed_packs`
    had been sent by an earlier try. `holes` were noted there, `filled` are filled.
    """

    url: str
    moves: tuple[RefChange, ...]
    forced: tuple[str, ...]
    objects: int
    stored_bytes: int
    packs: int
    sent_bytes: int
    resumed_packs: int
    holes: int
    filled: int


def push(
    repository: Repository,
    remote: Remote,
    options: PushOptions,
    progress: Progress = SILENT,
    pause: Callable[[int], None] = lambda tries: None,
) -> PushResult:
    """Send what a remote lacks of some branches and tags, and move them there; all or none of them move.

    `pause` is called before another try, where others have moved the remote's root meanwhile. Raises `NoRevision`,
    `Conflict` where a branch there has moved on, `Integrity`, `Auth`, `RemoteFailed`. A push that fails has changed
    nothing there, and goes on where it was when it is run again.
    """
    commits = repository.commits()
    wanted = _wanted(commits, options)
    head = None if commits.head_name is None else commits.head_name.removeprefix(HEADS)
    request = engine.PushRequest(
        refs=wanted,
        force=options.force,
        fill=options.fill,
        dry_run=options.dry_run,
        head=head,
        jobs=options.jobs,
        preset=repository.preset,
        foreign=options.foreign,
        older=options.older,
    )
    done = engine.push(remote, RepositoryLocal(repository), request, progress, pause)
    if not options.dry_run:
        _follow(repository, options, wanted)
    return PushResult(
        url=remote.url,
        moves=tuple(RefChange(one.name, _hex(one.old), _hex(one.new)) for one in done.moves),
        forced=tuple(one.name for one in done.moves if one.forced),
        objects=done.objects,
        stored_bytes=done.stored_bytes,
        packs=done.packs,
        sent_bytes=done.sent_bytes,
        resumed_packs=done.resumed_packs,
        holes=done.holes,
        filled=done.filled,
    )


def _wanted(commits: Commits, options: PushOptions) -> dict[str, bytes | None]:
    """Where the remote's refs are to be, by full name. Raises `NoRevision`, `InvalidInput`."""
    wanted: dict[str, bytes | None] = {}
    for name in options.refs:
        full = HEADS + name if name in commits.branches or name not in commits.tags else TAGS + name
        if options.delete:
            wanted[full] = None
        elif full in commits.refs:
            wanted[full] = commits.refs[full]
        else:
            known = sorted([*commits.branches, *commits.tags])
            raise NoRevision(f"no branch or tag {name!r}", hint=nearest(name, known) or "`ckstore branch` lists them")
    if options.delete:
        if not wanted:
            raise InvalidInput("nothing to delete was named", hint="name branches or tags")
        return wanted
    if options.all_branches:
        wanted |= {HEADS + name: id for name, id in commits.branches.items()}
    if options.tags:
        wanted |= {TAGS + name: id for name, id in commits.tags.items()}
    if not (options.refs or options.all_branches or options.tags):
        if commits.head_name is None or commits.head is None:
            raise InvalidInput("HEAD is on no branch with a commit", hint="name what to push, or say --all")
        wanted[commits.head_name] = commits.head
    return wanted


def _follow(repository: Repository, options: PushOptions, wanted: dict[str, bytes | None]) -> None:
    """Move the refs here that say where the remote's branches are; where that fails, the next fetch does it."""
    targets = repository.commits().targets
    moves = []
    for name, id in wanted.items():
        if name.startswith(HEADS):
            here = f"{REMOTES}{options.name}/{name.removeprefix(HEADS)}"
            if targets.get(here) != id:
                moves.append(RefMove(here, targets.get(here), id))
    try:
        move_refs(repository, "push", options.now_ns, moves)
    except CkstoreError as error:
        warnings.warn(f"pushed, but that could not be noted here yet: {error}", CkstoreWarning, 3)


def _hex(id: bytes | None) -> str | None:
    return None if id is None else id.hex()
