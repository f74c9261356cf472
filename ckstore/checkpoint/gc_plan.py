"""The plan of a gc: what policies keep, what is reached then, which packs go, and what that frees."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from ckstore.checkpoint.live import mark
from ckstore.errors import Conflict, InvalidInput
from ckstore.graph.policy import Policies
from ckstore.graph.policy_text import parse, parse_policies
from ckstore.graph.reachability import runs_of_tree
from ckstore.graph.reached import reached
from ckstore.graph.retention import decide
from ckstore.storage.collector import REASON
from ckstore.storage.costs import Costs
from ckstore.storage.inventory import take_inventory
from ckstore.storage.record import Hole
from ckstore.storage.sweep import sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckstore.graph.reached import Reached
    from ckstore.graph.retention import Decision, Decisions
    from ckstore.repository import Commits, Repository
    from ckstore.storage.inventory import Live

DROPPED = "dropped"
"""The reason of holes that retention makes."""

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


class Planned:
    """A plan with what it takes to carry it out: made of options that are `settled`."""

    def __init__(self, repository: Repository, options: GcOptions) -> None:
        self.repository = repository
        store = repository.store
        self.inventory = take_inventory(store)
        self.commits = repository.commits_at(self.inventory.refs)
        self.texts = _texts(repository, options, self.commits)
        self.found = _reached(repository, self.commits)
        self.decisions = self._decide(options)
        self.holes = [
            Hole(decision.id, name, DROPPED) for decision in self.decisions.commits for name in self._lost(decision)
        ]
        self.live = self._mark()
        self.sweep = sweep(self.inventory, self.live, repack=options.repack, deep=options.deep)

    def _decide(self, options: GcOptions) -> Decisions:
        policies = _policies(self.texts, from_settings=options.policies is None)
        all_policies = (policies.for_all, *policies.own.values())
        has_budget = any(policy is not None and policy.budget_bytes is not None for policy in all_policies)
        costs = Costs(self.inventory, self._run_of) if has_budget else None
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


def settled(repository: Repository, options: GcOptions) -> GcOptions:
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


def summary(planned: Planned, options: GcOptions) -> GcPlan:
    """The plan in words and numbers."""
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
        record=planned.inventory.end.seq,
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


def check_plan(wanted: GcPlan, plan: GcPlan) -> None:
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


def check_clock(repository: Repository, options: GcOptions, planned: Planned) -> None:
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


def _policies(texts: Mapping[str, str], *, from_settings: bool) -> Policies:
    """The policies that texts say, by branch. Raises `InvalidInput`, naming the setting if it is one."""
    own = {name: text for name, text in texts.items() if name}
    if from_settings:
        return parse_policies(texts.get(""), own)
    return Policies(parse(texts[""]) if "" in texts else None, {name: parse(text) for name, text in own.items()})


def _reached(repository: Repository, commits: Commits) -> Reached:
    detached = commits.head if commits.head_name is None else None
    return reached(commits.refs, detached, commits.read_commit, repository.absent())
