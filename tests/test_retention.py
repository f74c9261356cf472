"""Retention: policies as values and text, and what they decide of made-up histories."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckstore
from ckstore.errors import InvalidInput
from ckstore.graph.policy import Best, Curve, Policies, Policy, keep
from ckstore.graph.policy_text import parse, parse_policies
from ckstore.graph.reached import Reached, reached
from ckstore.graph.retention import Decisions, decide
from ckstore.units import about, parse_size, parse_span, size_text, span_text
from tests.histories import HOUR, NOW, Bytes, commit, id_of, line, on_main, unsaid
from tests.written import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckstore.objects.commit import Commit

LOSSES = [5.0, 4.0, 1.0, 3.0, 2.0, 2.5]
"""Of commits 1 to 6."""


def decided(found: Reached, policy: Policy | str | None, costs: Bytes | None = None) -> Decisions:
    said = parse(policy) if isinstance(policy, str) else policy
    return decide(found, Policies(said), NOW, {"loss": "min"}.get, costs)


def numbers(decisions: Decisions) -> list[int]:
    """The numbers of the commits that are kept, oldest first."""
    return sorted(int.from_bytes(one.id) for one in decisions.kept)


def reasons(decisions: Decisions) -> dict[int, tuple[str, ...]]:
    return {int.from_bytes(one.id): one.reasons for one in decisions.commits}


# Values and text

NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["val/loss", "a b", "x:min", "a,b", "%20", "a=b", "::max", "é"]
)
MODES = st.sampled_from([None, "min", "max"])
COUNTS = st.integers(1, 10**6)
RULES: list[st.SearchStrategy[Policy]] = [
    st.builds(Policy, last=COUNTS),
    st.builds(lambda *best: Policy(best=(Best(*best),)), COUNTS, NAMES, MODES),
    st.builds(lambda steps: Policy(every_steps=(steps,)), COUNTS),
    st.builds(Policy, within_ns=st.integers(1, 10**18)),
    st.just(Policy(all=True)),
]
PARTS = st.lists(st.one_of(RULES), min_size=1, max_size=3).map(lambda rules: joined(*rules))
WHOLE = st.lists(
    st.one_of(
        *RULES,
        st.builds(Policy, budget_bytes=st.integers(1, 10**15)),
        st.builds(lambda size, *curve: Policy(budget_bytes=size, budget_by=(Curve(*curve),)), COUNTS, NAMES, MODES),
    ),
    min_size=1,
    max_size=5,
).map(lambda rules: joined(*rules))


def joined(first: Policy, *others: Policy) -> Policy:
    for other in others:
        first |= other
    return first


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    whole = draw(WHOLE)
    fields = {name: getattr(whole, name) for name in ("last", "best", "every_steps", "within_ns", "all")}
    return Policy(
        **fields,
        budget_bytes=whole.budget_bytes,
        budget_by=whole.budget_by,
        tags=draw(st.booleans()),
        auto=draw(st.booleans()),
        components=draw(st.dictionaries(NAMES, PARTS, max_size=2)),
    )


@settings(max_examples=300, deadline=None)
@given(policies())
def test_the_line_of_a_policy_is_that_policy(policy: Policy) -> None:
    text = str(policy)
    assert text.isprintable()
    assert parse(text) == policy
    assert parse(text.replace(" ", ", ")) == policy


def test_what_a_line_says() -> None:
    text = "last=3 best=2:val/loss:min every=10000 within=7d budget=200GB tags optimizer:last=2 auto"
    policy = keep(
        last=3,
        best=2,
        metric="val/loss",
        mode="min",
        every_steps=10_000,
        within="7d",
        budget="200GB",
        components={"optimizer": keep(last=2)},
        auto=True,
    )
    assert parse(text) == policy
    assert str(policy) == text.replace(" tags optimizer:last=2 auto", " auto optimizer:last=2")
    assert (policy.within_ns, policy.budget_bytes) == (7 * 24 * HOUR, 200 * 10**9)
    assert parse("best=1:loss").best == (Best(1, "loss", None),)
    assert parse("no-tags,last=1") == keep(last=1, tags=False)
    assert parse("budget=1GB:acc:max") == keep(budget="1GB", metric="acc", mode="max")
    assert parse("all optimizer:every=10") == keep(all=True, components={"optimizer": keep(every_steps=10)})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "keeps nothing"),
        ("tags auto", "keeps nothing"),
        ("optimizer:last=2", "keeps nothing"),
        ("last=0", "last=0"),
        ("last=-1", "last=-1"),
        ("last=x", "last=x"),
        ("last", "'last' is no rule"),
        ("lats=3", "'lats=3' is no rule"),
        ("tags=yes last=1", "tags=yes"),
        ("best=2", "names no metric"),
        ("best=2:", "names no metric"),
        ("best=x:loss", "best=x:loss"),
        ("every=0", "every=0"),
        ("within=x", "'x' is no span"),
        ("within=0d", "'0d' is no span"),
        ("budget=abc", "'abc' is no size"),
        ("budget=0B", "'0B' is no size"),
        ("last=1 opt:budget=1GB", "'opt' alone"),
        ("last=1 opt:tags", "opt:tags"),
        (f"last={'9' * 5000}", "has no number"),
    ],
)
def test_lines_that_are_none(text: str, what: str) -> None:
    assert what in refused(lambda: parse(text)).what
    error = refused(lambda: parse_policies(None, {"main": text}))
    assert error.what.startswith("the setting keep.main: ")


@pytest.mark.parametrize(
    "call",
    [
        keep,
        lambda: keep(tags=True, auto=True),
        lambda: keep(last=0),
        lambda: keep(last=-3),
        lambda: keep(last=True),
        lambda: keep(best=2),
        lambda: keep(last=1, mode="min"),
        lambda: keep(last=1, metric="loss"),
        lambda: keep(best=1, metric=""),
        lambda: keep(best=1, metric="loss", mode="least"),
        lambda: keep(best=0, metric="loss"),
        lambda: keep(every_steps=0),
        lambda: keep(within="x"),
        lambda: keep(within=""),
        lambda: keep(budget="abc"),
        lambda: keep(budget=0),
        lambda: keep(last=1, components={"": keep(last=1)}),
        lambda: keep(last=1, components={"optimizer": "last=2"}),  # type: ignore[dict-item]
        lambda: keep(last=1, components={"optimizer": keep(last=1, components={"a": keep(last=1)})}),
        lambda: keep(last=1, components={"optimizer": keep(last=1, tags=False)}),
        lambda: keep(last=1, components={"optimizer": keep(budget="1GB")}),
        lambda: keep(components={"optimizer": keep(last=1)}),
        lambda: Policy(budget_by=(Curve("loss"),), last=1),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(call: Callable[[], Policy]) -> None:
    refused(call)


def test_policies_add_up() -> None:
    one = keep(last=3, best=2, metric="loss", mode="min", every_steps=10, within="1d", tags=False)
    other = keep(last=5, best=4, metric="loss", mode="min", every_steps=20, budget="1GB", auto=True)
    assert str(one | other) == "last=5 best=4:loss:min every=10 within=1d budget=1GB auto"
    assert (one | other) == (other | one)
    assert (keep(every_steps=4) | keep(every_steps=6)).every_steps == (4, 6)
    parts = keep(last=1, components={"a": keep(last=1), "b": keep(last=1)})
    assert (parts | keep(last=1)).components == {}
    assert (parts | keep(last=1, components={"a": keep(last=3)})).components == {"a": keep(last=3)}
    assert ckstore.keep is keep
    assert ckstore.Policy is Policy


def test_policies_of_branches() -> None:
    found = parse_policies("last=1", {"main": "last=2"})
    assert (found.of("main"), found.of("other")) == (keep(last=2), keep(last=1))
    assert Policies().of("main") is None


@given(st.integers(0, 10**19), st.integers(0, 10**18))
def test_spans_and_sizes_come_back(span_ns: int, size_bytes: int) -> None:
    assert parse_span(span_text(span_ns)) == span_ns
    assert parse_size(size_text(size_bytes)) == size_bytes


def test_spans_and_sizes() -> None:
    assert (parse_span("1.5h"), parse_span("2w"), parse_span("1 d"), parse_span("٣d")) == (
        1.5 * HOUR, 14 * 24 * HOUR, None, None,
    )  # fmt: skip
    assert [parse_size(text) for text in ("5", "5B", "5kB", "5KiB", "1.5 GB", "5iB", "-1", "GB")] == [
        5, 5, 5000, 5120, 1_500_000_000, None, None, None,
    ]  # fmt: skip
    assert (about(999), about(1234), about(2e15)) == ("999 B", "1.2 kB", "2000.0 TB")


# Rules


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("last=1", [6]),
        ("last=3", [4, 5, 6]),
        ("last=100", [1, 2, 3, 4, 5, 6]),
        ("best=1:loss:min", [3, 6]),
        ("best=2:loss:min", [3, 5, 6]),
        ("best=2:loss", [3, 5, 6]),
        ("best=1:loss:max", [1, 6]),
        ("every=200", [1, 2, 4, 6]),  # step 100 is the first at or after 0
        ("every=250", [1, 3, 5, 6]),
        ("every=250,every=1000000", [1, 3, 5, 6]),
        ("within=995h", [5, 6]),
        ("within=1w", [6]),
        ("all", [1, 2, 3, 4, 5, 6]),
        ("last=2 best=1:loss:min", [3, 5, 6]),
    ],
)
def test_what_rules_keep(policy: str, kept: list[int]) -> None:
    assert numbers(decided(on_main(line(LOSSES)), policy)) == kept


def test_reasons() -> None:
    said = reasons(decided(on_main(line(LOSSES)), "last=2 best=2:loss:min every=300 within=995h"))
    assert said == {
        6: ("tip of main", "last 2", "every 300 steps: step 600", "within 995h"),
        5: ("last 2", "best 2 by loss (min): 2", "within 995h"),
        4: ("main: none of last=2, best=2:loss:min, every=300, within=995h keeps it",),
        3: ("best 2 by loss (min): 1", "every 300 steps: step 300"),
        2: ("main: none of last=2, best=2:loss:min, every=300, within=995h keeps it",),
        1: ("every 300 steps: step 100",),
    }
    assert reasons(decided(on_main(line(LOSSES)), None)) == {
        **dict.fromkeys(range(1, 6), ("main has no policy",)),
        6: ("tip of main", "main has no policy"),
    }


def test_a_commit_from_the_future_is_within() -> None:
    commits = {id_of(1): commit(1, age_ns=-HOUR), id_of(2): commit(2, 1, age_ns=5 * HOUR)}
    assert reasons(decided(on_main(commits), "within=1h"))[1] == ("within 1h",)


def test_steps_that_are_missing_or_come_twice() -> None:
    steps = [None, 90, 210, 150, 210, None, 260]
    commits = {id_of(n): commit(n, *([n - 1] if n > 1 else []), step=step) for n, step in enumerate(steps, 1)}
    assert numbers(decided(on_main(commits), "every=100")) == [2, 3, 4, 7]


def test_best_of_what_is_measured() -> None:
    found = on_main(line([math.nan, 3.0, None, math.inf, 3.0, -math.inf]))
    assert numbers(decided(found, "best=1:loss:min")) == [6]
    assert reasons(decided(found, "best=1:loss:max"))[4] == ("best 1 by loss (max): inf",)
    assert numbers(decided(found, "best=9:loss:min")) == [2, 4, 5, 6]
    assert numbers(decided(on_main(line([3.0, 3.0, 4.0])), "best=1:loss:min")) == [2, 3]  # the newer
    assert numbers(decided(on_main(line([math.nan, math.nan])), "best=1:loss:min")) == [2]


@pytest.mark.parametrize(
    ("policy", "what", "hint"),
    [
        ("best=1:los:min", "no commit of main has the metric 'los'", "loss"),
        ("last=1 optimizer:best=1:los:min", "no commit of main has the metric 'los'", "loss"),
        (
            "best=1:qqq:min",
            "no commit of main has the metric 'qqq'",
            "known are acc, loss; or give it a policy of its own",
        ),
        ("best=1:acc", "what is better of 'acc'", "acc:min or acc:max"),
        ("budget=1GB:acc", "what is better of 'acc'", "config set metrics.acc min"),
    ],
)
def test_metrics_that_nothing_can_be_said_of(policy: str, what: str, hint: str) -> None:
    found = on_main({id_of(1): commit(1, metrics={"loss": 1.0, "acc": 0.5})} | {id_of(2): commit(2, 1)})
    error = refused(lambda: decided(found, policy, Bytes()))
    assert what in error.what
    assert hint in str(error.hint)


# What no policy drops


def test_tips_tags_pins_and_other_refs() -> None:
    commits = line(LOSSES)
    side = {id_of(7): commit(7, 2, step=1)}
    gone = {id_of(8): commit(8), id_of(9): commit(9, 8)}
    found = Reached(
        commits | side | gone,
        {"main": id_of(6), "side": id_of(7)},
        tags={"v1": id_of(3), "v2": id_of(9)},
        pins=[id_of(4)],
        others={"HEAD": id_of(5), "remotes/origin/main": id_of(5)},
    )
    said = reasons(decided(found, "last=1 model:last=1"))
    denial = "none of last=1 keeps it"
    assert said == {
        9: ("tag v2", "on no branch"),
        8: ("on no branch",),
        7: ("tip of side", "side: last 1"),
        6: ("tip of main", "main: last 1"),
        5: ("HEAD is on it", "remotes/origin/main is on it"),
        4: ("pinned",),
        3: ("tag v1",),
        2: (f"main: {denial}", f"side: {denial}"),
        1: (f"main: {denial}", f"side: {denial}"),
    }
    assert all(not one.dropped_components for one in decided(found, "last=1 model:last=1").commits)
    untagged = decided(found, "last=1 no-tags")
    assert numbers(untagged) == [4, 5, 6, 7, 8, 9]


def test_a_tag_counts_where_one_branch_says_so() -> None:
    found = Reached(
        line(LOSSES) | {id_of(7): commit(7, 3)}, {"main": id_of(6), "side": id_of(7)}, tags={"v1": id_of(2)}
    )

    def kept(main: str, side: str | None) -> list[int]:
        own = {"main": main} if side is None else {"main": main, "side": side}
        return numbers(decide(found, parse_policies(None, own), NOW, unsaid))

    assert kept("last=1 no-tags", "last=1 no-tags") == [6, 7]
    assert kept("last=1 no-tags", "last=1") == [2, 6, 7]
    assert kept("last=1 no-tags", None) == [1, 2, 3, 6, 7]


def test_any_branch_keeps() -> None:
    found = Reached(line(LOSSES) | {id_of(7): commit(7, 3)}, {"main": id_of(6), "side": id_of(7)})
    policies = parse_policies("last=1", {"side": "last=2"})
    assert numbers(decide(found, policies, NOW, unsaid)) == [3, 6, 7]


def test_refs_by_their_full_names() -> None:
    commits = line(LOSSES)
    refs = {"heads/main": id_of(6), "tags/v1": id_of(2), "pins/00": id_of(3), "remotes/o/main": id_of(4)}
    found = reached(refs, id_of(5), commits.__getitem__)
    assert found == Reached(
        commits,
        {"main": id_of(6)},
        {"v1": id_of(2)},
        frozenset({id_of(3)}),
        {"remotes/o/main": id_of(4), "HEAD": id_of(5)},
    )
    assert reached({}, None, commits.__getitem__).commits == {}
    assert decide(reached({}, None, commits.__getitem__), Policies(), NOW, unsaid) == Decisions(())


# Components


def test_components_that_go_alone() -> None:
    decisions = decided(on_main(line(LOSSES)), "last=4 optimizer:last=2")
    assert {int.from_bytes(one.id): dict(one.dropped_components) for one in decisions.kept} == {
        6: {},
        5: {},
        4: {"optimizer": "main: none of last=2 keeps its optimizer"},
        3: {"optimizer": "main: none of last=2 keeps its optimizer"},
    }
    assert all(not one.dropped_components for one in decisions.dropped)
    assert not decisions.warnings


def test_a_component_counts_where_it_is() -> None:
    commits = line(LOSSES)
    commits[id_of(6)] = commit(6, 5, components=("model",))
    decisions = decided(on_main(commits), "all optimizer:last=2 optimiser:last=1")
    dropped = {int.from_bytes(one.id): set(one.dropped_components) for one in decisions.commits}
    assert dropped == {6: set(), 5: set(), 4: set(), 3: {"optimizer"}, 2: {"optimizer"}, 1: {"optimizer"}}
    assert decisions.warnings == ("no commit of main has the component 'optimiser'",)


def test_a_component_stays_where_one_branch_keeps_it() -> None:
    found = Reached(line(LOSSES) | {id_of(7): commit(7, 4)}, {"main": id_of(6), "side": id_of(7)})
    both = parse_policies("all optimizer:last=1", {})
    side = parse_policies("all optimizer:last=1", {"side": "last=2"})
    other = parse_policies("all optimizer:last=1", {"side": "last=1"})

    def bare(policies: Policies) -> list[int]:
        found_ = decide(found, policies, NOW, unsaid)
        return sorted(int.from_bytes(one.id) for one in found_.kept if one.dropped_components)

    assert bare(both) == [1, 2, 3, 4, 5]
    assert bare(side) == [1, 2, 3, 5]  # side keeps 4 whole
    assert bare(other) == [1, 2, 3, 4, 5]  # side does not keep 4, so it has no say


def test_what_is_not_here_is_no_candidate() -> None:
    both = ("model", "optimizer")
    absent = {id_of(3): both, id_of(5): both, id_of(4): ("optimizer",)}
    found = on_main(line(LOSSES), absent=absent)
    decisions = decided(found, "last=2 best=1:loss:min optimizer:last=1")
    assert reasons(decisions)[3] == ("nothing of it is here any more",)
    assert numbers(decisions) == [4, 6]
    decisions = decided(found, "all optimizer:last=2")
    assert {int.from_bytes(one.id): set(one.dropped_components) for one in decisions.kept} == {
        6: set(), 4: set(), 2: set(), 1: {"optimizer"},
    }  # fmt: skip


# Properties


@st.composite
def graphs(draw: st.DrawFn) -> Reached:
    """A few branches with merges, tags, pins, other refs, and holes."""
    count = draw(st.integers(1, 12))
    losses = st.none() | st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf])
    commits: dict[bytes, Commit] = {}
    for number in range(1, count + 1):
        parents = draw(st.lists(st.integers(1, number - 1), max_size=2, unique=True)) if number > 1 else []
        loss = draw(losses)
        commits[id_of(number)] = commit(
            number,
            *parents,
            step=draw(st.none() | st.integers(0, 50)),
            metrics={"acc": 1.0} | ({} if loss is None else {"loss": loss}),
            components=draw(st.sampled_from([("model",), ("model", "optimizer"), ()])),
            age_ns=draw(st.integers(-10, 100)) * HOUR,
        )
    ids = st.sampled_from(sorted(commits))
    names = st.sampled_from(["main", "side", "x"])
    return reached(
        {
            **{f"heads/{name}": id for name, id in draw(st.dictionaries(names, ids, min_size=1)).items()},
            **{f"tags/{name}": id for name, id in draw(st.dictionaries(names, ids)).items()},
            **{f"pins/{id.hex()}": id for id in draw(st.lists(ids, max_size=2))},
        },
        draw(st.none() | ids),
        commits.__getitem__,
        draw(st.dictionaries(ids, st.sampled_from([("model",), ("model", "optimizer")]), max_size=2)),
    )


DECIDABLE = st.lists(
    st.one_of(
        st.builds(Policy, last=st.integers(1, 5)),
        st.builds(lambda count: Policy(best=(Best(count, "acc", "max"),)), st.integers(1, 3)),
        st.builds(lambda steps: Policy(every_steps=(steps,)), st.integers(1, 20)),
        st.builds(lambda hours: Policy(within_ns=hours * HOUR), st.integers(1, 50)),
    ),
    min_size=1,
    max_size=3,
).map(lambda rules: joined(*rules))
WITH_PARTS = st.builds(
    lambda policy, parts, tags: Policy(
        policy.last, policy.best, policy.every_steps, policy.within_ns, tags, None, parts
    ),
    DECIDABLE,
    st.dictionaries(st.sampled_from(["model", "optimizer"]), DECIDABLE),
    st.booleans(),
)


def kept_parts(decisions: Decisions, found: Reached) -> set[tuple[bytes, str]]:
    """Commits with the components that stay, and "" for the commit itself."""
    return {
        (one.id, name)
        for one in decisions.kept
        for name in ("", *found.components(one.id))
        if name not in one.dropped_components
    }


def everything(found: Reached, policies: Policies, budget: Bytes | None = None) -> Decisions:
    return decide(found, policies, NOW, {"loss": "min", "acc": "max"}.get, budget)


@settings(max_examples=200, deadline=None)
@given(graphs(), WITH_PARTS, WITH_PARTS)
def test_more_rules_never_keep_less(found: Reached, one: Policy, other: Policy) -> None:
    together = kept_parts(everything(found, Policies(one | other)), found)
    for alone in (one, other):
        assert kept_parts(everything(found, Policies(alone)), found) <= together
    none = kept_parts(everything(found, Policies()), found)
    assert together <= none


@settings(max_examples=200, deadline=None)
@given(graphs(), WITH_PARTS, st.dictionaries(st.sampled_from(["main", "side"]), WITH_PARTS), st.integers(0, 200))
def test_some_are_always_kept_whole(found: Reached, policy: Policy, own: dict[str, Policy], budget: int) -> None:
    policies = Policies(policy | keep(budget=budget or 1), own)
    decisions = everything(found, policies, Bytes())
    assert {one.id for one in decisions.commits} == set(found.commits)
    by_id = {one.id: one for one in decisions.commits}
    for id in (*found.branches.values(), *found.pins, *found.others.values()):
        assert by_id[id].is_kept
        assert not by_id[id].dropped_components
    for one in decisions.commits:
        assert one.reasons
        assert set(one.dropped_components) <= set(found.components(one.id))


def turned(found: Reached) -> Reached:
    """The same with everything in another order."""

    def back(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
        return dict(reversed(list(mapping.items())))

    return Reached(
        back(found.commits), back(found.branches), back(found.tags), list(found.pins), back(found.others),
        back(found.absent),
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(graphs(), WITH_PARTS, st.dictionaries(st.sampled_from(["main", "side", "x"]), WITH_PARTS), st.integers(1, 200))
def test_decisions_do_not_depend_on_order(found: Reached, policy: Policy, own: dict[str, Policy], size: int) -> None:
    budget = keep(budget=size)
    one = Policies(policy | budget, {name: policy | budget for name, policy in own.items()})
    other = Policies(budget | policy, dict(reversed(list(one.own.items()))))
    assert everything(found, one, Bytes()) == everything(turned(found), other, Bytes())


@settings(max_examples=100, deadline=None)
@given(graphs(), WITH_PARTS)
def test_deciding_again_drops_nothing_more(found: Reached, policy: Policy) -> None:
    """What is left after gc is left as it is by the next one, where no time has passed."""
    first = everything(found, Policies(policy))
    absent = {id: set(names) for id, names in found.absent.items()}
    for one in first.commits:
        gone = one.dropped_components if one.is_kept else found.components(one.id)
        absent.setdefault(one.id, set()).update(gone)
    again = Reached(found.commits, found.branches, found.tags, found.pins, found.others, absent)
    assert kept_parts(first, found) <= kept_parts(everything(again, Policies(policy)), again) | {
        (one.id, "") for one in first.kept if set(found.components(one.id)) <= set(one.dropped_components)
    }


def test_a_budget_needs_costs() -> None:
    with pytest.raises(InvalidInput, match="what commits take"):
        decided(on_main(line(LOSSES)), "budget=1GB")
