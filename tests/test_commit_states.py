"""What committed folders hold as states: which components there are, and that they load."""

from __future__ import annotations

import collections
import random
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

from ckstore.files.bundle import bundle_files
from ckstore.files.source import HeldSource
from ckstore.objects.tree import MAX_DEPTH
from tests.committed import names, put, trees, weights
from tests.equality import assert_same, assert_same_components
from tests.file_values import reassembled, saved, trained
from tests.snapshots import snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import ckstore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with nothing in it yet."""
    made = tmp_path / "run"
    made.mkdir()
    return made


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
