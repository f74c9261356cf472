"""Folders and files as commits: everything comes back as it was, and what is a state can be loaded as one."""

from __future__ import annotations

import collections
import os
import random
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

import ckstore
from ckstore.errors import Conflict, Format, InvalidInput, NotFound
from ckstore.files.bundle import bundle_files
from ckstore.files.source import HeldSource
from ckstore.objects.tree import MAX_DEPTH
from tests.equality import assert_same, assert_same_components
from tests.file_values import reassembled, saved, trained
from tests.snapshots import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def trees(repo: ckstore.Repo, revision: str = "HEAD") -> dict[str, bytes]:
    """The tree of each component."""
    _, commit = repo._repository.resolve(revision, 0)
    return {entry.name: entry.tree for entry in commit.components}


def names(repo: ckstore.Repo, revision: str = "HEAD") -> list[str]:
    return [name for name in trees(repo, revision) if name != "@files"]


def stamped(path: Path, mode: int, mtime_ns: int) -> None:
    path.chmod(mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def put(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def weights(*keys: str, size: int = 40) -> dict[str, torch.Tensor]:
    return {key: torch.randn(size, size) for key in keys}


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


# What is a state


def test_shards_are_one_component(repo: ckstore.Repo, folder: Path) -> None:
    state = weights("a", "b", "c", "d")
    for number, keys in enumerate((("a", "c"), ("b",), ("d",)), 1):
        safetensors.torch.save_file(
            {key: state[key] for key in keys}, folder / f"model-0000{number}-of-00003.safetensors"
        )
    (folder / "model.safetensors.index.json").write_text("{}")
    repo.commit_files(folder)
    assert names(repo) == ["model"]
    assert_same(repo["HEAD"].load(), {"model": {key: state[key] for key in "acbd"}})
    assert_same(repo["HEAD"].load("model.b"), {"model": {"b": state["b"]}})
    assert torch.equal(repo["HEAD"]["model"]["d"][3:7], state["d"][3:7])
    linear = torch.nn.Module()
    for key in state:
        linear.register_parameter(key, torch.nn.Parameter(torch.zeros(40, 40)))
    repo["HEAD"].load(into={"model": linear})
    assert all(torch.equal(getattr(linear, key), value) for key, value in state.items())


def test_shards_of_pickles(repo: ckstore.Repo, folder: Path) -> None:
    state = weights("a", "b")
    put(folder / "sub/pytorch_model-00001-of-00002.bin", collections.OrderedDict(a=state["a"]))
    put(folder / "sub/pytorch_model-00002-of-00002.bin", {"b": state["b"]})
    repo.commit_files(folder)
    assert_same(repo["HEAD"].load(), {"sub/pytorch_model": state})


def test_shards_that_clash_fall_apart(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    first, second = weights("a", "b"), weights("b", "c")
    safetensors.torch.save_file(first, folder / "model-00001-of-00002.safetensors")
    safetensors.torch.save_file(second, folder / "model-00002-of-00002.safetensors")
    repo.commit_files(folder)
    assert_same(repo["HEAD"].load(), {"model-00001-of-00002": first, "model-00002-of-00002": second})
    repo.checkout("HEAD", tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(folder)


def test_an_optimizer_is_one_component(repo: ckstore.Repo, folder: Path) -> None:
    state = trained()["optimizer"]
    put(folder / "optimizer.pt", state)
    repo.commit_files(folder, branch="files")
    repo.commit({"optimizer": state}, branch="memory")
    assert names(repo, "files") == ["optimizer"]
    assert trees(repo, "files")["optimizer"] == trees(repo, "memory")["optimizer"]
    assert_same(repo["files"].load(), {"optimizer": state})
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))
    live = torch.optim.AdamW(model.parameters())
    repo["files"].load(into={"optimizer": live})
    assert_same(live.state_dict(), state)


def test_a_whole_checkpoint_is_split(repo: ckstore.Repo, folder: Path) -> None:
    state = trained()
    put(folder / "ckpt/last.pt", state)
    put(folder / "other.pt", {"epoch": 3, "lr": [0.1], "ema": weights("w")})
    repo.commit_files(folder, branch="files")
    repo.commit(state, branch="memory")
    assert names(repo, "files") == [*(f"ckpt/last/{part}" for part in state), "other"]
    found, expected = trees(repo, "files"), trees(repo, "memory")
    assert {part: found[f"ckpt/last/{part}"] for part in state} == expected
    loaded = repo["files"].load()
    assert_same_components({part: loaded[f"ckpt/last/{part}"] for part in state}, state)
    assert list(loaded["other"]) == ["epoch", "lr", "ema"]
    assert_same(repo["files"].load("ckpt/last/model.*"), {"ckpt/last/model": state["model"]})


def test_a_component_is_what_its_file_holds(repo: ckstore.Repo, folder: Path) -> None:
    """As torch.load gives it, whatever its keys are."""
    inner = weights("w")
    values = {"bare": inner, "one": {"model": inner}, "two": {"model": inner, "step": 3}, "list": [inner], "none": {}}
    for name, value in values.items():
        put(folder / f"{name}.pt", value)
    repo.commit_files(folder)
    loaded = repo["HEAD"].load()
    assert sorted(loaded) == sorted(values)
    for name, value in values.items():
        assert_same(loaded[name], value)


def test_a_file_and_its_state_have_the_same_trees(repo: ckstore.Repo, folder: Path) -> None:
    tied = torch.randn(30, 30)
    states: Sequence[Mapping[str, Any]] = [
        trained(),
        {"model": {"a": tied, "b": tied, "c": tied[3:], "d": tied.t(), "e": torch.randn(2, 3, 4, 5)[..., 1:3]}},
        {"model": torch.nn.Linear(3, 4).state_dict(), "args": {"lr": 0.1, "names": ["x", (1, 2)]}},
        {"model": {"p": torch.nn.Parameter(torch.randn(4)), "none": torch.empty(0, 3), "one": torch.tensor(5)}},
    ]
    for state in states:
        repo.commit_files(put(folder / "state.pt", state), branch="files")
        repo.commit(state, branch="memory")
        found = trees(repo, "files")
        found.pop("@files")
        assert found == trees(repo, "memory")


def test_names_that_collide_are_told_apart(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    states = {name: weights(f"w{number}") for number, name in enumerate(["pt", "bin", "bak", "st", "two"])}
    put(folder / "model.pt", states["pt"])
    put(folder / "model.bin", states["bin"])
    put(folder / "model.pt.bak", states["bak"])
    put(folder / "model.bin.pt", states["two"])
    safetensors.torch.save_file(states["st"], folder / "model.safetensors")
    repo.commit_files(folder)
    loaded = repo["HEAD"].load()
    expected = {
        "model.bin~2": states["bin"],
        "model.bin": states["two"],
        "model.pt~2": states["pt"],
        "model.pt": states["bak"],
        "model.safetensors": states["st"],
    }
    assert list(loaded) == list(expected)
    for name, state in expected.items():
        assert_same(loaded[name], state)
    repo.checkout("HEAD", tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(folder)


def test_shards_of_two_counts_and_checkpoints_beside_folders(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    for count in (2, 3):
        for number in range(1, count + 1):
            state = weights(f"w{number}")
            safetensors.torch.save_file(state, folder / f"model-0000{number}-of-0000{count}.safetensors")
    put(folder / "ck.pt", {"model": weights("a"), "ema": weights("b")})
    put(folder / "ck/model.pt", weights("c"))
    put(folder / ".-00001-of-00002.pt", weights("d"))
    put(folder / ".-00002-of-00002.pt", weights("e"))
    put(folder / "-00001-of-00002.pt", weights("f"))
    put(folder / "-00002-of-00002.pt", weights("g"))
    repo.commit_files(folder)
    assert sorted(names(repo)) == [
        "-00001-of-00002", "-00002-of-00002", ".", "ck.pt/model", "ck/ema", "ck/model.pt",
        "model.safetensors", "model.safetensors~2",
    ]  # fmt: skip
    loaded = repo["HEAD"].load()
    assert list(loaded["model.safetensors"]) == ["w1", "w2"]
    assert list(loaded["model.safetensors~2"]) == ["w1", "w2", "w3"]
    repo.checkout("HEAD", tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(folder)


@pytest.mark.parametrize("key", ["", "@files", "two\nlines", "\ud800"])
def test_parts_whose_names_no_component_may_have(repo: ckstore.Repo, folder: Path, tmp_path: Path, key: str) -> None:
    put(folder / "last.pt", {key: weights("w"), "b": weights("x")})
    for given in (folder, folder / "last.pt"):
        repo.commit_files(given)
        assert names(repo) == []
    repo.checkout("HEAD", tmp_path / "back.pt")
    assert (tmp_path / "back.pt").read_bytes() == (folder / "last.pt").read_bytes()


def test_folders_no_component_may_be_named_after(repo: ckstore.Repo, folder: Path, tmp_path: Path) -> None:
    put(folder / "@files/a.pt", weights("w"))
    put(folder / "\udcff/a.pt", weights("w"))
    repo.commit_files(folder)
    assert names(repo) == []
    repo.checkout("HEAD", tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(folder)


def test_a_part_as_deep_as_a_tree_may_be(repo: ckstore.Repo, folder: Path) -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    state = {"deep": deep, "model": weights("w")}
    put(folder / "last.pt", state)
    repo.commit_files(folder)
    loaded = repo["HEAD"].load()
    assert_same(loaded, {"last/deep": deep, "last/model": state["model"]})


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


# Bundles by themselves


def test_every_file_of_any_bundle_comes_back() -> None:
    """Whatever the names are, each file is put together from the component that holds it."""
    chosen = random.Random(3)
    stems = ["m", "m.pt", "m.bin", "m.pt.bin", "d/m", "m/model", "m/a", "m-00001-of-00002", "m-00002-of-00002"]
    for _ in range(60):
        sources: dict[str, HeldSource] = {}
        for stem in chosen.sample(stems, chosen.randrange(2, len(stems))):
            for suffix in chosen.sample([".pt", ".bin", ""], chosen.randrange(1, 3)):
                inner = {chosen.choice("abc"): torch.randn(chosen.randrange(1, 9)) for _ in range(2)}
                value = chosen.choice([inner, {"model": inner, "a": dict(inner)}, {"a": inner, "n": [1]}])
                sources[stem + suffix] = HeldSource(saved(value))
        bundle = bundle_files(sources)
        for name, source in sources.items():
            parsed = bundle.files[name]
            whole = type(parsed)(bundle.components, parsed.segments, parsed.gaps)
            assert reassembled(whole, source.view()) == source.view()
