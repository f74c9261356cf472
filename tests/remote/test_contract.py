from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ckstore.errors import CkstoreError, NotFound, RemoteFailed
from ckstore.remote.counting import Counting, Counts
from ckstore.remote.directory import DirectoryRemote
from ckstore.remote.ending import Ending
from ckstore.remote.interface import Root, Stat, Version
from ckstore.remote.memory import MemoryPlace, MemoryRemote
from ckstore.remote.retry import Retrying
from ckstore.remote.source import Buffers
from ckstore.remote.throttle import RateLimit, Throttled
from ckstore.testing.remote_contract import Broken, remote_contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckstore.remote.source import Source
    from ckstore.testing.remote_contract import Check
    from tests.servers.fixtures import S3Server

CHECKS = remote_contract()
each_check = pytest.mark.parametrize("check", CHECKS, ids=str)


def named(name: str) -> Check:
    return next(check for check in CHECKS if str(check) == name)


@each_check
def test_memory(check: Check) -> None:
    place = MemoryPlace("test")
    check(lambda: MemoryRemote(place))


@each_check
def test_directory(check: Check, tmp_path: Path) -> None:
    check(lambda: DirectoryRemote(tmp_path))


@each_check
def test_s3(check: Check, s3: S3Server) -> None:
    bucket = s3.bucket()
    check(lambda: s3.remote(bucket, "team/runs"))


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        ("unquoted", "the_root_moves_from_what_it_was"),
        ("unquoted", "of_those_who_move_the_root_one_wins"),
        ("unquoted", "no_move_of_the_root_is_lost"),
        ("no-batch", "what_is_deleted_is_gone"),
        ("no-conditions", "objects_never_change"),
    ],
)
def test_odd_servers_that_are_good_enough(bucket: str, name: str, s3: S3Server) -> None:
    made = s3.bucket(bucket)
    named(name)(lambda: s3.remote(made))


@each_check
def test_wrapped(check: Check) -> None:
    place = MemoryPlace("test")
    limit = RateLimit(10e9)
    check(lambda: Retrying(Ending(Throttled(Counting(MemoryRemote(place), Counts()), limit), lambda: False)))


def test_what_has_ended_sends_nothing_more() -> None:
    ended: list[bool] = []
    with Ending(MemoryRemote(MemoryPlace("test")), lambda: bool(ended)) as remote:
        remote.put("packs/a", Buffers(b"a" * 3_000_000))
        blocks = remote.read("packs/a")
        next(blocks)
        ended.append(True)
        calls: dict[str, Callable[[], object]] = {
            "read": lambda: next(blocks),
            "put": lambda: remote.put("packs/b", Buffers(b"b")),
            "stat": lambda: remote.stat("packs/a"),
            "list": lambda: list(remote.list("")),
            "delete": lambda: remote.delete(["packs/a"]),
            "root": remote.read_root,
            "swap": lambda: remote.swap_root(b"", None),
            "inside": lambda: remote.inside("x").stat("packs/a"),
        }
        for call in calls.values():
            with pytest.raises(RemoteFailed, match="were given up"):
                call()
        ended.clear()
        assert [stat.name for stat in remote.list("")] == ["packs/a"]
        assert remote.read_root() is None


def test_checks_have_names_of_their_own() -> None:
    names = [str(check) for check in CHECKS]
    assert len(set(names)) == len(names) > 20


# Remotes that are wrong in one way each


class LooksThenWrites(MemoryRemote):
    """Compares the root's version, and writes it later."""

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        root = self.read_root()
        if (None if root is None else root.version) != expected:
            return super().swap_root(data, Version("never"))
        time.sleep(0.02)
        return super().swap_root(data, None if (now := self.read_root()) is None else now.version)


class TakesOldVersions(MemoryRemote):
    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        root = self.read_root()
        return super().swap_root(data, None if root is None else root.version)


class SaysLostWhereItWon(MemoryRemote):
    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        super().swap_root(data, expected)
        return super().swap_root(data, Version("never"))


class CutsRanges(MemoryRemote):
    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        end = len(self.place.objects[name].data) if self.stat(name) else 0
        return super().read(name, min(start, end), None if stop is None else min(stop, end))


class LosesTheLastByteOfRanges(MemoryRemote):
    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return super().read(name, start, stop - 1 if stop is not None and start < stop else stop)


class Overwrites(MemoryRemote):
    def put(self, name: str, source: Source) -> bool:
        self.delete([name])
        return super().put(name, source)


class WritesInPieces(MemoryRemote):
    """Shows what it has so far, as a file that is written in place."""

    def put(self, name: str, source: Source) -> bool:
        if self.stat(name) is None and source.size_bytes > 1 << 20:
            super().put(name, Buffers(b"a part"))
            for _ in source.blocks():
                pass
            self.delete([name])
        return super().put(name, source)


class ListsOnePage(MemoryRemote):
    def list(self, prefix: str) -> Iterator[Stat]:
        return (stat for _, stat in zip(range(1000), super().list(prefix), strict=False))


class ListsAsItPleases(MemoryRemote):
    def list(self, prefix: str) -> Iterator[Stat]:
        return reversed([*super().list(prefix)])


class ListsFolders(MemoryRemote):
    """Takes a prefix for a folder."""

    def list(self, prefix: str) -> Iterator[Stat]:
        return super().list(prefix if not prefix or prefix.endswith("/") else f"{prefix}/")


class MissesWhatIsGone(MemoryRemote):
    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            if self.stat(name) is None:
                raise NotFound(name)
        super().delete(names)


class TellsNothing(MemoryRemote):
    def put(self, name: str, source: Source) -> bool:
        with source.open() as reader:
            return super().put(name, Buffers(reader.read()))


class HasAClockOfItsOwn(MemoryRemote):
    def clock_ns(self) -> int:
        return super().clock_ns() + 3600 * 10**9


class HasOneRoot(MemoryRemote):
    def inside(self, name: str) -> MemoryRemote:
        return MemoryRemote(self.place)


class CachesTheRoot(MemoryRemote):
    cached: Root | None = None

    def read_root(self) -> Root | None:
        self.cached = self.cached or super().read_root()
        return self.cached


class LeavesOutTheNames(MemoryRemote):
    def stat(self, name: str) -> Stat | None:
        return super().stat(name) if name.startswith("packs") else None


WRONG = [
    (LooksThenWrites, "of_those_who_create_the_root_one_wins"),
    (LooksThenWrites, "of_those_who_move_the_root_one_wins"),
    (LooksThenWrites, "no_move_of_the_root_is_lost"),
    (TakesOldVersions, "the_root_moves_from_what_it_was"),
    (SaysLostWhereItWon, "of_those_who_create_the_root_one_wins"),
    (CutsRanges, "what_is_too_short_is_damage"),
    (LosesTheLastByteOfRanges, "ranges_are_exact"),
    (Overwrites, "objects_never_change"),
    (WritesInPieces, "nobody_sees_a_part"),
    (ListsOnePage, "lists_are_whole"),
    (ListsAsItPleases, "lists_are_in_order"),
    (ListsFolders, "lists_are_in_order"),
    (MissesWhatIsGone, "what_is_deleted_is_gone"),
    (TellsNothing, "what_is_sent_is_told"),
    (HasAClockOfItsOwn, "stats_tell_size_and_time"),
    (HasOneRoot, "a_place_within_is_apart"),
    (CachesTheRoot, "the_root_moves_from_what_it_was"),
    (LeavesOutTheNames, "names_are_checked"),
]


@pytest.mark.parametrize(("wrong", "name"), WRONG)
def test_a_remote_that_is_wrong_fails(wrong: type[MemoryRemote], name: str) -> None:
    place = MemoryPlace("test")
    check = named(name)
    with pytest.raises((Broken, CkstoreError)):
        check(lambda: wrong(place))


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        ("careless", "of_those_who_create_the_root_one_wins"),
        ("careless", "of_those_who_move_the_root_one_wins"),
        ("deaf", "the_root_moves_from_what_it_was"),
        ("no-conditions", "the_root_moves_from_what_it_was"),
        ("no-range", "ranges_are_exact"),
        ("short", "ranges_are_exact"),
    ],
)
def test_a_server_that_is_wrong_fails(bucket: str, name: str, s3: S3Server) -> None:
    made = s3.bucket(bucket)
    check = named(name)
    with pytest.raises((Broken, CkstoreError)):
        check(lambda: s3.remote(made))
