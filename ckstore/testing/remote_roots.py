"""What remotes must do with their root, with places within them, and with their URL."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ckstore.errors import RemoteFailed
from ckstore.remote.interface import RootMoved, Transient, Version
from ckstore.remote.source import Buffers
from ckstore.testing.remote_check import THREADS, Broken, must, raises, together

if TYPE_CHECKING:
    from ckstore.remote.interface import Remote
    from ckstore.testing.remote_check import Clients


def _the_root_moves_from_what_it_was(clients: Clients) -> None:
    one, two = clients(), clients()
    raises(RootMoved, "moving a root that is not there", lambda: one.swap_root(b"0", Version("none")))
    first = one.swap_root(b"1", None)
    must(two.read_root() == (b"1", first), "the root or its version is another for another client")
    raises(RootMoved, "creating a root that is there", lambda: two.swap_root(b"2", None))
    second = two.swap_root(b"2", first)
    must(second != first, "two roots have one version")
    raises(RootMoved, "moving the root from an older version", lambda: one.swap_root(b"3", first))
    raises(RootMoved, "moving the root from no version", lambda: one.swap_root(b"3", Version("none")))
    must(one.read_root() == (b"2", second), "a move that was refused changed the root")
    data = b"0123456789abcdef" * 65536
    third = one.swap_root(data, second)
    must(two.read_root() == (data, third), "a root of 1 MiB came back with other bytes")


def _of_those_who_create_the_root_one_wins(clients: Clients) -> None:
    remotes = [clients() for _ in range(THREADS)]
    for _ in range(4):
        ends = together(lambda number: remotes[number].swap_root(b"by %d" % number, None))
        _one_won(remotes[0], ends)
        remotes[0].remove_root()
        must(remotes[1].read_root() is None, "a root that was removed is there")


def _of_those_who_move_the_root_one_wins(clients: Clients) -> None:
    remotes = [clients() for _ in range(THREADS)]
    version = remotes[0].swap_root(b"begin", None)
    for turn in range(4):
        version = _one_won(remotes[0], together(partial(_swap, remotes, turn, version)))


def _swap(remotes: list[Remote], turn: int, version: Version, number: int) -> Version:
    return remotes[number].swap_root(b"%d by %d" % (turn, number), version)


def _one_won(remote: Remote, ends: list[object]) -> Version:
    """The version that the one winner has written, if there is one."""
    root = remote.read_root()
    if root is None:
        raise Broken(f"nobody moved the root: {ends}")
    winner = int(root.data.rpartition(b" ")[2])
    won = [number for number, end in enumerate(ends) if isinstance(end, str)]
    must(won in ([winner], []), f"of {len(ends)} who moved the root from one version, {won} were told that they did")
    kinds = (str, RootMoved, Transient)
    must(all(isinstance(end, kinds) for end in ends), f"who lost must get RootMoved: {ends}")
    must(bool(won) or isinstance(ends[winner], RemoteFailed), "who moved the root was told that somebody else did")
    return root.version


def _no_move_of_the_root_is_lost(clients: Clients) -> None:
    remotes = [clients() for _ in range(THREADS)]
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

    together(add)
    root = remotes[0].read_root()
    data = b"" if root is None else root.data
    missing = [f"{n}.{i}" for n in range(THREADS) for i in range(3) if b"<%d.%d>" % (n, i) not in data]
    must(not missing, f"moves of the root that were acknowledged are lost: {missing}")


def _a_place_within_is_apart(clients: Clients) -> None:
    remote = clients()
    remote.put("packs/a", Buffers(b"outside"))
    remote.swap_root(b"outside", None)
    within = remote.inside("probe-1")
    must(list(within.list("")) == [] and within.read_root() is None, "a place within is not empty")
    within.put("packs/b", Buffers(b"inside"))
    within.swap_root(b"inside", None)
    must([stat.name for stat in remote.list("")] == ["packs/a"], "a place within is seen from outside")
    root = clients().read_root()
    must(root is not None and root.data == b"outside", "a place within has the same root")
    again = clients().inside("probe-1")
    must([stat.name for stat in again.list("")] == ["packs/b"], "a place within is not found again")
    again.delete(["packs/b"])
    again.remove_root()
    again.remove_root()
    must(within.read_root() is None, "the root of a place within was not removed")
    within.close()
    again.close()
    must(remote.get("packs/a") == b"outside", "closing a place within closed the remote")


def _one_place_has_one_url(clients: Clients) -> None:
    one, two = clients(), clients()
    must(bool(one.url) and one.url == two.url, "two clients of one place have two URLs")
    one.close()
    one.close()
    must(two.read_root() is None, "closing one client closed another")


ROOTS = (
    _the_root_moves_from_what_it_was,
    _of_those_who_create_the_root_one_wins,
    _of_those_who_move_the_root_one_wins,
    _no_move_of_the_root_is_lost,
    _a_place_within_is_apart,
    _one_place_has_one_url,
)
"""The checks of this module."""
