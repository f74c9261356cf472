"""The step at which two runs part."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckstore.errors import InvalidInput, NoRevision
from ckstore.porcelain.diff import DiffOptions, diff
from ckstore.porcelain.diverge import DivergeOptions, Outcome, diverge

if TYPE_CHECKING:
    from pathlib import Path

    import ckstore
    from ckstore.digest import Kind
    from ckstore.porcelain.diverge import DivergeResult


def state(model: float, moments: float = 0.0, **others: Any) -> dict[str, Any]:
    return {
        "model": {"w": torch.full((300, 300), model), "b": torch.full((5,), model)},
        "optimizer": {"m": torch.full((300, 300), moments), "lr": 0.1},
        **others,
    }


def run(repo: ckstore.Repo, branch: str, states: list[Any], steps: list[int | None] | None = None) -> None:
    """Commit one state after the other on a branch."""
    for n, one in enumerate(states):
        repo.commit(one, branch=branch, step=10 * n if steps is None else steps[n])


def found(repo: ckstore.Repo, first: str = "a", second: str = "b", **options: Any) -> DivergeResult:
    return diverge(repo._repository, first, second, DivergeOptions(0, **options))


def steps(result: DivergeResult) -> tuple[int | None, int | None]:
    """The last step that is equal and the first that is not."""
    return tuple(None if one is None else one.step for one in (result.last_equal, result.first_different))  # type: ignore[return-value]


def test_two_runs_of_one_seed(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(n, n) for n in range(6)])
    run(repo, "b", [state(n, n if n < 3 else -n) if n < 4 else state(-n, -n) for n in range(6)])
    result = found(repo)
    assert (result.outcome, steps(result)) == (Outcome.PARTED, (20, 30))
    assert (result.meetings, result.common) == (6, None)
    assert result.components == ("optimizer",)
    assert [(one.path, one.kind, one.is_certain) for one in result.paths] == [("optimizer.m", "tensor", True)]
    assert [(one.name, one.first_different.step) for one in result.parted] == [("optimizer", 30), ("model", 40)]
    assert result.parted[1].last_equal is not None
    assert result.parted[1].last_equal.step == 30
    assert result.first_different is not None
    assert (result.first_different.first.id, result.first_different.second.id) == (
        repo["a~2"].id, repo["b~2"].id,
    )  # fmt: skip
    assert (result.first.branches, result.second.branches) == (("a",), ("b",))


def test_every_step_agrees_with_a_direct_comparison(repo: ckstore.Repo) -> None:
    """Random runs; at each shared step what two single diffs say."""
    chosen = random.Random(3)
    for trial in range(4):
        names = f"a{trial}", f"b{trial}"
        taken = [sorted(chosen.sample(range(9), 6)) for _ in names]
        states = {step: state(step, step) for step in range(9)}
        odd = chosen.randrange(10)
        for name, listed in zip(names, taken, strict=True):
            made = [state(-step) if name == names[1] and step >= odd else states[step] for step in listed]
            run(repo, name, made, list(listed))
        shared = [step for step in taken[0] if step in taken[1]]
        differs = []
        for step in shared:
            at = [f"{name}~{5 - listed.index(step)}" for name, listed in zip(names, taken, strict=True)]
            differs.append(diff(repo._repository, at[0], at[1], DiffOptions(0)).differs)
        first = differs.index(True) if True in differs else len(shared)
        result = found(repo, *names)
        assert result.meetings == len(shared)
        assert steps(result) == (
            shared[first - 1] if first else None,
            shared[first] if first < len(shared) else None,
        )


def test_a_fork(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(n) for n in range(3)])
    repo.commit(state(9, 1), branch="b", parent="a", step=30)
    repo.commit(state(10, 1), branch="b", step=40)
    run(repo, "a", [state(9), state(10)], [30, 40])
    result = found(repo)
    assert (result.outcome, steps(result), result.meetings) == (Outcome.PARTED, (20, 30), 5)
    assert result.common is not None
    assert result.common.id == repo["a~2"].id
    assert result.last_equal is not None
    assert (result.last_equal.position, result.last_equal.first, result.last_equal.second) == (
        0, result.common, result.common,
    )  # fmt: skip
    assert result.first_different is not None
    assert result.first_different.position == 1


def test_a_fork_that_stays_alike_for_a_while(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(n) for n in range(2)])
    repo.commit(state(2), branch="b", parent="a", step=20)
    run(repo, "a", [state(2), state(3)], [20, 30])
    run(repo, "b", [state(-3)], [30])
    assert (found(repo).outcome, steps(found(repo))) == (Outcome.PARTED, (20, 30))


def test_commits_without_steps_meet_by_position(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(n) for n in range(4)], [None] * 4)
    run(repo, "b", [state(n if n < 2 else -n) for n in range(4)], [None] * 4)
    result = found(repo)
    assert (result.outcome, steps(result), result.meetings) == (Outcome.PARTED, (None, None), 4)
    assert result.last_equal is not None
    assert result.first_different is not None
    assert (result.last_equal.position, result.first_different.position) == (1, 2)


def test_commits_with_and_without_steps_do_not_meet(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(0), state(1)], [0, 10])
    run(repo, "b", [state(0), state(1)], [None, None])
    result = found(repo)
    assert (result.outcome, result.meetings, result.last_equal, result.first_different) == (
        Outcome.NO_SHARED_STEP, 0, None, None,
    )  # fmt: skip


def test_a_run_that_went_back(repo: ckstore.Repo) -> None:
    """What it did after the step it went back to is void."""
    run(repo, "a", [state(n) for n in range(5)])
    run(repo, "b", [state(n) for n in (0, 1, -2, -3, 1, 2)], [0, 10, 20, 30, 10, 20])
    result = found(repo)
    assert (result.outcome, steps(result), result.meetings) == (Outcome.ALIKE, (20, None), 3)
    assert result.last_equal is not None
    assert (result.last_equal.position, result.last_equal.second.id) == (2, repo["b"].id)


def test_runs_that_never_part(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(n) for n in range(4)])
    run(repo, "b", [state(n) for n in range(3)])
    result = found(repo)
    assert (result.outcome, steps(result), result.meetings) == (Outcome.ALIKE, (20, None), 3)
    assert (result.components, result.paths, result.path_count, result.parted) == ((), (), 0, ())
    same = found(repo, "a", "a")
    assert (same.outcome, steps(same), same.meetings) == (Outcome.SAME, (30, None), 4)
    for first, second in (("a", "a~2"), ("a~2", "a")):
        result = found(repo, first, second)
        assert (result.outcome, steps(result), result.meetings) == (Outcome.ANCESTOR, (10, None), 2)
        assert result.common is not None
        assert result.common.id == repo["a~2"].id


def test_runs_that_started_differently(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(n, config={"seed": 1}) for n in range(3)])
    run(repo, "b", [state(n if n < 2 else -n, config={"seed": 2}) for n in range(3)])
    result = found(repo)
    assert (result.outcome, steps(result)) == (Outcome.STARTED_DIFFERENTLY, (None, 0))
    assert result.components == ("config",)
    assert [(one.path, one.kind) for one in result.paths] == [("config.seed", "value")]
    assert [(one.name, one.last_equal is None, one.first_different.step) for one in result.parted] == [
        ("config", True, 0), ("model", False, 20),
    ]  # fmt: skip


def test_the_paths_that_differ(repo: ckstore.Repo) -> None:
    before = {"w": torch.ones(40_000), "x": torch.ones(3), "y": torch.ones(3), "z": [1, 2], "t": torch.ones(2)}
    after = {"w": torch.zeros(40_000), "x": torch.ones(3), "y": torch.zeros(3), "z": [1, 3], "t": torch.ones(3)}
    run(repo, "a", [{"m": {**before, "old": torch.ones(1)}, "o": {"m": 1}}])
    run(repo, "b", [{"m": {**after, "new": torch.ones(1)}, "p": {"n": torch.ones(9)}}])
    result = found(repo)
    assert set(result.components) == {"m", "p", "o"}
    assert {(one.path, one.kind, one.is_certain) for one in result.paths} == {
        ("m.w", "tensor", True),
        ("m.x", "tensor", False),
        ("m.y", "tensor", False),
        ("m.t", "retyped", True),
        ("m.new", "added", True),
        ("m.old", "removed", True),
        ("m.z.1", "value", True),
        ("p.n", "added", True),
        ("o.m", "value", True),
    }
    few = found(repo, most_paths=4)
    assert (few.paths, few.path_count) == (result.paths[:4], 9)


def test_chunks_that_differ_in_a_gap_are_not_certain(repo: ckstore.Repo) -> None:
    whole = torch.randn(700, 600)
    other = whole.clone()
    other[:, 500] += 1
    run(repo, "a", [{"m": whole[:, :400]}])
    run(repo, "b", [{"m": other[:, :400]}])
    assert [(one.path, one.is_certain) for one in found(repo).paths] == [("m", False)]


def test_nothing_of_a_tensor_is_read(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(n) for n in range(3)])
    run(repo, "b", [state(n if n < 1 else -n) for n in range(3)])
    store = repo._repository.store
    inner = store.objects

    class TreesOnly:
        def read(self, kind: Kind, id: bytes) -> bytes:
            return inner.read(kind, id)

    store.objects = TreesOnly()  # type: ignore[assignment]
    try:
        assert steps(found(repo)) == (0, 10)
    finally:
        store.objects = inner


def test_opaque_files_count_by_their_content(repo: ckstore.Repo, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    for branch, contents in (("a", [b"one", b"two", b"three"]), ("b", [b"one", b"two", b"other"])):
        for n, content in enumerate(contents):
            path.write_bytes(content)
            repo.commit_files(path, branch=branch, step=n)
    result = found(repo)
    assert (result.outcome, steps(result), result.components) == (Outcome.PARTED, (1, 2), ("@files",))
    assert [(one.path, one.kind) for one in result.paths] == [("weights.bin", "file")]


def test_files_count_by_the_states_they_hold(repo: ckstore.Repo, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for n in range(3):
        torch.save(state(n), path)
        repo.commit_files(path, branch="a", step=n)
    run(repo, "b", [state(0), state(1), state(-2)], [0, 1, 2])
    result = found(repo)
    assert (result.outcome, steps(result)) == (Outcome.PARTED, (1, 2))
    assert result.components == ("model",)


def test_revisions_that_are_none(repo: ckstore.Repo) -> None:
    run(repo, "a", [state(0)])
    with pytest.raises(NoRevision, match="no revision 'b'"):
        found(repo)
    with pytest.raises((NoRevision, InvalidInput)):
        found(repo, "best:loss", "a")
