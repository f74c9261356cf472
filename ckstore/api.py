"""What `ckstore.open` returns: a repository for people who train models. Holds no logic of its own."""

from __future__ import annotations

import getpass
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckstore.checkpoint.state import LoadOptions, load, structure
from ckstore.checkpoint.store import CommitOptions
from ckstore.codec.preset import preset_named
from ckstore.errors import InvalidInput, NoRepository
from ckstore.porcelain.checkout import CheckoutOptions, checkout, switch
from ckstore.porcelain.commit import commit_files, commit_state
from ckstore.porcelain.export import ExportOptions, export
from ckstore.porcelain.init import init
from ckstore.porcelain.load import load_into
from ckstore.porcelain.log import LogOptions, log
from ckstore.porcelain.verify import verify
from ckstore.repository import Repository, open_repository

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from ckstore.checkpoint.store import CommitResult
    from ckstore.graph.history import CommitInfo
    from ckstore.objects.commit import Commit
    from ckstore.porcelain.checkout import CheckoutResult, SwitchResult
    from ckstore.porcelain.export import ExportResult
    from ckstore.porcelain.import_files import ImportResult
    from ckstore.porcelain.verify import VerifyResult
    from ckstore.progress import Progress
    from ckstore.torch.load_into import LoadReport

Path_ = str | os.PathLike[str]


def open(
    path: Path_ = ".",
    *,
    create: bool = True,
    threads: int | None = None,
    index: str = "auto",
    cache: Path_ | None = None,
    preset: str | None = None,
) -> Repo:
    """Open the repository in `path`; make one there if there is none.

    `preset` says how this process stores chunks: `balanced`, `archive` (fewest bytes), `fast`; None leaves it to the
    repository's settings.
    `threads` bounds the worker threads (default: one a core, 4 at most). The index lies in the repository, or,
    for network mounts and read-only repositories or with `index="cache"`, under `cache`
    (default: `$XDG_CACHE_HOME/ckstore`). Raises `NoRepository` with `create=False`, else `Format`, `Integrity`.
    """
    if index not in ("auto", "cache"):
        raise InvalidInput(f"index={index!r} is neither 'auto' nor 'cache'")
    if preset is not None:
        preset_named(preset)
    folder = Path(path)
    where = Path(cache) if cache is not None else default_cache()
    try:
        opened = open_repository(folder, where, index_in_cache=index == "cache", threads=threads)
    except NoRepository:
        if not create:
            raise
        init(folder)
        opened = open_repository(folder, where, index_in_cache=index == "cache", threads=threads)
    return Repo(opened, preset)


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/ckstore`, or `~/.cache/ckstore`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ckstore"


def default_author() -> str:
    """The user this process runs as, or nothing where that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


def now() -> tuple[int, int]:
    """The time in nanoseconds since 1970 UTC, and this place's distance from UTC in minutes."""
    return time.time_ns(), time.localtime().tm_gmtoff // 60


class Repo:
    """An open repository: `commit` checkpoints, index it by revision to read them. A context manager.

    Safe to use from many threads, and in forked children.
    """

    def __init__(self, repository: Repository, preset: str | None = None) -> None:
        self._repository = repository
        self._preset = preset

    def commit(
        self,
        state: object,
        *,
        message: str = "",
        metrics: Mapping[str, float] | None = None,
        step: int | None = None,
        epoch: int | None = None,
        branch: str | None = None,
        tag: str | None = None,
        parent: str | None = None,
        author: str | None = None,
        allow_pickle: bool = False,
        preset: str | None = None,
        progress: Progress | None = None,
    ) -> CommitResult:
        """Store `state` as a new commit and return once it survives power loss.

        `state` is any nesting of containers, tensors, numpy arrays and plain values; a dictionary with str keys
        gives a component for each entry; objects with `state_dict` are kept as their state dict. It must not
        change until this returns. `branch` None means the current one; a new branch starts without a parent
        unless `parent`, a revision, is given. `preset` is as for `open`, for this commit. Raises `InvalidInput`
        (naming the path of what cannot be kept), `Conflict` (another writer moved the branch first: retry),
        `StoreFull`, `SaveFailed`.
        """
        options = self._options(message, metrics, step, epoch, branch, tag, parent, author, allow_pickle, preset)
        return commit_state(self._repository, state, options, **_progress(progress))

    def commit_files(
        self,
        paths: Path_ | Sequence[Path_],
        *,
        message: str = "",
        metrics: Mapping[str, float] | None = None,
        step: int | None = None,
        epoch: int | None = None,
        branch: str | None = None,
        tag: str | None = None,
        parent: str | None = None,
        author: str | None = None,
        opaque: bool = False,
        preset: str | None = None,
        progress: Progress | None = None,
    ) -> CommitResult:
        """Store checkpoint files (safetensors, `.pt`, or any other) and folders, so that they come back byte for byte.

        The commit holds exactly what `paths` name; a folder named alone gives what it holds. With `opaque` nothing
        looks inside them. The rest as for `commit`; also raises `Format` for a damaged file.
        """
        options = self._options(message, metrics, step, epoch, branch, tag, parent, author, False, preset)
        named = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
        return commit_files(self._repository, named, options, opaque=opaque, **_progress(progress))

    def import_files(
        self,
        folder: Path_,
        patterns: str | Sequence[str] = (),
        *,
        branch: str | None = None,
        metric_from: str | None = None,
        table: Path_ | None = None,
        replace: bool = False,
        opaque: bool = False,
        preset: str | None = None,
        progress: Progress | None = None,
    ) -> ImportResult:
        """Take the checkpoints in `folder` over as one history, in the order of their steps.

        `patterns` are globs for files or folders, one checkpoint each. Steps, epochs and metrics come from names
        (`metric_from`: a regular expression with named groups), from the files, from a Trainer's state, or from the
        CSV `table`. What the branch has already is left out, so that a second try goes on where the first stopped.
        With `replace` each original is deleted once it has come back from the disk, equal byte for byte.
        """
        from ckstore.porcelain.import_files import ImportOptions, execute_import, plan_import  # the parsers

        options = ImportOptions(
            folder=Path(folder),
            patterns=[patterns] if isinstance(patterns, str) else patterns,
            branch=branch,
            metric_from=metric_from,
            table=None if table is None else Path(table),
            preset=self._preset if preset is None else preset,
            author=default_author(),
            offset_min=now()[1],
            opaque=opaque,
        )
        plan = plan_import(self._repository, options)
        return execute_import(self._repository, plan, replace_originals=replace, **_progress(progress))

    def __getitem__(self, revision: str) -> Checkpoint:
        """The commit a revision names: `main`, `v1`, `3f9c2a1`, `HEAD~2`, `last`, `best:val/loss:min`, `step:100`."""
        id, commit = self._repository.resolve(revision, now()[0])
        return Checkpoint(self._repository, id, commit)

    def log(self, revision: str | None = None, *, all: bool = False, limit: int | None = None) -> list[CommitInfo]:
        """Commits from a revision (HEAD by default) or from all refs, newest first."""
        return list(log(self._repository, LogOptions(now()[0], revision, all, limit)))

    @property
    def branches(self) -> dict[str, str]:
        """Commit ids by branch name."""
        return {name: id.hex() for name, id in self._repository.commits().branches.items()}

    @property
    def tags(self) -> dict[str, str]:
        """Commit ids by tag name."""
        return {name: id.hex() for name, id in self._repository.commits().tags.items()}

    @property
    def head(self) -> str | None:
        """The name of the current branch, or None where HEAD is on none."""
        name = self._repository.commits().head_name
        return name.removeprefix("heads/") if name else None

    @property
    def path(self) -> Path:
        """The folder the repository is in."""
        return self._repository.root

    def checkout(
        self,
        revision: str,
        output: Path_,
        *,
        only: str | Sequence[str] | None = None,
        format: str | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> CheckoutResult:
        """Write a commit to `output`: the files it was made from, byte-identical, or its state as a new file.

        `only` selects files by name (`*.json`) or, where none is named so, what to write by dotted path (`model.*`).
        `format` (`pt`, `safetensors`; None: the committed files, else by the end of `output`) makes a new file.
        Raises `InvalidInput` where something is there already (unless `force`) or nothing matches.
        """
        patterns = [only] if isinstance(only, str) else only
        options = CheckoutOptions(Path(output), now()[0], patterns, format, force)
        return checkout(self._repository, revision, options, **_progress(progress))

    def export(
        self,
        revision: str,
        output: Path_,
        *,
        format: str,
        only: str | Sequence[str] | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> ExportResult:
        """Write a commit's state for other tools, and check it against the commit bit for bit.

        `format`: `pytorch` (a file for torch.load), `safetensors` (one file), `huggingface` (a folder for
        `from_pretrained`, all weights in one file). `only` selects by dotted path. Raises `InvalidInput`, `Integrity`.
        """
        patterns = [only] if isinstance(only, str) else only
        options = ExportOptions(Path(output), now()[0], format, patterns, force)
        return export(self._repository, revision, options, **_progress(progress))

    def switch(self, branch: str) -> SwitchResult:
        """Make `branch` the one that `commit` adds to."""
        return switch(self._repository, branch, now()[0])

    def verify(self, *, read_data: bool = False, progress: Progress | None = None) -> VerifyResult:
        """Check that everything the refs reach is there; with `read_data`, that every byte is right."""
        return verify(self._repository, read_data=read_data, **_progress(progress))

    def close(self) -> None:
        """Let go of threads and index."""
        self._repository.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ckstore.Repo {self.path}>"

    def _options(
        self,
        message: str,
        metrics: Mapping[str, float] | None,
        step: int | None,
        epoch: int | None,
        branch: str | None,
        tag: str | None,
        parent: str | None,
        author: str | None,
        allow_pickle: bool,
        preset: str | None,
    ) -> CommitOptions:
        time_ns, offset_min = now()
        who = default_author() if author is None else author
        chosen = self._preset if preset is None else preset
        return CommitOptions(
            time_ns, offset_min, who, message, metrics or {}, step, epoch, branch, tag, parent, allow_pickle, chosen
        )


class Checkpoint:
    """One commit, unread: `load()` brings its state, indexing reads single components, tensors, slices."""

    def __init__(self, repository: Repository, id: bytes, commit: Commit) -> None:
        self._repository = repository
        self._commit = commit
        self.id = id.hex()

    @property
    def info(self) -> CommitInfo:
        """Step, epoch, metrics, message and the rest."""
        from ckstore.graph.history import describe

        return describe(bytes.fromhex(self.id), self._commit)

    def load(
        self,
        only: str | Sequence[str] | None = None,
        *,
        into: Mapping[str, object] | None = None,
        strict: bool = True,
        allow_pickle: bool = False,
    ) -> Any:
        """The state as it was committed, every byte hashed, in new CPU tensors.

        `only` selects by dotted path (`model.*`). `into={"model": model, "optimizer": opt}` loads into live objects
        instead, all checked before any is touched, and returns a LoadReport; missing and unexpected keys raise
        `InvalidInput` unless `strict=False`, which reports them.
        """
        options = LoadOptions([only] if isinstance(only, str) else only, allow_pickle)
        if into is not None:
            report: LoadReport = load_into(self._repository, self._commit, into, options, strict=strict)
            return report
        return load(self._repository, self._commit, options)

    def __getitem__(self, component: str) -> Any:
        """A component, unread: index it further, down to `["model"]["layer.weight"][0:10]`."""
        from ckstore.torch.lazy import lazy

        return lazy(structure(self._repository, self._commit, component), self._repository.store.objects)

    def keys(self) -> list[str]:
        """Names of the components."""
        return [entry.name for entry in self._commit.components]

    def __repr__(self) -> str:
        return f"<ckstore.Checkpoint {self.id[:12]}: {', '.join(self.keys())}>"


def _progress(progress: Progress | None) -> dict[str, Progress]:
    return {} if progress is None else {"progress": progress}
