"""How people name commits, and the order in which history is told."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.errors import InvalidInput, NoRevision
from ckstore.graph.history import ancestry, describe
from ckstore.graph.revision import check_ref_name, resolve
from ckstore.objects.commit import Commit, Component, Metric
from ckstore.objects.encoding import float_bits

SECOND = 10**9
NOW = 1_000_000 * SECOND


def id_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class Memory:
    """Commits and refs in two dictionaries, and in a third which way metrics are better."""

    def __init__(self) -> None:
        self.modes: dict[str, str] = {}
        self.asked: list[str] = []
        self.commits: dict[bytes, Commit] = {}
        self.refs: dict[str, bytes] = {}
        self.head: bytes | None = None

    def add(
        self,
        name: str,
        *parents: str,
        age_s: float = 0,
        step: int | None = None,
        id: bytes | None = None,
        **metrics: float,
    ) -> bytes:
        made = Commit(
            components=(Component("model", bytes(32)),),
            parents=tuple(id_of(parent) for parent in parents),
            time_ns=NOW - int(age_s * SECOND),
            offset_min=0,
            author="",
            message=name,
            metrics=tuple(Metric(key.replace("_", "/"), float_bits(value)) for key, value in sorted(metrics.items())),
            step=step,
        )
        id = id or id_of(name)
        self.commits[id] = made
        return id

    def read_commit(self, id: bytes) -> Commit:
        return self.commits[id]

    def metric_mode(self, metric: str) -> str | None:
        self.asked.append(metric)
        return self.modes.get(metric)

    def ids_beginning(self, prefix: str) -> list[bytes]:
        return sorted(id for id in self.commits if id.hex().startswith(prefix))


@pytest.fixture
def memory() -> Memory:
    """Two branches and a merge:

    a -- b -- d -- e (main, HEAD)
     \\        /
      -- c ---        f (alone)
    """
    made = Memory()
    made.add("a", age_s=5 * 86400, step=0, val_loss=3.0)
    made.add("b", "a", age_s=3 * 86400, step=10, val_loss=1.0, acc=math.nan)
    made.add("c", "a", age_s=2 * 86400, step=10, val_loss=2.0)
    made.add("d", "b", "c", age_s=86400, step=20)
    made.head = made.add("e", "d", age_s=3600, step=30, val_loss=math.nan)
    made.add("f", age_s=1800, step=5, val_loss=1.0)
    made.refs = {
        "heads/main": id_of("e"),
        "heads/alone": id_of("f"),
        "tags/v1": id_of("b"),
        "tags/main": id_of("a"),
        "remotes/origin/side": id_of("c"),
    }
    return made


@pytest.mark.parametrize(
    ("revision", "name"),
    [
        ("HEAD", "e"), ("", "e"), ("~", "d"), ("^", "d"), ("HEAD~0", "e"), ("HEAD^0", "e"), ("HEAD~2", "b"),
        ("HEAD~1^2", "c"), ("main~^2~1", "a"), ("main^^", "b"), ("main~3", "a"), ("HEAD~~~", "a"),
        ("main", "e"), ("heads/main", "e"), ("tags/main", "a"), ("v1", "b"), ("v1~1", "a"), ("alone", "f"),
        ("origin/side", "c"), ("remotes/origin/side", "c"),
        ("last", "f"), ("last~0", "f"),
        ("step:30", "e"), ("step:0", "a"), ("step:10", "c"), ("step:20~1", "b"),
        ("best:val/loss:min", "f"), ("best:val/loss:max", "a"), ("best:val/loss:max~0", "a"),
        ("@0s", "f"), ("@1h", "e"), ("@0.6h", "e"), ("@61m", "d"), ("@2d", "c"), ("@0.5w", "a"), ("@5d", "a"),
        (id_of("c").hex(), "c"), (id_of("c").hex()[:4], "c"), (id_of("d").hex()[:9] + "^2", "c"),
    ],
)  # fmt: skip
def test_what_names_what(memory: Memory, revision: str, name: str) -> None:
    assert resolve(revision, memory, NOW) == id_of(name)


@pytest.mark.parametrize(
    ("revision", "why"),
    [
        ("mian", "no revision 'mian'"), ("HEAD~4", "goes back beyond"), ("HEAD^2", "which has 1 parents"),
        ("f^", "no revision 'f'"), ("alone~1", "which has 0 parents"), ("HEAD~" + "9" * 17, "goes back beyond"),
        ("HEAD~" + "9" * 5000, "no parents that far back"), ("step:99", "no commit of step 99"),
        ("best:loss:min", "no commit has the metric 'loss'"), ("best:acc:min", "no commit has the metric 'acc'"),
        ("best:loss", "no commit has the metric 'loss'"), ("best:a:most", "no commit has the metric 'a:most'"),
        ("@6d", "no commit is '@6d'"), ("@" + "9" * 400 + "w", "no commit is"), ("abc", "no revision 'abc'"),
        ("0" * 64, "no revision"), ("f" * 65, "no revision"), ("@3", "no revision"), ("@", "no revision"),
        ("main:x", "no revision"), ("HEAD.", "no revision"), ("\ud800", "no revision"), ("a\0b", "no revision"),
        ("ABCD", "no revision"),
    ],
)  # fmt: skip
def test_what_names_nothing(memory: Memory, revision: str, why: str) -> None:
    with pytest.raises(NoRevision) as caught:
        resolve(revision, memory, NOW)
    assert why in caught.value.what


@pytest.mark.parametrize(
    ("revision", "hint"),
    [
        ("mian", "did you mean main"),
        ("v2", "did you mean v1"),
        ("origin/sid", "did you mean origin/side"),
        ("step:12", "[10, 10, 5]"),
        ("best:val/los:min", "did you mean val/loss"),
        ("best:val/los", "did you mean val/loss"),
        ("best:zzzzz", "known are acc, val/loss"),
        ("zzzzzzzz", "ckstore log --all"),
    ],
)
def test_a_near_miss_is_told(memory: Memory, revision: str, hint: str) -> None:
    with pytest.raises(NoRevision) as caught:
        resolve(revision, memory, NOW)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("revision", ["step:", "step:x", "step:1.5", "best:val/loss", "best::min", "best:"])
def test_malformed(memory: Memory, revision: str) -> None:
    with pytest.raises(InvalidInput):
        resolve(revision, memory, NOW)


def test_a_metric_whose_better_way_is_set(memory: Memory) -> None:
    with pytest.raises(InvalidInput, match="'best:val/loss' does not say what is better") as caught:
        resolve("best:val/loss~1", memory, NOW)
    assert caught.value.hint == (
        "write best:val/loss:min or best:val/loss:max, or once for all `ckstore config set metrics.val/loss min`"
    )
    for mode in ("min", "max"):
        memory.modes = {"val/loss": mode}
        assert resolve("best:val/loss", memory, NOW) == resolve(f"best:val/loss:{mode}", memory, NOW)
        assert resolve("best:val/loss:min", memory, NOW) == id_of("f")
        assert resolve("best:val/loss:max", memory, NOW) == id_of("a")
        assert resolve("best:val/loss~0", memory, NOW) == resolve("best:val/loss", memory, NOW)
    memory.modes = {"acc": "max"}
    with pytest.raises(NoRevision, match="no commit has the metric 'acc'"):
        resolve("best:acc", memory, NOW)


def test_a_mode_is_asked_for_only_where_it_is_needed(memory: Memory) -> None:
    for revision in ("main", "last", "step:10", "best:val/loss:min", "@1h"):
        resolve(revision, memory, NOW)
    with pytest.raises(NoRevision):
        resolve("best:val/los", memory, NOW)
    assert memory.asked == []
    with pytest.raises(InvalidInput):
        resolve("best:val/loss", memory, NOW)
    assert memory.asked == ["val/loss"]


def test_the_command_in_the_hint_can_be_pasted() -> None:
    made = Memory()
    metrics: dict[str, Any] = {"top 1; acc": 1.0}
    made.refs = {"heads/main": made.add("a", **metrics)}
    with pytest.raises(InvalidInput) as caught:
        resolve("best:top 1; acc", made, NOW)
    assert "`ckstore config set 'metrics.top 1; acc' min`" in str(caught.value.hint)


def test_an_ambiguous_beginning(memory: Memory) -> None:
    for tail in ("00" * 30, "11" * 30, "12" * 30):
        memory.add("twin", id=bytes.fromhex("ab12" + tail))
    with pytest.raises(InvalidInput, match="ab12 is ambiguous: 3 commits begin so") as caught:
        resolve("ab12", memory, NOW)
    assert caught.value.hint == "one of ab120000, ab121111, ab121212"
    assert resolve("ab120", memory, NOW).hex() == "ab12" + "00" * 30
    memory.refs["heads/ab12"] = id_of("a")
    assert resolve("ab12", memory, NOW) == id_of("a")


def test_an_empty_repository() -> None:
    empty = Memory()
    for revision in ("HEAD", "last", "main", "step:1", "best:loss:min", "@1h", "HEAD~1"):
        with pytest.raises(NoRevision):
            resolve(revision, empty, NOW)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"(HEAD|main|last|step:|best:|@|[0-9a-f]{4})?[~^@:0-9a-fsmhdw.]{0,40}"))
def test_any_text_names_a_commit_or_is_refused(revision: str) -> None:
    made = Memory()
    made.head = made.add("a", step=1, loss=1.0)
    made.refs = {"heads/main": made.head}
    with suppress(NoRevision, InvalidInput):
        assert resolve(revision, made, NOW) == made.head


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=12))
def test_a_ref_name_that_passes_names_its_ref(name: str) -> None:
    try:
        check_ref_name(name, "branch")
    except InvalidInput:
        return
    made = Memory()
    made.refs = {f"heads/{name}": made.add("a")}
    assert resolve(name, made, NOW) == id_of("a")


# History


def test_children_come_before_parents_else_the_newest_first(memory: Memory) -> None:
    order = [commit.message for _, commit in ancestry(memory.refs.values(), memory.read_commit)]
    assert order == ["f", "e", "d", "c", "b", "a"]


def test_a_clock_that_went_backwards() -> None:
    made = Memory()
    made.add("old", age_s=0)
    made.add("young", "old", age_s=100)
    made.add("other", age_s=50)
    order = [commit.message for _, commit in ancestry([id_of("young"), id_of("other")], made.read_commit)]
    assert order == ["other", "young", "old"]


def test_a_long_history_needs_no_stack() -> None:
    made = Memory()
    for number in range(5000):
        made.add(f"c{number}", *([f"c{number - 1}"] if number else []), age_s=-number)
    found = [commit.message for _, commit in ancestry([id_of("c4999")], made.read_commit)]
    assert found == [f"c{number}" for number in reversed(range(5000))]
    made.head = id_of("c4999")
    assert resolve("HEAD~4999", made, NOW) == id_of("c0")


@st.composite
def graphs(draw: st.DrawFn) -> Memory:
    made = Memory()
    for number in range(draw(st.integers(1, 9))):
        parents = draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        made.add(f"c{number}", *[f"c{parent}" for parent in parents], age_s=draw(st.integers(0, 4)))
    return made


@settings(max_examples=300, deadline=None)
@given(graphs(), st.data())
def test_the_order_of_any_graph(memory: Memory, data: st.DataObject) -> None:
    """Every reachable commit once, after all its children, and never before a newer one that could have come."""
    tips = data.draw(st.lists(st.sampled_from(sorted(memory.commits)), max_size=3))
    order = [id for id, _ in ancestry(tips, memory.read_commit)]
    reachable, pending = set(), list(tips)
    while pending:
        id = pending.pop()
        reachable.add(id)
        pending += memory.commits[id].parents
    assert sorted(order) == sorted(reachable)
    told: set[bytes] = set()
    for id in order:
        ready = [
            other
            for other in reachable - told
            if not any(other in memory.commits[child].parents for child in reachable - told)
        ]
        assert id == min(ready, key=lambda one: (-memory.commits[one].time_ns, one))
        told.add(id)


def test_a_commit_as_people_read_it(memory: Memory) -> None:
    info = describe(id_of("d"), memory.commits[id_of("d")], branches=["b", "a"], tags=["v2", "v1"])
    assert (info.id, info.parents) == (id_of("d").hex(), (id_of("b").hex(), id_of("c").hex()))
    assert (info.components, info.step, info.epoch, info.message) == (("model",), 20, None, "d")
    assert (info.branches, info.tags, info.is_head) == (("a", "b"), ("v1", "v2"), False)
    assert dict(describe(id_of("a"), memory.commits[id_of("a")]).metrics) == {"val/loss": 3.0}
