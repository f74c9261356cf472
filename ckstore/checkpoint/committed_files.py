"""The files of a commit: what they are, their bytes, and writing them to the disk."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.errors import Format, InvalidInput
from ckstore.files.assemble import assemble
from ckstore.files.collect import HERE
from ckstore.objects.commit import FILES
from ckstore.objects.plain import from_plain
from ckstore.objects.reader import read_blob, read_tree
from ckstore.objects.tree import File, Folder, Link, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.objects.commit import Commit
    from ckstore.objects.leaf import Key
    from ckstore.objects.tree import Tree
    from ckstore.progress import Progress
    from ckstore.repository import Repository


@dataclass
class CommittedFiles:
    """Files, folders and links by their names; `.` among the folders where a folder was committed."""

    repository: Repository
    own: Tree
    component_trees: dict[str, bytes]
    files: dict[str, File] = field(default_factory=dict)
    folders: dict[str, Folder] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    _trees: dict[str, Tree] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether it is one file, committed by itself."""
        return len(self.files) == 1 and not self.folders and not self.links

    def read(self, name: str) -> Iterator[memoryview]:
        """A file's bytes in order, hashed; each view is good until the next is asked for."""
        file = self.files[name]
        reader = self.repository.store.objects
        trees = {}
        for component in file.components:
            if component not in self._trees and component in self.component_trees:
                self._trees[component] = read_tree(reader, self.component_trees[component])
            if component in self._trees:
                trees[component] = self._trees[component]
        return assemble(file, self.own, trees, reader)


def committed_files(repository: Repository, commit: Commit) -> CommittedFiles | None:
    """The files of a commit, or None where it was made from memory. Raises `Integrity`, `Format`."""
    trees = {entry.name: entry.tree for entry in commit.components}
    if FILES not in trees:
        return None
    own = read_tree(repository.store.objects, trees[FILES])
    found = CommittedFiles(repository, own, trees)
    for node in walk(own.entries):
        name, value = _name(repository, own, node.entry.key), node.entry.value
        if isinstance(value, File):
            found.files[name] = value
        elif isinstance(value, Folder):
            found.folders[name] = value
        elif isinstance(value, Link):
            found.links[name] = value
    return found


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that a pattern matches, whole or by their last part, or that lie below a folder it matches."""
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    parts = name.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return fnmatchcase(parts[-1], pattern) or any(fnmatchcase(part, pattern) for part in above)


def write_files(
    found: CommittedFiles, names: Sequence[str], output: Path, progress: Progress, *, as_file: bool, force: bool
) -> list[tuple[Path, int]]:
    """Write the files `names`, and what folders and links they need, to `output`; the paths with their sizes.

    With `as_file` there is one, and `output` is its new name unless it is a folder; else it is the folder for all.
    A file appears whole, under its name only once all of it was read and hashed, with the mode and times it had.
    Raises `InvalidInput` where something is there already (unless `force`), `Format` for a name that would leave
    the folder.
    """
    if as_file and not output.is_dir():
        targets = {names[0]: output}
    else:
        targets = {name: output / _inside(name) for name in names}
    whole = len(names) == len(found.files)
    folders = {name: output / _inside(name) for name in found.folders} if whole else {}
    links = {name: output / _inside(name) for name in found.links} if whole else {}
    for name, path in links.items():
        _check_link(name, found.links[name])
        targets[name] = path
    for path in targets.values():
        if os.path.lexists(path) and not force:
            raise InvalidInput(f"{path} exists", hint="choose another -o PATH, or --force to replace it")
    fresh = [name for name, path in folders.items() if not path.exists()]
    for path in folders.values():
        durable.make_folder(path)
    progress.start("writing", sum(found.files[name].size for name in names))
    for name in names:
        _write(found, name, targets[name], progress)
    for name, path in links.items():
        durable.link(path, found.links[name].target)
    for folder in {path.parent for path in targets.values()}:
        durable.sync_folder(folder)
    for name in sorted(fresh, key=len, reverse=True):
        about = found.folders[name]
        os.chmod(folders[name], about.mode & 0o777)
        os.utime(folders[name], ns=(about.mtime_ns, about.mtime_ns))
    return [(targets[name], found.files[name].size) for name in names]


def _write(found: CommittedFiles, name: str, target: Path, progress: Progress) -> None:
    durable.make_folder(target.parent)
    file = found.files[name]
    part = target.with_name(f".ckstore-{os.urandom(8).hex()}.part")
    try:
        with durable.create(part) as out:
            for view in found.read(name):
                out.write(view)
                progress.advance(view.nbytes)
            out.sync()
        os.chmod(part, file.mode & 0o777)
        os.utime(part, ns=(file.mtime_ns, file.mtime_ns))
        durable.rename(part, target)
    except BaseException:
        durable.unlink(part)
        raise


def _name(repository: Repository, own: Tree, key: Key) -> str:
    """A file's name; one that is not UTF-8 comes back with its surrogates."""
    plain = from_plain(key, lambda blob: read_blob(repository.store.objects, blob, own.chunk_size))
    return plain if isinstance(plain, str) else ""


def _inside(name: str) -> Path:
    """A name as a path that stays in the folder it is put into. Raises `Format`."""
    relative = Path(name)
    if (name != HERE and not relative.parts) or relative.is_absolute() or ".." in relative.parts or "\0" in name:
        raise Format(f"the commit names the file {name!r}, which would leave the target folder", hint="give -o FILE")
    return relative


def _check_link(name: str, link: Link) -> None:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), os.fsdecode(link.target)))
    if posixpath.isabs(target) or target.split("/")[0] == ".." or "\0" in target or not link.target:
        raise Format(f"the commit's link {name!r} would leave the target folder", hint="--only FILE leaves links out")
