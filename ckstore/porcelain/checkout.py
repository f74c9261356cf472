"""checkout: write a committed file back, or move HEAD to a branch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.errors import Format, InvalidInput, NoRevision
from ckstore.files.assemble import assemble
from ckstore.objects.commit import FILES
from ckstore.objects.plain import from_plain
from ckstore.objects.reader import read_blob, read_tree
from ckstore.objects.structure import nearest
from ckstore.objects.tree import File, walk
from ckstore.progress import SILENT
from ckstore.storage.record import HEAD, HEADS, RefMove, Symbolic
from ckstore.storage.transaction import Transaction

if TYPE_CHECKING:
    from ckstore.objects.commit import Commit
    from ckstore.objects.leaf import Key
    from ckstore.objects.tree import Tree
    from ckstore.progress import Progress
    from ckstore.repository import Repository


@dataclass(frozen=True)
class SwitchResult:
    """HEAD now stands on `branch`; `before` names the branch it left."""

    branch: str
    before: str | None


@dataclass(frozen=True)
class CheckoutResult:
    """The commit, and the files written with their sizes in bytes."""

    id: str
    files: tuple[tuple[Path, int], ...]


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
    repository: Repository,
    revision: str,
    output: Path,
    now_ns: int,
    progress: Progress = SILENT,
    *,
    force: bool = False,
) -> CheckoutResult:
    """Write the commit's files to `output`: the file's new name, or a folder that is there already.

    Each file appears whole and byte-identical, under its name only once all of it was read and verified. Raises
    `InvalidInput` where a target exists (unless `force`) or the commit holds no files.
    """
    id, commit = repository.resolve(revision, now_ns)
    own, files = _files(repository, commit, id)
    targets = [_target(output, name, alone=len(files) == 1) for name, _ in files]
    for target in targets:
        if target.exists() and not force:
            raise InvalidInput(f"{target} exists", hint="choose another -o PATH, or --force to replace it")
    trees = {
        entry.name: read_tree(repository.store.objects, entry.tree)
        for entry in commit.components
        if any(entry.name in file.components for _, file in files)
    }
    progress.start("writing", sum(file.size for _, file in files))
    for target, (_, file) in zip(targets, files, strict=True):
        _write(repository, target, file, own, trees, progress)
    return CheckoutResult(
        id.hex(), tuple((target, file.size) for target, (_, file) in zip(targets, files, strict=True))
    )


def _files(repository: Repository, commit: Commit, id: bytes) -> tuple[Tree, list[tuple[str, File]]]:
    tree_id = next((entry.tree for entry in commit.components if entry.name == FILES), None)
    if tree_id is None:
        raise InvalidInput(
            f"commit {id.hex()[:12]} was made from memory and holds no files",
            hint=f"load it in Python: ckstore.open(...)[{id.hex()[:12]!r}].load()",
        )
    own = read_tree(repository.store.objects, tree_id)
    found = [(_name(repository, own, node.entry.key), node.entry.value) for node in walk(own.entries)]
    return own, [(name, value) for name, value in found if isinstance(value, File)]


def _name(repository: Repository, own: Tree, key: Key) -> str:
    """A file's name; one that is not UTF-8 comes back with its surrogates."""
    plain = from_plain(key, lambda blob: read_blob(repository.store.objects, blob, own.chunk_size))
    return plain if isinstance(plain, str) else ""


def _target(output: Path, name: str, *, alone: bool) -> Path:
    """Where a file goes. Raises `Format` for a name that would leave the folder."""
    if alone and not output.is_dir():
        return output
    relative = Path(name)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts or "\0" in name:
        raise Format(f"the commit names the file {name!r}, which would leave the target folder", hint="give -o FILE")
    return output / relative


def _write(
    repository: Repository, target: Path, file: File, own: Tree, trees: dict[str, Tree], progress: Progress
) -> None:
    durable.make_folder(target.parent)
    part = target.with_name(f".ckstore-{os.urandom(8).hex()}.part")
    try:
        with durable.create(part) as out:
            for view in assemble(file, own, trees, repository.store.objects):
                out.write(view)
                progress.advance(view.nbytes)
            out.sync()
        os.chmod(part, file.mode & 0o777)
        os.utime(part, ns=(file.mtime_ns, file.mtime_ns))
        durable.rename(part, target)
        durable.sync_folder(target.parent)
    except BaseException:
        durable.unlink(part)
        raise
