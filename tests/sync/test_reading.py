"""Absent data read on a remote by range: in clones of metadata, of some components, of few commits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ckstore.errors import Absent, Integrity, NotFound
from ckstore.remote.memory import MemoryPlace
from ckstore.storage.record import RefMove
from ckstore.sync.prune import PruneRequest, prune
from tests.committed import put_refs
from tests.sync.places import Counting, counting, fetch_all, heads, local, opened, push_all, state, twin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ckstore

SIZE = 600_000


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "mine") as repo:
        for step in range(3):
            repo.commit(state(step, size=SIZE), step=step)
        yield repo


@pytest.fixture
def remote(mine: ckstore.Repo) -> Counting:
    remote = counting()
    push_all(mine, remote)
    return remote


@pytest.fixture
def bare(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> Iterator[ckstore.Repo]:
    """What `clone --metadata` makes."""
    with twin(tmp_path / "bare", mine) as repo:
        fetch_all(repo, remote, metadata=True)
        put_refs(repo, 1, RefMove("heads/main", None, heads(mine)["heads/main"]))
        yield repo


def test_slices_come_by_range(mine: ckstore.Repo, remote: Counting, bare: ckstore.Repo) -> None:
    with pytest.raises(Absent):
        bare["HEAD"]["model"]
    wanted = mine["HEAD"]["model"]["w"].load()
    before = dict(remote.place.objects)
    remote.reset()
    with bare.reading_from(remote) as there:
        rows = there["HEAD"]["model"]["w"][0:10]
        assert torch.equal(rows, wanted[:10])
        entry = mine["HEAD"]["model"]["w"]._owner.data
        chain = mine._repository.store.objects.chain(entry.ids[:32])
        assert there.read_bytes <= 1.1 * sum(104 + place.frame.stored_length for place in chain)
        assert there.read_bytes < sum(len(held.data) for held in before.values()) / 4
    assert bare.verify(read_data=True).ok
    with pytest.raises(Absent):
        bare["HEAD"].load()


def test_whole_states_are_equal(mine: ckstore.Repo, remote: Counting, bare: ckstore.Repo) -> None:
    with bare.reading_from(remote) as there:
        for revision in ("HEAD", "HEAD~1", "HEAD~2"):
            got, wanted = there[revision].load(), mine[revision].load()
            assert torch.equal(got["model"]["w"], wanted["model"]["w"])
            assert torch.equal(got["optimizer"]["m"], wanted["optimizer"]["m"])
        assert list(there["HEAD"].load(only="model.frozen")) == ["model"]


def test_it_loads_into_live_objects(remote: Counting, mine: ckstore.Repo, tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    mine.commit({"model": layer.state_dict()})
    push_all(mine, remote)
    with twin(tmp_path / "other", mine) as other:
        fetch_all(other, remote, metadata=True)
        put_refs(other, 1, RefMove("heads/main", None, heads(mine)["heads/main"]))
        fresh = torch.nn.Linear(3, 2)
        with other.reading_from(remote) as there:
            there["HEAD"].load(into={"model": fresh})
        assert torch.equal(fresh.weight, layer.weight)


def test_what_is_here_is_read_here(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    with twin(tmp_path / "some", mine) as some:
        fetch_all(some, remote, only=["model"])
        put_refs(some, 1, RefMove("heads/main", None, heads(mine)["heads/main"]))
        with some.reading_from(remote) as there:
            there["HEAD"]["model"].load()
            assert there.read_bytes == 0
            assert there["HEAD"]["optimizer"]["step"] == 2
            assert torch.equal(there["HEAD"]["optimizer"]["m"].load(), mine["HEAD"]["optimizer"]["m"].load())
            assert there.read_bytes > 0


def test_what_the_remote_lacks_too_names_it(mine: ckstore.Repo, remote: Counting, bare: ckstore.Repo) -> None:
    tip = heads(mine)["heads/main"]
    assert tip is not None
    prune(remote, local(mine), PruneRequest(0, holes=[(tip, "model", "too dear")]))
    with bare.reading_from(remote) as there:
        with pytest.raises(Absent, match=r"'model' .* memory://origin lacks it too") as raised:
            there["HEAD"].load(only="model.w")
        assert raised.value.why == "too dear"
        assert there["HEAD~1"]["model"]["w"].shape == (SIZE,)
        assert there["HEAD"]["optimizer"]["step"] == 2


def test_a_remote_that_never_got_it_is_named(tmp_path: Path, mine: ckstore.Repo, bare: ckstore.Repo) -> None:
    empty = Counting(MemoryPlace("another"))
    with bare.reading_from(empty) as there, pytest.raises(Absent, match="memory://another") as raised:
        there["HEAD"]["model"]
    assert "never pushed" in str(raised.value.why)


@pytest.mark.parametrize("way", ["flip", "cut", "swap", "gone"])
def test_damage_there_is_told(way: str, remote: Counting, bare: ckstore.Repo) -> None:
    objects = remote.place.objects
    names = sorted((name for name in objects if name.startswith("packs/")), key=lambda name: len(objects[name].data))
    big, other = names[-1], names[-2]
    data = bytearray(objects[big].data)
    if way == "flip":
        for at in range(0, len(data), 50_000):
            data[at] ^= 1
    elif way == "cut":
        del data[len(data) // 8 :]
    if way == "swap":
        objects[big], objects[other] = objects[other], objects[big]
    elif way == "gone":
        del objects[big]
    else:
        objects[big] = objects[big]._replace(data=bytes(data))
    with bare.reading_from(remote) as there, pytest.raises((Integrity, NotFound)):
        there["HEAD~2"].load()
