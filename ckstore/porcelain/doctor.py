"""doctor: is everything around the repository as it should be? Changes nothing."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError, Locked
from ckstore.filesystem import mount_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.repository import Repository

_NEEDED = ("blake3", "cffi", "lmdb", "msgspec", "numpy", "rich", "tomlkit", "typer", "xxhash", "zstandard")
_OPTIONAL = ("torch", "safetensors", "boto3", "google-cloud-storage", "azure-storage-blob")
_LEAST_FREE_BYTES = 1 << 30
_LEAST_FREE_INODES = 1000
_AHEAD_NS = 60 * 10**9


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `state` is ok, warning or problem; `hint` is the way out."""

    name: str
    state: str
    what: str
    hint: str | None = None


@dataclass(frozen=True)
class DoctorResult:
    """All that was looked at, in order."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is a problem; warnings are none."""
        return all(check.state != "problem" for check in self.checks)


def doctor(repository: Repository | None, now_ns: int) -> DoctorResult:
    """Look at the installation and, where there is one, at the repository. Never raises for a problem."""
    checks = list(_installation())
    if repository is None:
        checks.append(Check("repository", "warning", "there is none here or above", "ckstore init"))
    else:
        checks += _repository(repository, now_ns)
    return DoctorResult(tuple(checks))


def _installation() -> Iterator[Check]:
    yield Check("system", "ok", f"{platform.system()} {platform.release()}, {os.cpu_count()} cores")
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "ok", f"{python} ({sys.executable})")
    for name in _NEEDED:
        version = _version(name)
        if version is None:
            yield Check(name, "problem", "is not installed", f"pip install {name}")
        else:
            yield Check(name, "ok", version)
    yield _passes()
    found = [f"{name} {version}" for name in _OPTIONAL if (version := _version(name))]
    missing = [name for name in _OPTIONAL if _version(name) is None]
    yield Check("extras", "ok", f"{', '.join(found) or 'none'}" + (f"; not: {', '.join(missing)}" if missing else ""))


def _passes() -> Check:
    from ckstore.codec.compiled import KERNEL

    if KERNEL is None:
        built = find_spec("ckstore.codec._kernel") is not None
        fix = "pip install --upgrade zstandard cffi" if built else "install a C compiler, then ckstore anew"
        return Check("passes", "warning", "numpy's: saving is slower", fix)
    return Check("passes", "ok", "compiled")


def _repository(repository: Repository, now_ns: int) -> Iterator[Check]:
    store = repository.store
    yield Check("repository", "ok", f"{store.layout.root}, id {store.id}")
    yield _config(repository)
    mount = mount_of(store.layout.root)
    kind = "network mount" if mount.is_network else "local disk"
    yield Check("file system", "ok", f"{mount.kind} at {mount.point} ({kind})")
    place = "in the repository" if store.index_folder == store.layout.index else "in the user's cache"
    yield Check("index", "ok", f"{store.index_folder} ({place}, a cache)")
    if store.may_write:
        yield _lock(repository)
    else:
        yield Check("permissions", "warning", "read-only for you", "commits need write permission")
    yield from _space(store.layout.root)
    yield _journal(repository)
    yield _leftovers(repository)
    yield _clock(repository, now_ns)


def _config(repository: Repository) -> Check:
    try:
        return Check("settings", "ok", f"preset {repository.preset.name}")
    except CkstoreError as error:
        return Check("settings", "problem", error.what, error.hint)


def _lock(repository: Repository) -> Check:
    try:
        with repository.store.locked(0):
            return Check("lock", "ok", "free")
    except Locked as error:
        return Check("lock", "warning", error.why or error.what, error.hint)
    except CkstoreError as error:
        return Check("lock", "problem", error.what, error.hint)


def _space(folder: os.PathLike[str]) -> Iterator[Check]:
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    low = free < _LEAST_FREE_BYTES
    hint = "free some space: a commit is refused before it is half done, but it is refused"
    yield Check("space", "warning" if low else "ok", f"{free / 1e9:.1f} GB free", hint if low else None)
    if disk.f_files:
        few = disk.f_favail < _LEAST_FREE_INODES
        yield Check(
            "inodes", "warning" if few else "ok", f"{disk.f_favail} free", "remove small files" if few else None
        )


def _journal(repository: Repository) -> Check:
    try:
        frames = repository.store.journal.newest().frames
    except (OSError, CkstoreError) as error:
        return Check("journal", "problem", str(error).splitlines()[0], "ckstore verify")
    segments = len(repository.store.journal.segments())
    return Check("journal", "ok", f"{frames[-1].end.seq} records, {segments} segments")


def _leftovers(repository: Repository) -> Check:
    left = sum(1 for path in repository.store.layout.tmp.iterdir() if path.is_dir())
    what = "nothing left by interrupted saves" if not left else f"{left} saves are under way or were interrupted"
    return Check("leftovers", "ok", what, "the next commit removes what dead saves left" if left else None)


def _clock(repository: Repository, now_ns: int) -> Check:
    try:
        commits = repository.commits()
        times = [commits.read_commit(id).time_ns for id in commits.refs.values()]
    except CkstoreError as error:
        return Check("clock", "problem", error.what, "ckstore verify")
    ahead = [time_ns for time_ns in times if time_ns > now_ns + _AHEAD_NS]
    if ahead:
        return Check("clock", "warning", "a commit is from the future", "set this machine's clock, or the other's")
    return Check("clock", "ok", "no commit is from the future")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
