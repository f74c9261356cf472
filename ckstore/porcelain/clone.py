"""clone: make a repository of what a remote holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.checkpoint.refs import move_refs
from ckstore.errors import InvalidInput, NotFound
from ckstore.progress import SILENT
from ckstore.remote.root import decode_root
from ckstore.storage import store
from ckstore.storage.layout import FOLDER, Layout, read_format
from ckstore.storage.record import HEADS, RefMove
from ckstore.sync import fetch as engine
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository


@dataclass(frozen=True)
class CloneOptions:
    """What the remote is called in the clone, and the `branch` it stands on (None: the remote's own).

    `settings` is the TOML of the clone's settings, `all_branches` makes branches of all the remote's, not only of that
    one. The rest is as for `fetch`.
    """

    now_ns: int
    name: str = "origin"
    branch: str | None = None
    all_branches: bool = False
    settings: str = ""
    only: tuple[str, ...] | None = None
    depth: int | None = None
    metadata: bool = False
    jobs: int = 4


@dataclass(frozen=True)
class CloneResult:
    """The clone: where it is, the branch it stands on, what came, and components noted as absent."""

    folder: Path
    url: str
    branch: str
    commits: int
    objects: int
    stored_bytes: int
    requests: int
    holes: int


def clone(
    remote: Remote,
    folder: Path,
    open_: Callable[[Path], Repository],
    options: CloneOptions,
    progress: Progress = SILENT,
) -> CloneResult:
    """Make a repository in `folder` with the remote's id, commits and tags; `open_` opens it.

    A clone that failed goes on when it is run again. Raises `InvalidInput` where another repository, or one with
    commits of its own, is there already; besides what `fetch` does.
    """
    root = remote.read_root()
    if root is None:
        raise NotFound(f"{remote.url} holds nothing yet", hint="`ckstore push` sends something there")
    contents = decode_root(root.data)
    branch = options.branch or contents.head or "main"
    if HEADS + branch not in {ref.name for ref in contents.refs}:
        raise NotFound(f"{remote.url} has no branch {branch!r}", hint="name one that it has")
    there = folder / FOLDER
    id = contents.repository.hex()
    if there.exists() and read_format(Layout(there)) != id:
        raise InvalidInput(f"another repository is in {folder}", hint="clone into an empty folder")
    durable.make_folder(folder)
    store.create(folder.absolute(), HEADS + branch, options.settings, id)
    with open_(folder) as repository:
        if repository.commits().branches:
            raise InvalidInput(f"the repository in {folder} has commits already", hint="`ckstore pull` there")
        request = engine.FetchRequest(
            name=options.name,
            time_ns=options.now_ns,
            only=options.only,
            depth=options.depth,
            metadata=options.metadata,
            jobs=options.jobs,
        )
        done = engine.fetch(remote, RepositoryLocal(repository), request, progress)
        refs = repository.commits().refs
        prefix = f"{engine.REMOTES}{options.name}/"
        branches = {name.removeprefix(prefix): id for name, id in refs.items() if name.startswith(prefix)}
        moves = [
            RefMove(HEADS + name, None, id) for name, id in branches.items() if options.all_branches or name == branch
        ]
        move_refs(repository, "clone", options.now_ns, moves)
    return CloneResult(
        folder, remote.url, branch, done.commits, done.objects, done.stored_bytes, done.requests, done.holes
    )
