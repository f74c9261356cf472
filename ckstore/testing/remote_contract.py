"""What every remote must do, as checks that need no test framework: for authors of plug-ins.

    import pytest
    from ckstore.testing.remote_contract import remote_contract

    @pytest.mark.parametrize("check", remote_contract(), ids=str)
    def test_contract(check, tmp_path):
        check(lambda: MyRemote(tmp_path))

`make` returns another client of one and the same place at each call; the place is empty when a check begins. A check
closes its clients and raises `Broken` where the remote does not do what `ckstore.remote.interface` asks for.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError, Integrity, InvalidInput, NotFound, RemoteFailed
from ckstore.remote.interface import BLOCK_BYTES, MAX_OBJECT_BYTES, RootMoved, Transient, Version
from ckstore.remote.source import Buffers, Watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from ckstore.remote.interface import Remote

    Make = Callable[[], Remote]

_THREADS = 8
_PAGE = 1000
_NO_NAMES = ("", "root", "root/a", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "A", "a b", "a\n", "x" * 201)


class Broken(AssertionError):
    """A remote does not keep the contract."""


@dataclass(frozen=True)
class Check:
    """One point of the contract; its name says which."""

    name: str
    body: Callable[[Clients], None]

    def __call__(self, make: Make) -> None:
        """Raise `Broken`, or whatever the remote raises, unless the remote keeps this point."""
        with ExitStack() as stack:
            self.body(Clients(make, stack))

    def __str__(self) -> str:
        return self.name


class Clients:
    """Makes clients of the place, and closes them in the end."""

    def __init__(self, make: Make, stack: ExitStack) -> None:
        self._make = make
        self._stack = stack

    def __call__(self) -> Remote:
        return self._stack.enter_context(self._make())


def remote_contract() -> tuple[Check, ...]:
    """All checks. Each takes seconds at most on a local server."""
    return tuple(Check(body.__name__.removeprefix("_"), body) for body in _CHECKS)


def _must(holds: bool, text: str) -> None:
    if not holds:
        raise Broken(text)


def _raises(kind: type[CkstoreError], what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise Broken(f"{what} must raise {kind.__name__}")


def _bytes(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


def _together(call: Callable[[int], object], threads: int = _THREADS) -> list[object]:
    """What `call` gives or raises in several threads that begin at one moment."""
    begin = threading.Barrier(threads)

    def run(number: int) -> object:
        begin.wait()
        try:
            return call(number)
        except CkstoreError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


def _objects_come_back_whole(clients: Clients) -> None:
    one, two = clients(), clients()
    for number, size in enumerate((0, 1, 65536, BLOCK_BYTES + 1, 3 * BLOCK_BYTES)):
        data = _bytes(size, number)
        name = f"packs/{number}"
        _must(one.put(name, Buffers(data)) is True, f"a new object of {size} bytes must count as written")
        for remote in (one, two):
            blocks = list(remote.read(name))
            _must(b"".join(blocks) == data, f"an object of {size} bytes came back with other bytes")
            _must(all(len(block) <= BLOCK_BYTES for block in blocks), "a block is longer than BLOCK_BYTES")


def _ranges_are_exact(clients: Clients) -> None:
    remote = clients()
    data = _bytes(2 * BLOCK_BYTES + 17)
    remote.put("packs/a", Buffers(data))
    end = len(data)
    for start, stop in (
        (0, 1),
        (5, 5),
        (0, 0),
        (100, 70000),
        (end - 1, end),
        (end, end),
        (1, BLOCK_BYTES + 2),
        (0, end),
    ):
        _must(remote.get("packs/a", start, stop) == data[start:stop], f"bytes {start} to {stop} came back wrong")
    for start in (0, 1, end - 1, end):
        _must(remote.get("packs/a", start) == data[start:], f"the bytes from {start} on came back wrong")
    target = bytearray(1000)
    remote.read_into("packs/a", memoryview(target), 17)
    _must(target == data[17:1017], "read_into filled its target with other bytes")


def _what_is_too_short_is_damage(clients: Clients) -> None:
    remote = clients()
    remote.put("packs/a", Buffers(b"x" * 100))
    for start, stop in ((0, 101), (50, 101), (100, 101), (101, 102), (101, 101), (101, None)):
        what = f"bytes {start} to {stop} of an object of 100"
        _raises(Integrity, what, partial(remote.get, "packs/a", start, stop))


def _wrong_ranges_are_refused(clients: Clients) -> None:
    remote = clients()
    remote.put("packs/a", Buffers(b"x" * 100))
    _raises(InvalidInput, "a range before the start", lambda: remote.get("packs/a", -1, 5))
    _raises(InvalidInput, "a range that ends before it starts", lambda: remote.get("packs/a", 5, 4))


def _what_is_absent_is_not_found(clients: Clients) -> None:
    remote = clients()
    _raises(NotFound, "reading an absent object", lambda: remote.get("packs/none"))
    _raises(NotFound, "reading a part of an absent object", lambda: remote.get("packs/none", 3, 9))
    _raises(NotFound, "reading nothing of an absent object", lambda: remote.get("packs/none", 3, 3))
    _must(remote.stat("packs/none") is None, "an absent object has no stat")
    _must(list(remote.list("")) == [], "an empty place lists nothing")
    _must(remote.read_root() is None, "an empty place has no root")


def _objects_never_change(clients: Clients) -> None:
    remote = clients()
    remote.put("packs/a", Buffers(b"first"))
    _must(remote.put("packs/a", Buffers(b"first")) is False, "an object that is there must not count as written")
    _raises(Integrity, "writing an object of another length", lambda: remote.put("packs/a", Buffers(b"second")))
    _must(remote.put("packs/a", Buffers(b"other")) is False, "an object that is there must not count as written")
    _must(remote.get("packs/a") == b"first", "an object changed")


def _names_are_checked(clients: Clients) -> None:
    remote = clients()
    for name in (
        "",
        "root",
        "root/a",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        ".a",
        "a/.b",
        "A",
        "a b",
        "a\n",
        "x" * 201,
    ):
        _raises(InvalidInput, f"reading {name!r}", lambda name=name: remote.get(name))
        _raises(InvalidInput, f"writing {name!r}", lambda name=name: remote.put(name, Buffers(b"")))
        _raises(InvalidInput, f"looking at {name!r}", lambda name=name: remote.stat(name))
        _raises(InvalidInput, f"deleting {name!r}", lambda name=name: remote.delete([name]))


def _too_much_is_refused(clients: Clients) -> None:
    remote = clients()
    _raises(InvalidInput, "an object that is too long", lambda: remote.put("packs/a", _Long()))


class _Long(Buffers):
    @property
    def size_bytes(self) -> int:
        return MAX_OBJECT_BYTES + 1


def _lists_are_in_order(clients: Clients) -> None:
    remote = clients()
    names = ["packs/b", "packs/a", "packs/a-b", "packs/a.b", "index/0/x", "index/0-x", "state/z", "packs-old/a"]
    for name in names:
        remote.put(name, Buffers(name.encode()))
    remote.swap_root(b"root", None)
    for prefix in ("", "packs/", "packs", "pa", "index/0", "index/0/", "packs/a", "none/"):
        found = [(stat.name, stat.size_bytes) for stat in clients().list(prefix)]
        wanted = sorted((name, len(name)) for name in names if name.startswith(prefix))
        _must(found == wanted, f"the list of {prefix!r} is {found} in place of {wanted}")


def _lists_are_whole(clients: Clients) -> None:
    remote = clients()
    names = [f"packs/{number:04}" for number in range(_PAGE + 5)]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: remote.put(name, Buffers(b"")), names))
    _must([stat.name for stat in remote.list("packs/")] == names, f"a list of {len(names)} objects is not whole")
    remote.delete(names[:-1])
    _must([stat.name for stat in remote.list("packs/")] == names[-1:], "many objects were not deleted at once")


def _what_is_deleted_is_gone(clients: Clients) -> None:
    one, two = clients(), clients()
    for name in ("packs/a", "packs/b", "packs/c"):
        one.put(name, Buffers(b"x"))
    one.delete(["packs/a", "packs/none", "packs/b"])
    one.delete(["packs/a"])
    one.delete([])
    _must(two.stat("packs/a") is None, "a deleted object is still there")
    _must([stat.name for stat in two.list("")] == ["packs/c"], "a deleted object is still listed")
    _must(one.put("packs/a", Buffers(b"xy")), "a deleted object cannot be written again")


def _stats_tell_size_and_time(clients: Clients) -> None:
    remote = clients()
    before_ns = remote.clock_ns()
    remote.put("packs/a", Buffers(b"x" * 1234))
    after_ns = remote.clock_ns()
    stat = remote.stat("packs/a")
    _must(stat is not None and (stat.name, stat.size_bytes) == ("packs/a", 1234), "a stat tells another name or size")
    assert stat is not None
    second = 10**9
    near = before_ns - second <= stat.modified_ns <= after_ns + second
    _must(near, "an object's time is not of the clock that clock_ns reads")
    _must(after_ns >= before_ns, "the clock went backwards")
    _must(remote.stat("packs/a") == stat, "a stat changed while the object did not")


def _what_is_sent_is_told(clients: Clients) -> None:
    remote = clients()
    told: list[int] = []
    remote.put("packs/a", Watched(Buffers(b"x" * 300_000), told.append))
    _must(sum(told) >= 300_000, f"of 300,000 bytes source.sent was told {sum(told)}")


def _a_source_that_fails_leaves_nothing(clients: Clients) -> None:
    remote = clients()

    def stop(_: int) -> None:
        raise InvalidInput("given up")

    _raises(InvalidInput, "a source that gives up", lambda: remote.put("packs/a", Watched(Buffers(b"x" * 9), stop)))
    _raises(Integrity, "a source that fails", lambda: remote.put("packs/a", _Failing(b"x" * 200_000)))
    _must(remote.stat("packs/a") is None, "a part of an object is there")
    _must(list(remote.list("")) == [], "a part of an object is listed")
    _must(remote.put("packs/a", Buffers(b"x" * 200_000)), "an object cannot be written after a try that failed")


class _Failing(Buffers):
    def open(self) -> BinaryIO:
        raise Integrity("the source is damaged")


def _a_read_can_be_dropped(clients: Clients) -> None:
    remote = clients()
    data = _bytes(4 * BLOCK_BYTES)
    remote.put("packs/a", Buffers(data))
    for _ in range(3 * _THREADS):
        for block in remote.read("packs/a"):
            _must(data.startswith(block), "the first block is not the beginning")
            break
    _must(remote.get("packs/a", 7, 20) == data[7:20], "after reads that were dropped, bytes come back wrong")


def _many_threads_share_a_client(clients: Clients) -> None:
    remote = clients()

    def work(number: int) -> None:
        for again in range(4):
            data = _bytes(50_000 + number, number * 10 + again)
            remote.put(f"packs/{number}-{again}", Buffers(data))
            _must(remote.get(f"packs/{number}-{again}") == data, "threads got each other's bytes")

    ends = _together(work)
    _must(ends == [None] * _THREADS, f"a thread failed: {ends}")


def _nobody_sees_a_part(clients: Clients) -> None:
    writer, reader = clients(), clients()
    data = _bytes(2 * BLOCK_BYTES)
    done = threading.Event()
    wrong: list[str] = []

    def watch() -> None:
        while not done.is_set():
            stat = reader.stat("packs/a")
            if stat is not None and stat.size_bytes != len(data):
                wrong.append(f"stat saw {stat.size_bytes} bytes")
            if any(stat.size_bytes != len(data) for stat in reader.list("packs/")):
                wrong.append("list saw a part")
            try:
                if reader.get("packs/a") != data:
                    wrong.append("read saw other bytes")
            except NotFound:
                pass
            except CkstoreError as error:
                wrong.append(f"read failed: {error.what}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(5):
            _must(writer.put("packs/a", _Slow(data)), "a new object must count as written")
            writer.delete(["packs/a"])
    finally:
        done.set()
        watcher.join()
    _must(not wrong, f"somebody saw a part of an object: {wrong[:1]}")


class _Slow(Buffers):
    """Lets others run while it is sent."""

    def sent(self, count: int) -> None:
        threading.Event().wait(0.001)


def _several_may_write_one_object(clients: Clients) -> None:
    remotes = [clients() for _ in range(_THREADS)]
    data = _bytes(300_000)
    ends = _together(lambda number: remotes[number].put("packs/a", Buffers(data)))
    _must(all(isinstance(end, bool | Transient) for end in ends), f"writing one object at once failed: {ends}")
    _must(True in ends, "none of those who wrote one object at once was told that it did")
    _must(remotes[0].get("packs/a") == data, "an object that several wrote has other bytes")


def _the_root_moves_from_what_it_was(clients: Clients) -> None:
    one, two = clients(), clients()
    _raises(RootMoved, "moving a root that is not there", lambda: one.swap_root(b"0", Version("none")))
    first = one.swap_root(b"1", None)
    _must(two.read_root() == (b"1", first), "the root or its version is another for another client")
    _raises(RootMoved, "creating a root that is there", lambda: two.swap_root(b"2", None))
    second = two.swap_root(b"2", first)
    _must(second != first, "two roots have one version")
    _raises(RootMoved, "moving the root from an older version", lambda: one.swap_root(b"3", first))
    _raises(RootMoved, "moving the root from no version", lambda: one.swap_root(b"3", Version("none")))
    _must(one.read_root() == (b"2", second), "a move that was refused changed the root")
    data = _bytes(1 << 20)
    third = one.swap_root(data, second)
    _must(two.read_root() == (data, third), "a root of 1 MiB came back with other bytes")


def _of_those_who_create_the_root_one_wins(clients: Clients) -> None:
    remotes = [clients() for _ in range(_THREADS)]
    for _ in range(4):
        ends = _together(lambda number: remotes[number].swap_root(b"by %d" % number, None))
        _one_won(remotes[0], ends)
        remotes[0].remove_root()
        _must(remotes[1].read_root() is None, "a root that was removed is there")


def _of_those_who_move_the_root_one_wins(clients: Clients) -> None:
    remotes = [clients() for _ in range(_THREADS)]
    version = remotes[0].swap_root(b"begin", None)
    for turn in range(4):
        version = _one_won(remotes[0], _together(partial(_swap, remotes, turn, version)))


def _swap(remotes: list[Remote], turn: int, version: Version, number: int) -> Version:
    return remotes[number].swap_root(b"%d by %d" % (turn, number), version)


def _one_won(remote: Remote, ends: list[object]) -> Version:
    """The version that the one winner has written, if there is one."""
    root = remote.read_root()
    if root is None:
        raise Broken(f"nobody moved the root: {ends}")
    winner = int(root.data.rpartition(b" ")[2])
    won = [number for number, end in enumerate(ends) if isinstance(end, str)]
    _must(won in ([winner], []), f"of {len(ends)} who moved the root from one version, {won} were told that they did")
    kinds = (str, RootMoved, Transient)
    _must(all(isinstance(end, kinds) for end in ends), f"who lost must get RootMoved: {ends}")
    _must(bool(won) or isinstance(ends[winner], RemoteFailed), "who moved the root was told that somebody else did")
    return root.version


def _no_move_of_the_root_is_lost(clients: Clients) -> None:
    remotes = [clients() for _ in range(_THREADS)]
    remotes[0].swap_root(b"", None)

    def add(number: int) -> None:
        for again in range(3):
            mark = b"<%d.%d>" % (number, again)
            while True:
                root = remotes[number].read_root()
                if root is None or mark in root.data:
                    break
                try:
                    remotes[number].swap_root(root.data + mark, root.version)
                except (RootMoved, Transient):
                    continue
                break

    _together(add)
    root = remotes[0].read_root()
    data = b"" if root is None else root.data
    missing = [f"{n}.{i}" for n in range(_THREADS) for i in range(3) if b"<%d.%d>" % (n, i) not in data]
    _must(not missing, f"moves of the root that were acknowledged are lost: {missing}")


def _a_place_within_is_apart(clients: Clients) -> None:
    remote = clients()
    remote.put("packs/a", Buffers(b"outside"))
    remote.swap_root(b"outside", None)
    within = remote.inside("probe-1")
    _must(list(within.list("")) == [] and within.read_root() is None, "a place within is not empty")
    within.put("packs/b", Buffers(b"inside"))
    within.swap_root(b"inside", None)
    _must([stat.name for stat in remote.list("")] == ["packs/a"], "a place within is seen from outside")
    root = clients().read_root()
    _must(root is not None and root.data == b"outside", "a place within has the same root")
    again = clients().inside("probe-1")
    _must([stat.name for stat in again.list("")] == ["packs/b"], "a place within is not found again")
    again.delete(["packs/b"])
    again.remove_root()
    again.remove_root()
    _must(within.read_root() is None, "the root of a place within was not removed")
    within.close()
    again.close()
    _must(remote.get("packs/a") == b"outside", "closing a place within closed the remote")


def _one_place_has_one_url(clients: Clients) -> None:
    one, two = clients(), clients()
    _must(bool(one.url) and one.url == two.url, "two clients of one place have two URLs")
    one.close()
    one.close()
    _must(two.read_root() is None, "closing one client closed another")


_CHECKS: tuple[Callable[[Clients], None], ...] = (
    _objects_come_back_whole,
    _ranges_are_exact,
    _what_is_too_short_is_damage,
    _wrong_ranges_are_refused,
    _what_is_absent_is_not_found,
    _objects_never_change,
    _names_are_checked,
    _too_much_is_refused,
    _lists_are_in_order,
    _lists_are_whole,
    _what_is_deleted_is_gone,
    _stats_tell_size_and_time,
    _what_is_sent_is_told,
    _a_source_that_fails_leaves_nothing,
    _a_read_can_be_dropped,
    _many_threads_share_a_client,
    _nobody_sees_a_part,
    _several_may_write_one_object,
    _the_root_moves_from_what_it_was,
    _of_those_who_create_the_root_one_wins,
    _of_those_who_move_the_root_one_wins,
    _no_move_of_the_root_is_lost,
    _a_place_within_is_apart,
    _one_place_has_one_url,
)
