"""Where new files are put: looked at before the first of them is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path


def check_free(path: Path, *, force: bool) -> None:
    """Raise `InvalidInput` unless a file can be put at `path`; `force` lets it take another file's place."""
    if os.path.isdir(path) and not os.path.islink(path):
        raise InvalidInput(f"{path} is a folder", hint="choose another -o PATH, or move it away")
    if os.path.lexists(path) and not force:
        raise InvalidInput(f"{path} exists", hint="choose another -o PATH, or --force to replace it")
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Raise `InvalidInput` unless `path` is a folder, or can be made one."""
    nearest = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if os.path.lexists(nearest) and not os.path.isdir(nearest):
        raise InvalidInput(f"{nearest} is no folder", hint="choose another -o PATH")


def check_inside(folder: Path, output: Path) -> None:
    """Raise `InvalidInput` where a link that is there already leads from `output` to its folder `folder`."""
    for place in (folder, *folder.parents):
        if place == output:
            return
        if os.path.islink(place):
            raise InvalidInput(f"{place} is a link", hint="choose another -o PATH, or remove the link")
