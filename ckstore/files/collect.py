"""The files that a person names: single ones, and all that lie under a folder."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.files.names import HERE, leads_inside
from ckstore.files.source import regular, unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

REPOSITORY = ".ckstore"
"""The folder a repository lives in: never part of what is committed."""


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
    found = Collected(alone=only is not None and not os.path.isdir(only))
    for path in paths:
        name = HERE if path is only and not found.alone else os.path.basename(os.path.abspath(path))
        if name in found.files or name in found.folders:
            raise InvalidInput(f"two of the paths are named {name!r}", hint="commit the folder that holds them")
        _take(path, name, found)
    if not found.files:
        raise InvalidInput(f"there is no file in {paths[0]}", hint="check the path")
    return found


def _take(path: Path, name: str, found: Collected) -> None:
    """Take in what a person named."""
    if not os.path.isdir(path):
        regular(path)
        found.files[name] = path
        return
    root = os.path.realpath(path)
    if os.path.basename(root) == REPOSITORY or not name:
        raise InvalidInput(f"{path} is no folder of checkpoints", hint="name the folder that holds them")
    try:
        _Walk(root, name, found).folder(path, name, ())
    except RecursionError:
        raise InvalidInput(f"{path} nests too deep", hint="name a folder further down") from None


class _Walk:
    """Goes through one named folder, which is called `name` in the commit and really is at `root`."""

    def __init__(self, root: str, name: str, found: Collected) -> None:
        self._root = root
        self._name = name
        self._found = found

    def folder(self, path: Path, name: str, above: tuple[tuple[int, int], ...]) -> None:
        """Take in a folder; `above` tells those that led here, so that links cannot go in circles."""
        try:
            about = os.stat(path)
            listed = os.listdir(path)
        except OSError as error:
            raise unreadable(path, error) from error
        here = about.st_dev, about.st_ino
        if here in above:
            raise InvalidInput(f"{path} leads back to a folder that it is in", hint="remove that link")
        self._found.folders[name] = about
        for inner in sorted(listed, key=os.fsencode):
            self._entry(path / inner, inner if name == HERE else f"{name}/{inner}", (*above, here))

    def _entry(self, path: Path, name: str, above: tuple[tuple[int, int], ...]) -> None:
        called = path.name
        if os.path.islink(path):
            target = os.path.realpath(path)
            text = self._kept(path, name, target)
            if text is not None:
                self._found.links[name] = os.fsencode(text)
                return
            called = os.path.basename(target)
        if not os.path.isdir(path):
            regular(path)
            self._found.files[name] = path
        elif REPOSITORY not in (path.name, called):
            self.folder(path, name, above)

    def _kept(self, path: Path, name: str, target: str) -> str | None:
        """What a link says that leads to another place in the folder; None for one that is followed.

        Its own text, unless that only leads there from where the folder is now.
        """
        inside = os.path.relpath(target, self._root)
        steps = inside.split("/")
        if steps[0] in (HERE, "..") or REPOSITORY in steps or not os.path.exists(target):
            return None
        text = os.readlink(path)
        folder = posixpath.dirname(f"/{name}")
        top = "/" if self._name == HERE else f"/{self._name}"
        down = posixpath.relpath(posixpath.join(folder, text), top)
        if leads_inside(name, text) and down[:2] != ".." and os.path.realpath(f"{self._root}/{down}") == target:
            return text
        return posixpath.relpath(posixpath.join(top, inside), folder)
