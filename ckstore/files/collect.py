"""The files that a person names: single ones, and all that lie under a folder."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

REPOSITORY = ".ckstore"
"""The folder a repository lives in: never part of what is committed."""

HERE = "."
"""The name of the folder that was named itself."""


@dataclass(frozen=True)
class Collected:
    """What was found, each under its name: its path from the folder that was named, with `/`.

    `alone` says that a single file was named. Links are kept where they stay inside; others are followed.
    """

    alone: bool
    files: dict[str, Path] = field(default_factory=dict)
    folders: dict[str, os.stat_result] = field(default_factory=dict)
    links: dict[str, bytes] = field(default_factory=dict)


def collect(paths: Sequence[Path]) -> Collected:
    """All files under `paths`: a folder named alone gives what it holds, others come with their own names.

    Raises `NotFound`, `InvalidInput` for what is neither file nor folder, two of one name, or nothing at all.
    """
    if not paths:
        raise InvalidInput("nothing was named", hint="give a file or a folder")
    only = paths[0] if len(paths) == 1 else None
    found = Collected(alone=only is not None and not only.is_dir())
    for path in paths:
        name = HERE if path is only and not found.alone else path.absolute().name
        if name in found.files or name in found.folders:
            raise InvalidInput(f"two of the paths are named {name!r}", hint="commit the folder that holds them")
        if path.is_dir():
            _Walk(path, found).folder(path, name, ())
        else:
            found.files[name] = _checked(path)
    if not found.files:
        raise InvalidInput(f"there is no file in {paths[0]}", hint="check the path")
    return found


class _Walk:
    """Goes through one named folder."""

    def __init__(self, root: Path, found: Collected) -> None:
        self._root = root.resolve()
        self._found = found

    def folder(self, path: Path, name: str, above: tuple[str, ...]) -> None:
        """Take in a folder; `above` are the real paths of those that led here, so that links cannot go in circles."""
        real = os.path.realpath(path)
        if real in above:
            raise InvalidInput(f"{path} leads back to a folder that it is in", hint="remove that link")
        self._found.folders[name] = path.stat()
        for inner in sorted(_listed(path), key=os.fsencode):
            self._entry(path / inner, inner if name == HERE else f"{name}/{inner}", (*above, real))

    def _entry(self, path: Path, name: str, above: tuple[str, ...]) -> None:
        if path.is_symlink():
            target = path.resolve()
            if target != self._root and target.is_relative_to(self._root):
                self._found.links[name] = os.fsencode(os.path.relpath(target, path.parent.resolve()))
                return
        if not path.is_dir():
            self._found.files[name] = _checked(path)
        elif path.name != REPOSITORY:
            self.folder(path, name, above)


def _listed(path: Path) -> Iterator[str]:
    try:
        with os.scandir(path) as entries:
            yield from (entry.name for entry in entries)
    except OSError as error:
        raise InvalidInput(f"cannot read the folder {path}: {error.strerror}") from error


def _checked(path: Path) -> Path:
    """`path`, once it is known to lead to a regular file."""
    try:
        about = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise InvalidInput(f"the link {path} leads nowhere", hint="remove it, or bring back its target") from None
        raise NotFound(f"no file {path}", hint="check the path") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(about.st_mode):
        raise InvalidInput(f"{path} is no regular file", hint="write it to a file first")
    return path
