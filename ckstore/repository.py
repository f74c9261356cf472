"""An open repository: the store below it, its settings, and its commits and refs as they are now. No verbs."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore.codec.preset import preset_named
from ckstore.config import Config, Scope, merge, read_layer, read_project
from ckstore.digest import Kind, object_id
from ckstore.errors import Format, InvalidInput, NoRepository
from ckstore.graph.revision import resolve
from ckstore.objects.encoding import decode_commit
from ckstore.storage.layout import FOLDER, Layout
from ckstore.storage.record import HEAD, HEADS, TAGS, Symbolic
from ckstore.storage.store import Store
from ckstore.storage.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from ckstore.codec.preset import Preset
    from ckstore.config import Layer
    from ckstore.objects.commit import Commit
    from ckstore.storage.record import Target

_MOST_AHEAD = 4096
"""Commits that are read in one view of the index, which should be short."""


class Commits:
    """The commits and refs at one moment, for resolving revisions and reading history.

    `metric_mode` says which way a metric is better, `min` or `max`; None where nobody said.
    """

    def __init__(self, store: Store, refs: dict[str, Target], metric_mode: Callable[[str], str | None]) -> None:
        self._store = store
        self._read: dict[bytes, Commit] = {}
        self._ahead = 1
        self.metric_mode = metric_mode
        self.targets = refs
        self.refs = {name: target for name, target in refs.items() if isinstance(target, bytes) and name != HEAD}

    @property
    def head_name(self) -> str | None:
        """The branch HEAD stands on by its full name; None where it is detached."""
        target = self.targets.get(HEAD)
        return target.name if isinstance(target, Symbolic) else None

    @property
    def head(self) -> bytes | None:
        """The commit HEAD stands for; None on an unborn branch."""
        target = self.targets.get(HEAD)
        if isinstance(target, Symbolic):
            return self.refs.get(target.name)
        return target

    def read_commit(self, id: bytes) -> Commit:
        """A commit by id, from the index where it has it. Raises `Integrity`.

        Who reads one often reads its parents next: each time twice as many of them come along in the same view.
        """
        known = self._read.get(id)
        if known is None:
            self._read_ahead(id)
            known = self._read.get(id) or decode_commit(self._store.objects.read(Kind.COMMIT, id))
            self._read[id] = known
        return known

    def _read_ahead(self, id: bytes) -> None:
        """Read a commit and some of those before it; what is not in the index, or not right there, is left out."""

        def found(view: View) -> dict[bytes, Commit]:
            commits: dict[bytes, Commit] = {}
            pending = deque([id])
            while pending and len(commits) < self._ahead:
                one = pending.popleft()
                data = None if one in self._read or one in commits else view.commit(one)
                if data is not None and object_id(Kind.COMMIT, data) == one:
                    with suppress(Format):
                        commits[one] = decode_commit(data)
                        pending += commits[one].parents
            return commits

        self._read |= self._store.ask(found)
        self._ahead = min(2 * self._ahead, _MOST_AHEAD)

    def ids_beginning(self, prefix: str) -> list[bytes]:
        """Ids of commits that begin with these hexadecimal digits."""
        return self._store.ask(lambda view: view.commits_beginning(prefix))

    def named(self, prefix: str) -> dict[str, bytes]:
        """Refs under `prefix` (`heads/`, `tags/`) by their short names."""
        return {name.removeprefix(prefix): id for name, id in self.refs.items() if name.startswith(prefix)}

    @property
    def branches(self) -> dict[str, bytes]:
        """Tips by branch name."""
        return self.named(HEADS)

    @property
    def tags(self) -> dict[str, bytes]:
        """Commits by tag name."""
        return self.named(TAGS)


class Repository:
    """One repository, open. Safe to use from many threads and after a fork; `close` it or use `with`.

    `config` are its settings as they were when it was opened.
    """

    def __init__(self, store: Store, config: Config) -> None:
        self.store = store
        self.config = config

    @property
    def preset(self) -> Preset:
        """How chunks are stored unless a commit says otherwise. Raises `InvalidInput`."""
        return preset_named(self.config.preset)

    @property
    def root(self) -> Path:
        """The folder that holds the `.ckstore` folder."""
        return self.store.layout.root.parent

    def commits(self) -> Commits:
        """Commits and refs as of now, whoever made them."""
        self.store.refresh()
        return self.commits_at(self.store.ask(View.refs))

    def commits_at(self, refs: Mapping[str, Target]) -> Commits:
        """Commits and refs as of when refs were there."""
        return Commits(self.store, dict(refs), self.config.metric_mode)

    def absent(self) -> dict[bytes, dict[str, str]]:
        """The components whose data is known not to be here, with the reason, by commit."""
        found: dict[bytes, dict[str, str]] = {}
        for hole in self.store.ask(View.holes):
            found.setdefault(hole.commit, {})[hole.component] = hole.reason
        return found

    def resolve(self, revision: str, now_ns: int) -> tuple[bytes, Commit]:
        """The commit a revision names. Raises `NoRevision`, `InvalidInput`."""
        commits = self.commits()
        id = resolve(revision, commits, now_ns)
        return id, commits.read_commit(id)

    def close(self) -> None:
        """End the threads and let go of the index."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_repository(
    folder: Path,
    cache: Path,
    *,
    search: bool = False,
    index_in_cache: bool = False,
    threads: int | None = None,
    layers: Sequence[Layer] = (),
) -> Repository:
    """The repository in `folder` or, with `search`, in the nearest folder above it.

    `cache` holds the indexes of repositories on network mounts, or of all where `index_in_cache` is set. `layers` are
    settings from outside (flags, environment, the user's file); its own and those of pyproject.toml are read here, and
    what is wrong in one is raised only when it is needed. Raises `NoRepository`, `Format`, `Integrity`.
    """
    if threads is not None and threads < 1:
        raise InvalidInput(f"{threads} threads cannot do any work", hint="pass threads=1 or more")
    layout = find_layout(folder, search=search)
    store = Store(layout, cache, index_in_cache=index_in_cache, threads=threads)
    own = (read_layer(layout.config, Scope.REPOSITORY), read_project(layout.root.parent))
    return Repository(store, merge([*layers, *(layer for layer in own if layer is not None)]))


def find_layout(folder: Path, *, search: bool = False) -> Layout:
    """Where the repository in `folder`, or with `search` in the nearest folder above it, lies; nothing is opened.

    Raises `NoRepository`.
    """
    start = Path(folder).absolute()
    for place in (start, *(start.parents if search else ())):
        if (place / FOLDER).is_dir():
            return Layout(place / FOLDER)
    above = " or above" if search else ""
    raise NoRepository(
        f"no ckstore repository in {start}{above}", hint="`ckstore init` makes one here; -C names another folder"
    )
