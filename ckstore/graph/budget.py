"""Budgets: of the branches that share one, the commits worth most are kept until all kept ones take so many bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.graph.rules import curve, metric_names
from ckstore.graph.worth import Candidate, Line, choose, merits, take
from ckstore.units import about

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.graph.reached import Reached
    from ckstore.graph.rules import Ruled, Rules
    from ckstore.graph.worth import Costs


class Spending:
    """Budgets being spent: `pools` are the branches that share one, in the order in which they are served."""

    def __init__(self, found: Reached, rules: Rules, pools: Sequence[Sequence[Ruled]], costs: Costs) -> None:
        self._found = found
        self._rules = rules
        self._pools = pools
        self._costs = costs
        branches = [branch for pool in pools for branch in pool]
        self._ids = {branch.name: {id for id, _ in branch.history} for branch in branches}
        self._lines = [
            Line([id for id, _ in one.history], [commit.step for _, commit in one.history]) for one in branches
        ]
        self._spent = [0] * len(pools)

    def fix(self, kept: Sequence[tuple[bytes, tuple[str, ...]]]) -> None:
        """Take what is kept anyway, each commit with its components; it counts in the budgets of all its branches."""
        pools = {id: [place for place, pool in enumerate(self._pools) if self._on(pool, id)] for id, _ in kept}
        for id, components in sorted(
            kept, key=lambda one: bool(pools[one[0]])
        ):  # elsewhere first: that is there anyway
            cost = self._costs.marginal(id, components)
            take(id, components, self._lines, self._costs)
            for place in pools[id]:
                self._spent[place] += cost

    def spend(self, pool: Sequence[Ruled], ids: Sequence[bytes]) -> Iterator[str]:
        """Keep what is worth most of `ids`, the commits that nothing keeps so far; yields warnings."""
        policy = pool[0].policy
        assert policy is not None
        assert policy.budget_bytes is not None
        spent, budget = self._spent[self._pools.index(pool)], policy.budget_bytes
        if spent > budget:
            names = ", ".join(branch.name for branch in pool)
            yield f"{names}: what is kept anyway takes {about(spent)}, more than the budget of {about(budget)}"
        worth = [self._merits(branch) for branch in pool]
        candidates = []
        for id in ids:
            on = self._on(pool, id)
            if on and not self._found.is_absent(id):
                merit = max(worth[place][id] for place in on)
                candidates.append(Candidate(id, self._components(id, [pool[place] for place in on]), merit))
        for id, cost in choose(candidates, spent, budget, self._lines, self._costs).added.items():
            for place in self._on(pool, id):
                pool[place].keeps.setdefault(id, []).append(f"worth its {about(cost)} (budget)")

    def _on(self, pool: Sequence[Ruled], id: bytes) -> list[int]:
        """Which branches of a pool a commit is on."""
        return [place for place, branch in enumerate(pool) if id in self._ids[branch.name]]

    def _components(self, id: bytes, on: Sequence[Ruled]) -> tuple[str, ...]:
        """The components that would be kept of a commit."""
        gone = set.intersection(*(set(branch.drops.get(id, ())) for branch in on))
        return tuple(name for name in self._found.components(id) if name not in gone)

    def _merits(self, branch: Ruled) -> dict[bytes, float]:
        """The worth of a branch's commits apart from distance: by the metrics its policy names, or else by all."""
        assert branch.policy is not None
        here = [(id, commit) for id, commit in branch.history if not self._found.is_absent(id)]
        modes: dict[str, str | None] = {
            one.metric: self._rules.mode_of(branch.name, one.metric, one.mode, branch.history)
            for one in branch.policy.curves()
        } or {metric: self._rules.metric_mode(metric) for metric in metric_names(here)}
        found = merits(len(here), [(curve(here, metric), mode) for metric, mode in modes.items()])
        return {id: merit for (id, _), merit in zip(here, found, strict=True)}
