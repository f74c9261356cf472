"""Repair of a remote from here, and of what is here from a remote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ckstore.errors import Absent, Integrity, NotFound
from ckstore.porcelain.repair import RepairOptions, RepairResult, repair
from ckstore.porcelain.repair_remote import RepairRemoteOptions, RepairRemoteResult, repair_remote
from ckstore.porcelain.verify_remote import VerifyRemoteOptions, verify_remote
from ckstore.remote.root import decode_root
from ckstore.remote.segment import pack_object
from ckstore.storage.record import RefMove
from ckstore.sync.holding import Holding
from ckstore.sync.prune import PruneRequest, prune
from tests.committed import put_refs
from tests.sync.places import Counting, counting, fetch_all, heads, local, objects_of, opened, push_all, state, twin
from tests.test_repair import data_packs, flip, flip_payload, meta_packs, packs, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ckstore

NOW = 1_900_000_000 * 10**9
READ = VerifyRemoteOptions(read_data=True, jobs=2)
pytestmark = pytest.mark.filterwarnings("ignore::ckstore.errors.CkstoreWarning")  # damaged packs are warned of


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "mine") as repo:
        yield repo


@pytest.fixture
def remote(mine: ckstore.Repo) -> Counting:
    """Three pushes, of which the later ones hang on the first."""
    remote = counting()
    for step in range(3):
        mine.commit(state(step, size=400_000), step=step)
        push_all(mine, remote)
    return remote


def there(remote: Counting, folder: str = "packs/") -> list[str]:
    """Objects, the longest first."""
    objects = remote.place.objects
    return sorted((name for name in objects if name.startswith(folder)), key=lambda name: -len(objects[name].data))


def harm(remote: Counting, name: str, way: str) -> None:
    objects = remote.place.objects
    held = objects[name]
    if way == "gone":
        del objects[name]
    elif way == "truncated":
        objects[name] = held._replace(data=held.data[: len(held.data) // 2])
    elif way == "swapped":
        other = next(one for one in there(remote, name.partition("/")[0]) if one != name)
        objects[name], objects[other] = objects[other], objects[name]
    else:
        data = bytearray(held.data)
        data[len(data) // 2 if way == "flipped" else 8] ^= 0x40
        objects[name] = held._replace(data=bytes(data))


def harm_object(mine: ckstore.Repo, remote: Counting, id: bytes) -> None:
    """Flip a bit of an object's payload there."""
    place = Holding(remote, local(mine)).catalog.locate(id)
    assert place is not None
    held = remote.place.objects[pack_object(place.pack)]
    data = bytearray(held.data)
    data[place.stop - place.frame.stored_length // 2] ^= 0x11
    remote.place.objects[pack_object(place.pack)] = held._replace(data=bytes(data))


def mended(repo: ckstore.Repo, remote: Counting, **more: object) -> RepairRemoteResult:
    return repair_remote(repo._repository, remote, RepairRemoteOptions(jobs=2, **more))  # type: ignore[arg-type]


def check_remote(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    """Everything is there, sound, for whoever comes; and the remote goes on."""
    with opened(tmp_path / "judge") as judge:
        assert verify_remote(judge._repository, remote, READ).findings == ()
    with twin(tmp_path / "heir", mine) as heir:
        fetch_all(heir, remote)
        assert objects_of(heir) == objects_of(mine)
    mine.commit(state(11, size=400_000), step=11)
    push_all(mine, remote)
    prune(remote, local(mine), PruneRequest(0))
    prune(remote, local(mine), PruneRequest(0))
    assert verify_remote(mine._repository, remote, READ).ok


# A remote, from here


def test_a_sound_remote_is_left_alone(mine: ckstore.Repo, remote: Counting) -> None:
    root, objects = remote.place.root, dict(remote.place.objects)
    result = mended(mine, remote)
    assert result.ok
    assert (result.packs, result.sent_objects) == ((), 0)
    assert (remote.place.root, remote.place.objects) == (root, objects)
    with pytest.raises(NotFound):
        mended(mine, counting("empty"))


@pytest.mark.parametrize("way", ["flipped", "header", "gone", "truncated", "swapped"])
@pytest.mark.parametrize("number", [0, 2, -1])
def test_packs(tmp_path: Path, mine: ckstore.Repo, remote: Counting, way: str, number: int) -> None:
    name = there(remote)[number]
    harm(remote, name, way)
    found = verify_remote(mine._repository, remote, READ)
    assert not found.ok
    before = dict(remote.place.objects)
    tried = mended(mine, remote, dry_run=True)
    assert remote.place.objects == before
    result = mended(mine, remote)
    assert (tried.packs, tried.sent_objects) == (result.packs, result.sent_objects)
    assert result.ok
    assert name.removeprefix("packs/") in {pack.name for pack in result.packs}
    assert result.sent_objects > 0
    check_remote(tmp_path, mine, remote)


@pytest.mark.parametrize("way", ["flipped", "gone", "truncated", "swapped"])
@pytest.mark.parametrize("cached", [True, False])
def test_segments(tmp_path: Path, mine: ckstore.Repo, remote: Counting, way: str, cached: bool) -> None:
    """With a copy here nothing is sent again; without one everything that only the segment knew."""
    root = remote.read_root()
    assert root is not None
    harm(remote, decode_root(root.data).segments[0].name, way)
    if not cached:
        for pointer in decode_root(root.data).segments:
            local(mine).cache.drop(pointer.digest)
    result = mended(mine, remote)
    assert result.ok
    assert result.segments > 0
    assert (result.sent_objects == 0) is cached
    check_remote(tmp_path, mine, remote)


def test_what_is_not_here_is_copied_from_what_is_sound_there(
    tmp_path: Path, mine: ckstore.Repo, remote: Counting
) -> None:
    """Whoever has one component mends that one; the others in its damaged packs are kept."""
    with twin(tmp_path / "some", mine) as some:
        fetch_all(some, remote, only=["optimizer"])
        put_refs(some, 1, RefMove("heads/main", None, heads(mine)["heads/main"]))
        harm(remote, there(remote)[0], "header")
        result = mended(some, remote)
        assert result.copied_objects > 0
        assert result.ok
    check_remote(tmp_path, mine, remote)


def test_what_nobody_has_becomes_a_hole(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    with twin(tmp_path / "bare", mine) as bare:
        fetch_all(bare, remote, metadata=True)
        harm(remote, there(remote)[0], "gone")
        result = mended(bare, remote)
        assert not result.ok
        assert result.lost_objects > 0
        assert verify_remote(bare._repository, remote, READ).ok
        with bare.reading_from(remote) as view, pytest.raises(Absent, match="lacks it too"):
            view[result.lost[0].commit].load(only=result.lost[0].component + "*")
    push_all(mine, remote, fill=True)  # who has it gives it back
    check_remote(tmp_path, mine, remote)


def test_a_root_that_was_put_back_is_no_matter_for_repair(mine: ckstore.Repo, remote: Counting) -> None:
    older = remote.place.root
    mine.commit(state(5), step=5)
    push_all(mine, remote)
    remote.place.root = older
    with pytest.raises(Integrity, match="older"):
        mended(mine, remote)
    assert remote.place.root == older


def test_damage_here_is_not_sent(tmp_path: Path, mine: ckstore.Repo, remote: Counting) -> None:
    """An object that is damaged on both sides is lost, and nothing else."""
    place = max(rows(mine), key=lambda place: place.frame.stored_length)
    flip_payload(mine, place)
    harm_object(mine, remote, place.frame.id)
    result = mended(mine, remote)
    assert result.lost_objects > 0
    assert verify_remote(mine._repository, remote, READ).ok


# Here, from a remote


def mended_here(repo: ckstore.Repo, remote: Counting, *, dry_run: bool = False) -> RepairResult:
    return repair(repo._repository, RepairOptions(NOW, dry_run, jobs=2), remote=remote)


@pytest.mark.parametrize("number", [0, 1, -1])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize("kind", ["data", "meta"])
def test_what_is_lost_here_is_fetched(
    tmp_path: Path, mine: ckstore.Repo, remote: Counting, kind: str, damage: str, number: int
) -> None:
    wanted = objects_of(mine)
    path = (data_packs if kind == "data" else meta_packs)(mine)[number]
    if damage == "flip":
        flip(path, path.stat().st_size // 2)
    elif damage == "cut":
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 3)
    else:
        path.unlink()
    expected = mended_here(mine, remote, dry_run=True).fetched_objects
    result = mended_here(mine, remote)
    assert (result.lost, result.lost_commits) == ((), ())
    assert result.fetched_objects >= expected
    if damage == "gone" and kind == "data":
        assert expected > 0
    assert mine.verify(read_data=True).ok
    assert objects_of(mine) == wanted
    assert mended_here(mine, remote).fetched_objects == 0
    mine.commit(state(8, size=400_000), step=8)
    assert torch.equal(mine["HEAD~1"].load()["model"]["w"], state(2, size=400_000)["model"]["w"])  # type: ignore[index]


def test_everything_is_lost_here(mine: ckstore.Repo, remote: Counting) -> None:
    wanted = objects_of(mine)
    for path in packs(mine):
        path.unlink()
    result = mended_here(mine, remote)
    assert (result.lost, result.lost_commits) == ((), ())
    assert objects_of(mine) == wanted
    assert mine.verify(read_data=True).ok


def test_what_a_repair_gave_up_comes_back(mine: ckstore.Repo, remote: Counting) -> None:
    """A repair without the remote notes losses; one with it fills them."""
    wanted = objects_of(mine)
    data_packs(mine)[0].unlink()
    assert mine.repair().lost
    result = mended_here(mine, remote)
    assert result.found
    assert result.ok
    assert objects_of(mine) == wanted
    assert mine._repository.absent() == {}


def test_what_is_damaged_there_too_is_left_out(mine: ckstore.Repo, remote: Counting) -> None:
    first, second = sorted(rows(mine), key=lambda place: -place.frame.stored_length)[:2]
    for place in (first, second):
        flip_payload(mine, place)
    harm_object(mine, remote, first.frame.id)
    result = mended_here(mine, remote)
    assert result.lost
    assert result.fetched_objects > 0
    assert mine.verify(read_data=True).ok


def test_by_name(tmp_path: Path, mine: ckstore.Repo) -> None:
    (tmp_path / "remote").mkdir()
    mine.add_remote("origin", tmp_path / "remote", test=False)
    mine.commit(state(1), step=1)
    wanted = objects_of(mine)
    mine.push()
    assert mine.verify_remote(read_data=True).ok
    pack = max((tmp_path / "remote/packs").iterdir(), key=lambda path: path.stat().st_size)
    held = pack.read_bytes()
    pack.write_bytes(held[:-1])
    assert not mine.verify_remote("origin").ok
    assert mine.repair_remote("origin").sent_objects > 0
    assert mine.verify_remote("origin", read_data=True).ok
    data_packs(mine)[0].unlink()
    assert mine.repair(source="origin").fetched_objects > 0
    assert objects_of(mine) == wanted
