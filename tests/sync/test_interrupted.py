"""Replies that are lost, pushes that are cut off, roots that others move: nothing is lost, and little is sent twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckstore.errors import Conflict, Integrity, NotFound, RemoteFailed
from ckstore.remote.interface import RootMoved, Transient, Unclear
from ckstore.remote.memory import MemoryPlace, MemoryRemote
from ckstore.remote.root import decode_root
from ckstore.remote.source import Buffers
from ckstore.sync.prune import PruneRequest, prune
from ckstore.sync.push import PushRequest, push
from tests.sync.places import Counting, counting, fetch_all, heads, local, objects_of, opened, push_all, state, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import ckstore
    from ckstore.remote.interface import Version
    from ckstore.remote.source import Source


class Scripted(Counting):
    """Calls `before_put` and `swapping` with what is to be done: they may do it, fail, or both."""

    def __init__(self, place: MemoryPlace) -> None:
        super().__init__(place)
        self.before_put: Callable[[str], None] = lambda name: None
        self.swapping: list[Callable[[Callable[[], Version]], Version]] = []

    def put(self, name: str, source: Source) -> bool:
        self.before_put(name)
        return super().put(name, source)

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        def swap() -> Version:
            return super(Scripted, self).swap_root(data, expected)

        return self.swapping.pop(0)(swap) if self.swapping else swap()


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "mine") as repo:
        repo.commit(state(1), step=1)
        yield repo


@pytest.fixture
def remote() -> Scripted:
    return Scripted(MemoryPlace("origin"))


def generation(remote: MemoryRemote) -> int:
    root = remote.read_root()
    assert root is not None
    return decode_root(root.data).generation


def lost(swap: Callable[[], Version]) -> Version:
    swap()
    raise Unclear("no reply")


def unsent(swap: Callable[[], Version]) -> Version:
    del swap
    raise Unclear("no reply")


def doubled(swap: Callable[[], Version]) -> Version:
    swap()
    return swap()


@pytest.mark.parametrize("course", [[lost], [unsent], [unsent, lost], [doubled], [unsent, unsent, doubled]])
def test_a_swap_without_a_reply_is_done_once(
    tmp_path: Path, mine: ckstore.Repo, remote: Scripted, course: list[Callable[[Callable[[], Version]], Version]]
) -> None:
    remote.swapping = list(course)
    pushed = push_all(mine, remote)
    assert pushed.generation == generation(remote) == 1
    with opened(tmp_path / "other") as other:
        fetch_all(other, remote)
        assert objects_of(other) == objects_of(mine)


def test_a_swap_that_stays_unclear_says_so_and_the_next_push_finds_out(mine: ckstore.Repo, remote: Scripted) -> None:
    remote.swapping = [unsent] * 5
    with pytest.raises(Unclear):
        push_all(mine, remote)
    assert push_all(mine, remote).generation == 1


def test_a_lost_reply_is_found_though_others_have_pushed_since(
    tmp_path: Path, mine: ckstore.Repo, remote: Scripted
) -> None:
    push_all(mine, remote)
    with twin(tmp_path / "other", mine) as other:
        other.commit(state(5, seed=3), branch="theirs")

        def overtaken(swap: Callable[[], Version]) -> Version:
            swap()
            push(MemoryRemote(remote.place), local(other), PushRequest(heads(other), jobs=1))
            raise Unclear("no reply")

        mine.commit(state(2))
        remote.swapping = [overtaken]
        pushed = push_all(mine, remote)
        assert pushed.generation == 2
        assert generation(remote) == 3
        assert sum(request == "swap" for request in remote.requests) == 1 + 1


def test_two_who_push_different_branches_both_win(tmp_path: Path, mine: ckstore.Repo, remote: Scripted) -> None:
    push_all(mine, remote)
    with twin(tmp_path / "other", mine) as other:
        other.commit(state(5, seed=3), branch="theirs")

        def late(swap: Callable[[], Version]) -> Version:
            push(MemoryRemote(remote.place), local(other), PushRequest(heads(other), jobs=1))
            return swap()

        mine.commit(state(2))
        remote.reset()
        remote.swapping = [late]
        pushed = push_all(mine, remote)
        assert pushed.generation == 3
        assert pushed.resumed_packs == sum(request.startswith("put packs/") for request in remote.requests)
        with opened(tmp_path / "third") as third:
            fetch_all(third, remote)
            assert objects_of(third) == objects_of(mine) | objects_of(other)


def test_a_root_that_never_stands_still_is_a_conflict(mine: ckstore.Repo, remote: Scripted) -> None:
    push_all(mine, remote)
    mine.commit(state(2))

    def moved(swap: Callable[[], Version]) -> Version:
        del swap
        root = remote.place.root
        assert root is not None
        remote.place.root = remote.place.hold(root.data)
        raise RootMoved("moved")

    remote.swapping = [moved] * 1000
    tries: list[int] = []
    with pytest.raises(Conflict, match="kept moving"):
        push(remote, local(mine), PushRequest(heads(mine), jobs=1), pause=tries.append)
    assert tries == list(range(1, 64))


def test_a_push_that_was_cut_off_goes_on_where_it_was(
    tmp_path: Path, mine: ckstore.Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckstore.sync.packing.PACK_BYTES", 150_000)
    mine.commit(state(3, seed=5))
    wanted = push_all(mine, counting("elsewhere"), dry_run=True)
    assert wanted.packs > 4
    remote = Scripted(MemoryPlace("origin"))
    sent: list[str] = []
    for limit in range(wanted.packs + 3):

        def cut(name: str, limit: int = limit) -> None:
            if len(sent) >= limit:
                raise Transient("cut off")
            sent.append(name)

        remote.before_put = cut
        try:
            done = push_all(mine, remote)
        except RemoteFailed:
            assert remote.read_root() is None
            continue
        break
    packs = [name for name in sent if name.startswith("packs/")]
    assert len(packs) == wanted.packs  # none was sent twice
    assert done.resumed_packs + done.packs == wanted.packs
    notes = local(mine).notes(remote.url)
    assert [name for name in notes.names() if name.startswith("upload")] == []
    with opened(tmp_path / "other") as other:
        fetch_all(other, remote)
        assert objects_of(other) == objects_of(mine)


def test_what_was_sent_and_has_gone_is_sent_again(tmp_path: Path, mine: ckstore.Repo, remote: Scripted) -> None:
    remote.swapping = [unsent] * 5
    with pytest.raises(Unclear):
        push_all(mine, remote)
    remote.delete([one.name for one in remote.list("packs/")])
    done = push_all(mine, remote)
    assert done.resumed_packs == 0
    with opened(tmp_path / "other") as other:
        fetch_all(other, remote)
        assert objects_of(other) == objects_of(mine)


def test_a_damaged_log_is_no_harm(mine: ckstore.Repo, remote: Scripted) -> None:
    remote.swapping = [unsent] * 5
    with pytest.raises(Unclear):
        push_all(mine, remote)
    notes = local(mine).notes(remote.url)
    for name in notes.names():
        notes.write(name, b"nonsense" * 9)
    assert push_all(mine, remote).resumed_packs == 0


def test_who_relied_on_what_gc_takes_sends_it_again(tmp_path: Path, mine: ckstore.Repo, remote: Scripted) -> None:
    push_all(mine, remote)
    with twin(tmp_path / "other", mine) as other:
        other.commit(state(7, seed=7), branch="side")
        push(remote, local(other), PushRequest(heads(other), jobs=1))
        push(remote, local(other), PushRequest({"heads/side": None}, jobs=1))
    mine.commit(state(7, seed=7), branch="again")  # the same data, while its packs are unused

    def collected(swap: Callable[[], Version]) -> Version:
        pruned = prune(MemoryRemote(remote.place), local(mine), PruneRequest(grace_ns=0))
        assert pruned.condemned
        pruned = prune(MemoryRemote(remote.place), local(mine), PruneRequest(grace_ns=0))
        assert pruned.deleted
        return swap()

    remote.swapping = [collected]
    push_all(mine, remote)
    with opened(tmp_path / "third") as third:
        fetch_all(third, remote)
        assert objects_of(third) == objects_of(mine)


def test_a_fetch_that_was_cut_off_goes_on_where_it_was(
    tmp_path: Path, mine: ckstore.Repo, remote: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckstore.sync.packing.PACK_BYTES", 150_000)
    monkeypatch.setattr("ckstore.sync.transfer.UNIT_BYTES", 100_000)
    for step in range(2, 5):
        mine.commit(state(step), step=step)
    push_all(mine, remote)
    packs = [one.name for one in remote.list("packs/")]
    with opened(tmp_path / "other") as other:
        held = dict(remote.place.objects)
        found = []
        for name in packs:
            remote.place.objects.pop(name, None)
        for name in packs:
            remote.place.objects[name] = held[name]
            try:
                fetch_all(other, remote)
            except NotFound:
                assert other._repository.commits().refs == {}
                found.append(name)
        assert len(found) > 3
        assert objects_of(other) == objects_of(mine)
        assert other.verify(read_data=True).ok


@pytest.mark.parametrize("place", range(12))
def test_a_damaged_pack_is_never_adopted(tmp_path: Path, mine: ckstore.Repo, remote: Scripted, place: int) -> None:
    push_all(mine, remote)
    names = [one.name for one in remote.list("packs/")]
    name = max(names, key=lambda name: len(remote.place.objects[name].data))
    held = remote.place.objects[name]
    data = bytearray(held.data)
    at = len(data) * place // 12 + 41 if place else 0
    data[min(at, len(data) - 1)] ^= 0x10
    remote.place.objects[name] = held._replace(data=bytes(data))
    with opened(tmp_path / "other") as other:
        try:
            fetch_all(other, remote)
        except Integrity:
            assert other._repository.commits().refs == {}
            assert other.verify(read_data=True).ok
            remote.place.objects[name] = held
            fetch_all(other, remote)
        assert objects_of(other) == objects_of(mine)


def test_damage_here_is_never_sent(mine: ckstore.Repo, remote: Scripted) -> None:
    store = mine._repository.store
    place = max(store.ask(lambda view: list(view.locations())), key=lambda place: place.frame.stored_length)
    path = store.layout.pack(place.pack)
    data = bytearray(path.read_bytes())
    data[place.offset + 104 + place.frame.stored_length // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Integrity, match="damaged"):
        push_all(mine, remote)
    assert remote.read_root() is None


def test_packs_that_changed_places_are_seen(tmp_path: Path, mine: ckstore.Repo, remote: Scripted) -> None:
    push_all(mine, remote)
    names = [one.name for one in remote.list("packs/")]
    first, second = names[0], names[-1]
    objects = remote.place.objects
    objects[first], objects[second] = objects[second], objects[first]
    with opened(tmp_path / "other") as other:
        with pytest.raises(Integrity):
            fetch_all(other, remote)
        assert other._repository.commits().refs == {}


def test_a_root_of_something_else_is_refused(tmp_path: Path, mine: ckstore.Repo, remote: Scripted) -> None:
    remote.swap_root(b"<html>not found</html>" * 9, None)
    with opened(tmp_path / "other") as other:
        for again in (lambda: fetch_all(other, remote), lambda: push_all(mine, remote)):
            with pytest.raises(Exception, match="root"):
                again()
    assert remote.put("packs/x", Buffers(b"1"))
