"""The part of an open repository that keeps it small and sound: retention, pins, verify and repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckstore.api.environment import now
from ckstore.api.syncing import connected
from ckstore.porcelain.pin import PinOptions, pin, unpin
from ckstore.porcelain.repair import RepairOptions, repair
from ckstore.porcelain.verify import verify
from ckstore.progress import SILENT
from ckstore.storage.record import PINS

if TYPE_CHECKING:
    from ckstore.checkpoint.refs import RefsMoved
    from ckstore.checkpoint.store import CommitResult
    from ckstore.graph.policy import Policy
    from ckstore.porcelain.gc import GcOptions, GcPlan, GcResult
    from ckstore.porcelain.repair import RepairResult
    from ckstore.porcelain.verify import VerifyResult
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository


class Keeping:
    """What a repository is asked to keep; a part of `Repo`."""

    _repository: Repository

    @property
    def pins(self) -> list[str]:
        """Ids of the commits that are pinned."""
        return sorted(id.hex() for id in self._repository.commits().named(PINS).values())

    def pin(self, revision: str = "HEAD") -> RefsMoved:
        """Keep a commit, whole, whatever retention policies say."""
        return pin(self._repository, PinOptions(revision, now()[0]))

    def unpin(self, revision: str) -> RefsMoved:
        """Leave a commit to the retention policies again. Raises `NoRevision` for one that is not pinned."""
        return unpin(self._repository, PinOptions(revision, now()[0]))

    def verify(
        self, *, read_data: bool = False, subset: str | None = None, progress: Progress | None = None
    ) -> VerifyResult:
        """Check that everything the refs reach is there; with `read_data`, that every byte is right.

        With `subset="10%"` only so much is read, of what was read longest ago.
        """
        told = SILENT if progress is None else progress
        return verify(self._repository, told, read_data=read_data, subset=subset, now_ns=now()[0])

    def repair(
        self, *, dry_run: bool = False, remote: str | Remote | None = None, progress: Progress | None = None
    ) -> RepairResult:
        """Keep what is sound of damaged packs, note what is lost, and make the index anew; nothing that is sound goes.

        Reads everything. With `remote` what is lost here and sound there is fetched first. What is lost all the same
        raises `Absent` from then on; committing the same data again stores it anew. With `dry_run` it only says what is
        wrong. Raises `Locked` where a gc is under way, and whatever the remote raises.
        """
        told = SILENT if progress is None else progress
        options = RepairOptions(now()[0], dry_run)
        if remote is None:
            return repair(self._repository, options, told)
        with connected(remote) as place:
            return repair(self._repository, options, told, place)

    def _after_commit(self, made: CommitResult) -> None:
        """Run gc, where the branch's policy says so."""
        if self._repository.config.policy_text(made.branch) is not None:
            from ckstore.porcelain.gc import auto_gc  # numpy

            auto_gc(self._repository, made.branch, now()[0])

    def gc(
        self,
        keep: Policy | str | Mapping[str, Policy | str] | None = None,
        *,
        grace: str | None = None,
        repack: bool = False,
        deep: bool = False,
        trust_clock: bool = False,
        plan: GcPlan | None = None,
        progress: Progress | None = None,
    ) -> GcResult:
        """Make room: drop the data of commits that policies do not keep, and remove what nothing needs any more.

        `keep` is a policy for all branches (`ckstore.keep(last=3)`, or its text), or one for each of some branches by
        name, others then keeping everything; None leaves it to the settings `retention.keep` and `keep.<branch>`. What
        goes stays on the disk for `grace` (`7d`, `0`; None: the setting), and `undo` brings it back until then.
        `repack` writes packs of which little is needed anew, `deep` every chain in the fewest bytes. `plan` is one that
        `plan_gc` made, and says all of that. `trust_clock`: the clock is right although it jumped. Raises
        `InvalidInput`, `Integrity` where something needed is missing (nothing is removed then), `Locked`, `Conflict`.
        """
        from ckstore.porcelain.gc import gc  # numpy

        options = self._gc_options(keep, grace, repack, deep, trust_clock, plan)
        return gc(self._repository, options, **progress_option(progress))

    def plan_gc(
        self,
        keep: Policy | str | Mapping[str, Policy | str] | None = None,
        *,
        grace: str | None = None,
        repack: bool = False,
        deep: bool = False,
        trust_clock: bool = False,
    ) -> GcPlan:
        """What `gc` with the same arguments would do, and why; nothing is done."""
        from ckstore.porcelain.gc import plan_gc  # numpy

        return plan_gc(self._repository, self._gc_options(keep, grace, repack, deep, trust_clock, None))

    def _gc_options(
        self,
        keep: Policy | str | Mapping[str, Policy | str] | None,
        grace: str | None,
        repack: bool,
        deep: bool,
        trust_clock: bool,
        plan: GcPlan | None,
    ) -> GcOptions:
        from ckstore.porcelain.gc import GcOptions, grace_of  # numpy

        policies = None
        if keep is not None:
            by_branch = keep if isinstance(keep, Mapping) else {"": keep}
            policies = {branch: str(policy) for branch, policy in by_branch.items()}
        grace_ns = None if grace is None else grace_of(grace)
        return GcOptions(now()[0], policies, grace_ns, repack, deep, trust_clock, plan)


def progress_option(progress: Progress | None) -> dict[str, Progress]:
    return {} if progress is None else {"progress": progress}
