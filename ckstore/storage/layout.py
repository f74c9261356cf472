"""Where things lie in a repository's folder, and what its `format` file says."""

from __future__ import annotations

import os
import shlex
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.errors import Format, Integrity, NoRepository, SaveFailed

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ".ckstore"
FORMAT = 2
MIGRATABLE = (0, 1)
"""Formats that `migrate` takes to this one."""


@dataclass(frozen=True)
class Layout:
    """Paths inside one repository; `root` is the `.ckstore` folder."""

    root: Path

    @property
    def format(self) -> Path:
        return self.root / "format"

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def gc_lock(self) -> Path:
        return self.root / "gc.lock"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @property
    def packs(self) -> Path:
        return self.root / "packs"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def remotes(self) -> Path:
        return self.root / "remotes"

    @property
    def verified(self) -> Path:
        return self.root / "verified.json"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def index(self) -> Path:
        return self.root / "index"

    def pack(self, name: bytes) -> Path:
        return self.packs / pack_file_name(name)


def pack_file_name(name: bytes) -> str:
    """What the file of pack `name` is called."""
    return f"{name.hex()}.pack"


def write_format(layout: Layout, repository_id: str) -> None:
    """Write the `format` file, which never changes afterwards."""
    durable.put(layout.format, f'format = {FORMAT}\nid = "{repository_id}"\n'.encode())


def read_format(layout: Layout) -> str:
    """The repository's id. Raises `NoRepository`, `Integrity`, or `Format` for one of another version."""
    version, repository_id = read_any_format(layout)
    if version in MIGRATABLE:
        raise Format(
            f"{layout.root} has the older format {version}",
            why=f"this ckstore reads format {FORMAT}",
            hint=f"ckstore -C {shlex.quote(str(layout.root.parent))} migrate",
        )
    if version != FORMAT:
        raise Format(f"{layout.root} has format {version}; this ckstore reads {FORMAT}", hint="use a newer ckstore")
    return repository_id


def read_any_format(layout: Layout) -> tuple[int, str]:
    """The number of the repository's format, and its id. Raises `NoRepository`, `Integrity`, `SaveFailed`."""
    try:
        text = layout.format.read_bytes()
    except FileNotFoundError:
        raise NoRepository(
            f"{layout.root} is no ckstore repository", hint="`ckstore init` makes one; -C names another folder"
        ) from None
    except OSError as error:
        raise SaveFailed(f"cannot read {layout.format}: {error.strerror}", hint="check the disk (`dmesg`)") from error
    try:
        said = tomllib.loads(text.decode())
        version, repository_id = said["format"], said["id"]
        good = isinstance(version, int) and isinstance(repository_id, str) and len(bytes.fromhex(repository_id)) == 16
    except (ValueError, KeyError, RecursionError) as error:
        raise Integrity(f"{layout.format} is damaged: {error}", hint="restore it from a backup") from error
    if not good:
        raise Integrity(f"{layout.format} is damaged", hint="restore it from a backup")
    return version, repository_id


def new_id() -> str:
    """A fresh repository id."""
    return os.urandom(16).hex()
