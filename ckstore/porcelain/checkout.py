"""checkout: write a commit to the disk, or move HEAD to a branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.committed_files import committed_files, matching, write_files
from ckstore.checkpoint.convert import FORMATS, convert
from ckstore.errors import InvalidInput, NoRevision
from ckstore.objects.structure import nearest
from ckstore.progress import SILENT
from ckstore.storage.record import HEAD, HEADS, RefMove, Symbolic
from ckstore.storage.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckstore.progress import Progress
    from ckstore.repository import Repository


@dataclass(frozen=True)
class CheckoutOptions:
    """What to write, and where.

    `only` selects files by name (`*.json`, `model-0*`) or, where none is named so, tensors and values by dotted path
    (`model.*`). `format` (pt, safetensors) asks for a new file of that kind; None means the files as they were
    committed, or else what the end of `output` says. `force` replaces what is there.
    """

    output: Path
    now_ns: int
    only: Sequence[str] | None = None
    format: str | None = None
    force: bool = False


@dataclass(frozen=True)
class SwitchResult:
    """HEAD now stands on `branch`; `before` names the branch it left."""

    branch: str
    before: str | None


@dataclass(frozen=True)
class CheckoutResult:
    """The commit, and the files written with their sizes in bytes.

    `converted` says that they are new ones; `left_out` is how many values those could not take (they are no tensors).
    """

    id: str
    files: tuple[tuple[Path, int], ...]
    converted: bool = False
    left_out: int = 0
    left_out_paths: tuple[str, ...] = ()


def switch(repository: Repository, branch: str, time_ns: int) -> SwitchResult:
    """Move HEAD to an existing branch. Raises `NoRevision`, `Conflict`."""
    commits = repository.commits()
    if branch not in commits.branches:
        hint = nearest(branch, list(commits.branches)) or f"`ckstore checkout {branch} -o PATH` writes a commit's files"
        raise NoRevision(f"no branch {branch!r}", hint=hint)
    old, new = commits.targets.get(HEAD), Symbolic(HEADS + branch)
    if old != new:
        with Transaction(repository.store) as transaction:
            transaction.publish("checkout", time_ns, [RefMove(HEAD, old, new)])
    before = old.name.removeprefix(HEADS) if isinstance(old, Symbolic) else None
    return SwitchResult(branch, before)


def checkout(
    repository: Repository, revision: str, options: CheckoutOptions, progress: Progress = SILENT
) -> CheckoutResult:
    """Write a commit's files, byte-identical, or its state as a new file.

    Files have the modes and times they had, and appear under their names only once all of them was read and hashed.
    Raises `InvalidInput` where something is there already, nothing matches, or the state does not fit the format.
    """
    id, commit = repository.resolve(revision, options.now_ns)
    found = committed_files(repository, commit)
    names = [] if found is None else list(found.files)
    if options.only is not None:
        names = matching(names, options.only)
    format = options.format
    if format is None and names and found is not None:
        named = options.only is not None and len(names) == 1 and names[0] in options.only
        as_file = named or found.alone
        written = write_files(found, names, options.output, progress, as_file=as_file, force=options.force)
        return CheckoutResult(id.hex(), tuple(written))
    if format is None:
        format = options.output.suffix.removeprefix(".")
    if format not in FORMATS:
        short = id.hex()[:12]
        why = f"nothing in it is named {', '.join(options.only)}" if found is not None and options.only else None
        raise InvalidInput(
            f"commit {short} has no files to write here" if why else f"commit {short} was made from memory",
            why=why,
            hint=f"--format pt or safetensors makes a file of its state; in Python: repo[{short!r}].load()",
        )
    target = options.output
    if target.is_dir():
        target = target / f"{id.hex()[:12]}.{format}"
    if target.exists() and not options.force:
        raise InvalidInput(f"{target} exists", hint="choose another -o PATH, or --force to replace it")
    made = convert(repository, commit, target, format, options.only, progress)
    return CheckoutResult(
        id.hex(),
        ((made.path, made.size_bytes),),
        converted=True,
        left_out=made.left_out,
        left_out_paths=made.left_out_paths,
    )
