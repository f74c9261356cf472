"""Checkpoint files become a commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.checkpoint.store import store
from ckstore.files.bundle import bundle_file, bundle_files
from ckstore.files.collect import collect
from ckstore.files.listing import files_draft
from ckstore.files.source import Files
from ckstore.objects.commit import FILES
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckstore.checkpoint.store import CommitOptions, CommitResult
    from ckstore.progress import Progress
    from ckstore.repository import Repository


def store_files(
    repository: Repository,
    paths: Sequence[Path],
    options: CommitOptions,
    progress: Progress = SILENT,
    *,
    opaque: bool = False,
) -> CommitResult:
    """Commit checkpoint files and folders, cut at their tensors' bounds; they come back byte for byte.

    The commit holds exactly what is under `paths`. With `opaque`, as plain bytes. Raises `NotFound`, `InvalidInput`,
    `Format` for a damaged file, `Conflict` for one that changes meanwhile; else as `store`.
    """
    found = collect(paths)
    with Files() as files:
        sources = {name: files.add(path) for name, path in found.files.items()}
        if found.alone:
            ((name, source),) = sources.items()
            bundle = bundle_file(name, source, opaque=opaque)
        else:
            bundle = bundle_files(sources, opaque=opaque)
        drafts = {**bundle.components, FILES: files_draft(bundle, sources, found.folders, found.links)}
        return store(repository, drafts, options, progress, bare=False, check=files.check_unchanged)
