"""Retention: for every commit whether policies keep it, and why. A pure function of commits, refs and `now`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.graph.budget import Spending
from ckstore.graph.history import ancestry
from ckstore.graph.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckstore.graph.policy import Policies
    from ckstore.graph.reached import Reached
    from ckstore.graph.rules import Ruled
    from ckstore.graph.worth import Costs

ON_NO_BRANCH = "on no branch"
ABSENT = "nothing of it is here any more"


@dataclass(frozen=True)
class Decision:
    """What becomes of a commit, and all that speaks for it; where it is dropped, what does not.

    `dropped_components` are those that go although the commit is kept, each with why.
    """

    id: bytes
    is_kept: bool
    reasons: tuple[str, ...]
    dropped_components: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decisions:
    """A decision for every commit, newest first. `warnings` say what a person may not have meant."""

    commits: tuple[Decision, ...]
    warnings: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[Decision, ...]:
        """Those that are kept."""
        return tuple(one for one in self.commits if one.is_kept)

    @property
    def dropped(self) -> tuple[Decision, ...]:
        """Those that are not."""
        return tuple(one for one in self.commits if not one.is_kept)


def decide(
    found: Reached,
    policies: Policies,
    now_ns: int,
    metric_mode: Callable[[str], str | None],
    costs: Costs | None = None,
) -> Decisions:
    """What to keep: what any branch it is on keeps; tips, pins, tags and what other refs are on in any case, and whole.

    A tag keeps its commit unless the policies of all branches it is on say `tags=False`; what is on no branch is kept.
    `costs`, which only budgets need, is asked and changed. Raises `InvalidInput` for a metric that no commit of the
    branch has, or of which nobody said which way it is better.
    """
    rules = Rules(found, now_ns, metric_mode)
    deciding = _Deciding(found, [rules.apply(name, policies.of(name)) for name in sorted(found.branches)])
    pools = _pools(deciding.branches, policies)
    warnings = [warning for branch in deciding.branches for warning in branch.warnings]
    if pools:
        if costs is None:
            raise InvalidInput("a budget needs to know what commits take", hint="leave budget out")
        spending = Spending(found, rules, pools, costs)
        spending.fix([(id, deciding.components(id)) for id in deciding.order if deciding.is_kept(id)])
        for pool in pools:
            warnings += spending.spend(pool, [id for id in deciding.order if not deciding.is_kept(id)])
    return Decisions(tuple(map(deciding.decision, deciding.order)), tuple(dict.fromkeys(warnings)))


def _pools(branches: Sequence[Ruled], policies: Policies) -> list[list[Ruled]]:
    """The branches with a budget: each with its own, and together those under the policy for all."""
    budgeted = [one for one in branches if one.policy is not None and one.policy.budget_bytes is not None]
    shared = [one for one in budgeted if one.name not in policies.own]
    return [[one] for one in budgeted if one.name in policies.own] + ([shared] if shared else [])


class _Deciding:
    """What branches say of commits, put together."""

    def __init__(self, found: Reached, branches: Sequence[Ruled]) -> None:
        self.branches = branches
        self._found = found
        on: defaultdict[bytes, list[Ruled]] = defaultdict(list)
        for branch in branches:
            for id, _ in branch.history:
                on[id].append(branch)
        self._on: dict[bytes, list[Ruled]] = dict(on)
        self.order = [id for id, _ in ancestry(sorted(found.commits), found.commits.__getitem__)]
        self._whole = self._kept_whole()

    def is_kept(self, id: bytes) -> bool:
        """Whether anything keeps a commit."""
        return id in self._whole or any(id in branch.keeps for branch in self._on.get(id, ()))

    def components(self, id: bytes) -> tuple[str, ...]:
        """The components that are kept of a commit that is."""
        gone = self._dropped_components(id)
        return tuple(name for name in self._found.components(id) if name not in gone)

    def decision(self, id: bytes) -> Decision:
        """What becomes of a commit."""
        reasons = list(self._whole.get(id, ()))
        for branch in self._on.get(id, ()):
            label = f"{branch.name}: " if len(self.branches) > 1 and branch.policy is not None else ""
            reasons += [f"{label}{reason}" for reason in branch.keeps.get(id, ())]
        if reasons:
            return Decision(id, True, tuple(reasons), self._dropped_components(id))
        if self._found.is_absent(id):
            return Decision(id, False, (ABSENT,))
        return Decision(id, False, tuple(_denial(branch) for branch in self._on.get(id, ())))

    def _dropped_components(self, id: bytes) -> dict[str, str]:
        """Components that no branch which keeps the commit keeps."""
        if id in self._whole:
            return {}
        keeping = [branch.drops.get(id, {}) for branch in self._on.get(id, ()) if id in branch.keeps]
        shared = set(keeping[0]).intersection(*keeping[1:]) if keeping else set()
        return {name: "; ".join(drops[name] for drops in keeping) for name in sorted(shared)}

    def _kept_whole(self) -> dict[bytes, list[str]]:
        """Commits that no policy can drop, nor a component of theirs."""
        whole: defaultdict[bytes, list[str]] = defaultdict(list)
        for name, id in sorted(self._found.branches.items()):
            whole[id].append(f"tip of {name}")
        for name, id in sorted(self._found.others.items()):
            whole[id].append(f"{name} is on it")
        for name, id in sorted(self._found.tags.items()):
            policies = [branch.policy for branch in self._on.get(id, ())]
            if not policies or any(policy is None or policy.tags for policy in policies):
                whole[id].append(f"tag {name}")
        for id in self._found.pins:
            whole[id].append("pinned")
        for id in self.order:
            if not self._on.get(id):
                whole[id].append(ON_NO_BRANCH)
        return dict(whole)


def _denial(branch: Ruled) -> str:
    """Why a branch does not keep a commit."""
    assert branch.policy is not None
    return f"{branch.name}: none of {', '.join(branch.policy.rules())} keeps it"
