"""push: send a remote what it lacks of branches and tags, then move them there."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import move_refs
from ckstore.errors import CkstoreError, Conflict, InvalidInput, NoRevision, NotFound, nearest
from ckstore.progress import SILENT
from ckstore.storage.record import HEAD, HEADS, REMOTES, TAGS, RefMove
from ckstore.sync import push as engine
from ckstore.sync.fetching import RefUpdate
from ckstore.sync.remotes import AS_SET, SILENTLY, Listening, Manner, mannered, reaching, remote_named
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckstore.progress import Progress
    from ckstore.repository import Commits, Repository
    from ckstore.sync.remotes import RemoteInfo

__all__ = ["Listening", "Manner", "PushOptions", "PushResult", "push"]

_REQUESTS_AT_END = 2
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_TRIES = 5


@dataclass(frozen=True)
class PushOptions:
    """What to push, and how.

    `refs` are branches or tags by name (none: the current branch); `all` means every branch and tag, `tags` every tag
    besides. With `delete` the refs go there. `force` moves a branch to what does not descend from where it is, and a
    tag at all. `fill` also sends what is known to be absent there of older commits. `foreign` goes on where the remote
    holds another repository, `older` where it has been put back.
    """

    now_ns: int
    remote: str | None = None
    refs: Sequence[str] = ()
    all: bool = False
    tags: bool = False
    delete: bool = False
    force: bool = False
    fill: bool = False
    dry_run: bool = False
    foreign: bool = False
    older: bool = False
    manner: Manner = AS_SET


@dataclass(frozen=True)
class PushResult:
    """What a push did, or in a dry run would do: how refs moved there, objects and the bytes they are stored in.

    `sent_bytes` are in `packs`, and in what lists them; `resumed_packs` an earlier try had sent. `holes` components
    are absent there since they are here, `filled` ones are there now. `requests` were made, a dry run's own included.
    """

    remote: str
    url: str
    moves: tuple[RefUpdate, ...]
    objects: int
    stored_bytes: int
    packs: int
    sent_bytes: int
    resumed_packs: int
    holes: int
    filled: int
    requests: int
    generation: int


def push(
    repository: Repository, options: PushOptions, progress: Progress = SILENT, listening: Listening = SILENTLY
) -> PushResult:
    """Send a remote what it lacks, then move its refs, all or none; `remotes/NAME/BRANCH` here follow.

    Raises `NotFound` for a remote that is none, `NoRevision` for a ref, `Conflict` where a branch there has moved on,
    `Auth`, `RemoteFailed`, `Integrity`. A push that fails has changed nothing that anybody sees; the next one goes on
    where it was.
    """
    remote = mannered(remote_named(repository, options.remote), options.manner)
    commits = repository.commits()
    refs = _wanted(commits, remote, options)
    head = (commits.head_name or "").removeprefix(HEADS) or None
    request = engine.PushRequest(
        refs=refs,
        force=options.force,
        fill=options.fill,
        dry_run=options.dry_run,
        head=head,
        jobs=remote.jobs,
        preset=repository.preset,
        foreign=options.foreign,
        older=options.older,
    )
    with reaching(remote, listening) as (opened, traffic):
        done = engine.push(opened, RepositoryLocal(repository), request, progress, _pause)
        requests = traffic().total
    if options.dry_run:
        requests += done.packs + _REQUESTS_AT_END + bool(done.holes or done.filled) if done.moves or done.filled else 0
    elif options.delete and not done.moves:
        raise NotFound(f"{remote.url} has no {', '.join(options.refs)}", hint="`ckstore remote show` lists what it has")
    else:
        _follow(repository, remote, refs, options.now_ns)
    return PushResult(
        remote=remote.name,
        url=remote.url,
        moves=tuple(RefUpdate(one.name, _hex(one.old), _hex(one.new), one.forced) for one in done.moves),
        objects=done.objects,
        stored_bytes=done.stored_bytes,
        packs=done.packs,
        sent_bytes=done.sent_bytes,
        resumed_packs=done.resumed_packs,
        holes=done.holes,
        filled=done.filled,
        requests=requests,
        generation=done.generation,
    )


def _wanted(commits: Commits, remote: RemoteInfo, options: PushOptions) -> dict[str, bytes | None]:
    """The refs to push by full name. Raises `NoRevision`, `InvalidInput`."""
    if options.delete:
        if not options.refs or options.all or options.tags:
            raise InvalidInput("--delete needs the names of branches or tags", hint="ckstore push origin NAME --delete")
        return {_there(commits, remote, name): None for name in options.refs}
    if options.all and options.refs:
        raise InvalidInput("--all means every branch and tag", hint="leave out the names, or --all")
    tips = {name: id for name, id in commits.refs.items() if name.startswith((HEADS, TAGS))}
    if options.all:
        if not tips:
            raise NoRevision("there is no commit to push yet", hint="make the first commit")
        return {**tips}
    wanted: dict[str, bytes | None] = {}
    if options.tags:
        wanted |= {name: id for name, id in tips.items() if name.startswith(TAGS)}
    for ref in options.refs:
        name = next((name for name in (HEADS + ref, TAGS + ref, ref) if name in tips), None)
        if name is None:
            hint = nearest(ref, [name.partition("/")[2] for name in tips]) or "`ckstore branch` and `ckstore tag` list"
            raise NoRevision(f"no branch or tag {ref!r}", hint=hint)
        wanted[name] = tips[name]
    if not options.refs:
        wanted |= _current(commits)
    return wanted


def _current(commits: Commits) -> dict[str, bytes]:
    name = commits.head_name
    if name is None:
        raise InvalidInput(f"{HEAD} is on no branch", hint="name what to push: ckstore push origin BRANCH, or --all")
    if name not in commits.refs:
        raise NoRevision(
            f"the branch {name.removeprefix(HEADS)!r} has no commit to push yet",
            hint="make the first commit, or name another branch",
        )
    return {name: commits.refs[name]}


def _there(commits: Commits, remote: RemoteInfo, ref: str) -> str:
    """The full name of a remote's ref, as far as one can tell from here: a branch unless only a tag is known."""
    if ref.startswith((HEADS, TAGS)):
        return ref
    followed = f"{REMOTES}{remote.name}/{ref}" in commits.refs
    return TAGS + ref if TAGS + ref in commits.refs and not followed else HEADS + ref


def _follow(repository: Repository, remote: RemoteInfo, refs: Mapping[str, bytes | None], now_ns: int) -> None:
    """Note where the remote's branches are now. What cannot be noted the next fetch does."""
    if not repository.store.may_write:
        return
    for _ in range(_TRIES):
        targets = repository.commits().targets
        moves = []
        for name, new in refs.items():
            followed = f"{REMOTES}{remote.name}/{name.removeprefix(HEADS)}"
            if name.startswith(HEADS) and targets.get(followed) != new:
                moves.append(RefMove(followed, targets.get(followed), new))
        try:
            move_refs(repository, "push", now_ns, moves)
        except Conflict:
            continue
        except CkstoreError:
            pass
        return


def _pause(tries: int) -> None:
    time.sleep(random.Random().uniform(0, min(_PAUSE_S * 2.0 ** min(tries, 30), _LONGEST_PAUSE_S)))


def _hex(id: bytes | None) -> str | None:
    return None if id is None else id.hex()
