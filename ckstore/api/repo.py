"""What `ckstore.open` returns: a repository for people who train models. Holds no logic of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, overload

from ckstore.api.checkpoint import Checkpoint
from ckstore.api.environment import default_author, default_cache, now, settings_layers
from ckstore.api.keeping import progress_option
from ckstore.api.reading import Reading
from ckstore.api.sharing import Sharing
from ckstore.api.training import Said, Training
from ckstore.checkpoint.store import CommitOptions
from ckstore.config import flags
from ckstore.errors import InvalidInput, NoRepository
from ckstore.plugins import plugins
from ckstore.porcelain.branch import (
    BranchOptions,
    DeleteBranchOptions,
    RenameBranchOptions,
    create_branch,
    delete_branch,
    rename_branch,
)
from ckstore.porcelain.checkout import CheckoutOptions, checkout
from ckstore.porcelain.commit import commit_files, commit_state
from ckstore.porcelain.export import ExportOptions, export
from ckstore.porcelain.init import init
from ckstore.porcelain.log import LogOptions, log
from ckstore.porcelain.reflog import ReflogOptions, reflog
from ckstore.porcelain.switch import SwitchOptions, switch
from ckstore.porcelain.tag import DeleteTagOptions, TagOptions, create_tag, delete_tag
from ckstore.porcelain.undo import UndoOptions, undo
from ckstore.porcelain.validate import VALIDATOR, ValidateOptions, validate
from ckstore.repository import open_repository

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from ckstore.checkpoint.refs import RefsMoved
    from ckstore.checkpoint.store import CommitResult
    from ckstore.graph.history import CommitInfo
    from ckstore.porcelain.checkout import CheckoutResult
    from ckstore.porcelain.export import ExportResult
    from ckstore.porcelain.import_files import ImportResult
    from ckstore.porcelain.reflog import ReflogResult
    from ckstore.porcelain.switch import SwitchResult
    from ckstore.porcelain.undo import UndoResult
    from ckstore.porcelain.validate import ValidateResult
    from ckstore.progress import Progress
    from ckstore.train.saver import Save

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
    settings: `CKSTORE_*` variables, the repository's, those in pyproject.toml, the user's.
    `threads` bounds the worker threads (default: one a core, 4 at most). The index lies in the repository, or,
    for network mounts and read-only repositories or with `index="cache"`, under `cache`
    (default: `$XDG_CACHE_HOME/ckstore`). Raises `NoRepository` with `create=False`, else `Format`, `Integrity`.
    """
    if index not in ("auto", "cache"):
        raise InvalidInput(f"index={index!r} is neither 'auto' nor 'cache'")
    layers = settings_layers()
    if preset is not None:
        layers += (flags({"storage.preset": preset}, f"open(preset={preset!r})"),)
    folder = Path(path)
    where = Path(cache) if cache is not None else default_cache()
    try:
        opened = open_repository(folder, where, index_in_cache=index == "cache", threads=threads, layers=layers)
    except NoRepository:
        if not create:
            raise
        init(folder)
        opened = open_repository(folder, where, index_in_cache=index == "cache", threads=threads, layers=layers)
    return Repo(opened)


class Repo(Training, Sharing, Reading):
    """An open repository: `commit` checkpoints, index it by revision to read them. A context manager.

    Safe to use from many threads, and in forked children.
    """

    @overload
    def commit(self, state: object, *, block: Literal[True] = True, **said: Unpack[Said]) -> CommitResult: ...

    @overload
    def commit(self, state: object, *, block: Literal[False], **said: Unpack[Said]) -> Save: ...

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
        block: bool = True,
    ) -> CommitResult | Save:
        """Store `state` as a new commit and return once it survives power loss.

        `state` is any nesting of containers, tensors, numpy arrays and plain values; a dictionary with str keys
        gives a component for each entry; objects with `state_dict` are kept as their state dict. It must not
        change until this returns. `branch` None means the current one; a new branch starts without a parent
        unless `parent`, a revision, is given. `preset` is as for `open`, for this commit. Raises `InvalidInput`
        (naming the path of what cannot be kept), `Conflict` (another writer moved the branch first: retry),
        `StoreFull`, `SaveFailed`.

        With `block=False` it returns a `Save` once the state is copied and may change: the commit is made in the
        background, one at a time. What goes wrong is raised by its futures, by the next such call, and by `close`.
        """
        options = self._options(message, metrics, step, epoch, branch, tag, parent, author, allow_pickle, preset)
        if not block:
            return self._commit_later(state, options)
        self._wait_for_saving()
        made = commit_state(self._repository, state, options, **progress_option(progress))
        self._after_commit(made)
        return made

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
        made = commit_files(self._repository, named, options, opaque=opaque, **progress_option(progress))
        self._after_commit(made)
        return made

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
            now_ns=now()[0],
            patterns=[patterns] if isinstance(patterns, str) else patterns,
            branch=branch,
            metric_from=metric_from,
            table=None if table is None else Path(table),
            preset=preset,
            author=default_author(self._repository.config),
            offset_min=now()[1],
            opaque=opaque,
        )
        plan = plan_import(self._repository, options)
        return execute_import(self._repository, plan, replace_originals=replace, **progress_option(progress))

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
        `format` (`pt`, `safetensors`) makes a new file, and so does an `output` that ends so, unless a single file of
        that kind is what was committed, or asked for.
        Raises `InvalidInput` where something is there already (unless `force`) or nothing matches.
        """
        patterns = [only] if isinstance(only, str) else only
        options = CheckoutOptions(Path(output), now()[0], patterns, format, force)
        return checkout(self._repository, revision, options, **progress_option(progress))

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
        return export(self._repository, revision, options, **progress_option(progress))

    def switch(self, target: str, *, create: bool = False, start: str = "HEAD") -> SwitchResult:
        """Move HEAD to a branch, which `commit` then adds to; with `create` to a new one, which begins at `start`.

        A revision that names no branch leaves HEAD on none. Raises `NoRevision`, `InvalidInput`, `Conflict`.
        """
        return switch(self._repository, SwitchOptions(target, now()[0], create, start))

    def branch(self, name: str, revision: str = "HEAD") -> RefsMoved:
        """Make a branch at a revision; the current branch stays the current one.

        Raises `InvalidInput` for a name that is none or taken.
        """
        return create_branch(self._repository, BranchOptions(name, now()[0], revision))

    def rename_branch(self, old: str, new: str) -> RefsMoved:
        """Give a branch another name; the current one stays the current one. Raises `InvalidInput` for a taken name."""
        return rename_branch(self._repository, RenameBranchOptions(old, new, now()[0]))

    def delete_branch(self, name: str, *, force: bool = False) -> RefsMoved:
        """Delete a branch; its commits stay, and `undo` brings it back.

        Raises `InvalidInput` for the current one and, unless `force`, where no other branch or tag reaches its tip.
        """
        return delete_branch(self._repository, DeleteBranchOptions(name, now()[0], force))

    def tag(self, name: str, revision: str = "HEAD", *, force: bool = False) -> RefsMoved:
        """Name the commit that a revision names. Raises `InvalidInput` for a taken name, unless `force`."""
        return create_tag(self._repository, TagOptions(name, now()[0], revision, force))

    def delete_tag(self, name: str) -> RefsMoved:
        """Delete a tag; its commit stays, and `undo` brings the tag back."""
        return delete_tag(self._repository, DeleteTagOptions(name, now()[0]))

    def reflog(self, ref: str | None = None, *, limit: int | None = None) -> ReflogResult:
        """How branches, tags and HEAD moved, newest first; of `ref` alone (`main`, `v1`, `HEAD`), there or not."""
        return reflog(self._repository, ReflogOptions(ref, limit))

    def undo(self, seq: int | None = None, *, dry_run: bool = False) -> UndoResult:
        """Take back the last move of refs that is no undo; again for the one before. Commits stay.

        `seq` is a record of `reflog` to take back instead; undoing an undo is redo. Raises `Conflict` where a ref has
        moved on since: undo that first. With `dry_run` it only says what would move.
        """
        return undo(self._repository, UndoOptions(now()[0], seq, dry_run))

    def validate(
        self,
        revision: str = "HEAD",
        *,
        against: object = None,
        only: str | Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> ValidateResult:
        """Check what a commit holds: NaN and infinities, weights that explode or are all zero, shapes, what it lacks.

        `against` is a revision, an older commit that shapes and norms are compared with; or a module, a mapping of
        names to tensors, or a function without arguments that returns one: the component `model` is held against its
        names, shapes and dtypes. `only` selects by dotted path. Plug-ins of the kind `validator` are asked too, and one
        that raises becomes a finding. Raises `NoRevision`, `InvalidInput`, `Integrity`.
        """
        expected = None
        if against is not None and not isinstance(against, str):
            from ckstore.torch.expected import expected_tensors  # torch

            expected, against = expected_tensors(against), None
        patterns = [only] if isinstance(only, str) else only
        options = ValidateOptions(now()[0], against, expected, patterns, plugins(VALIDATOR))
        return validate(self._repository, revision, options, **progress_option(progress))

    def close(self) -> None:
        """Let go of threads and index, after waiting for commits in the background. Raises what went wrong there."""
        try:
            self._end_saving()
        finally:
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
        who = default_author(self._repository.config) if author is None else author
        return CommitOptions(
            time_ns, offset_min, who, message, metrics or {}, step, epoch, branch, tag, parent, allow_pickle, preset
        )
