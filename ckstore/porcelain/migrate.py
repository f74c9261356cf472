"""migrate: take a repository of an older format to the one that this ckstore writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import Format, NoRepository
from ckstore.lock import FileLock
from ckstore.storage.journal import Journal
from ckstore.storage.layout import FOLDER, FORMAT, MIGRATABLE, Layout, read_any_format, write_format

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class MigrateResult:
    """The repository's folder, and the numbers of its format before and now."""

    folder: Path
    before: int
    now: int


def migrate(start: Path, *, dry_run: bool = False) -> MigrateResult:
    """Take the repository in `start`, or in the nearest folder above it, to this format, unless it has it already.

    What older formats have, this one has as well, so that the number alone is new: it is written under the repository's
    lock, in one step, once the journal has been read. An older ckstore refuses the repository from then on. Raises
    `NoRepository`, `Format` for a newer format, `Integrity` where the journal is damaged, `Locked`, `SaveFailed`.
    """
    start = start.absolute()
    root = next((place / FOLDER for place in (start, *start.parents) if (place / FOLDER).is_dir()), None)
    if root is None:
        raise NoRepository(f"no ckstore repository in {start} or above", hint="-C names another folder")
    layout = Layout(root)
    version, repository_id = read_any_format(layout)
    found = MigrateResult(root.parent, version, FORMAT)
    if version == FORMAT:
        return found
    if version not in MIGRATABLE:
        raise Format(f"{root} has format {version}; this ckstore knows {FORMAT}", hint="use a newer ckstore")
    Journal(layout.journal).newest()
    if not dry_run:
        with FileLock(layout.lock).held(_PATIENCE_S):
            write_format(layout, repository_id)
    return found
