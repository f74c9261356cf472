"""Single tensors by range: right bytes, few of them read, and never wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckstore.digest import Kind
from ckstore.errors import CkstoreError, Integrity
from ckstore.graph.reachability import objects_of_tree
from ckstore.objects.encoding import decode_commit
from ckstore.sync.remote_objects import RemoteObjects
from tests.sync.places import Counting, counting, fetch_all, heads, local, objects_of, opened, push_all, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ckstore


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "mine") as repo:
        for step in range(4):
            repo.commit(state(step, size=600_000), step=step)
        yield repo


@pytest.fixture
def remote(mine: ckstore.Repo) -> Counting:
    remote = counting()
    push_all(mine, remote)
    return remote


def test_chunks_are_read_along_their_chains(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    expected = objects_of(mine)
    tip = heads(mine)["heads/main"]
    assert tip is not None
    with opened(tmp_path / "other") as other:
        objects = RemoteObjects(remote, local(other))
        commit = decode_commit(objects.read(Kind.COMMIT, tip))
        (tree,) = [component.tree for component in commit.components if component.name == "model"]
        chunks = [id for kind, id in objects_of_tree(objects, tree) if kind is Kind.CHUNK]
        wanted = chunks[-2:]
        targets = [memoryview(bytearray(len(expected[id]))) for id in wanted]
        objects.fill(list(zip(wanted, targets, strict=True)))
        assert [bytes(target) for target in targets] == [expected[id] for id in wanted]
        store = mine._repository.store
        needed = {place for id in wanted for place in store.objects.chain(id)}
        stored = sum(place.frame.stored_length for place in needed)
        assert objects.read_bytes <= 1.1 * stored
        with pytest.raises(Integrity):
            objects.read_into(wanted[0], memoryview(bytearray(3)))
        with pytest.raises(Integrity, match="missing"):
            objects.read_into(bytes(32), memoryview(bytearray(3)))


def test_what_is_here_is_not_asked_for(mine: ckstore.Repo, remote: Counting) -> None:
    objects = RemoteObjects(remote, local(mine))
    for id, data in objects_of(mine).items():
        target = memoryview(bytearray(len(data)))
        if mine._repository.store.objects.locate(id).frame.kind is Kind.CHUNK:  # type: ignore[union-attr]
            objects.read_into(id, target)
            assert target == data
    assert objects.read_bytes == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ckstore.Repo, Counting, Path]]:
    folder = tmp_path_factory.mktemp("small")
    with opened(folder / "mine") as repo:
        for step in range(2):
            repo.commit(state(step, size=500), step=step)
        remote = counting()
        push_all(repo, remote)
        yield repo, remote, folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_an_error_or_does_not_matter(
    small: tuple[ckstore.Repo, Counting, Path], data: st.DataObject
) -> None:
    mine, remote, folder = small
    place = remote.place
    objects, root = dict(place.objects), place.root
    assert root is not None
    name = data.draw(st.sampled_from(["root", *sorted(objects)]))
    held = root if name == "root" else objects[name]
    raw = bytearray(held.data)
    at = data.draw(st.integers(0, len(raw) - 1))
    what = data.draw(st.sampled_from(["flip", "cut", "zero", "other"]))
    if what == "flip":
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    elif what == "cut":
        del raw[at:]
    elif what == "zero":
        raw[at:] = bytes(len(raw) - at)
    else:
        raw = bytearray(objects[data.draw(st.sampled_from(sorted(objects)))].data)
    try:
        if name == "root":
            place.root = held._replace(data=bytes(raw))
        else:
            place.objects[name] = held._replace(data=bytes(raw))
        fresh = folder / str(len(list(folder.iterdir())))
        with opened(fresh) as other:
            try:
                fetch_all(other, remote)
            except CkstoreError:
                assert other._repository.commits().refs == {}
            else:
                assert objects_of(other) == objects_of(mine)
            assert other.verify(read_data=True).ok
    finally:
        place.objects.clear()
        place.objects.update(objects)
        place.root = root
