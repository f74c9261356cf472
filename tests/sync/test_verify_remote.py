"""verify --remote: sound remotes have no findings; corrupt, truncated, swapped and rolled-back objects have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckstore.errors import NotFound
from ckstore.porcelain.verify_remote import VerifyRemoteOptions, VerifyRemoteResult, verify_remote
from ckstore.remote.root import Contents, decode_root, encode_root
from ckstore.sync.push import PushRequest, push
from tests.sync.places import Counting, counting, fetch_all, heads, local, opened, push_all, state, twin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ckstore

READ = VerifyRemoteOptions(read_data=True, jobs=2)


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "mine") as repo:
        yield repo


@pytest.fixture
def remote(mine: ckstore.Repo) -> Counting:
    """Three pushes, of which the later ones hang on the first; and a hole."""
    remote = counting()
    for step in range(3):
        mine.commit(state(step, size=400_000), step=step)
        push_all(mine, remote)
    return remote


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[ckstore.Repo]:
    """Somebody who has nothing of it."""
    with opened(tmp_path / "stranger") as repo:
        yield repo


def contents(remote: Counting) -> Contents:
    root = remote.read_root()
    assert root is not None
    return decode_root(root.data)


def packs(remote: Counting) -> list[str]:
    """The packs, the longest first."""
    objects = remote.place.objects
    return sorted((name for name in objects if name.startswith("packs/")), key=lambda name: -len(objects[name].data))


def damaged(remote: Counting, name: str, at: int) -> None:
    held = remote.place.objects[name]
    data = bytearray(held.data)
    data[at] ^= 0x20
    remote.place.objects[name] = held._replace(data=bytes(data))


def kinds(result: VerifyRemoteResult) -> set[str]:
    return {finding.kind for finding in result.findings}


def both(repos: list[ckstore.Repo], remote: Counting, options: VerifyRemoteOptions = READ) -> VerifyRemoteResult:
    """What the one finds who has everything, and the one who has nothing: the same."""
    first, second = (verify_remote(repo._repository, remote, options) for repo in repos)
    assert {(one.kind, one.commits) for one in first.findings} == {(one.kind, one.commits) for one in second.findings}
    return first


def test_a_sound_remote(mine: ckstore.Repo, stranger: ckstore.Repo, remote: Counting) -> None:
    for options in (VerifyRemoteOptions(), READ):
        result = both([mine, stranger], remote, options)
        assert result.ok
        assert (result.commits, result.generation, result.segments) == (3, 3, 3)
        assert result.packs == len(packs(remote))
    assert result.read_packs == result.packs
    assert result.read_bytes >= sum(len(remote.place.objects[name].data) for name in packs(remote))
    remote.reset()
    verify_remote(mine._repository, remote, VerifyRemoteOptions())
    assert not [one for one in remote.requests if one.startswith("read packs")]


def test_a_remote_with_holes_is_sound(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    with twin(tmp_path / "some", mine) as some:
        fetch_all(some, remote, only=["model"])
        second = counting("second")
        tip = some._repository.commits().refs["remotes/origin/main"]
        push(second, local(some), PushRequest({"heads/main": tip}, jobs=1))
        assert contents(second).state is not None
        assert verify_remote(mine._repository, second, READ).ok


def test_nothing_there(mine: ckstore.Repo) -> None:
    with pytest.raises(NotFound, match="nothing yet"):
        verify_remote(mine._repository, counting(), READ)


def test_a_flipped_byte_is_found_by_reading(mine: ckstore.Repo, stranger: ckstore.Repo, remote: Counting) -> None:
    name = packs(remote)[0]
    damaged(remote, name, len(remote.place.objects[name].data) // 2)
    assert both([mine, stranger], remote, VerifyRemoteOptions()).ok
    result = both([mine, stranger], remote)
    assert kinds(result) == {"pack"}
    assert name.removeprefix("packs/") in result.findings[0].what
    assert result.findings[0].commits


@pytest.mark.parametrize("at", [3, 20, 80, -3, -50])
def test_headers_and_tables_are_read(at: int, stranger: ckstore.Repo, remote: Counting) -> None:
    damaged(remote, packs(remote)[0], at)
    assert kinds(verify_remote(stranger._repository, remote, READ)) == {"pack"}


@pytest.mark.parametrize("way", ["gone", "truncated", "longer"])
def test_lengths_are_looked_up(way: str, mine: ckstore.Repo, stranger: ckstore.Repo, remote: Counting) -> None:
    name = packs(remote)[0]
    held = remote.place.objects[name]
    if way == "gone":
        del remote.place.objects[name]
    else:
        data = held.data[:-1] if way == "truncated" else held.data + b"\0"
        remote.place.objects[name] = held._replace(data=data)
    result = both([mine, stranger], remote, VerifyRemoteOptions())
    assert kinds(result) == {"pack"}
    assert result.findings[0].commits
    assert kinds(both([mine, stranger], remote)) == {"pack"}


def test_packs_that_changed_places(stranger: ckstore.Repo, remote: Counting) -> None:
    first, second = packs(remote)[:2]
    objects = remote.place.objects
    objects[first], objects[second] = objects[second], objects[first]
    assert len(verify_remote(stranger._repository, remote, READ).findings) == 2


def test_packs_of_one_length_that_changed_places(mine: ckstore.Repo, tmp_path: Path) -> None:
    remote = counting()
    for seed in range(2):
        with opened(tmp_path / str(seed)) as repo:
            repo.commit({"w": bytes([seed]) * 10})
            push(remote, local(repo), PushRequest({f"heads/b{seed}": heads(repo)["heads/main"]}, foreign=True, jobs=1))
    sizes: dict[int, list[str]] = {}
    for name in packs(remote):
        sizes.setdefault(len(remote.place.objects[name].data), []).append(name)
    first, second = next(names for names in sizes.values() if len(names) == 2)
    objects = remote.place.objects
    objects[first], objects[second] = objects[second], objects[first]
    assert len([one for one in verify_remote(mine._repository, remote, READ).findings if one.kind == "pack"]) == 2


@pytest.mark.parametrize("way", ["flipped", "gone", "truncated", "swapped"])
def test_segments(way: str, mine: ckstore.Repo, stranger: ckstore.Repo, remote: Counting) -> None:
    objects = remote.place.objects
    first, second = (pointer.name for pointer in contents(remote).segments[:2])
    if way == "flipped":
        damaged(remote, first, len(objects[first].data) - 5)
    elif way == "gone":
        del objects[first]
    elif way == "truncated":
        objects[first] = objects[first]._replace(data=objects[first].data[:-9])
    else:
        objects[first], objects[second] = objects[second], objects[first]
    for repo in (mine, stranger):  # who has nothing cannot read on where a commit is lost
        found = kinds(verify_remote(repo._repository, remote, VerifyRemoteOptions()))
        assert "segment" in found
        assert found & {"object", "commit"}


def test_a_root_that_was_put_back(mine: ckstore.Repo, stranger: ckstore.Repo, remote: Counting) -> None:
    older = remote.place.root
    mine.commit(state(7), step=7)
    push_all(mine, remote)
    remote.place.root = older
    result = verify_remote(mine._repository, remote, READ)
    assert kinds(result) == {"root"}
    assert "older" in result.findings[0].what
    assert verify_remote(mine._repository, remote, VerifyRemoteOptions(older=True)).ok
    assert verify_remote(stranger._repository, remote, READ).ok  # who never saw the newer one cannot know


def test_a_root_that_names_what_is_not_there(mine: ckstore.Repo, remote: Counting) -> None:
    said = contents(remote)
    refs = (said.refs[0].__class__("heads/main", bytes(32)),)
    fields = {name: getattr(said, name) for name in said.__struct_fields__} | {"refs": refs, "generation": 9}
    held = remote.place.root
    assert held is not None
    remote.place.root = held._replace(data=encode_root(Contents(**fields)))
    result = verify_remote(mine._repository, remote, READ)
    assert [finding.commits for finding in result.findings] == [(bytes(32).hex(),)]
    remote.place.root = held._replace(data=held.data[:-1] + bytes([held.data[-1] ^ 1]))
    assert kinds(verify_remote(mine._repository, remote, READ)) == {"root"}


def test_what_is_condemned_must_not_be_named(mine: ckstore.Repo, remote: Counting) -> None:
    from ckstore.remote.root import StatePointer
    from ckstore.remote.source import Buffers
    from ckstore.remote.state import CondemnedObject, State, encode_state

    data, pointer = encode_state(State(b"", (), (CondemnedObject(packs(remote)[0], 5, 1),)))
    assert isinstance(pointer, StatePointer)
    remote.put(pointer.name, Buffers(data))
    said = contents(remote)
    fields = {name: getattr(said, name) for name in said.__struct_fields__} | {"state": pointer, "generation": 9}
    held = remote.place.root
    assert held is not None
    remote.place.root = held._replace(data=encode_root(Contents(**fields)))
    (finding,) = verify_remote(mine._repository, remote, VerifyRemoteOptions()).findings
    assert "condemned" in finding.what
    damaged(remote, pointer.name, 30)
    assert kinds(verify_remote(mine._repository, remote, VerifyRemoteOptions())) == {"state"}
