"""commit: store a state, or files, as a new commit of a branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.checkpoint.store import store
from ckstore.objects.commit import is_component_name
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ckstore.checkpoint.store import CommitOptions, CommitResult
    from ckstore.progress import Progress
    from ckstore.repository import Repository

BARE = "state"
"""The component of a state that is no dictionary of components."""


def commit_state(
    repository: Repository, state: object, options: CommitOptions, progress: Progress = SILENT
) -> CommitResult:
    """Commit a nested state. A dictionary with str keys gives a component for each entry.

    Copies nothing on the CPU; the state must not change until this returns. Raises `InvalidInput` for what
    cannot be kept, `Conflict` where another writer moved the branch first, `StoreFull`, `SaveFailed`.
    """
    from ckstore.torch.flatten import flatten  # torch: only where tensors are at hand

    parts, bare = components(state)
    drafts = {name: flatten(value, name, allow_pickle=options.allow_pickle) for name, value in parts.items()}
    return store(repository, drafts, options, progress, bare=bare)


def components(state: object) -> tuple[Mapping[str, object], bool]:
    """The components of a state, and whether it is bare: no dictionary of components."""
    if type(state) is dict and state and all(is_component_name(name) for name in state):
        return state, False
    return {BARE: state}, True


def commit_files(
    repository: Repository,
    paths: Sequence[Path],
    options: CommitOptions,
    progress: Progress = SILENT,
    *,
    opaque: bool = False,
) -> CommitResult:
    """Commit files and folders, as `store_files` says."""
    from ckstore.checkpoint.store_files import store_files  # the parsers: no other command should wait for them

    return store_files(repository, paths, options, progress, opaque=opaque)
