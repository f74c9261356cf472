"""What commits are worth, and what budgets make of it."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.graph.policy_text import parse, parse_policies
from ckstore.graph.reached import Reached
from ckstore.graph.retention import decide
from ckstore.graph.worth import Candidate, Line, choose, goodness, merits, spikes
from tests.histories import NOW, Bytes, commit, id_of, line, on_main, unsaid
from tests.test_retention import decided, numbers, reasons

# The three parts


def test_goodness_halves_with_rank() -> None:
    assert goodness([3.0, 1.0, None, 2.0, math.nan, 1.0], "min") == [1 / 3, 1.0, 0.0, 0.5, 0.0, 1.0]
    assert goodness([3.0, 1.0, None, math.inf], "max") == [0.5, 1 / 3, 0.0, 1.0]
    assert goodness([], "min") == []


def test_a_slope_has_no_spike() -> None:
    assert spikes([1 / (1 + place) for place in range(50)]) == [0.0] * 50
    assert spikes([2.0] * 50) == [0.0] * 50
    assert spikes([]) == []
    assert spikes([None, 1.0, None]) == [0.0] * 3


def test_a_spike_marks_itself_and_its_neighbours() -> None:
    noise = [0.0, 0.1, -0.1, 0.05]
    values: list[float | None] = [1.0 + noise[place % 4] for place in range(60)]
    values[30] = 9.0
    found = spikes(values)
    assert [place for place, strength in enumerate(found) if strength] == [29, 30, 31]
    assert found[30] == 1.0
    values[30] = 1.5
    assert 0.0 < spikes(values)[30] < 1.0
    values[31] = None  # the neighbour is the next one that was measured
    values[30] = math.nan
    assert [place for place, strength in enumerate(spikes(values)) if strength] == [29, 30, 32]
    assert spikes([1.0] * 30 + [5.0] + [1.0] * 30)[29:32] == [1.0] * 3


def test_merits_take_the_most_of_several_metrics() -> None:
    falling, rising = [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]
    assert merits(3, [(falling, "min")]) == [1 / 3, 0.5, 1.0]
    assert merits(3, [(falling, "min"), (rising, "min")]) == [1.0, 0.5, 1.0]
    assert merits(3, [(falling, None)]) == merits(3, []) == [0.0] * 3
    assert merits(3, [([1.0, math.nan, 1.0], None)]) == [0.5] * 3


def test_distance_from_the_nearest_kept() -> None:
    by_step = Line([id_of(n) for n in (4, 3, 2, 1)], [100, 90, 50, 0])
    assert by_step.distance(id_of(1)) == 1.0  # nothing is kept yet
    by_step.keep(id_of(4))
    assert [by_step.distance(id_of(n)) for n in (4, 3, 2, 1)] == [0.0, 0.2, 1.0, 1.0]
    by_step.keep(id_of(1))
    by_step.keep(id_of(2))
    assert [by_step.distance(id_of(n)) for n in (4, 3, 2, 1)] == [0.0, 0.2, 0.0, 0.0]
    by_place = Line([id_of(n) for n in (5, 4, 3, 2, 1)], [100, None, 50, 0, 0])
    by_place.keep(id_of(5))
    assert [by_place.distance(id_of(n)) for n in (5, 4, 3, 1)] == [0.0, 0.5, 1.0, 1.0]
    assert id_of(9) not in by_place
    assert Line([], []).distance is not None


# Choosing


def test_without_a_metric_it_spreads_evenly() -> None:
    found = on_main(line([None] * 65))
    assert numbers(decided(found, "budget=100B", Bytes())) == [1, 17, 33, 49, 65]
    assert numbers(decided(found, "budget=180B", Bytes())) == [1, 9, 17, 25, 33, 41, 49, 57, 65]


def test_what_is_best_and_what_spikes_is_worth_more() -> None:
    losses: list[float | None] = [1 + 0.01 * (place % 5) for place in range(65)]
    losses[20] = 0.5
    losses[40] = 7.0
    kept = numbers(decided(on_main(line(losses)), "budget=140B:loss:min", Bytes()))
    assert 21 in kept
    assert {40, 41, 42} & set(kept)
    assert len(kept) == 7
    nobody_says = decide(on_main(line(losses)), parse_policies("budget=140B", {}), NOW, unsaid, Bytes())
    assert {20, 21, 22} & set(numbers(nobody_says))
    assert {40, 41, 42} & set(numbers(nobody_says))


def test_bytes_count_against_worth() -> None:
    commits = line([None] * 9)
    sizes = dict.fromkeys(commits, 10) | {id_of(1): 200}
    assert 1 not in numbers(decided(on_main(commits), "budget=400B", Bytes(sizes)))
    assert 1 in numbers(decided(on_main(commits), "budget=4kB", Bytes(sizes)))


def test_what_shares_its_chunks_is_nearly_free() -> None:
    commits = line([None] * 9)
    shared = {id_of(number): 1 for number in (2, 3, 4)}
    said = reasons(decided(on_main(commits, tags={"v1": id_of(3)}), "budget=60B", Bytes(shared=shared)))
    assert said[2] == said[4] == ("worth its 0 B (budget)",)
    assert [number for number, why in said.items() if "worth its 20 B (budget)" in why] == [7]


def test_a_budget_is_kept_to() -> None:
    found = on_main(line([float(loss % 7) for loss in range(40)]))
    for budget in (20, 55, 130, 790, 800, 10**6):
        costs = Bytes()
        decisions = decided(found, f"last=1 budget={budget}B", costs)
        assert len(decisions.kept) == min(budget // 20, 40)
        assert {id for id, _ in costs.taken} == {one.id for one in decisions.kept}
        assert not decisions.warnings


def test_a_budget_that_is_passed_already() -> None:
    decisions = decided(on_main(line([1.0] * 6)), "last=3 budget=50B", Bytes())
    assert numbers(decisions) == [4, 5, 6]
    assert decisions.warnings == ("main: what is kept anyway takes 60 B, more than the budget of 50 B",)


def test_only_components_that_stay_are_paid_for() -> None:
    found = on_main(line([None] * 10))
    costs = Bytes()
    decisions = decided(found, "budget=60B optimizer:last=1", costs)
    assert dict(costs.taken)[id_of(10)] == ("model", "optimizer")
    assert {components for id, components in costs.taken if id != id_of(10)} == {("model",)}
    assert len(decisions.kept) == 5


def test_branches_under_the_policy_for_all_share_its_budget() -> None:
    found = Reached(
        line([None] * 10) | line([None] * 10, first=11) | line([None] * 10, first=21),
        {"a": id_of(10), "b": id_of(20), "c": id_of(30)},
    )

    def kept(for_all: str | None, **own: str) -> list[int]:
        ids = numbers(decide(found, parse_policies(for_all, own), NOW, unsaid, Bytes()))
        return [sum(first <= id < first + 10 for id in ids) for first in (1, 11, 21)]

    assert sum(kept("budget=120B")) == 6
    assert kept("budget=120B", a="budget=120B")[0] == 6
    assert sum(kept("budget=120B", a="budget=120B")[1:]) == 6
    assert kept(None, a="budget=60B", b="last=2") == [3, 2, 10]


def test_a_commit_of_two_budgets_is_taken_once() -> None:
    found = Reached(line([None] * 10) | {id_of(11): commit(11, 5, step=1100)}, {"a": id_of(10), "b": id_of(11)})
    policies = parse_policies(None, {"a": "last=7 budget=200B", "b": "budget=200B"})
    costs = Bytes()
    decisions = decide(found, policies, NOW, unsaid, costs)
    assert len({id for id, _ in costs.taken}) == len(costs.taken) == len(decisions.kept)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 2)), min_size=1, max_size=20),
    st.integers(0, 300),
    st.integers(0, 100),
)
def test_choices_fit_and_nothing_more_would(offered: list[tuple[int, float]], budget: int, spent: int) -> None:
    ids = [id_of(number) for number in range(len(offered), 0, -1)]
    sizes = {id: size for id, (size, _) in zip(ids, offered, strict=True)}
    candidates = [Candidate(id, ("model",), merit) for id, (_, merit) in zip(ids, offered, strict=True)]

    def chosen() -> dict[bytes, int]:
        choice = choose(candidates, spent, budget, [Line(ids, [None] * len(ids))], Bytes(sizes))
        assert choice.stored_bytes == spent + sum(choice.added.values())
        return dict(choice.added)

    added = chosen()
    assert chosen() == added
    assert all(sizes[id] == cost for id, cost in added.items())
    assert not added or spent + sum(added.values()) <= budget
    assert all(spent + sum(added.values()) + sizes[id] > budget for id in ids if id not in added)


def test_ten_thousand_commits_take_seconds() -> None:
    losses = [3.0 / (1 + place) + 0.01 * math.sin(place * 12.9898) for place in range(10_000)]
    found = on_main(line(losses))
    began = time.perf_counter()
    decisions = decided(found, "last=3 every=10000 budget=20kB:loss:min optimizer:last=2", Bytes())
    assert time.perf_counter() - began < 20
    assert 1000 <= len(decisions.kept) <= 2000


@pytest.mark.parametrize("text", ["budget=1GB:loss:min", "last=1 budget=2TB"])
def test_the_rule_is_named_where_it_does_not_keep(text: str) -> None:
    decisions = decided(on_main(line([1.0] * 4)), text.replace("1GB", "20B").replace("2TB", "20B"), Bytes())
    rules = ", ".join(parse(text.replace("1GB", "20B").replace("2TB", "20B")).rules())
    assert reasons(decisions)[1] == (f"main: none of {rules} keeps it",)
