"""Which committed files of two commits differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.committed_files import CommittedFiles, committed_files, matching
from ckstore.checkpoint.state import structure
from ckstore.graph.file_portions import file_portions
from ckstore.graph.portions import paired
from ckstore.objects.tree import File

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.graph.portions import Portion
    from ckstore.objects.commit import Commit
    from ckstore.objects.structure import Structure
    from ckstore.objects.tree import Folder, Link
    from ckstore.progress import Progress
    from ckstore.repository import Repository


@dataclass(frozen=True)
class ChangedFile:
    """A committed file, link or folder (`kind`) that is there in one commit only, or with other content.

    Sizes are in bytes, None where the commit has it not; that of a link is its text's, that of a folder 0. Modes and
    times do not count.
    """

    name: str
    kind: str
    before_bytes: int | None
    after_bytes: int | None


def changed_files(
    repository: Repository, before: Commit, after: Commit, only: Sequence[str] | None, progress: Progress
) -> tuple[ChangedFile, ...]:
    """The files that differ, by name; with `only`, of those that a pattern matches.

    Two files of the same size are compared by the ids of their chunks, and where those leave it open by their bytes.
    Raises `Integrity`, `Format`.
    """
    sides = _Side(repository, before), _Side(repository, after)
    listed = [side.listed(only) for side in sides]
    found = {
        name: ChangedFile(name, _kind(one), None if old is None else _size(old), None if new is None else _size(new))
        for name in sorted(listed[0] | listed[1])
        for old, new in [(listed[0].get(name), listed[1].get(name))]
        for one in [old if new is None else new]
        if type(old) is not type(new) or _looks_changed(old, new)
    }
    same_size = [
        name
        for name in sorted(listed[0].keys() & listed[1].keys() - found.keys())
        if isinstance(listed[0][name], File) and not _is_same_entry(*sides, name)
    ]
    if same_size:
        from ckstore.checkpoint.measure import differ  # numpy

        progress.start("comparing files", sum(_size(listed[1][name]) for name in same_size))
        contents = [paired(sides[0].portions(name), sides[1].portions(name)) for name in same_size]
        for name, differs in zip(same_size, differ(repository.store, contents, progress), strict=True):
            if differs:
                size = _size(listed[1][name])
                found[name] = ChangedFile(name, "file", size, size)
    return tuple(found[name] for name in sorted(found))


class _Side:
    """The files of one commit."""

    def __init__(self, repository: Repository, commit: Commit) -> None:
        self._repository = repository
        self._commit = commit
        self._files = committed_files(repository, commit)
        self._structures: dict[str, Structure] = {}
        self.trees = {entry.name: entry.tree for entry in commit.components}

    @property
    def files(self) -> CommittedFiles:
        assert self._files is not None
        return self._files

    def listed(self, only: Sequence[str] | None) -> dict[str, File | Folder | Link]:
        """Everything by name that a pattern matches."""
        if self._files is None:
            return {}
        every: dict[str, File | Folder | Link] = {**self._files.files}
        every |= {**self._files.folders, **self._files.links}
        return every if only is None else {name: every[name] for name in matching(list(every), only)}

    def portions(self, name: str) -> Iterator[Portion]:
        """A file's bytes. Raises `Format`."""
        file = self.files.files[name]
        for component in file.components:
            if component in self.trees and component not in self._structures:
                self._structures[component] = structure(self._repository, self._commit, component)
        return file_portions(file, self.files.own, self._structures)


def _kind(entry: object) -> str:
    return type(entry).__name__.lower()


def _size(entry: File | Folder | Link) -> int:
    if isinstance(entry, File):
        return entry.size
    return len(getattr(entry, "target", b""))


def _looks_changed(old: object, new: object) -> bool:
    """Whether two entries differ that no chunk need be looked at for."""
    if isinstance(old, File) and isinstance(new, File):
        return old.size != new.size
    return getattr(old, "target", None) != getattr(new, "target", None)


def _is_same_entry(before: _Side, after: _Side, name: str) -> bool:
    """Whether two files are put together in the same way from the same trees."""
    old, new = before.files.files[name], after.files.files[name]
    return (old.gaps, old.components, old.segments) == (new.gaps, new.components, new.segments) and all(
        component in before.trees and before.trees[component] == after.trees.get(component)
        for component in old.components
    )
