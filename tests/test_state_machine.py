"""A repository against a model of one: any order of saves, switches, rebuilds, rival writers and deaths."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import ckstore
from ckstore import durable
from tests.equality import assert_same_components

if TYPE_CHECKING:
    from collections.abc import Callable

BRANCHES = ["main", "side", "topic/x"]
TABLES = ("frames", "commits", "packs", "refs")
CHANGES = frozenset(
    {"open", "writev", "fdatasync", "fsync", "rename", "unlink", "rmdir", "mkdir", "makedirs", "ftruncate", "pwrite"}
)


class Killed(BaseException):
    """What ends a process here; no code of ours may catch it and go on."""


class Dying:
    """Stands in for `os` in ckstore.durable: dies at the n-th call that changes the disk, and stays dead.

    A write that is cut short leaves its first bytes behind.
    """

    def __init__(self, calls: int, share: float) -> None:
        self._left = calls
        self._share = share

    @property
    def dead(self) -> bool:
        return self._left < 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._mortal(name, real) if name in CHANGES else real

    def _mortal(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left >= 0:
                return real(*args, **options)
            if self._left == -1 and name == "writev":
                descriptor, buffers = args
                data = b"".join(buffers)
                os.write(descriptor, data[: int(self._share * len(data))])
            raise Killed

        return call


def state(seed: int) -> dict[str, Any]:
    """Components that are often the same as in other states."""
    weight = torch.full((40, 500), float(seed % 3))
    return {
        "model": {"w": weight, "tied": weight[1:], "b": torch.arange(seed + 1)},
        "optimizer": [{"m": torch.full((3,), seed % 2)}] * (seed % 4),
        "step": seed,
    }


@dataclass(frozen=True)
class Saved:
    """A commit in the model."""

    seed: int
    parents: tuple[str, ...]
    time_ns: int


seeds = st.integers(0, 6)
branches = st.sampled_from(BRANCHES)


class Repositories(RuleBasedStateMachine):
    """Two Repo objects on one folder, and what they must tell."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ckstore-machine-"))
        self.commits: dict[str, Saved] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.head = "main"
        self.repos = [self.open(), self.open()]

    def open(self) -> ckstore.Repo:
        return ckstore.open(self.folder, threads=1)

    def teardown(self) -> None:
        try:
            self.everything_loads()
            self.verified(0)
        finally:
            for repo in self.repos:
                repo.close()
            shutil.rmtree(self.folder)

    # The model

    def saved(
        self, repo: ckstore.Repo, id: str, seed: int, branch: str, parents: tuple[str, ...], tag: str | None
    ) -> None:
        info = repo[id].info
        assert (info.parents, info.step, info.message) == (parents, seed, f"on {branch}")
        self.commits[id] = Saved(seed, parents, info.time_ns)
        self.branches[branch] = id
        if tag is not None:
            self.tags[tag] = id
        assert_same_components(state(seed), repo[id].load())

    def parents_of(self, branch: str, parent: str | None) -> tuple[str, ...]:
        tip = self.branches.get(branch)
        return (tip,) if tip else (parent,) if parent else ()

    def order(self) -> list[str]:
        """Every commit that a ref reaches: children before parents, else the newest first."""
        reachable: set[str] = set()
        pending = [*self.branches.values(), *self.tags.values()]
        while pending:
            id = pending.pop()
            if id not in reachable:
                reachable.add(id)
                pending += self.commits[id].parents
        told: list[str] = []
        while reachable:
            inner = {parent for id in reachable for parent in self.commits[id].parents}
            told.append(min(reachable - inner, key=lambda id: (-self.commits[id].time_ns, id)))
            reachable.remove(told[-1])
        return told

    # What may happen

    @rule(which=st.integers(0, 1), seed=seeds, branch=branches | st.none(), parent=st.none() | seeds, tag=st.booleans())
    def commit(self, which: int, seed: int, branch: str | None, parent: int | None, tag: bool) -> None:
        known = list(self.commits)
        on = branch or self.head
        start = known[parent % len(known)] if parent is not None and known and on not in self.branches else None
        name = f"t{len(self.tags)}" if tag else None
        repo = self.repos[which]
        result = repo.commit(state(seed), branch=branch, parent=start, tag=name, step=seed, message=f"on {on}")
        assert result.parents == self.parents_of(on, start)
        self.saved(repo, result.id, seed, on, result.parents, name)
        self.nothing_is_left_over()

    @rule(which=st.integers(0, 1), seed=seeds, branch=branches)
    def another_writer_first(self, which: int, seed: int, branch: str) -> None:
        machine, rival = self, self.repos[1 - which]

        class Meanwhile:
            """Lets the rival in once the branch's tip was read."""

            def start(self, what: str, total_bytes: int) -> None:
                parents = machine.parents_of(branch, None)
                id = rival.commit(state(seed), branch=branch, step=seed, message=f"on {branch}").id
                machine.saved(rival, id, seed, branch, parents, None)

            def advance(self, done_bytes: int) -> None: ...

        with pytest.raises(ckstore.Conflict):
            self.repos[which].commit(state(seed + 1), branch=branch, tag="never", progress=Meanwhile())

    @precondition(lambda self: self.branches)
    @rule(which=st.integers(0, 1), data=st.data())
    def switch(self, which: int, data: st.DataObject) -> None:
        branch = data.draw(st.sampled_from(sorted(self.branches)))
        assert self.repos[which].switch(branch).before == self.head
        self.head = branch

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.repos[which].close()
        self.repos[which] = self.open()

    @rule(keep=st.booleans())
    def lose_the_index(self, keep: bool) -> None:
        before = self.tables()
        for repo in self.repos:
            repo.close()
        index = self.folder / ".ckstore" / "index"
        if keep:
            (index / "data.mdb").write_bytes(b"\xff" * 5000)
        else:
            shutil.rmtree(index)
        self.repos = [self.open(), self.open()]
        assert self.tables() == before

    @rule(calls=st.integers(0, 40), share=st.floats(0, 1), seed=seeds, branch=branches, tag=st.booleans())
    def die_in_a_save(self, calls: int, share: float, seed: int, branch: str, tag: bool) -> None:
        name = f"t{len(self.tags)}" if tag else None
        parents = self.parents_of(branch, None)
        dying = Dying(calls, share)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "os", dying)
            try:
                self.repos[0].commit(state(seed), branch=branch, tag=name, step=seed, message=f"on {branch}")
            except Killed:
                assert dying.dead
            else:
                assert not dying.dead
        self.reopen(0)
        now = self.repos[0].branches.get(branch)
        if now is not None and now != self.branches.get(branch):
            self.saved(self.repos[0], now, seed, branch, parents, name)
        else:
            assert dying.dead

    @rule(which=st.integers(0, 1))
    def verified(self, which: int) -> None:
        result = self.repos[which].verify(read_data=True)
        assert result.findings == ()
        assert result.commits == len(self.order())

    @rule()
    def everything_loads(self) -> None:
        for number, (id, one) in enumerate(self.commits.items()):
            assert_same_components(state(one.seed), self.repos[number % 2][id].load())

    # What must hold

    @invariant()
    def refs_and_history_are_those_of_the_model(self) -> None:
        for repo in self.repos:
            assert (repo.branches, repo.tags, repo.head) == (self.branches, self.tags, self.head)
            infos = repo.log(all=True)
            assert [info.id for info in infos] == self.order()
            assert [info.is_head for info in infos] == [info.id == self.branches.get(self.head) for info in infos]

    def tables(self) -> dict[str, list[tuple[bytes, bytes]]]:
        self.repos[0].log()
        with self.repos[0]._repository.store.index.reading() as view:
            return {name: list(view.rows(name)) for name in TABLES}

    def nothing_is_left_over(self) -> None:
        """After a save, the packs are those the index knows, and `tmp/` is empty."""
        layout = self.repos[0]._repository.store.layout
        known = {layout.pack(name).name for name, _ in self.tables()["packs"]}
        assert {path.name for path in layout.packs.iterdir()} == known
        assert list(layout.tmp.iterdir()) == []


TestRepositories = Repositories.TestCase
TestRepositories.settings = settings(
    max_examples=80, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
