"""Folders and files as commits: everything comes back as it was."""

from __future__ import annotations

import os
import random
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch

import ckstore
from ckstore.errors import Conflict, Format, InvalidInput, NotFound
from tests.committed import names, put, stamped, trees, weights
from tests.file_values import saved, trained
from tests.snapshots import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with nothing in it yet."""
    made = tmp_path / "run"
    made.mkdir()
    return made


@pytest.fixture
def rich(folder: Path) -> Path:
    """Everything a folder may hold: formats, odd names, links, modes, times."""
    torch.manual_seed(0)
    safetensors.torch.save_file(weights("a", "b"), folder / "model-00001-of-00002.safetensors")
    safetensors.torch.save_file(weights("c"), folder / "model-00002-of-00002.safetensors")
    put(folder / "deep/er/last.pt", {"model": weights("w", size=700), "optimizer": {"state": weights("m")}, "step": 3})
    put(folder / "optimizer.pt", trained()["optimizer"])
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "nothing").touch()
    (folder / "large.bin").write_bytes(random.Random(0).randbytes(3 << 20))
    for number, name in enumerate(
        [b"caf\xe9.bin", b"\xff\xfe", b"two\nlines.json", b"\x1b[2Jgone.txt", b"*?[a]", b" "]
    ):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(name * number)
    put(folder / "two\nlines.pt", weights("x"))
    (folder / "logs/none").mkdir(parents=True)
    (folder / "latest").symlink_to("deep/er")
    (folder / "deep/best.pt").symlink_to("./er/../../deep/er/last.pt")
    (folder / "deep/er/up.json").symlink_to("../../config.json")
    (folder / "deep/er/again").symlink_to("up.json")
    for number, path in enumerate(sorted(folder.rglob("*"), key=lambda path: (-len(path.parts), path))):
        if not path.is_symlink():
            stamped(path, (0o755, 0o700, 0o555)[number % 3] if path.is_dir() else (0o644, 0o600, 0o444)[number % 3],
                    (-(10**9) if number == 5 else 10**18) + 123_456_789 * number)  # fmt: skip
    stamped(folder, 0o750, 10**18 + 7)
    return folder


# Folders come back


def test_a_rich_folder_comes_back(repo: ckstore.Repo, rich: Path, tmp_path: Path) -> None:
    before = snapshot(rich)
    result = repo.commit_files(rich)
    assert snapshot(rich) == before
    assert result.raw_bytes == sum(len(found[3]) for found in before.values() if found[0] == "file")
    repo.checkout("HEAD", tmp_path / "back")
    back = snapshot(tmp_path / "back")
    link = before.pop(b"deep/best.pt")
    assert back.pop(b"deep/best.pt") == ("link", 0, 0, b"er/last.pt")
    assert link[0] == "link"
    assert back == before
    assert repo.verify(read_data=True).ok
    again = repo.commit_files(rich)
    assert trees(repo) == trees(repo, "HEAD~1")
    assert again.new_objects == 1  # the commit


def test_the_same_folder_gives_the_same_trees(repo: ckstore.Repo, rich: Path, tmp_path: Path) -> None:
    """Wherever it lies, whatever lies beside it, and after a round trip."""
    repo.commit_files(rich, branch="one")
    repo.checkout("one", tmp_path / "back")
    os.unlink(tmp_path / "back/deep/best.pt")
    (tmp_path / "back/deep/best.pt").symlink_to("./er/../../deep/er/last.pt")
    for path in (rich / "deep", tmp_path / "back/deep"):
        stamped(path, 0o755, 10**18)
    repo.commit_files(rich, branch="two")
    repo.commit_files(tmp_path / "back", branch="three")
    assert trees(repo, "two") == trees(repo, "three")


@pytest.mark.parametrize("seed", range(12))
def test_any_folder_comes_back(repo: ckstore.Repo, tmp_path: Path, seed: int) -> None:
    root = tmp_path / "any"
    Maker(seed).folder(root, 0)
    before = snapshot(root)
    repo.commit_files(root)
    repo.checkout("HEAD", tmp_path / "back")
    assert snapshot(tmp_path / "back") == before
    repo.commit_files(tmp_path / "back")
    assert trees(repo) == trees(repo, "HEAD~1")


class Maker:
    """Folders at random."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def folder(self, path: Path, depth: int) -> None:
        path.mkdir()
        for number in range(self._random.randrange(1, 6)):
            name = self._random.choice(["model", "optimizer", "last", "ü", "a b", "\udcff", "model-00001-of-00002"])
            name += self._random.choice(["", f"_{number}", ".pt", ".safetensors", ".json", ".bin"])
            if not os.path.lexists(path / name):
                self._entry(path / name, depth)
        if depth == 0:
            (path / "always").write_bytes(b"")
        stamped(path, self._random.choice([0o755, 0o700]), self._random.randrange(10**18))

    def _entry(self, path: Path, depth: int) -> None:
        if depth < 3 and self._random.random() < 0.25:
            self.folder(path, depth + 1)
            return
        others = [other for other in path.parent.iterdir() if not other.is_symlink()]
        if others and self._random.random() < 0.2:
            path.symlink_to(self._random.choice(others).name)
            return
        keys = self._random.sample(["a", "b", "c", "model", "optimizer"], 3)
        tensors = {key: torch.full((self._random.randrange(1, 200),), 0.5) for key in keys}
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(tensors, path)
        elif path.suffix in (".pt", ".bin"):
            torch.save(
                self._random.choice([tensors, {"model": tensors}, {key: [t] for key, t in tensors.items()}]), path
            )
        else:
            path.write_bytes(self._random.randbytes(self._random.choice([0, 1, 5000])))
        stamped(path, self._random.choice([0o644, 0o600, 0o755]), self._random.randrange(10**18))


def test_an_empty_folder_is_told(repo: ckstore.Repo, folder: Path) -> None:
    (folder / "more/and/more").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="there is no file in") as caught:
        repo.commit_files(folder)
    assert caught.value.hint


def test_one_empty_file(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    (folder / "empty.pt").touch()
    for given in (folder, folder / "empty.pt"):
        repo.commit_files(given)
        repo.checkout("HEAD", tmp_path / "out", force=True)
        assert (tmp_path / "out/empty.pt").read_bytes() == b""


def test_more_files_than_may_be_open(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    for number in range(300):
        (folder / f"{number}.json").write_bytes(bytes([number % 256]) * number)
    repo.commit_files(folder)
    repo.checkout("HEAD", tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(folder)


# Several paths


def test_several_paths_keep_their_names(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    put(folder / "sub/a.pt", weights("w"))
    (folder / "sub/link").symlink_to("a.pt")
    (folder / "other").mkdir()
    (folder / "other/b.json").write_text("b")
    (folder / "c.json").write_text("c")
    repo.commit_files([folder / "sub", folder / "c.json", str(folder / "other/../other")])
    repo.checkout("HEAD", tmp_path / "back")
    left, right = snapshot(folder), snapshot(tmp_path / "back")
    assert [one.pop(b"")[0] for one in (left, right)] == ["folder", "folder"]
    assert left == right
    assert names(repo) == ["sub/a"]


def test_a_folder_among_several_may_be_named_from_inside(
    repo: ckstore.Repo, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/b.json").write_text("b")
    (tmp_path / "c.json").write_text("c")
    monkeypatch.chdir(folder / "sub")
    for here in ("..", "../../run", ".", "../sub"):
        repo.commit_files([here, "../../c.json"])
        shutil.rmtree(tmp_path / "back", ignore_errors=True)
        repo.checkout("HEAD", tmp_path / "back")
        inside = "sub" if here in (".", "../sub") else "run/sub"
        assert (tmp_path / "back" / inside / "b.json").read_text() == "b"
        assert (tmp_path / "back/c.json").read_text() == "c"


def test_two_of_one_name_are_told(repo: ckstore.Repo, folder: Path) -> None:
    for name in ("one/x.json", "two/x.json", "one/sub/y", "x/z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for pair in (["one/x.json", "two/x.json"], ["one", "one"], ["one", "two/../one"], ["x", "one/x.json/../../x"]):
        with pytest.raises(InvalidInput, match="two of the paths are named") as caught:
            repo.commit_files([folder / path for path in pair])
        assert caught.value.hint
    with pytest.raises(InvalidInput, match="nothing was named"):
        repo.commit_files([])
    with pytest.raises(NotFound):
        repo.commit_files([folder / "one", folder / "three"])
    assert repo.log() == []


# The repository inside


def test_the_repository_itself_is_left_out(folder: Path, tmp_path: Path) -> None:
    put(folder / "model.pt", weights("w"))
    with ckstore.open(folder, cache=tmp_path / "cache") as repo:
        ckstore.open(folder / "sub", cache=tmp_path / "cache").close()
        (folder / "sub/file").write_text("x")
        (folder / "store").symlink_to(folder / ".ckstore")
        (folder / "sub/config").symlink_to("../.ckstore/format")
        repo.commit_files(folder)
        repo.checkout("HEAD", tmp_path / "back")
        left, right = snapshot(folder, leave_out=(b".ckstore", b"store")), snapshot(tmp_path / "back")
        left.pop(b"sub/config")
        assert right.pop(b"sub/config")[3] == (folder / ".ckstore/format").read_bytes()
        left.pop(b""), right.pop(b"")
        assert left == right
        for given in (folder / ".ckstore", folder / "store"):
            with pytest.raises(InvalidInput, match="no folder of checkpoints") as caught:
                repo.commit_files(given)
            assert caught.value.hint


# Links


def linked(folder: Path) -> None:
    (folder / "data/deep").mkdir(parents=True)
    (folder / "data/x").write_text("x")
    (folder / "data/deep/y").write_text("y")


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("link", "data/x", "data/x"),
        ("link", "./data//x", "./data//x"),
        ("link", "data/", "data/"),
        ("link", "data/deep/../x", "data/x"),
        ("data/link", "x", "x"),
        ("data/deep/link", "../x", "../x"),
        ("data/deep/link", "../../data/x", "../../data/x"),
        ("data/deep/link", "../../../run/data/x", "../x"),
        ("data/deep/link", "{root}/data/x", "../x"),
        ("data/deep/link", "..", ".."),
        ("link", "hop", "hop"),
        ("link", "jump/deep/y", "jump/deep/y"),
        ("link", "jump/../data/x", "data/x"),
    ],
)
def test_links_inside_are_kept(
    repo: ckstore.Repo, folder: Path, tmp_path: Path, name: str, text: str, kept: str
) -> None:
    linked(folder)
    (folder / "hop").symlink_to("data/x")
    (folder / "jump").symlink_to("data")
    (folder / name).symlink_to(text.format(root=folder))
    for given, inside in ((folder, ""), ([folder, put(tmp_path / "z.pt", {})], "run/")):
        repo.commit_files(given)
        shutil.rmtree(tmp_path / "back", ignore_errors=True)
        repo.checkout("HEAD", tmp_path / "back")
        link = tmp_path / "back" / inside / name
        assert os.readlink(link) == (text if text.startswith("../../../") and inside else kept)
        there = (folder / name).resolve().relative_to(folder)
        assert link.resolve() == tmp_path / "back" / inside / there


def test_a_link_that_knows_the_folder_by_another_name(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    linked(folder)
    (folder / "link").symlink_to("../run/data/x")
    (tmp_path / "other").symlink_to(folder)
    repo.commit_files([tmp_path / "other", put(tmp_path / "z.pt", {})])
    repo.checkout("HEAD", tmp_path / "back")
    assert os.readlink(tmp_path / "back/other/link") == "data/x"
    assert (tmp_path / "back/other/link").read_text() == "x"


def test_links_to_outside_are_followed(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    linked(out)
    (out / "data/deep/own").symlink_to("../x")
    (out / "data/deep/back").symlink_to(folder / "config.json")
    (folder / "config.json").write_text("{}")
    (folder / "file").symlink_to(out / "data/x")
    (folder / "sub").mkdir()
    (folder / "sub/far").symlink_to("../../out/data")
    repo.commit_files(folder)
    repo.checkout("HEAD", tmp_path / "back")
    back = {name.decode(): found for name, found in snapshot(tmp_path / "back").items()}
    assert {name: found[3] for name, found in back.items() if found[0] != "folder"} == {
        "config.json": b"{}",
        "file": b"x",
        "sub/far/x": b"x",
        "sub/far/deep/y": b"y",
        "sub/far/deep/own": b"x",
        "sub/far/deep/back": b"../../../config.json",
    }
    assert (tmp_path / "back/sub/far/deep/back").read_text() == "{}"
    assert back["file"][:3] == ("file", 0o644, (out / "data/x").stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nothing", "leads nowhere"),
        ("../nothing", "leads nowhere"),
        ("/nothing/at/all", "leads nowhere"),
        ("link", "cannot read"),
        ("pair", "cannot read"),
        (".", "leads back"),
        ("../run", "leads back"),
        ("..", "leads back"),
        ("/dev/null", "no regular file"),
        ("x\udcff", "leads nowhere"),
    ],
)
def test_links_that_lead_nowhere_or_in_circles(repo: ckstore.Repo, folder: Path, text: str, why: str) -> None:
    (folder / "a").write_text("a")
    (folder / "pair").symlink_to("link")
    (folder / "link").symlink_to(text)
    with pytest.raises(InvalidInput, match=why) as caught:
        repo.commit_files(folder)
    assert "link" in str(caught.value) or "pair" in str(caught.value)
    assert caught.value.hint
    assert repo.log() == []


def test_a_named_link_is_what_it_leads_to(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    linked(folder)
    (tmp_path / "name").symlink_to(folder / "data")
    (tmp_path / "single").symlink_to(folder / "data/x")
    repo.commit_files(tmp_path / "name")
    repo.checkout("HEAD", tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(folder / "data")
    repo.commit_files(tmp_path / "single")
    repo.checkout("HEAD", tmp_path / "y")
    assert (tmp_path / "y").read_text() == "x"


# What is no file


def test_pipes_and_sockets_are_told(repo: ckstore.Repo, folder: Path) -> None:
    (folder / "a").write_text("a")
    os.mkfifo(folder / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "sock"))
    with listening:
        for given in (folder, folder / "pipe", folder / "sock"):
            with pytest.raises(InvalidInput, match=r"(pipe|sock) is no regular file") as caught:
                repo.commit_files(given)
            assert caught.value.hint
    for bad in ("no/such", "a/b", "x" * 300, "nul\0"):
        with pytest.raises((NotFound, InvalidInput)) as told:
            repo.commit_files(folder / bad)
        assert told.value.hint
    assert repo.log() == []


def test_a_folder_deeper_than_python_goes(repo: ckstore.Repo, folder: Path) -> None:
    path = folder.joinpath(*"d" * 600)
    for below in reversed(path.relative_to(folder).parents):
        (folder / below).mkdir(exist_ok=True)
    path.write_text("x")
    with pytest.raises(InvalidInput, match="nests too deep") as caught:
        repo.commit_files(folder)
    assert caught.value.hint


def test_a_name_that_is_too_long(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    """Names of many bytes that are no text take more room than the system's own limit."""
    for depth, fits in ((5, True), (7, False)):
        path = folder.joinpath(*["\udcff" * 250] * depth)
        path.mkdir(parents=True, exist_ok=True)
        (path / "f").write_text("x")
        if fits:
            repo.commit_files(folder)
            repo.checkout("HEAD", tmp_path / "back")
            assert snapshot(tmp_path / "back") == snapshot(folder)
        else:
            with pytest.raises(InvalidInput, match="too long"):
                repo.commit_files(folder)


# Files that change, and damage


class Meddler:
    """A progress that does something once some bytes have been stored."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.done = False

    def start(self, what: str, total_bytes: int) -> None: ...

    def advance(self, done_bytes: int) -> None:
        if not self.done:
            self.done = True
            self._act()


def in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [in_place, appended])
@pytest.mark.parametrize("alone", [True, False])
def test_a_file_that_changes_meanwhile(
    repo: ckstore.Repo, folder: Path, change: Callable[[Path], None], alone: bool
) -> None:
    path = put(folder / "model.pt", {f"w{number}": torch.randn(600, 600) for number in range(8)})
    os.utime(path, ns=(10**18, 10**18))
    meddler = Meddler(lambda: change(path))
    with pytest.raises(Conflict, match=r"model\.pt changed") as caught:
        repo.commit_files(path if alone else folder, progress=meddler)
    assert meddler.done
    assert caught.value.hint
    assert caught.value.retryable
    assert repo.log() == []
    assert list((repo.path / ".ckstore/packs").iterdir()) == []
    repo.commit_files(path if alone else folder)
    assert repo.verify(read_data=True).ok


@pytest.mark.parametrize("change", ["replace", "remove"])
def test_one_of_many_files_goes_meanwhile(repo: ckstore.Repo, folder: Path, change: str) -> None:
    """It is not open any more when its name goes to another file."""
    for number in range(120):
        (folder / f"{number:03}.bin").write_bytes(random.Random(number).randbytes(200_000))

    def act() -> None:
        os.unlink(folder / "000.bin")
        if change == "replace":
            (folder / "000.bin").write_bytes(bytes(200_000))

    with pytest.raises(Conflict, match=r"000\.bin changed"):
        repo.commit_files(folder, progress=Meddler(act))
    assert repo.log() == []


def test_a_name_that_goes_while_the_file_is_open(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    """What was there when the commit began is what it holds."""
    path = put(folder / "model.pt", {f"w{number}": torch.randn(600, 600) for number in range(8)})
    shutil.copy2(path, tmp_path / "copy.pt")
    repo.commit_files(
        folder, progress=Meddler(lambda: (tmp_path / "new").write_bytes(b"x") and (tmp_path / "new").rename(path))
    )
    assert path.read_bytes() == b"x"
    repo.checkout("HEAD", tmp_path / "back")
    assert (tmp_path / "back/model.pt").read_bytes() == (tmp_path / "copy.pt").read_bytes()


@pytest.mark.parametrize(
    "name", ["sub/last.pt", "sub/model.safetensors", "model-00002-of-00003.safetensors", "caf\u00e9.pt"]
)
def test_a_damaged_file_is_named(repo: ckstore.Repo, rich: Path, tmp_path: Path, name: str) -> None:
    path = rich / name
    path.parent.mkdir(exist_ok=True)
    data = bytes(saved(weights("w"))) if name.endswith(".pt") else safetensors.torch.save(weights("w"))
    path.write_bytes(data[:-50])
    with pytest.raises(Format) as caught:
        repo.commit_files(rich)
    assert ascii(name) in str(caught.value)
    assert "--opaque" in str(caught.value.hint)
    assert repo.log() == []
    repo.commit_files(rich, opaque=True)
    repo.checkout("HEAD", tmp_path / "back")
    assert (tmp_path / "back" / name).read_bytes() == data[:-50]


def test_opaque_looks_into_nothing(repo: ckstore.Repo, rich: Path, tmp_path: Path) -> None:
    repo.commit_files(rich, opaque=True)
    assert list(trees(repo)) == ["@files"]
    with pytest.raises(InvalidInput) as caught:
        repo["HEAD"].load()
    assert caught.value.hint
    repo.checkout("HEAD", tmp_path / "back")
    back, before = snapshot(tmp_path / "back"), snapshot(rich)
    assert back.pop(b"deep/best.pt") != before.pop(b"deep/best.pt")
    assert back == before
