"""Random walks: commits, gc with policies, kills of gc, undo, repair, branches, by handles with indexes of their own.

After each step every commit that a ref reaches reads back bit for bit or says that it is absent, in two of three; in
the end `verify` finds nothing, and indexes that followed equal those made anew. Everything is decided by the seed.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import ckstore
from ckstore.errors import Absent, CkstoreError, Integrity
from ckstore.porcelain import gc as gc_module
from ckstore.porcelain.gc import GcOptions, gc
from ckstore.storage import collector, sweep
from ckstore.storage.collector import Collector
from tests.crash.replaced import replaced
from tests.crash.test_gc_interleaved import small
from tests.indexed import indexed
from tests.test_gc import equal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = 40
STATES = small(30)

_DOINGS = {
    "commit": 8, "collect": 4, "killed": 3, "undo": 2, "undo_any": 2,
    "delete": 1, "branch": 1, "tag": 1, "repair": 1, "rebuild": 1,
}  # fmt: skip
_POLICIES = (None, "last=1", "last=2", "every=7", "budget=200kB last=1", "last=3")


class Killed(BaseException):
    """gc ends here."""


@contextmanager
def crowded() -> Iterator[None]:
    """gc works in many small steps, and does not wait between them."""
    with ExitStack() as stack:
        stack.enter_context(replaced(gc_module, "units", partial(sweep.units, frames=3)))
        stack.enter_context(replaced(sweep, "_GROUP_FRAMES", 20))
        stack.enter_context(replaced(sweep, "_FEW", 3))
        stack.enter_context(replaced(collector, "LONGEST_NAP_S", 0.0))
        yield


class Walk:
    """One walk in `folder`, decided by `seed`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        caches = [folder / f"cache{number}" for number in range(2)]
        self._repos = [ckstore.open(folder / "repo", threads=1)]
        self._repos += [ckstore.open(folder / "repo", threads=1, index="cache", cache=cache) for cache in caches]
        self._wanted: dict[str, dict[str, Any]] = {}
        self.log: list[str] = []

    def run(self) -> None:
        """Walk, and judge. Raises AssertionError or `Integrity` where something is wrong."""
        with crowded():
            for number in range(STEPS):
                self._step(number)
                for repo in self._rng.sample(self._repos, 2):
                    self._judge(repo)
            for repo in self._repos:
                self._judge(repo)
                assert repo.verify(read_data=True).findings == ()
            gc(self._repos[0]._repository, GcOptions(time.time_ns(), None, grace_ns=0, repack=True))
            for repo in self._repos:
                repo._repository.store.refresh()
                followed = indexed(repo._repository)
                repo._repository.store.rebuild_index()
                assert indexed(repo._repository) == followed
        for repo in self._repos:
            repo.close()

    def _step(self, number: int) -> None:
        repo = self._rng.choice(self._repos)
        doing = self._rng.choices(list(_DOINGS), list(_DOINGS.values()))[0]
        self.log.append(doing)
        try:
            getattr(self, f"_{doing}")(repo, number)
        except CkstoreError as error:
            self.log[-1] += f" -> {type(error).__name__}"
            if isinstance(error, Integrity) and not doing.startswith("undo"):
                raise

    def _judge(self, repo: ckstore.Repo) -> None:
        for info in repo.log(all=True):
            try:
                assert equal(repo[info.id].load(), self._wanted[info.id])
            except Absent:
                assert info.absent

    def _commit(self, repo: ckstore.Repo, number: int) -> None:
        branches = sorted(repo.branches)
        branch = self._rng.choice([*branches, f"new{number}"]) if branches else "main"
        parent = self._rng.choice(branches) if branches and branch not in branches and number % 2 else None
        state = STATES[self._rng.randrange(len(STATES))]
        id = repo.commit(state, step=number, branch=branch, parent=parent).id
        self._wanted[id] = state
        assert equal(repo[id].load(), state)

    def _collect(self, repo: ckstore.Repo, _: int) -> None:
        policy = self._rng.choice(_POLICIES)
        repack, deep = self._rng.random() < 0.6, self._rng.random() < 0.2
        grace_ns = self._rng.choice([0, 10**15])
        policies = None if policy is None else {"": policy}
        gc(repo._repository, GcOptions(time.time_ns(), policies, grace_ns, repack, deep))

    def _killed(self, repo: ckstore.Repo, number: int) -> None:
        left = self._rng.randrange(6)
        replace = Collector.replace

        def dying(*arguments: Any) -> int | None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return replace(*arguments)

        with replaced(Collector, "replace", dying):
            try:
                self._collect(repo, number)
            except Killed:
                return

    def _undo(self, repo: ckstore.Repo, _: int) -> None:
        repo.undo()

    def _undo_any(self, repo: ckstore.Repo, _: int) -> None:
        newest = repo.reflog(limit=1).entries[0].seq if repo.branches else 0
        repo.undo(self._rng.randint(max(0, newest - 8), newest))

    def _delete(self, repo: ckstore.Repo, _: int) -> None:
        branches = sorted(repo.branches)
        if len(branches) > 1:
            repo.delete_branch(self._rng.choice(branches), force=True)

    def _branch(self, repo: ckstore.Repo, number: int) -> None:
        if self._wanted:
            repo.branch(f"again{number}", self._rng.choice(sorted(self._wanted)))

    def _tag(self, repo: ckstore.Repo, number: int) -> None:
        if self._wanted:
            repo.tag(f"tag{number}", self._rng.choice(sorted(self._wanted)))

    def _repair(self, repo: ckstore.Repo, _: int) -> None:
        assert repo.repair().ok

    def _rebuild(self, repo: ckstore.Repo, _: int) -> None:
        repo._repository.store.rebuild_index()
