"""gc: what policies do not keep is noted as absent, and what nothing needs any more makes room."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.gc_plan import GcCommit, GcOptions, GcPlan, Planned, check_clock, check_plan, settled, summary
from ckstore.checkpoint.since import Since
from ckstore.codec.preset import ARCHIVE
from ckstore.errors import CkstoreError, CkstoreWarning, InvalidInput
from ckstore.graph.policy_text import parse
from ckstore.progress import SILENT
from ckstore.storage.collector import REASON, Outdated, Rewriting, collecting
from ckstore.storage.record import Record
from ckstore.storage.rewriter import Rewriter
from ckstore.storage.standing import Standing
from ckstore.storage.sweep import units
from ckstore.units import parse_span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.progress import Progress
    from ckstore.repository import Repository
    from ckstore.storage.collector import Collector
    from ckstore.storage.inventory import Inventory
    from ckstore.storage.record import Hole, PackEntry
    from ckstore.storage.sweep import Group

__all__ = ["GcCommit", "GcOptions", "GcPlan", "GcResult", "auto_gc", "gc", "grace_of", "plan_gc"]

_TRIES = 3


@dataclass(frozen=True)
class GcResult:
    """The plan, and what was done: bytes as there, but measured. `records` are the numbers of its records."""

    plan: GcPlan
    removed_bytes: int
    condemned_bytes: int
    written_bytes: int
    records: tuple[int, ...]


def plan_gc(repository: Repository, options: GcOptions) -> GcPlan:
    """What `gc` would do, and why. Writes nothing, and works for read-only repositories.

    Raises `InvalidInput` for policies that cannot be meant or a clock that has jumped, `Integrity` where something that
    is needed is missing or a pack cannot be read.
    """
    options = settled(repository, options)
    planned = Planned(repository, options)
    check_clock(repository, options, planned)
    return summary(planned, options)


def gc(repository: Repository, options: GcOptions, progress: Progress = SILENT) -> GcResult:
    """Note what policies do not keep as absent, condemn packs that nothing needs, remove those whose grace is over.

    Saves go on meanwhile; each is held up for one record at the most. Raises as `plan_gc`; `Locked` where another gc is
    under way; `Conflict` where a plan was made of another state, or where saves keep taking up again what was to go.
    """
    options = settled(repository, options)
    repository.store.check_writable()
    repository.store.use_reserve()
    with collecting(repository.store) as collector:
        for _ in range(_TRIES):
            planned = Planned(repository, options)
            check_clock(repository, options, planned)
            plan = summary(planned, options)
            if options.plan is not None:
                check_plan(options.plan, plan)
            try:
                return _execute(planned, plan, options, collector, progress)
            except Outdated as error:
                if options.plan is not None:
                    raise
                outdated = error
        raise outdated


def grace_of(text: str) -> int:
    """The nanoseconds of a grace time as people write it: `7d`, `12h`, `0`. Raises `InvalidInput`."""
    span = 0 if text == "0" else parse_span(text)
    if span is None:
        raise InvalidInput(f"{text!r} is no span of time", hint="write it as 7d, 12h, 30m or 0")
    return span


def auto_gc(repository: Repository, branch: str, now_ns: int) -> GcResult | None:
    """What follows a commit on `branch` where the settings' policy for it says `auto`: gc, if that drops anything.

    The commit is made whatever happens here: what gc may raise is warned of.
    """
    try:
        text = repository.config.policy_text(branch)
        if text is None or not parse(text).auto:
            return None
        return gc(repository, GcOptions(now_ns))
    except CkstoreError as error:
        warnings.warn(f"the commit is made, but gc after it failed: {error}", CkstoreWarning, stacklevel=3)
        return None


def _execute(planned: Planned, plan: GcPlan, options: GcOptions, collector: Collector, progress: Progress) -> GcResult:
    repository, inventory, todo = planned.repository, planned.inventory, planned.sweep
    dropped = {hole.commit for hole in planned.holes}
    standing = Standing(inventory, todo)
    collector.watch(inventory.end, Since(repository, standing, planned.found.commits, dropped))
    done = _Done(planned, options, collector)
    holes = tuple(planned.holes)
    for unit in [*units(inventory, todo.unused)] or [()]:
        done.condemn(unit, holes)
        holes = ()
    preset = ARCHIVE if options.deep else repository.preset
    rewriter = Rewriter(repository.store, inventory, planned.live, preset)
    progress.start("repacking", sum(_stored(inventory, group) for group in todo.groups))
    for group in todo.groups:
        done.rewrite(group, rewriter, progress)
    for unit in units(inventory, todo.freed):
        done.condemn(unit)
    done.remove()
    repository.store.keep_reserve()
    return GcResult(plan, done.removed_bytes, done.condemned_bytes, done.written_bytes, tuple(done.records))


class _Done:
    """What has been done so far."""

    def __init__(self, planned: Planned, options: GcOptions, collector: Collector) -> None:
        self.removed_bytes = self.condemned_bytes = self.written_bytes = 0
        self.records: list[int] = []
        self._planned = planned
        self._options = options
        self._collector = collector

    def condemn(self, packs: Sequence[int], holes: Sequence[Hole] = ()) -> None:
        """Condemn packs as they are."""
        record = Record(self._options.now_ns, REASON, holes=tuple(holes))
        self._note(self._collector.replace(record, self._entries(packs)), packs)

    def rewrite(self, group: Group, rewriter: Rewriter, progress: Progress) -> None:
        """Replace a group of packs."""
        with Rewriting(self._planned.repository.store) as rewriting:
            commits = rewriter.write(group, rewriting.packer, progress)
            record = Record(self._options.now_ns, REASON)
            seq = self._collector.replace(record, self._entries(group.packs), rewriting, commits)
            self.written_bytes += sum(pack.size_bytes for pack in rewriting.packer.sealed)
        self._note(seq, group.packs)
        if not self._options.grace_ns:
            self.remove()  # a pack of spare space is enough

    def remove(self) -> None:
        """Remove what was condemned and whose grace is over."""
        freed = self._collector.remove(self._options.now_ns, self._options.grace_ns or 0)
        self.removed_bytes += freed
        if not self._options.grace_ns:
            self.condemned_bytes = 0

    def _entries(self, packs: Sequence[int]) -> list[PackEntry]:
        return [self._planned.inventory.packs[number] for number in packs]

    def _note(self, seq: int | None, packs: Sequence[int]) -> None:
        if seq is not None:
            self.records.append(seq)
            self.condemned_bytes += self._planned.bytes_of(packs)


def _stored(inventory: Inventory, group: Group) -> int:
    places = [*group.copied.tolist(), *(place for family in group.families for place in family.tolist())]
    return int(inventory.table["stored"][places].sum()) if places else 0
