"""What remotes must do with objects."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError, Integrity, InvalidInput, NotFound
from ckstore.remote.interface import BLOCK_BYTES, MAX_OBJECT_BYTES, Transient
from ckstore.remote.source import Buffers, Watched
from ckstore.testing.remote_check import THREADS, must, raises, together

if TYPE_CHECKING:
    from typing import BinaryIO

    from ckstore.testing.remote_check import Clients

_PAGE = 1000
_NO_NAMES = ("", "root", "root/a", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "A", "a b", "a\n", "x" * 201)


def random_bytes(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


def _objects_come_back_whole(clients: Clients) -> None:
    one, two = clients(), clients()
    for number, size in enumerate((0, 1, 65536, BLOCK_BYTES + 1, 3 * BLOCK_BYTES)):
        data = random_bytes(size, number)
        name = f"packs/{number}"
        must(one.put(name, Buffers(data)) is True, f"a new object of {size} bytes must count as written")
        for remote in (one, two):
            blocks = list(remote.read(name))
            must(b"".join(blocks) == data, f"an object of {size} bytes came back with other bytes")
            must(all(len(block) <= BLOCK_BYTES for block in blocks), "a block is longer than BLOCK_BYTES")


def _ranges_are_exact(clients: Clients) -> None:
    remote = clients()
    data = random_bytes(2 * BLOCK_BYTES + 17)
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
        must(remote.get("packs/a", start, stop) == data[start:stop], f"bytes {start} to {stop} came back wrong")
    for start in (0, 1, end - 1, end):
        must(remote.get("packs/a", start) == data[start:], f"the bytes from {start} on came back wrong")
    target = bytearray(1000)
    remote.read_into("packs/a", memoryview(target), 17)
    must(target == data[17:1017], "read_into filled its target with other bytes")


def _what_is_too_short_is_damage(clients: Clients) -> None:
    remote = clients()
    remote.put("packs/a", Buffers(b"x" * 100))
    for start, stop in ((0, 101), (50, 101), (100, 101), (101, 102), (101, 101), (101, None)):
        what = f"bytes {start} to {stop} of an object of 100"
        raises(Integrity, what, partial(remote.get, "packs/a", start, stop))


def _wrong_ranges_are_refused(clients: Clients) -> None:
    remote = clients()
    remote.put("packs/a", Buffers(b"x" * 100))
    raises(InvalidInput, "a range before the start", lambda: remote.get("packs/a", -1, 5))
    raises(InvalidInput, "a range that ends before it starts", lambda: remote.get("packs/a", 5, 4))


def _what_is_absent_is_not_found(clients: Clients) -> None:
    remote = clients()
    raises(NotFound, "reading an absent object", partial(remote.get, "packs/none"))
    raises(NotFound, "reading a part of an absent object", partial(remote.get, "packs/none", 3, 9))
    raises(NotFound, "reading nothing of an absent object", partial(remote.get, "packs/none", 3, 3))
    must(remote.stat("packs/none") is None, "an absent object has no stat")
    must(list(remote.list("")) == [], "an empty place lists nothing")
    must(remote.read_root() is None, "an empty place has no root")


def _objects_never_change(clients: Clients) -> None:
    remote = clients()
    remote.put("packs/a", Buffers(b"first"))
    must(remote.put("packs/a", Buffers(b"first")) is False, "an object that is there must not count as written")
    raises(Integrity, "writing an object of another length", lambda: remote.put("packs/a", Buffers(b"second")))
    must(remote.put("packs/a", Buffers(b"other")) is False, "an object that is there must not count as written")
    must(remote.get("packs/a") == b"first", "an object changed")


def _names_are_checked(clients: Clients) -> None:
    remote = clients()
    for name in _NO_NAMES:
        raises(InvalidInput, f"reading {name!r}", partial(remote.get, name))
        raises(InvalidInput, f"writing {name!r}", partial(remote.put, name, Buffers(b"")))
        raises(InvalidInput, f"looking at {name!r}", partial(remote.stat, name))
        raises(InvalidInput, f"deleting {name!r}", partial(remote.delete, [name]))


def _too_much_is_refused(clients: Clients) -> None:
    remote = clients()
    raises(InvalidInput, "an object that is too long", lambda: remote.put("packs/a", _Long()))


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
        must(found == wanted, f"the list of {prefix!r} is {found} in place of {wanted}")


def _lists_are_whole(clients: Clients) -> None:
    remote = clients()
    names = [f"packs/{number:04}" for number in range(_PAGE + 5)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: remote.put(name, Buffers(b"")), names))
    must([stat.name for stat in remote.list("packs/")] == names, f"a list of {len(names)} objects is not whole")
    remote.delete(names[:-1])
    must([stat.name for stat in remote.list("packs/")] == names[-1:], "many objects were not deleted at once")


def _what_is_deleted_is_gone(clients: Clients) -> None:
    one, two = clients(), clients()
    for name in ("packs/a", "packs/b", "packs/c"):
        one.put(name, Buffers(b"x"))
    one.delete(["packs/a", "packs/none", "packs/b"])
    one.delete(["packs/a"])
    one.delete([])
    must(two.stat("packs/a") is None, "a deleted object is still there")
    must([stat.name for stat in two.list("")] == ["packs/c"], "a deleted object is still listed")
    must(one.put("packs/a", Buffers(b"xy")), "a deleted object cannot be written again")


def _stats_tell_size_and_time(clients: Clients) -> None:
    remote = clients()
    before_ns = remote.clock_ns()
    remote.put("packs/a", Buffers(b"x" * 1234))
    after_ns = remote.clock_ns()
    stat = remote.stat("packs/a")
    must(stat is not None and (stat.name, stat.size_bytes) == ("packs/a", 1234), "a stat tells another name or size")
    assert stat is not None
    second = 10**9
    near = before_ns - second <= stat.modified_ns <= after_ns + second
    must(near, "an object's time is not of the clock that clock_ns reads")
    must(after_ns >= before_ns, "the clock went backwards")
    must(remote.stat("packs/a") == stat, "a stat changed while the object did not")


def _what_is_sent_is_told(clients: Clients) -> None:
    remote = clients()
    told: list[int] = []
    remote.put("packs/a", Watched(Buffers(b"x" * 300_000), told.append))
    must(sum(told) >= 300_000, f"of 300,000 bytes source.sent was told {sum(told)}")


def _a_source_that_fails_leaves_nothing(clients: Clients) -> None:
    remote = clients()

    def stop(_: int) -> None:
        raise InvalidInput("given up")

    raises(InvalidInput, "a source that gives up", lambda: remote.put("packs/a", Watched(Buffers(b"x" * 9), stop)))
    raises(Integrity, "a source that fails", lambda: remote.put("packs/a", _Failing(b"x" * 200_000)))
    must(remote.stat("packs/a") is None, "a part of an object is there")
    must(list(remote.list("")) == [], "a part of an object is listed")
    must(remote.put("packs/a", Buffers(b"x" * 200_000)), "an object cannot be written after a try that failed")


class _Failing(Buffers):
    def open(self) -> BinaryIO:
        raise Integrity("the source is damaged")


def _a_read_can_be_dropped(clients: Clients) -> None:
    remote = clients()
    data = random_bytes(4 * BLOCK_BYTES)
    remote.put("packs/a", Buffers(data))
    for _ in range(3 * THREADS):
        for block in remote.read("packs/a"):
            must(data.startswith(block), "the first block is not the beginning")
            break
    must(remote.get("packs/a", 7, 20) == data[7:20], "after reads that were dropped, bytes come back wrong")


def _many_threads_share_a_client(clients: Clients) -> None:
    remote = clients()

    def work(number: int) -> None:
        for again in range(4):
            data = random_bytes(50_000 + number, number * 10 + again)
            remote.put(f"packs/{number}-{again}", Buffers(data))
            must(remote.get(f"packs/{number}-{again}") == data, "threads got each other's bytes")

    ends = together(work)
    must(ends == [None] * THREADS, f"a thread failed: {ends}")


def _nobody_sees_a_part(clients: Clients) -> None:
    writer, reader = clients(), clients()
    data = random_bytes(2 * BLOCK_BYTES)
    done = threading.Event()
    wrong: list[str] = []

    def watch() -> None:
        while not done.is_set():
            try:
                stat = reader.stat("packs/a")
                if stat is not None and stat.size_bytes != len(data):
                    wrong.append(f"stat saw {stat.size_bytes} bytes")
                if any(stat.size_bytes != len(data) for stat in reader.list("packs/")):
                    wrong.append("list saw a part")
                if reader.get("packs/a") != data:
                    wrong.append("read saw other bytes")
            except (NotFound, Transient):
                continue
            except CkstoreError as error:
                wrong.append(f"read failed: {error.what}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(5):
            must(writer.put("packs/a", _Slow(data)), "a new object must count as written")
            writer.delete(["packs/a"])
    finally:
        done.set()
        watcher.join()
    must(not wrong, f"somebody saw a part of an object: {wrong[:1]}")


class _Slow(Buffers):
    """Lets others run while it is sent."""

    def sent(self, count: int) -> None:
        threading.Event().wait(0.001)


def _several_may_write_one_object(clients: Clients) -> None:
    remotes = [clients() for _ in range(THREADS)]
    data = random_bytes(300_000)
    ends = together(lambda number: remotes[number].put("packs/a", Buffers(data)))
    must(all(isinstance(end, bool | Transient) for end in ends), f"writing one object at once failed: {ends}")
    must(True in ends, "none of those who wrote one object at once was told that it did")
    must(remotes[0].get("packs/a") == data, "an object that several wrote has other bytes")


OBJECTS = (
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
)
"""The checks of this module."""
