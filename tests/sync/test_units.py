"""What comes is verified as it comes, in units that overlap: each is recorded whole, in order, or not at all."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

from ckstore.digest import NO_ID, Kind, object_id, payload_checksum
from ckstore.errors import Conflict, Integrity, RemoteFailed
from ckstore.pack.format import FRAME_HEADER_SIZE, Frame, frame_header
from ckstore.remote.memory import MemoryPlace
from ckstore.storage.adoption import Adoption
from ckstore.storage.record import FETCH, Record
from ckstore.sync.fetch import FetchRequest, fetch
from ckstore.sync.push import PushRequest, push
from ckstore.sync.repository_local import RepositoryLocal
from tests.sync.places import Counting, counting, fetch_all, heads, local, objects_of, opened, push_all, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    import ckstore
    from ckstore.storage.location import Location


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[ckstore.Repo]:
    """Three commits; chunks of the later ones are deltas."""
    with opened(tmp_path / "mine") as repo:
        for step in range(3):
            repo.commit(state(step, size=400_000), step=step)
        yield repo


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ckstore.Repo]:
    with opened(tmp_path / "other") as repo:
        yield repo


def nothing_half_done(repo: ckstore.Repo) -> None:
    """All packs are recorded ones, all is sound, and nothing is left of what was given up."""
    store = repo._repository.store
    assert {path.name for path in store.layout.packs.iterdir()} == store.named_packs()
    assert not [path for path in store.layout.tmp.rglob("*") if path.suffix == ".part"]
    assert repo.verify(read_data=True).ok


def fetch_records(repo: ckstore.Repo) -> list[Record]:
    """Those with packs, the oldest first."""
    history = [record for _, record in repo._repository.store.history()]
    return [record for record in reversed(history) if record.packs]


def forged(remote: Counting, repo: ckstore.Repo, chosen: Callable[[Frame], bool]) -> Frame:
    """One frame there gets another payload, of the same length and with a checksum that is right."""
    store = repo._repository.store
    places = store.ask(lambda view: list(view.locations()))
    place: Location = next(place for place in places if chosen(place.frame))
    frame = place.frame
    payload = store.objects.payload(place)
    changed = bytearray(payload)
    changed[-1] ^= 1
    old = frame_header(frame, payload_checksum([payload])) + payload
    new = frame_header(frame, payload_checksum([changed])) + changed
    for name, held in remote.place.objects.items():
        if old in held.data:
            remote.place.objects[name] = held._replace(data=held.data.replace(old, new))
            return frame
    raise AssertionError("no pack holds it")


def raw_frame(data: bytes, **more: object) -> Frame:
    fields: dict[str, object] = {
        "kind": Kind.CHUNK,
        "codec": 0,
        "width": 1,
        "id": object_id(Kind.CHUNK, data),
        "raw_length": len(data),
        "stored_length": len(data),
        "base": NO_ID,
        "version": 0,
        "busy": 0,
    }
    return Frame(**(fields | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frame",
    [
        raw_frame(b"x" * 999),
        raw_frame(b"x" * 1000, id=object_id(Kind.CHUNK, b"y")),
        raw_frame(b"x" * 1000, codec=2),
        raw_frame(b"x" * 1000, codec=9),
        raw_frame(b"x" * 1000, raw_length=999),
        raw_frame(b"x" * 1000, kind=Kind.TREE, base=b"b" * 32, version=1),
    ],
    ids=["length", "hash", "codec", "unknown codec", "raw length", "a tree that hangs on something"],
)
def test_what_is_not_what_its_id_says_is_refused_when_it_comes(other: ckstore.Repo, frame: Frame) -> None:
    with pytest.raises(Integrity, match="came"), local(other).incoming() as incoming:
        incoming.add("model", frame, (b"x" * 1000,))
    nothing_half_done(other)
    assert fetch_records(other) == []


def test_buffers_may_be_used_again_at_once(other: ckstore.Repo) -> None:
    buffer = bytearray(2_000_000)
    frames = []
    with local(other).incoming() as incoming:
        for number in range(4):
            for length in (2_000_000, 1000):
                data = random.Random(number).randbytes(length)
                buffer[:length] = data
                frames.append(raw_frame(data))
                incoming.add(
                    "model", frames[-1], (memoryview(buffer)[: length // 2], memoryview(buffer)[length // 2 : length])
                )
        incoming.publish(Record(1, FETCH))
    for frame in frames:
        assert object_id(Kind.CHUNK, other._repository.store.objects.read(Kind.CHUNK, frame.id)) == frame.id


@pytest.mark.parametrize("delta", [False, True])
def test_a_payload_that_another_made_is_never_adopted(mine: ckstore.Repo, other: ckstore.Repo, delta: bool) -> None:
    """A delta comes with what it hangs on, so that it is read from the sealed pack."""
    remote = counting()
    push_all(mine, remote)
    forged(remote, mine, lambda frame: frame.kind is Kind.CHUNK and bool(frame.version) == delta)
    with pytest.raises(Integrity, match="damaged"):
        fetch_all(other, remote)
    nothing_half_done(other)
    assert fetch_records(other) == []


def test_a_delta_against_what_is_here_is_verified_when_it_comes(mine: ckstore.Repo, other: ckstore.Repo) -> None:
    remote = counting()
    older = bytes.fromhex(mine["HEAD~1"].id)
    push(remote, local(mine), PushRequest({"heads/main": older}, head="main", jobs=1))
    fetch_all(other, remote)
    here = {place.frame.id for place in other._repository.store.ask(lambda view: list(view.locations()))}
    push_all(mine, remote)
    sound = dict(remote.place.objects)
    forged(remote, mine, lambda frame: frame.base in here and frame.id not in here)
    before = len(fetch_records(other))
    with pytest.raises(Integrity, match="came damaged"):
        fetch_all(other, remote)
    nothing_half_done(other)
    assert len(fetch_records(other)) == before
    remote.place.objects.update(sound)
    fetch_all(other, remote)
    assert objects_of(other) == objects_of(mine)


def test_a_payload_with_another_checksum_is_told_with_its_place(mine: ckstore.Repo, other: ckstore.Repo) -> None:
    remote = counting()
    push_all(mine, remote)
    name = max(remote.place.objects, key=lambda name: len(remote.place.objects[name].data))
    held = remote.place.objects[name]
    data = bytearray(held.data)
    data[len(data) // 2] ^= 1
    remote.place.objects[name] = held._replace(data=bytes(data))
    with pytest.raises(Integrity, match="damaged at byte") as raised:
        fetch_all(other, remote)
    assert raised.value.why is not None
    assert "checksum" in raised.value.why
    nothing_half_done(other)


class Crumbs(Counting):
    """Its blocks are of all lengths; `asked` are the ranges of packs that were read."""

    def __init__(self, place: MemoryPlace) -> None:
        super().__init__(place)
        self.asked: list[tuple[str, int, int | None]] = []

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self.asked.append((name, start, stop))
        draw = random.Random(name)
        for block in super().read(name, start, stop):
            at = 0
            while at < len(block):
                length = draw.choice([1, 7, FRAME_HEADER_SIZE, 5000, 300_000])
                yield block[at : at + length]
                at += length


def test_blocks_of_any_length_are_put_together(mine: ckstore.Repo, other: ckstore.Repo) -> None:
    remote = Crumbs(MemoryPlace("origin"))
    push_all(mine, remote)
    fetch_all(other, remote)
    assert objects_of(other) == objects_of(mine)
    data = max(remote.place.objects, key=lambda name: len(remote.place.objects[name].data))
    assert (data, 0, None) in remote.asked  # nearly all of it is wanted


def test_a_pack_that_ends_too_early_is_damage(mine: ckstore.Repo, other: ckstore.Repo) -> None:
    remote = counting()
    push_all(mine, remote)
    name = max(remote.place.objects, key=lambda name: len(remote.place.objects[name].data))
    held = remote.place.objects[name]
    remote.place.objects[name] = held._replace(data=held.data[: len(held.data) // 2])
    with pytest.raises(Integrity, match="ends before byte"):
        fetch_all(other, remote)
    nothing_half_done(other)
    remote.place.objects[name] = held._replace(data=held.data + b"more" * 2_000_000)
    remote.reset()
    fetch_all(other, remote)
    assert objects_of(other) == objects_of(mine)
    assert remote.read_bytes < 2 * len(held.data)  # what comes after it is not read


class Staged(RepositoryLocal):
    """Tells of each unit that is opened, and calls `publishing` with its number before it is recorded."""

    def __init__(self, repository: ckstore.Repo, publishing: Callable[[int], None]) -> None:
        super().__init__(repository._repository)
        self.open = self.most_open = self.units = 0
        self.lock = threading.Lock()
        self.publishing = publishing

    def incoming(self) -> Adoption:
        with self.lock:
            number, self.units = self.units, self.units + 1
        return _Staged(self, number)


class _Staged(Adoption):
    def __init__(self, local: Staged, number: int) -> None:
        super().__init__(local._store)
        self._local = local
        self._number = number

    def __enter__(self) -> Self:
        super().__enter__()
        with self._local.lock:
            self._local.open += 1
            self._local.most_open = max(self._local.most_open, self._local.open)
        return self

    def __exit__(self, *error: object) -> None:
        with self._local.lock:
            self._local.open -= 1
        super().__exit__(*error)  # type: ignore[arg-type]

    def publish(self, record: Record, check: Callable[[], None] = lambda: None) -> int | None:
        self._local.publishing(self._number)
        return super().publish(record, check)


class Failing(Counting):
    """`before_read` is called with each pack that is read for a unit, and may raise."""

    def __init__(self, place: MemoryPlace) -> None:
        super().__init__(place)
        self.before_read: Callable[[str], None] = lambda name: None

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if name.startswith("packs/"):
            self.before_read(name)
        return super().read(name, start, stop)


@pytest.fixture
def remote(mine: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Many packs, each a unit of its own; the metadata lies apart."""
    monkeypatch.setattr("ckstore.sync.packing.PACK_BYTES", 1_000_000)
    monkeypatch.setattr("ckstore.sync.transfer.UNIT_BYTES", 1)
    remote = Failing(MemoryPlace("origin"))
    push_all(mine, remote)
    return remote


def data_packs(remote: Failing) -> list[str]:
    """In the order in which they come."""
    seen: list[str] = []
    remote.before_read = seen.append
    return seen


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_units_are_recorded_in_order_and_two_are_open_at_most(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Failing, jobs: int
) -> None:
    order: list[int] = []
    staged = Staged(other, order.append)
    fetch(remote, staged, FetchRequest("origin", 1, jobs=jobs))
    assert order == list(range(staged.units))
    assert staged.units > 4
    assert staged.most_open == min(jobs, 2)
    assert objects_of(other) == objects_of(mine)
    nothing_half_done(other)


def test_an_error_in_the_next_unit_stops_all_and_the_one_before_is_kept(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Failing
) -> None:
    failed = threading.Event()
    recorded: list[int] = []

    def publishing(number: int) -> None:
        assert failed.wait(30)
        recorded.append(number)

    staged = Staged(other, publishing)

    def before_read(name: str) -> None:
        del name
        if staged.units == 2:
            failed.set()
            raise RemoteFailed("the second unit does not come")

    remote.before_read = before_read
    with pytest.raises(RemoteFailed, match="second unit"):
        fetch(remote, staged, FetchRequest("origin", 1, jobs=2))
    assert recorded == [0]
    assert len(fetch_records(other)) == 1
    assert other._repository.commits().refs == {}
    assert staged.open == 0
    nothing_half_done(other)
    remote.before_read = lambda name: None
    remote.reset()
    fetch_all(other, remote)
    assert objects_of(other) == objects_of(mine)


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("error", [Conflict("gc"), KeyboardInterrupt(), MemoryError()])
def test_what_stops_a_unit_from_being_recorded_stops_those_after_it(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Failing, jobs: int, error: BaseException
) -> None:
    reached: list[int] = []

    def publishing(number: int) -> None:
        reached.append(number)
        if number == 2 and len(reached) == 3:
            raise error

    staged = Staged(other, publishing)
    if isinstance(error, Conflict):
        fetch(remote, staged, FetchRequest("origin", 1, jobs=jobs))  # tries again, behind what it has brought
        assert reached[:3] == [0, 1, 2]
    else:
        with pytest.raises(type(error)):
            fetch(remote, staged, FetchRequest("origin", 1, jobs=jobs))
        assert reached == [0, 1, 2]
        assert len(fetch_records(other)) == 2
        assert other._repository.commits().refs == {}
        nothing_half_done(other)
        fetch_all(other, remote)
    assert staged.open == 0
    assert objects_of(other) == objects_of(mine)
    nothing_half_done(other)
    assert heads(other) == {}


@pytest.mark.parametrize("jobs", [1, 4])
def test_an_interrupted_fetch_goes_on_behind_what_it_has_brought(
    mine: ckstore.Repo, other: ckstore.Repo, remote: Failing, jobs: int
) -> None:
    reads = 0

    def before_read(name: str) -> None:
        nonlocal reads
        reads += 1
        if reads % 4 == 0:
            raise KeyboardInterrupt(name)

    remote.before_read = before_read
    interrupted, brought = 0, [0]
    while True:
        try:
            fetch(remote, local(other), FetchRequest("origin", 1, jobs=jobs))
        except KeyboardInterrupt:
            interrupted += 1
            nothing_half_done(other)
            brought.append(len(fetch_records(other)))
            assert interrupted < 50
        else:
            break
    assert interrupted > 1
    assert brought == sorted(brought)
    assert objects_of(other) == objects_of(mine)
    nothing_half_done(other)
