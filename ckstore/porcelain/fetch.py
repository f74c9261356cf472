"""fetch: bring a remote's commits here, without moving a branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.progress import SILENT
from ckstore.sync.fetching import FetchOptions, FetchResult, RefUpdate, fetch_from
from ckstore.sync.remotes import SILENTLY, Listening, Manner, remote_named

if TYPE_CHECKING:
    from ckstore.progress import Progress
    from ckstore.repository import Repository

__all__ = ["FetchOptions", "FetchResult", "Listening", "Manner", "RefUpdate", "fetch"]


def fetch(
    repository: Repository, options: FetchOptions, progress: Progress = SILENT, listening: Listening = SILENTLY
) -> FetchResult:
    """Bring commits and data that are not here; `remotes/NAME/BRANCH` follow the remote, and new tags come along.

    Raises `NotFound` for a remote or branch that is not there, `Auth`, `RemoteFailed`, `Integrity` and `Format` for
    what is damaged or hostile there, `Conflict` where gc works here all the time. A fetch that fails has moved no ref,
    and the next one goes on behind what it has brought.
    """
    return fetch_from(repository, remote_named(repository, options.remote), options, progress, listening)
