"""Commits made to harm: nothing outside of the target is touched, and no memory is taken on their word."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from ckstore.digest import Kind
from ckstore.errors import CkstoreError, Format, Integrity, InvalidInput, StoreFull
from ckstore.objects.commit import FILES, Commit, Component
from ckstore.objects.encoding import encode
from ckstore.objects.leaf import Chunks
from ckstore.objects.plain import to_key
from ckstore.objects.tree import CHUNK_SIZE, Alias, Dict, Entry, File, Folder, InSlab, Link, Segment, Slab, Tensor, Tree
from ckstore.objects.tree import List as ListOf
from ckstore.storage.piece import Piece
from ckstore.storage.record import HEADS, RefMove
from ckstore.storage.transaction import Transaction
from tests.snapshots import snapshot
from tests.written import below, refused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import ckstore
    from ckstore.objects.tree import Value


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Forger:
    """Publishes commits that no honest version would make."""

    def __init__(self, repo: ckstore.Repo) -> None:
        self._repo = repo
        self._number = 0

    def publish(self, **trees: Tree) -> str:
        """A commit of these components, `files` being that of files, on a branch of its own."""
        self._number += 1
        branch = f"forged{self._number}"
        with Transaction(self._repo._repository.store) as transaction:
            named = {FILES if name == "files" else name: tree for name, tree in trees.items()}
            components = tuple(
                Component(name, transaction.put_meta(Kind.TREE, encode(tree))) for name, tree in named.items()
            )
            id = transaction.put_meta(Kind.COMMIT, encode(Commit(components, (), 0, 0, "", "", ())))
            transaction.publish("forge", 0, [RefMove(HEADS + branch, None, id)])
        return branch

    def files(self, values: Mapping[Any, Value], **trees: Tree) -> str:
        """A commit of files, folders and links."""
        entries = [Entry(to_key(key), value) for key, value in values.items()]  # type: ignore[arg-type]
        tree = Tree(CHUNK_SIZE, (), (Entry(None, Dict("dict", len(entries))), *entries))
        return self.publish(files=tree, **trees)

    def chunk(self, data: bytes) -> bytes:
        """The id of a chunk that is there."""
        with Transaction(self._repo._repository.store) as transaction:
            id = transaction.put(Kind.CHUNK, Piece(lambda: memoryview(data), "x"))
            transaction.publish("forge", 0, [])
        return id


@pytest.fixture
def forger(repo: ckstore.Repo) -> Forger:
    return Forger(repo)


def file(text: bytes = b"evil", **changes: Any) -> File:
    said: dict[str, Any] = {
        "size": len(text), "mode": 0o644, "mtime_ns": 0, "gaps": text, "components": (),
        "segments": (Segment(len(text), 0, 0, 0, 0),),
    } | changes  # fmt: skip
    return File(**said)


FOLDER = Folder(0o755, 0)

BAD_NAMES = [
    "/etc/evil", "../evil", "a/../../evil", "a/../b", "a\0b", "", "a//b", "./a", "a/.", "a/", ".", "..", "/", "\ud800",
    "a/\ud800",
]  # fmt: skip

HOSTILE: dict[str, dict[Any, Value]] = {
    **{f"file {name!a}": {name: file(), "good": file()} for name in BAD_NAMES},
    **{f"folder {name!a}": {name: FOLDER, "good": file()} for name in BAD_NAMES if name != "."},
    **{f"link {name!a}": {name: Link(b"good"), "good": file()} for name in BAD_NAMES},
    **{
        f"link to {text!a}": {"good": file(), "a/b/link": Link(text)}
        for text in (
            b"/etc/passwd", b"../../../x", b"../../..", b"x/../../../..", b"", b"a\0b", b"up/..", b"../up/../..",
            b"./../../../x", b".//../../../x",
        )
    },
    "a key that is no text": {5: file(), "good": file()},
    "a file below a file": {"a": file(), "a/b": file()},
    "a file below a link": {"a": Link(b"good"), "a/b": file(), "good": file()},
    "a file below a link below": {"a/b": Link(b"../good"), "a/b/c/d": file(), "good": file()},
    "a folder below a link": {"a": Link(b"good"), "a/b": FOLDER, "good": file()},
    "a link below a link": {"a": Link(b"b"), "a/b": Link(b"good"), "good": file()},
    "a folder below a file": {"a": file(), "a/b": FOLDER},
    "a way out by two links": {"d/e/l": Link(b"../.."), "m": Link(b"d/e/l/.."), "good": file()},
}  # fmt: skip


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
def test_names_and_links_that_leave_the_folder(
    repo: ckstore.Repo, forger: Forger, tmp_path: Path, out: Path, values: dict[Any, Value]
) -> None:
    branch = forger.files({".": FOLDER} | values)
    before = snapshot(tmp_path, leave_out=(b".ckstore",))
    for force in (False, True):
        refused(lambda force=force: repo.checkout(branch, out, force=force), Format)  # type: ignore[misc]
        assert snapshot(tmp_path, leave_out=(b".ckstore",)) == before
    if "good" in values:
        repo.checkout(branch, out, only="good")
        assert out.read_bytes() == b"evil"


def test_two_entries_of_one_name(repo: ckstore.Repo, forger: Forger, out: Path) -> None:
    for first, second in ((file(), Link(b"b")), (file(), FOLDER), (Link(b"b"), FOLDER)):
        entries = [Entry(None, Dict("dict", 3)), Entry("b", file()), Entry("a", first), Entry("a", second)]
        branch = forger.publish(files=Tree(CHUNK_SIZE, (), tuple(entries)))
        refused(lambda branch=branch: repo.checkout(branch, out), Format)  # type: ignore[misc]
        assert not out.exists()


def test_links_of_one_commit_are_not_followed_by_the_next(
    repo: ckstore.Repo, forger: Forger, tmp_path: Path, out: Path
) -> None:
    """Links inside are harmless by themselves, but the files of another commit do not go through them."""
    first = forger.files({".": FOLDER, "a/x": file(), "l": Link(b"a")})
    second = forger.files({".": FOLDER, "l/x": file(b"other")})
    repo.checkout(first, out)
    refused(lambda: repo.checkout(second, out, force=True), match="is a link")
    assert (out / "a/x").read_bytes() == b"evil"


def test_strange_times_modes_and_names_are_harmless(repo: ckstore.Repo, forger: Forger, out: Path) -> None:
    branch = forger.files(
        {
            ".": FOLDER,
            "a": file(mode=-1, mtime_ns=-(1 << 63)),
            "b": file(mode=(1 << 64) - 1, mtime_ns=(1 << 64) - 1),
            "d": Folder((1 << 64) - 1, (1 << 64) - 1),
            "-rf": file(),
            "~": file(),
            "C:\\x": file(),
        }
    )
    repo.checkout(branch, out)
    assert below(out) == ["-rf", "C:\\x", "a", "b", "~"]
    assert (out / "a").stat().st_mode & 0o7777 == 0o777
    assert (out / "d").stat().st_mode & 0o7777 == 0o777


def test_a_name_too_long_for_the_system(repo: ckstore.Repo, forger: Forger, out: Path) -> None:
    branch = forger.files({".": FOLDER, "good": file(), "x" * 300: file()})
    refused(lambda: repo.checkout(branch, out), CkstoreError)
    assert not os.path.lexists(out / ("x" * 300))
    assert ".part" not in " ".join(below(out))


LIES: dict[str, dict[str, Any]] = {
    "a wrong size": {"size": 5},
    "a negative gap": {"size": 4, "segments": (Segment(5, 0, 0, 0, 0), Segment(-1, 0, 0, 0, 0))},
    "too few gaps": {"size": 9, "segments": (Segment(9, 0, 0, 0, 0),)},
    "no component": {"size": 8, "segments": (Segment(4, 0, 0, 0, 4),)},
    "a component that is not there": {"size": 8, "segments": (Segment(4, 0, 1, 0, 4),), "components": ("x",)},
    "an entry that is not there": {"size": 8, "segments": (Segment(4, 0, 9, 0, 4),), "components": ("c",)},
    "a negative entry": {"size": 8, "segments": (Segment(4, 0, -1, 0, 4),), "components": ("c",)},
    "an entry that is no tensor": {"size": 8, "segments": (Segment(4, 0, 0, 0, 4),), "components": ("c",)},
    "more than the span has": {"size": 4 + 9, "segments": (Segment(4, 0, 1, 0, 9),), "components": ("c",)},
    "far more than the span has": {"size": 4 + 99, "segments": (Segment(4, 0, 1, 0, 99),), "components": ("c",)},
    "a place beyond the span": {"size": 8, "segments": (Segment(4, 0, 1, 99, 4),), "components": ("c",)},
    "a negative place": {"size": 8, "segments": (Segment(4, 0, 1, -4, 4),), "components": ("c",)},
    "a negative length": {
        "size": 4,
        "segments": (Segment(4, 0, 1, 0, 4), Segment(0, 0, 1, 8, -4)),
        "components": ("c",),
    },
    "a slab that is not there": {"size": 8, "segments": (Segment(4, 0, 2, 0, 4),), "components": ("c",)},
    "a place before the slab": {"size": 8, "segments": (Segment(4, 0, 3, 0, 4),), "components": ("c",)},
    "no bytes": {"size": 8, "segments": (Segment(4, 0, 4, 0, 4),), "components": ("c",)},
    "gaps without chunks": {"gaps": Chunks(4, b"")},
    "endless gaps": {"size": 1 << 62, "gaps": Chunks(1 << 62, b"x" * 32), "segments": (Segment(1 << 62, 0, 0, 0, 0),)},
}


def liar(data: InSlab) -> Tensor:
    return Tensor("uint8", (4,), None, 0, data, 0)


@pytest.mark.parametrize("changes", LIES.values(), ids=LIES)
def test_files_that_contradict_themselves(
    repo: ckstore.Repo, forger: Forger, out: Path, changes: dict[str, Any]
) -> None:
    slab = Slab("uint8", 16, forger.chunk(b"1234567812345678"))
    values = [liar(InSlab(0, 4, 8)), liar(InSlab(1, 0, 8)), liar(InSlab(0, -1, 8)), liar(InSlab(0, 16, 8))]
    own = Tree(CHUNK_SIZE, (slab,), (Entry(None, ListOf(4)), *(Entry(None, value) for value in values)))
    branch = forger.files({".": FOLDER, "good": file(), "bad": file(**changes)}, c=own)
    with pytest.raises((Format, Integrity, StoreFull)):
        repo.checkout(branch, out)
    assert below(out) in ([], ["good"])


def test_spans_that_lie_are_not_converted(repo: ckstore.Repo, forger: Forger, out: Path) -> None:
    slab = Slab("uint8", 8, forger.chunk(b"12345678"))
    whole = Tensor("uint8", (8,), None, 0, InSlab(0, 0, 8), 0)
    for bad in (
        Tensor("uint8", (9,), None, 0, InSlab(0, 0, 8), 0),
        Tensor("uint8", (9,), None, 0, InSlab(0, 0, 9), 0),
        Tensor("uint8", (8,), None, 1, InSlab(0, 0, 8), 0),
        Tensor("uint8", (8,), None, -1, InSlab(0, 4, 8), 0),
        Tensor("uint8", (8,), None, 0, InSlab(0, 0, 4), 0),
        Tensor("uint8", (4,), None, 0, InSlab(2, 0, 4), 0),
        Tensor("uint8", (-2, -3), None, 0, InSlab(0, 0, 8), 0),
        Tensor("uint8", (1 << 40,), None, 0, InSlab(0, 0, 8), 0),
        Tensor("uint8", (3, 3), (4, 1), 0, InSlab(0, 0, 8), 0),
        Alias("uint8", (8,), None, 1, 1, 0),
        Alias("uint8", (8,), None, 0, 2, 0),
        Alias("uint8", (8,), None, 0, 0, 0),
    ):
        own = Tree(CHUNK_SIZE, (slab,), (Entry(None, ListOf(2)), Entry(None, whole), Entry(None, bad)))
        branch = forger.publish(c=own)
        with pytest.raises((Format, Integrity, StoreFull)):
            repo.checkout(branch, out / "x.safetensors")
        assert below(out) == []


def test_a_tensor_spread_without_end(repo: ckstore.Repo, forger: Forger, out: Path) -> None:
    slab = Slab("float32", 8, forger.chunk(b"12345678"))
    spread = Tensor("float32", (1 << 45,), (0,), 0, InSlab(0, 0, 8), 0)
    branch = forger.publish(c=Tree(CHUNK_SIZE, (slab,), (Entry(None, spread),)))
    with pytest.raises((InvalidInput, StoreFull)):
        repo.checkout(branch, out / "x.safetensors")
    assert below(out) == []
