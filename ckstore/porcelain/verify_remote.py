"""verify --remote: is what a remote promises really there?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import Format, Integrity
from ckstore.progress import SILENT
from ckstore.sync.holding import Holding
from ckstore.sync.inspect import Fault, Inspection
from ckstore.sync.repository_local import RepositoryLocal

if TYPE_CHECKING:
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository

_TRIES = 5


@dataclass(frozen=True)
class VerifyRemoteOptions:
    """With `read_data` every frame is fetched, decoded and hashed, not only looked up; `jobs` packs at once.

    `foreign` and `older` are as for `push`.
    """

    read_data: bool = False
    jobs: int = 4
    foreign: bool = False
    older: bool = False


@dataclass(frozen=True)
class RemoteFinding:
    """Something wrong: `kind` is root, state, segment, pack, object or commit; `commits` names what it affects."""

    kind: str
    what: str
    commits: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyRemoteResult:
    """What was checked on a remote, and what was found. No findings: everything its refs reach is there.

    `objects` are what the index there knows. `read_packs` were read whole, which took `read_bytes`.
    """

    url: str
    generation: int
    commits: int
    objects: int
    segments: int
    packs: int
    read_packs: int
    read_bytes: int
    findings: tuple[RemoteFinding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings


def verify_remote(
    repository: Repository, remote: Remote, options: VerifyRemoteOptions, progress: Progress = SILENT
) -> VerifyRemoteResult:
    """Check that a remote's root, state and segments hold together, that every object its refs reach is in them, and
    that the packs are there in their lengths; with `read_data` also what is in the packs.

    Changes nothing, and never raises for damage: it becomes a finding. Raises `NotFound` where nothing was ever pushed,
    `InvalidInput` for another repository's remote, `Auth`, `RemoteFailed`.
    """
    local = RepositoryLocal(repository)
    for last in (*[False] * (_TRIES - 1), True):
        try:
            holding = Holding(remote, local, foreign=options.foreign, older=options.older)
        except (Integrity, Format) as error:
            what = f"{error.what}: {error.why}" if error.why else error.what
            return VerifyRemoteResult(remote.url, 0, 0, 0, 0, 0, 0, 0, (RemoteFinding("root", what),))
        found = Inspection(holding, local, options.jobs, progress, read_data=options.read_data)
        if last or not (found.faults or found.hit) or not _has_moved(holding):
            break
    return VerifyRemoteResult(
        url=remote.url,
        generation=holding.survey.contents.generation,
        commits=len(found.commits),
        objects=holding.catalog.rows,
        segments=len(holding.catalog.pointers),
        packs=len(holding.packs),
        read_packs=found.read_packs,
        read_bytes=found.read_bytes,
        findings=_findings(found),
    )


def _has_moved(holding: Holding) -> bool:
    """Whether a root is not there any more: then gc may have taken what it names."""
    root = holding.survey.remote.read_root()
    return (None if root is None else root.version) != holding.survey.version


def _findings(found: Inspection) -> tuple[RemoteFinding, ...]:
    """What is wrong, each with the commits that it affects."""
    commits: dict[Fault, dict[str, None]] = {fault: {} for fault in found.faults}
    for (id, _), faults in found.hit.items():
        for fault in sorted(faults):
            commits.setdefault(fault, {})[id.hex()] = None
    return tuple(RemoteFinding(fault.kind, fault.what, tuple(ids)) for fault, ids in commits.items())
