"""What a folder is: names, bytes, modes, times, link texts."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    Found = tuple[str, int, int, bytes]
    """Kind, mode, time of the last change in nanoseconds, content."""


def snapshot(folder: Path, *, leave_out: tuple[bytes, ...] = ()) -> dict[bytes, Found]:
    """Everything under `folder`, and the folder itself, by its path as the system has it; links are not followed."""
    root = os.fsencode(folder)
    found = {b"": _folder(root)}
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in leave_out]
        for name in (*folders, *files):
            path = os.path.join(place, name)
            found[os.path.relpath(path, root)] = _described(path)
    return found


def _described(path: bytes) -> Found:
    about = os.lstat(path)
    if stat.S_ISLNK(about.st_mode):
        return "link", 0, 0, os.readlink(path)
    if stat.S_ISDIR(about.st_mode):
        return _folder(path)
    with open(path, "rb") as file:
        return "file", stat.S_IMODE(about.st_mode), about.st_mtime_ns, file.read()


def _folder(path: bytes) -> Found:
    about = os.stat(path)
    return "folder", stat.S_IMODE(about.st_mode), about.st_mtime_ns, b""
