"""repair --remote: what is damaged on a remote and sound here is sent there anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.progress import SILENT
from ckstore.sync import mend as engine
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository


@dataclass(frozen=True)
class RepairRemoteOptions:
    """With `dry_run` nothing changes there. `jobs` packs at once; `foreign` and `older` are as for `push`."""

    dry_run: bool = False
    jobs: int = 4
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class DamagedRemotePack:
    """A pack there that is condemned, and what is wrong with it."""

    name: str
    what: str


@dataclass(frozen=True)
class LostThere:
    """A component of a commit that could be read neither here nor there: a hole there from now on."""

    commit: str
    component: str


@dataclass(frozen=True)
class RepairRemoteResult:
    """What was wrong with a remote, and what became of it; in a dry run what would.

    `segments` of its index were damaged and are made anew. `sent_objects` came from here, `copied_objects` were sound
    in packs that are condemned; `sent_bytes` is of the new packs. `lost_commits` are commits that nobody can read.
    """

    url: str
    packs: tuple[DamagedRemotePack, ...]
    segments: int
    sent_objects: int
    copied_objects: int
    sent_bytes: int
    lost: tuple[LostThere, ...]
    lost_objects: int
    lost_commits: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost and not self.lost_commits


def repair_remote(
    repository: Repository,
    remote: Remote,
    options: RepairRemoteOptions,
    progress: Progress = SILENT,
    pause: Callable[[int], None] = lambda tries: None,
) -> RepairRemoteResult:
    """Read everything there; send anew what is damaged or missing there and sound here, condemn damaged packs.

    `pause` is called before another try, where others have moved the root meanwhile. What neither side can read becomes
    a hole there. Raises `NotFound` where nothing was ever pushed, `Integrity` or `Format` where the root itself is
    damaged or was put back, `Conflict`, `Auth`, `RemoteFailed`; nothing has changed there then.
    """
    request = engine.MendRequest(options.jobs, repository.preset, options.dry_run, options.foreign, options.older)
    done = engine.mend(remote, RepositoryLocal(repository), request, progress, pause)
    return RepairRemoteResult(
        url=remote.url,
        packs=tuple(DamagedRemotePack(name.hex(), what) for name, what in done.packs),
        segments=done.segments,
        sent_objects=done.sent,
        copied_objects=done.copied,
        sent_bytes=done.sent_bytes,
        lost=tuple(LostThere(id.hex(), name) for id, name in done.lost),
        lost_objects=done.lost_objects,
        lost_commits=tuple(id.hex() for id in done.lost_commits),
    )
