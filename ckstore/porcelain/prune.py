"""remote gc: take away what a remote's branches and tags do not need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.progress import SILENT
from ckstore.sync import prune as engine
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository
    from ckstore.sync.prune import Pruned, PruneRequest


def prune(
    repository: Repository,
    remote: Remote,
    request: PruneRequest,
    progress: Progress = SILENT,
    pause: Callable[[int], None] = lambda tries: None,
) -> Pruned:
    """Condemn what a remote does not need, delete what has waited for the grace by the server's clock.

    Raises `Integrity` where something that is needed is missing there: then nothing goes; `Conflict` where others move
    its root all the time; `Auth`, `RemoteFailed`.
    """
    return engine.prune(remote, RepositoryLocal(repository), request, progress, pause)
