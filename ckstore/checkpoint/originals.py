"""Originals that have been committed: compared with what comes back, then deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.checkpoint.committed_files import committed_files
from ckstore.errors import Conflict, Integrity
from ckstore.files.collect import collect
from ckstore.files.source import Files
from ckstore.storage.pack_file import evict

if TYPE_CHECKING:
    from ckstore.files.collect import Collected
    from ckstore.repository import Repository

_DOOMED = ".ckstore-imported"
"""The end of the name of a folder that is being deleted."""


def delete_original(repository: Repository, id: str, original: Path) -> None:
    """Delete the file or folder `original`, once commit `id` has given it back from the disk, equal byte for byte.

    Raises `Integrity` where it does not come back and `Conflict` where it changed; it stays then.
    """
    held = committed_files(repository, repository.commits().read_commit(bytes.fromhex(id)))
    found = collect([original])
    links = {} if held is None else {name: link.target for name, link in held.links.items()}
    if held is None or set(held.files) != set(found.files) or links != found.links:
        raise Conflict(f"{original} holds other files than when it was imported", hint="import it again")
    evict(repository.store.layout)
    with Files() as files:
        for name, path in found.files.items():
            source = files.add(path)
            position = 0
            for view in held.read(name):
                if bytes(view) != bytes(source.view()[position : position + view.nbytes]):
                    raise Integrity(
                        f"{path} does not come back from commit {id[:12]}", hint="ckstore verify --read-data"
                    )
                position += view.nbytes
            if position != source.size_bytes:
                raise Conflict(f"{path} changed since it was imported", hint="import it again")
        files.check_unchanged()
    if found.alone:
        durable.unlink(original)
    else:
        _check_whole(original, found)
        doomed = original.with_name(original.name + _DOOMED)
        durable.rename(original, doomed)
        _delete(doomed)
    durable.sync_folder(original.parent)


def _check_whole(original: Path, found: Collected) -> None:
    """Raise `Conflict` where the folder holds what its commit does not: a repository, or what came meanwhile."""
    known = {*found.files, *found.folders, *found.links}
    for place, folders, files in os.walk(original):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.relative_to(original).as_posix() not in known:
                raise Conflict(f"{path} is not in the commit", hint="move it elsewhere, then import again")


def finish_deleting(folder: Path) -> None:
    """Remove what a try that was cut short had begun to delete: it had been read back."""
    for doomed in folder.rglob(f"*{_DOOMED}"):
        if doomed.is_dir() and not doomed.is_symlink():
            _delete(doomed)


def _delete(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _delete(path)
        else:
            durable.unlink(path)
    durable.remove_folder(folder)
