"""remote: the places that a repository is pushed to: add, list, look at, test, remove, and gc of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ckstore import durable
from ckstore.checkpoint.refs import move_refs
from ckstore.errors import InvalidInput, NotFound
from ckstore.graph.history import apart
from ckstore.progress import SILENT
from ckstore.remote.connect import full_url
from ckstore.remote.probe import Probe, ProbeFinding, probe
from ckstore.setting import JOBS, LIMIT_RATE, REMOTES, TIMEOUT, parse_value
from ckstore.settings_file import change_settings
from ckstore.storage.layout import FOLDER
from ckstore.storage.record import HEADS, TAGS, RefMove
from ckstore.storage.record import REMOTES as FOLLOWING
from ckstore.sync.prune import FOLDERS, Pruned, PruneRequest, prune
from ckstore.sync.remotes import (
    AS_SET,
    SILENTLY,
    Listening,
    Manner,
    RemoteInfo,
    check_remote_name,
    mannered,
    reaching,
    remote_named,
    remotes_of,
    settings_now,
)
from ckstore.sync.repository_local import RepositoryLocal
from ckstore.sync.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.progress import Progress
    from ckstore.repository import Repository

__all__ = [
    "AddRemoteOptions",
    "Listening",
    "Manner",
    "ProbeFinding",
    "Pruned",
    "RemoteAdded",
    "RemoteBranch",
    "RemoteGcOptions",
    "RemoteInfo",
    "RemoteReport",
    "RemoteShown",
    "TestRemoteOptions",
    "add_remote",
    "gc_remote",
    "list_remotes",
    "remove_remote",
    "show_remote",
    "test_remote",
]


@dataclass(frozen=True)
class AddRemoteOptions:
    """A new remote: what it is called, and where it is, a path being taken from `base`.

    `manner` is written down for all transfers with it. `token` is a name that nobody else uses for what the test
    writes there; None leaves the test out. `clock` gives ns since 1970 UTC.
    """

    name: str
    url: str
    base: Path
    token: str | None
    clock: Callable[[], int]
    manner: Manner = AS_SET


@dataclass(frozen=True)
class TestRemoteOptions:
    """Which remote to test (None: the only one, or origin); the rest as in `AddRemoteOptions`."""

    name: str | None
    token: str
    clock: Callable[[], int]


@dataclass(frozen=True)
class RemoteGcOptions:
    """gc of a remote (None: the only one, or origin): what nothing needs stays for `grace_ns` by its own clock."""

    name: str | None
    grace_ns: int
    dry_run: bool = False


@dataclass(frozen=True)
class RemoteReport:
    """What a place can do. `ahead_ns` is how far its clock is before ours; None where it has none.

    `can_push`: it keeps what it is given, and of several people who push one wins. `can_gc`: space can be freed.
    """

    url: str
    can_pull: bool
    can_push: bool
    can_gc: bool
    findings: tuple[ProbeFinding, ...]
    ahead_ns: int | None


@dataclass(frozen=True)
class RemoteAdded:
    """The remote that was added; `made_folder` where its folder was made. `report` is None without a test."""

    remote: RemoteInfo
    made_folder: bool
    report: RemoteReport | None


@dataclass(frozen=True)
class RemoteBranch:
    """A branch of a remote: how many commits the one here is ahead and behind; None where that is not known."""

    name: str
    id: str
    ahead: int | None
    behind: int | None


@dataclass(frozen=True)
class RemoteShown:
    """What a remote holds now. `empty` where nothing was pushed yet; then the rest is nothing, too.

    `stored_bytes` are in `files`; `holes` components of commits are absent there.
    """

    remote: RemoteInfo
    empty: bool
    repository: str | None
    generation: int
    head: str | None
    branches: tuple[RemoteBranch, ...]
    tags: tuple[str, ...]
    objects: int
    files: int
    stored_bytes: int
    holes: int


def add_remote(repository: Repository, options: AddRemoteOptions) -> RemoteAdded:
    """Write a remote down, after a test of what its place can do. A folder is made where the one above it is there.

    Raises `InvalidInput` for a name that is none or taken and a URL that is none; `NotFound`, `Auth`, `RemoteFailed`
    where the place cannot be reached: nothing is written down then.
    """
    name = options.name
    check_remote_name(name)
    known = settings_now(repository).remotes
    if name in known:
        raise InvalidInput(
            f"there is a remote {name!r} already: {known[name]}", hint=f"`ckstore remote remove {name}` first"
        )
    url = str(parse_value(f"{REMOTES}.{name}", full_url(options.url, options.base)))
    remote = mannered(RemoteInfo(name, url), options.manner)
    made = _make_folder(url)
    report = None
    if options.token is not None:
        report = _report(remote, options.token, options.clock)
    manner = options.manner
    texts = {
        f"{REMOTES}.{name}": url,
        f"{JOBS}.{name}": None if manner.jobs is None else str(manner.jobs),
        f"{LIMIT_RATE}.{name}": manner.limit_rate,
        f"{TIMEOUT}.{name}": manner.timeout,
    }
    change_settings(repository, texts)
    return RemoteAdded(remote, made, report)


def list_remotes(repository: Repository) -> tuple[RemoteInfo, ...]:
    """All remotes by name. Asks none of them."""
    return remotes_of(repository)


def test_remote(repository: Repository, options: TestRemoteOptions) -> RemoteReport:
    """Try everything on a remote that push, pull and gc rely on, in a place of its own that is cleared afterwards.

    Raises as `add_remote` where it cannot be reached.
    """
    return _report(remote_named(repository, options.name), options.token, options.clock)


def show_remote(repository: Repository, name: str | None, listening: Listening = SILENTLY) -> RemoteShown:
    """What a remote holds. Raises `NotFound`, `Auth`, `RemoteFailed`, `Integrity`, `Format`."""
    remote = remote_named(repository, name)
    local = RepositoryLocal(repository)
    with reaching(remote, listening) as (opened, _):
        found = survey(opened, local, foreign=True, older=True)
        files = [stat.size_bytes for folder in FOLDERS for stat in opened.list(folder)]
    contents = found.contents
    commits = repository.commits()
    branches = []
    for full, id in found.refs.items():
        if full.startswith(HEADS):
            here = commits.refs.get(full)
            known = here is not None and bool(local.known([id]))
            ahead, behind = apart(here, id, commits.read_commit) if here is not None and known else (None, None)
            branches.append(RemoteBranch(full.removeprefix(HEADS), id.hex(), ahead, behind))
    empty = not contents.generation
    return RemoteShown(
        remote=remote,
        empty=empty,
        repository=None if empty else contents.repository.hex(),
        generation=contents.generation,
        head=contents.head,
        branches=tuple(branches),
        tags=tuple(full.removeprefix(TAGS) for full in found.refs if full.startswith(TAGS)),
        objects=sum(pointer.rows for pointer in contents.segments),
        files=len(files),
        stored_bytes=sum(files),
        holes=0 if contents.state is None else contents.state.holes,
    )


def remove_remote(repository: Repository, name: str, now_ns: int) -> RemoteInfo:
    """Forget a remote, and where its branches were; nothing is deleted there. Raises `NotFound`, `InvalidInput`."""
    remote = remote_named(repository, name)
    found = settings_now(repository).find(f"{REMOTES}.{name}")
    if found.origin != str(repository.store.layout.config):
        raise InvalidInput(f"the remote {name!r} is set in {found.origin}", hint="take it out there")
    targets = repository.commits().targets
    prefix = f"{FOLLOWING}{name}/"
    moves = [RefMove(full, target, None) for full, target in targets.items() if full.startswith(prefix)]
    move_refs(repository, f"remove remote {name}", now_ns, moves)
    change_settings(repository, {f"{table}.{name}": None for table in (REMOTES, JOBS, LIMIT_RATE, TIMEOUT)})
    return remote


def gc_remote(
    repository: Repository, options: RemoteGcOptions, progress: Progress = SILENT, listening: Listening = SILENTLY
) -> Pruned:
    """Condemn what no branch and tag of a remote needs, and delete what was condemned before the grace time.

    Raises `NotFound`, `Auth`, `RemoteFailed`; `Integrity` where something needed is missing: nothing is condemned then.
    """
    remote = remote_named(repository, options.name)
    request = PruneRequest(options.grace_ns, dry_run=options.dry_run)
    with reaching(remote, listening) as (opened, _):
        return prune(opened, RepositoryLocal(repository), request, progress)


def _report(remote: RemoteInfo, token: str, clock: Callable[[], int]) -> RemoteReport:
    with reaching(remote) as (opened, _):
        found: Probe = probe(opened, token, clock)
    return RemoteReport(found.url, found.can_pull, found.can_push, found.can_gc, found.findings, found.ahead_ns)


def _make_folder(url: str) -> bool:
    """Make the folder of a directory remote where the one above it is there; whether it was made. May refuse it."""
    if not url.startswith("file:"):
        return False
    path = Path(unquote(urlsplit(url).path))
    if (path / FOLDER).exists() or FOLDER in path.parts:
        raise InvalidInput(f"{path} is a repository, and no place for a remote", hint="choose another folder")
    if path.exists():
        return False
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent}", hint=f"mount it, or make it: mkdir -p {path}")
    durable.make_folder(path)
    return True
