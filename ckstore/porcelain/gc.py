"""gc: what policies do not keep is noted as absent, and what nothing needs any more makes room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from ckstore.checkpoint.live import mark
from ckstore.checkpoint.since import Since
from ckstore.codec.preset import ARCHIVE
from ckstore.errors import Conflict, InvalidInput, StoreFull
from ckstore.graph.policy import Policies
from ckstore.graph.policy_text import parse
from ckstore.graph.reachability import runs_of_tree
from ckstore.graph.reached import reached
from ckstore.graph.retention import decide
from ckstore.progress import SILENT
from ckstore.storage.collector import REASON, Outdated, Rewriting, collecting
from ckstore.storage.costs import Costs
from ckstore.storage.inventory import take_inventory
from ckstore.storage.record import Hole, Record
from ckstore.storage.rewriter import Rewriter
from ckstore.storage.standing import Standing
from ckstore.storage.sweep import sweep, units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckstore.graph.reached import Reached
    from ckstore.graph.retention import Decision, Decisions
    from ckstore.progress import Progress
    from ckstore.repository import Commits, Repository
    from ckstore.storage.collector import Collector
    from ckstore.storage.inventory import Inventory, Live
    from ckstore.storage.record import PackEntry
    from ckstore.storage.sweep import Group

DROPPED = "dropped"
"""The reason of holes that retention makes."""

_TRIES = 3
_DAY_NS = 86_400 * 10**9
_JUMP_NS = 30 * _DAY_NS
_RECORDS = 1000


@dataclass(frozen=True)
class GcOptions:
    """What to keep and how far to go. Times in ns, `now_ns` since 1970 UTC.

    `policies`: by branch, in the form that `policy_text` reads, `""` for all others (None: what the settings say).
    `grace_ns`: how long what nothing needs stays on the disk (None: what the settings say). `repack` writes packs of
    which little is needed anew, and puts the tips of branches first in their chains; `deep` all chains, in the fewest
    bytes. `trust_clock` says that the clock is right although it has jumped. `plan` is one that was made before and
    says all the rest.
    """

    now_ns: int
    policies: Mapping[str, str] | None = None
    grace_ns: int | None = None
    repack: bool = False
    deep: bool = False
    trust_clock: bool = False
    plan: GcPlan | None = None


@dataclass(frozen=True)
class GcCommit:
    """What becomes of a commit, and why; `components` are those that go of one that is kept, each with why."""

    id: str
    step: int | None
    kept: bool
    reasons: tuple[str, ...]
    components: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GcPlan:
    """What gc would do to the repository as it is at its record `record`. Bytes are of the disk.

    `commits` newest first; those that lost everything before are left out. `removed_bytes` are freed now: packs that
    were condemned before and whose grace is over. `condemned_bytes` are freed once the grace is over, `written_bytes`
    written anew for that at the most; `left_bytes` that nothing needs stay in packs that are needed (`repack` frees
    them).
    """

    repository: str
    record: int
    now_ns: int
    policies: dict[str, str]
    grace_ns: int
    repack: bool
    deep: bool
    commits: tuple[GcCommit, ...]
    packs: int
    removed_bytes: int
    condemned_bytes: int
    written_bytes: int
    left_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def dropped(self) -> tuple[GcCommit, ...]:
        """The commits of which something goes."""
        return tuple(one for one in self.commits if not one.kept or one.components)


@dataclass(frozen=True)
class GcResult:
    """The plan, and what was done: bytes as there, but measured. `records` are the numbers of its records."""

    plan: GcPlan
    removed_bytes: int
    condemned_bytes: int
    written_bytes: int
    records: tuple[int, ...]


class _Planned:
    """A plan with what it takes to carry it out."""

    def __init__(self, repository: Repository, options: GcOptions) -> None:
        self.repository = repository
        store = repository.store
        self.inventory = take_inventory(store)
        self.commits = repository.commits()
        self.texts = _texts(repository, options, self.commits)
        self.found = _reached(repository, self.commits)
        self.decisions = self._decide(options)
        self.holes = [
            Hole(decision.id, name, DROPPED) for decision in self.decisions.commits for name in self._lost(decision)
        ]
        self.live = self._mark()
        self.sweep = sweep(self.inventory, self.live, repack=options.repack, deep=options.deep)

    def _decide(self, options: GcOptions) -> Decisions:
        parsed = {branch: parse(text) for branch, text in self.texts.items()}
        policies = Policies(parsed.get(""), {branch: policy for branch, policy in parsed.items() if branch})
        costs = None
        if any(policy.budget_bytes is not None for policy in parsed.values()):
            costs = Costs(self.inventory, self._run_of)
        return decide(self.found, policies, options.now_ns, self.repository.config.metric_mode, costs)

    def _run_of(self, id: bytes, component: str) -> bytes:
        trees = {entry.name: entry.tree for entry in self.found.commits[id].components}
        return b"".join(run.ids for run in runs_of_tree(self.repository.store.objects, trees[component]))

    def _lost(self, decision: Decision) -> Sequence[str]:
        here = self.found.components(decision.id)
        return [name for name in here if not decision.is_kept or name in decision.dropped_components]

    def _mark(self) -> Live:
        gone = {(hole.commit, hole.component) for hole in self.holes}
        absent = self.found.absent
        return mark(
            self.repository,
            self.inventory,
            self.found.commits,
            frozenset(self.commits.branches.values()),
            lambda id, name: (id, name) in gone or name in absent.get(id, ()),
        )

    def bytes_of(self, packs: Sequence[int]) -> int:
        """What packs take."""
        return sum(self.inventory.packs[number].size_bytes for number in packs)

    @property
    def going(self) -> list[int]:
        """The packs that go, those that are replaced with them."""
        plan = self.sweep
        return [*plan.unused, *(number for group in plan.groups for number in group.packs), *plan.freed]


def plan_gc(repository: Repository, options: GcOptions) -> GcPlan:
    """What `gc` would do, and why. Writes nothing, and works for read-only repositories.

    Raises `InvalidInput` for policies that cannot be meant or a clock that has jumped, `Integrity` where something that
    is needed is missing or a pack cannot be read.
    """
    options = _settled(repository, options)
    planned = _Planned(repository, options)
    _check_clock(repository, options, planned)
    return _plan(planned, options)


def gc(repository: Repository, options: GcOptions, progress: Progress = SILENT) -> GcResult:
    """Note what policies do not keep as absent, condemn packs that nothing needs, remove those whose grace is over.

    Saves go on meanwhile; each is held up for one record at the most. Raises as `plan_gc`; `Locked` where another gc is
    under way; `Conflict` where a plan was made of another state, or where saves keep taking up again what was to go.
    """
    options = _settled(repository, options)
    with collecting(repository.store) as collector:
        for _ in range(_TRIES):
            planned = _Planned(repository, options)
            _check_clock(repository, options, planned)
            plan = _plan(planned, options)
            if options.plan is not None:
                _check_plan(options.plan, plan)
            try:
                return _execute(planned, plan, options, collector, progress)
            except Outdated as error:
                if options.plan is not None:
                    raise
                outdated = error
            except StoreFull:
                if not repository.store.release_reserve():
                    raise
                outdated = Outdated("the disk is full", hint="free some space")
        raise outdated


def _settled(repository: Repository, options: GcOptions) -> GcOptions:
    """The options with what the plan or the settings say of them."""
    plan = options.plan
    if plan is not None:
        return replace(
            options,
            now_ns=plan.now_ns,
            policies=plan.policies,
            grace_ns=plan.grace_ns,
            repack=plan.repack,
            deep=plan.deep,
        )
    if options.grace_ns is None:
        options = replace(options, grace_ns=repository.config.grace_ns)
    if options.grace_ns is not None and options.grace_ns < 0:
        raise InvalidInput("the grace time is negative", hint="give a span such as 7d, or 0")
    return options


def _texts(repository: Repository, options: GcOptions, commits: Commits) -> dict[str, str]:
    """The policy of each branch, of all others by an empty name."""
    if options.policies is not None:
        unknown = [name for name in options.policies if name and name not in commits.branches]
        if unknown:
            raise InvalidInput(f"there is no branch {unknown[0]!r}", hint="`ckstore branch` lists them")
        return dict(options.policies)
    texts = repository.config.policy_texts(commits.branches)
    for_all = repository.config.policy_text()
    return {**texts, **({"": for_all} if for_all is not None else {})}


def _reached(repository: Repository, commits: Commits) -> Reached:
    detached = commits.head if commits.head_name is None else None
    return reached(commits.refs, detached, commits.read_commit, repository.absent())


def _plan(planned: _Planned, options: GcOptions) -> GcPlan:
    store = planned.repository.store
    found, plan = planned.found, planned.sweep
    grace_ns = options.grace_ns or 0
    now_ns = store.clock_ns()
    over = [
        one.pack.size_bytes for one in store.ask(lambda view: view.condemned()) if now_ns - one.since_ns >= grace_ns
    ]
    condemned = planned.bytes_of(planned.going)
    written = plan.copied_bytes + plan.rebased_bytes
    return GcPlan(
        repository=store.id,
        record=planned.inventory.seq,
        now_ns=options.now_ns,
        policies=planned.texts,
        grace_ns=grace_ns,
        repack=options.repack,
        deep=options.deep,
        commits=tuple(
            GcCommit(one.id.hex(), found.commits[one.id].step, one.is_kept, one.reasons, dict(one.dropped_components))
            for one in planned.decisions.commits
            if not found.is_absent(one.id)
        ),
        packs=len(planned.going),
        removed_bytes=sum(over) + (condemned if not grace_ns else 0),
        condemned_bytes=condemned if grace_ns else 0,
        written_bytes=written,
        left_bytes=max(0, plan.dead_bytes + plan.base_bytes - condemned + written),
        warnings=planned.decisions.warnings,
    )


def _check_plan(wanted: GcPlan, plan: GcPlan) -> None:
    """Raise `Conflict` unless a plan is still what would be done."""
    if wanted.repository != plan.repository:
        raise Conflict("the plan is of another repository", hint="make one here: `ckstore gc --plan FILE`")
    if wanted.record != plan.record:
        raise Conflict(
            f"the plan is of record {wanted.record}; the repository is at {plan.record}",
            hint="something was saved since: plan again with `ckstore gc --plan FILE`",
        )
    if (wanted.commits, wanted.packs) != (plan.commits, plan.packs):
        raise Conflict("the plan does not say what these policies do", hint="plan again: `ckstore gc --plan FILE`")


def _check_clock(repository: Repository, options: GcOptions, planned: _Planned) -> None:
    """Raise `InvalidInput` where what is to go depends on the time, and the clock has jumped since the last gc."""
    ages = any("within=" in text for text in planned.texts.values())
    waiting = bool(options.grace_ns) and bool(repository.store.ask(lambda view: view.condemned()))
    if options.trust_clock or not (ages or waiting):
        return
    times = [options.now_ns]
    for (_, record), _ in zip(repository.store.history(), range(_RECORDS), strict=False):
        times.append(record.time_ns)
        if record.reason == REASON:
            break
    for later, earlier in pairwise(times):
        if abs(later - earlier) > _JUMP_NS:
            days = (later - earlier) / _DAY_NS
            raise InvalidInput(
                f"the clock jumped by {days:,.0f} days between two steps since the last gc",
                why="what is dropped by its age might be dropped wrongly",
                hint="set the clock right; if it is, say --trust-clock",
            )


def _execute(planned: _Planned, plan: GcPlan, options: GcOptions, collector: Collector, progress: Progress) -> GcResult:
    repository, inventory, todo = planned.repository, planned.inventory, planned.sweep
    dropped = {hole.commit for hole in planned.holes}
    standing = Standing(inventory, todo)
    collector.watch(inventory.seq, Since(repository, standing, planned.found.commits, dropped))
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

    def __init__(self, planned: _Planned, options: GcOptions, collector: Collector) -> None:
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
            self.written_bytes += sum(pack.size_bytes for pack in rewriting.packer.finish())
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
