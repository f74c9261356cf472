"""clone: a new repository with what a remote holds, whole or in parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ckstore import durable
from ckstore.checkpoint.refs import move_refs
from ckstore.errors import InvalidInput, NotFound, RemoteFailed
from ckstore.progress import SILENT
from ckstore.remote.connect import full_url
from ckstore.remote.root import decode_root
from ckstore.repository import open_repository
from ckstore.setting import REMOTES as REMOTES_TABLE
from ckstore.settings_file import change_settings
from ckstore.storage.layout import FOLDER, Layout, read_format
from ckstore.storage.record import HEAD, HEADS, REMOTES, RefMove, Symbolic
from ckstore.storage.store import create
from ckstore.sync.fetching import FetchOptions, FetchResult, check_fetch, fetch_from
from ckstore.sync.remotes import (
    ORIGIN,
    SILENTLY,
    Listening,
    Manner,
    RemoteInfo,
    check_remote_name,
    mannered,
    reaching,
    settings_now,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.config import Layer
    from ckstore.progress import Progress
    from ckstore.remote.root import Contents
    from ckstore.repository import Repository

__all__ = ["CloneOptions", "CloneResult", "FetchOptions", "Listening", "Manner", "clone"]


@dataclass(frozen=True)
class CloneOptions:
    """What to clone, and how.

    `folder` None makes one here, in `base`, of the URL's last part. `name` is what the remote is called in the clone;
    `fetch` says which components, how deep, and how. `cache` holds indexes, as for `open_repository`, and `layers` are
    settings from outside.
    """

    url: str
    fetch: FetchOptions
    base: Path
    cache: Path
    folder: Path | None = None
    name: str = ORIGIN
    index_in_cache: bool = False
    layers: Sequence[Layer] = ()


@dataclass(frozen=True)
class CloneResult:
    """The new repository: `branches` are here, HEAD stands on `head`; `fetched` is what came."""

    folder: Path
    head: str
    branches: tuple[str, ...]
    fetched: FetchResult


def clone(options: CloneOptions, progress: Progress = SILENT, listening: Listening = SILENTLY) -> CloneResult:
    """Make a repository that holds what a remote does, with the remote's id, branches and tags.

    A clone that was cut off goes on where it was when it is run again. Raises `InvalidInput` where the folder holds
    something else, `NotFound` where there is nothing to clone, `Auth`, `RemoteFailed`, `Integrity`, `Format`, and
    what making a repository does. Nothing is made before the remote has answered.
    """
    check_fetch(options.fetch)
    check_remote_name(options.name)
    url = full_url(options.url, options.base)
    folder = (options.base / (options.folder or _last_part(url))).absolute()
    remote = mannered(RemoteInfo(options.name, url), options.fetch.manner)
    contents = _look(remote, listening)
    head = contents.head or "main"
    made = not folder.exists()
    _make(folder, contents, head, remote)
    with open_repository(
        folder, options.cache, index_in_cache=options.index_in_cache, layers=options.layers
    ) as repository:
        _note(repository, remote)
        try:
            fetched = fetch_from(repository, remote, options.fetch, progress, listening)
        except RemoteFailed as error:
            again = f"run the same clone again: it goes on where it was; or remove {folder}" if made else error.hint
            raise type(error)(error.what, why=error.why, hint=again) from error
        branches = _branches(repository, remote, head, options.fetch)
    return CloneResult(folder, head, branches, fetched)


def _last_part(url: str) -> str:
    parts = urlsplit(url)
    name = Path(unquote(parts.path)).name or parts.netloc
    if not name or name.startswith("."):
        raise InvalidInput(f"{url} does not say what to call the clone", hint="ckstore clone URL FOLDER")
    return name


def _look(remote: RemoteInfo, listening: Listening) -> Contents:
    """The root of what is to be cloned."""
    with reaching(remote, listening) as (opened, _):
        root = opened.read_root()
    if root is not None:
        return decode_root(root.data)
    path = Path(unquote(urlsplit(remote.url).path)) if remote.url.startswith("file:") else None
    if path is not None and (path / FOLDER).is_dir():
        raise NotFound(
            f"{path} is a repository, and no remote",
            hint=f"push it somewhere first (`ckstore -C {path} remote add origin PLACE`, then push), and clone that",
        )
    raise NotFound(f"{remote.url} holds nothing yet", hint="`ckstore push` sends something there; check the URL")


def _make(folder: Path, contents: Contents, head: str, remote: RemoteInfo) -> None:
    """An empty repository of the remote's id in `folder`, unless an earlier try has made it."""
    layout = Layout(folder / FOLDER)
    if layout.format.exists():
        if read_format(layout) != contents.repository.hex():
            raise InvalidInput(f"there is another repository in {folder}", hint="choose another folder")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is not empty", hint="choose another folder: ckstore clone URL FOLDER")
    durable.make_folder(folder)
    create(folder, HEADS + head, repository_id=contents.repository.hex())


def _note(repository: Repository, remote: RemoteInfo) -> None:
    """Write the remote down. Raises `InvalidInput` in a repository that is in use already."""
    known = settings_now(repository).remotes
    if known.get(remote.name) != remote.url:
        if repository.commits().refs or known:
            raise InvalidInput(
                f"there is a repository in {repository.root} already",
                hint="`ckstore pull` there brings what is new; or choose another folder",
            )
        change_settings(repository, {f"{REMOTES_TABLE}.{remote.name}": remote.url})
    elif repository.commits().branches:
        raise InvalidInput(f"{repository.root} is that clone already", hint="`ckstore pull` there brings what is new")


def _branches(repository: Repository, remote: RemoteInfo, head: str, options: FetchOptions) -> tuple[str, ...]:
    """Make a branch here of each of the remote's, and stand on one of them."""
    commits = repository.commits()
    prefix = f"{REMOTES}{remote.name}/"
    tips = {name.removeprefix(prefix): id for name, id in commits.refs.items() if name.startswith(prefix)}
    moves = [RefMove(HEADS + name, None, id) for name, id in sorted(tips.items())]
    if tips and head not in tips:
        old = commits.targets.get(HEAD)
        moves.append(RefMove(HEAD, old, Symbolic(HEADS + min(tips))))
    move_refs(repository, f"clone {remote.name}", options.now_ns, moves)
    return tuple(sorted(tips))
