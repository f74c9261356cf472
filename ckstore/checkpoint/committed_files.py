"""The files of a commit: what they are, their bytes, and writing them to the disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckstore import durable
from ckstore.checkpoint.absent import absent, check_present
from ckstore.checkpoint.targets import check_folder, check_free, check_inside
from ckstore.errors import Format
from ckstore.files.assemble import assemble
from ckstore.files.names import HERE, is_inside, leads_inside
from ckstore.objects.commit import FILES
from ckstore.objects.plain import from_plain
from ckstore.objects.reader import read_blob, read_tree
from ckstore.objects.tree import File, Folder, Link, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckstore.objects.commit import Commit
    from ckstore.objects.leaf import Key
    from ckstore.objects.tree import Tree
    from ckstore.progress import Progress
    from ckstore.repository import Repository


_MODE = 0o777
"""What is brought back of a mode: no file runs as somebody else because it was checked out."""


@dataclass
class CommittedFiles:
    """Files, folders and links by their names; `.` among the folders where a folder was committed."""

    repository: Repository
    own: Tree
    component_trees: dict[str, bytes]
    gone: Mapping[str, str] = field(default_factory=dict)
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
    """The files of a commit, or None where it was made from memory. Raises `Absent`, `Integrity`, `Format`."""
    trees = {entry.name: entry.tree for entry in commit.components}
    if FILES not in trees:
        return None
    gone = absent(repository, commit)
    check_present(repository, gone, FILES)
    own = read_tree(repository.store.objects, trees[FILES])
    found = CommittedFiles(repository, own, trees, gone)
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
    """The names that a pattern is or matches, whole or by their last part, or that lie below a folder it matches."""
    return [name for name in names if any(_matches(name, pattern.rstrip("/")) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    parts = name.split("/")
    own_and_above = [parts[-1], *("/".join(parts[: count + 1]) for count in range(len(parts)))]
    return pattern in own_and_above or any(fnmatchcase(part, pattern) for part in own_and_above)


class Targets(NamedTuple):
    """Where what goes, by its name."""

    files: dict[str, Path]
    folders: dict[str, Path]
    links: dict[str, Path]


def plan_files(
    found: CommittedFiles, names: Sequence[str], output: Path, *, as_file: bool, force: bool, top: str = ""
) -> Targets:
    """Where the files `names` go, with folders and links where those are all. Writes nothing.

    With `as_file` there is one, and `output` is its new name unless it is a folder; else it stands for the folder `top`
    of the commit. Raises `InvalidInput` where something is there already (unless `force`) or a link of the target
    folder leads elsewhere, `Format` for a name or link that would leave the folder, `Absent` where data is not here.
    """
    for component in {component for name in names for component in found.files[name].components}:
        check_present(found.repository, found.gone, component)
    if as_file and not output.is_dir():
        check_free(output, force=force)
        return Targets({names[0]: output}, {}, {})
    targets = _targets(found, names, output, top, whole=not as_file and len(names) == len(found.files))
    _check_free(targets, output, force=force)
    return targets


def write_files(found: CommittedFiles, targets: Targets, progress: Progress) -> list[tuple[Path, int]]:
    """Write what was planned; the files' paths with their sizes. Raises `Integrity`, `SaveFailed`, `StoreFull`.

    A file appears whole, under its name only once all of it was read and hashed, with the mode and times it had.
    """
    _check_room(found, targets)
    fresh = [name for name, path in targets.folders.items() if not path.exists()]
    for path in targets.folders.values():
        durable.make_folder(path)
    progress.start("writing", sum(found.files[name].size for name in targets.files))
    for name, path in targets.files.items():
        _write(found, name, path, progress)
    for name, path in targets.links.items():
        durable.make_folder(path.parent)
        durable.link(path, found.links[name].target)
    for folder in {path.parent for path in (*targets.files.values(), *targets.links.values())}:
        durable.sync_folder(folder)
    for name in sorted(fresh, key=lambda name: (name != HERE, name.count("/")), reverse=True):
        about = found.folders[name]
        durable.stamp(targets.folders[name], about.mode & _MODE, about.mtime_ns)
    return [(path, found.files[name].size) for name, path in targets.files.items()]


def _check_room(found: CommittedFiles, targets: Targets) -> None:
    """Raise `StoreFull` unless all files fit; they are taken to go to one disk."""
    if targets.files:
        folder = os.path.commonpath([path.parent for path in targets.files.values()])
        durable.check_room(Path(folder), sum(found.files[name].size for name in targets.files), len(targets.files))


def _check_free(targets: Targets, output: Path, *, force: bool) -> None:
    for path in (*targets.files.values(), *targets.links.values()):
        check_inside(path.parent, output)
        check_free(path, force=force)
    for path in targets.folders.values():
        check_inside(path, output)
        check_folder(path)


def _targets(found: CommittedFiles, names: Sequence[str], output: Path, top: str, *, whole: bool) -> Targets:
    """Where everything goes. Raises `Format` for names and links that would leave the folder, or meet in it."""
    folders = list(found.folders) if whole else []
    links = list(found.links) if whole else []
    _check_names([*names, *links], folders)
    for name in links:
        text = os.fsdecode(found.links[name].target)
        if not leads_inside(name, text):
            raise Format(f"the link {name!a} leads out of the target folder", hint="--only FILE leaves links out")
    cut = len(top) + 1 if top else 0
    return Targets(
        {name: output / name[cut:] for name in names},
        {name: output / name for name in folders},
        {name: output / name for name in links},
    )


def _check_names(names: Sequence[str], folders: Sequence[str]) -> None:
    """Raise `Format` unless all names stay in the folder, and none is twice or below what is no folder."""
    taken = set(names)
    for name in (*names, *folders):
        if not is_inside(name) and not (name == HERE and name in folders):
            raise Format(f"the commit names {name!a}, which would leave the target folder", hint="give -o FILE")
        parts = name.split("/")
        if any("/".join(parts[:count]) in taken for count in range(1, len(parts))):
            raise Format(f"the commit names {name!a} below a file", hint="--only FILE takes single files")
    if len(taken) + len(folders) != len(taken.union(folders)) or len(taken) != len(names):
        raise Format("the commit gives two things the same name", hint="--only FILE takes single files")


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
        durable.stamp(part, file.mode & _MODE, file.mtime_ns)
        durable.rename(part, target)
    except BaseException:
        durable.unlink(part)
        raise


def _name(repository: Repository, own: Tree, key: Key) -> str:
    """A file's name; one that is not UTF-8 comes back with its surrogates."""
    plain = from_plain(key, lambda blob: read_blob(repository.store.objects, blob, own.chunk_size))
    return plain if isinstance(plain, str) else ""
