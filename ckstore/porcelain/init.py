"""init: make an empty repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.codec.preset import preset_named
from ckstore.config import initial
from ckstore.graph.revision import check_ref_name
from ckstore.storage import store
from ckstore.storage.layout import FOLDER
from ckstore.storage.record import HEADS

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class InitResult:
    """`folder` holds the repository; `created` is False where it was there already."""

    folder: Path
    created: bool


def init(folder: Path, branch: str = "main", preset: str | None = None) -> InitResult:
    """A repository in `folder`, which is made if absent. Safe to call again and by many processes at once.

    `preset` is how a new one stores chunks unless a commit says otherwise. Raises `InvalidInput`.
    """
    settings = "" if preset is None else initial(preset_named(preset).name)
    check_ref_name(branch, "branch")
    created = not (folder / FOLDER).exists()
    durable.make_folder(folder)
    store.create(folder.absolute(), HEADS + branch, settings)
    return InitResult(folder, created)
