"""Exports: other tools read them, and they are checked against the commit to the last bit."""

from __future__ import annotations

import json
import os
import random
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ckstore.checkpoint.compare import same_pt, same_safetensors
from ckstore.errors import Integrity, NotFound
from tests.equality import assert_same, raw_bytes
from tests.file_values import trained
from tests.snapshots import snapshot
from tests.written import assert_tensors, below, flat, refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import ckstore

FLIPS = 150
"""Bits flipped in a file, one at a time."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def tied() -> dict[str, torch.Tensor]:
    """Tensors that share memory, in every way that may be mistaken for another."""
    torch.manual_seed(0)
    base = torch.randn(40, 30)
    return {
        "base": base,
        "same": base,
        "rows": base[3:7],
        "one_row": base[5:6, 3:9],
        "one_column": base[:, 4:5],
        "turned": base.t(),
        "scalar": base[2, 2],
        "bytes": base.view(torch.uint8)[1],
        "none": base[:0],
        "spread": base[:1, :1].expand(3, 4),
        "nan": torch.tensor([float("nan"), -0.0]),
    }


# pytorch and safetensors


def test_pytorch(repo: ckstore.Repo, out: Path) -> None:
    views = tied()
    del views["bytes"]
    state = trained() | {"tied": views, "sparse": torch.eye(3).to_sparse(), "keys": {1: 2, (1, "x"): {3}}}
    repo.commit(state)
    result = repo.export("HEAD", out / "x.pt", format="pytorch")
    assert (result.id, result.format, result.left_out) == (repo["HEAD"].id, "pytorch", 0)
    assert result.files == ((out / "x.pt", (out / "x.pt").stat().st_size),)
    assert_same(torch.load(out / "x.pt", weights_only=False), repo["HEAD"].load())
    assert below(out) == ["x.pt"]
    repo.export("HEAD", out / "model.pt", format="pytorch", only="model.*")
    assert_same(torch.load(out / "model.pt"), repo["HEAD"].load()["model"])


def test_memory_seen_as_two_dtypes(repo: ckstore.Repo, out: Path) -> None:
    """torch.save does not take it, safetensors does."""
    repo.commit({"model": tied()})
    refused(lambda: repo.export("HEAD", out / "x.pt", format="pytorch"), match=r"torch\.save cannot take the state")
    assert below(out) == []
    repo.export("HEAD", out / "x.pt", format="pytorch", only="model.r*")


def test_safetensors(repo: ckstore.Repo, out: Path) -> None:
    repo.commit({"model": tied(), "step": 3, "lr": [0.1]})
    result = repo.export("HEAD", out / "x.safetensors", format="safetensors")
    assert (result.left_out, result.left_out_paths) == (2, ("step", "lr.0"))
    assert_tensors(out / "x.safetensors", tied())


def test_files_for_other_tools(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    state = trained()
    torch.save(state, tmp_path / "last.ckpt")
    repo.commit_files(tmp_path / "last.ckpt")
    repo.export("HEAD", out / "x.pt", format="pytorch")
    assert_same(torch.load(out / "x.pt", weights_only=False), torch.load(tmp_path / "last.ckpt", weights_only=False))
    repo.export("HEAD", out / "x.safetensors", format="safetensors", only=["model"])
    assert_tensors(out / "x.safetensors", flat(state["model"]))


# Hugging Face


CONFIG = {"model_type": "bert", "hidden_size": 8, "layers": [1, 2], "rate": 0.1, "name": "caf\u00e9"}


def hub_folder(folder: Path) -> dict[str, torch.Tensor]:
    """What a Trainer leaves."""
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    weights = {f"layer.{number}.weight": torch.randn(30, 30) for number in range(5)}
    for number, keys in enumerate((list(weights)[:3], list(weights)[3:]), 1):
        safetensors.torch.save_file(
            {key: weights[key] for key in keys}, folder / f"model-0000{number}-of-00002.safetensors"
        )
    torch.save(trained()["optimizer"], folder / "optimizer.pt")
    for name in ("config.json", "tokenizer.json", "trainer_state.json", "model.safetensors.index.json", "merges.txt"):
        (folder / name).write_text(json.dumps({"in": name}))
    (folder / "training_args.bin").write_bytes(b"\x80\x02args")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    (folder / "logs.bin").write_bytes(b"log")
    return weights


COPIED = ["1_Pooling/config.json", "config.json", "merges.txt", "tokenizer.json"]


def assert_hub(out: Path, source: Path, weights: Mapping[str, torch.Tensor]) -> None:
    assert below(out) == sorted([*COPIED, "model.safetensors"])
    assert_tensors(out / "model.safetensors", weights)
    for name in COPIED:
        assert (out / name).read_bytes() == (source / name).read_bytes()


def test_a_sharded_folder(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    weights = hub_folder(tmp_path / "run")
    repo.commit_files(tmp_path / "run")
    result = repo.export("HEAD", out, format="huggingface")
    assert_hub(out, tmp_path / "run", weights)
    assert result.files[0] == (out / "model.safetensors", (out / "model.safetensors").stat().st_size)
    assert sorted(path.relative_to(out).as_posix() for path, _ in result.files[1:]) == COPIED
    assert result.left_out == 0


def test_a_folder_among_others(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    """The files beside the weights are taken, not those of other checkpoints."""
    first = hub_folder(tmp_path / "run/checkpoint-1")
    hub_folder(tmp_path / "run/checkpoint-2")
    (tmp_path / "run/notes.txt").write_text("x")
    repo.commit_files(tmp_path / "run")
    error = refused(lambda: repo.export("HEAD", out, format="huggingface"), match="which component")
    assert "checkpoint-2/model" in str(error.why)
    assert not out.exists()
    repo.export("HEAD", out, format="huggingface", only="checkpoint-1/model")
    assert_hub(out, tmp_path / "run/checkpoint-1", first)
    repo.commit_files([tmp_path / "run/checkpoint-1", tmp_path / "run/notes.txt"])
    repo.export("HEAD", out, format="huggingface", force=True)
    assert_hub(out, tmp_path / "run/checkpoint-1", first)


def test_a_checkpoint_file_in_a_folder(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    state = trained()
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run/last.pt")
    (tmp_path / "run/config.json").write_text("{}")
    repo.commit_files(tmp_path / "run")
    repo.export("HEAD", out, format="huggingface")
    assert_tensors(out / "model.safetensors", flat(state["model"]))
    assert below(out) == ["config.json", "model.safetensors"]


def test_a_state_in_memory(repo: ckstore.Repo, out: Path) -> None:
    repo.commit({"model": tied(), "config": CONFIG, "optimizer": trained()["optimizer"]})
    result = repo.export("HEAD", out, format="huggingface")
    assert below(out) == ["config.json", "model.safetensors"]
    assert_tensors(out / "model.safetensors", tied())
    assert json.loads((out / "config.json").read_text()) == CONFIG
    assert result.files[1] == (out / "config.json", (out / "config.json").stat().st_size)


@pytest.mark.parametrize("config", [{"x": float("nan")}, {"x": torch.ones(1)}, {("a", 1): 2}])
def test_a_config_that_is_no_json(repo: ckstore.Repo, out: Path, config: object) -> None:
    repo.commit({"model": tied(), "config": config})
    repo.export("HEAD", out, format="huggingface", only="model")
    assert below(out) == ["model.safetensors"]


def test_which_component_is_the_model(repo: ckstore.Repo, out: Path) -> None:
    weights = {"w": torch.ones(3)}
    named: Sequence[tuple[dict[str, Any], bool]] = [
        ({"net": weights, "step": 3}, True),
        ({"net[1]*": weights, "net11": 1}, True),
        ({"pytorch_model": weights, "ema": weights}, True),
        ({"model": weights, "pytorch_model": {"w": torch.zeros(3)}}, True),
        ({"net": weights, "ema": weights}, False),
        ({"step": 3}, False),
    ]
    for state, clear in named:
        repo.commit(state)
        if clear:
            repo.export("HEAD", out, format="huggingface", force=True)
            assert_tensors(out / "model.safetensors", weights)
        else:
            error = refused(lambda: repo.export("HEAD", out, format="huggingface", force=True), match="which component")
            assert all(name in str(error.why) for name in state)
    repo.export("HEAD~1", out, format="huggingface", only="net.*", force=True)


def test_transformers_reads_it(repo: ckstore.Repo, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForMaskedLM(config)
    model.save_pretrained(tmp_path / "run", max_shard_size="10KB")
    assert len(list((tmp_path / "run").glob("*.safetensors"))) > 1
    repo.commit_files(tmp_path / "run", branch="files")
    repo.commit({"model": model, "config": config.to_dict()}, branch="memory")
    for branch in ("files", "memory"):
        repo.export(branch, out / branch, format="huggingface")
        found = transformers.BertForMaskedLM.from_pretrained(out / branch).state_dict()
        assert sorted(found) == sorted(model.state_dict())
        assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


# What is there already


@pytest.mark.parametrize("there", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_that_has_one_of_the_files(repo: ckstore.Repo, tmp_path: Path, out: Path, there: str) -> None:
    weights = hub_folder(tmp_path / "run")
    repo.commit_files(tmp_path / "run", branch="files")
    repo.commit({"model": weights, "config": CONFIG}, branch="memory")
    out.mkdir()
    (out / there).write_text("mine")
    (out / "other").write_text("mine")
    before = snapshot(out)
    for branch in ("files", "memory") if there != "tokenizer.json" else ("files",):
        refused(lambda branch=branch: repo.export(branch, out, format="huggingface"), match="exists")  # type: ignore[misc]
        assert snapshot(out) == before
        repo.export(branch, tmp_path / branch, format="huggingface")
        (tmp_path / branch / "other").write_text("mine")
        repo.export(branch, tmp_path / branch, format="huggingface", force=True)
        assert (tmp_path / branch / "other").read_text() == "mine"


@pytest.mark.parametrize("format", ["pytorch", "safetensors", "huggingface"])
def test_what_is_there_stays(repo: ckstore.Repo, out: Path, format: str) -> None:
    repo.commit({"model": tied()})
    out.mkdir()
    (out / "file").write_text("mine")
    (out / "folder").mkdir()
    refused(lambda: repo.export("HEAD", out / "file", format=format), match="exists|no folder")
    refused(lambda: repo.export("HEAD", out / "file/below", format=format, force=True), match="no folder")
    if format != "huggingface":
        for force in (False, True):
            refused(lambda force=force: repo.export("HEAD", out / "folder", format=format, force=force), match="folder")  # type: ignore[misc]
    assert below(out) == ["file"]
    assert (out / "file").read_text() == "mine"


def test_what_cannot_be_exported(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    repo.commit({"model": {"w": torch.ones(2, dtype=torch.complex128)}, "config": CONFIG, "step": 1})
    error = refused(lambda: repo.export("HEAD", out / "x", format="onnx"), match="onnx")
    assert "safetensors" in str(error.hint)
    for format in ("safetensors", "huggingface"):
        refused(lambda format=format: repo.export("HEAD", out / "x", format=format), match="complex128")  # type: ignore[misc]
        refused(lambda format=format: repo.export("HEAD", out / "x", format=format, only="step"))  # type: ignore[misc]
        refused(lambda format=format: repo.export("HEAD", out / "x", format=format, only="modle"))  # type: ignore[misc]
    refused(lambda: repo.export("HEAD", out / "x", format="pytorch", only="modle"))
    with pytest.raises(NotFound):
        repo.export("nope", out / "x", format="pytorch")
    (tmp_path / "notes.txt").write_text("x")
    repo.commit_files(tmp_path / "notes.txt")
    for format in ("pytorch", "safetensors", "huggingface"):
        refused(lambda format=format: repo.export("HEAD", out / "x", format=format))  # type: ignore[misc]
    assert not out.exists()


# Comparing


def resolved(repo: ckstore.Repo) -> tuple[Any, Any]:
    return repo._repository, repo._repository.resolve("HEAD", 0)[1]


def reread(path: Path) -> object:
    try:
        return torch.load(path, weights_only=False)
    except Exception:
        return None


@pytest.mark.parametrize("seed", [1, 2])
def test_a_flipped_bit_of_a_pickle(repo: ckstore.Repo, out: Path, seed: int) -> None:
    """It is found, or it makes no difference to torch.load."""
    model = {"w": torch.randn(50), "b": torch.randn(9)}
    state = {"model": model, "args": {"lr": 0.1, "name": "x" * 40, "n": [1, None]}}
    repo.commit(state)
    path = out / "x.pt"
    repo.export("HEAD", path, format="pytorch")
    repository, commit = resolved(repo)
    assert same_pt(repository, commit, path, None)
    original = path.read_bytes()
    chosen, found = random.Random(seed), 0
    for _ in range(FLIPS):
        data = bytearray(original)
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        if same_pt(repository, commit, path, None):
            assert_same(reread(path), state)
        else:
            found += 1
    assert found > FLIPS // 10
    for pattern in model.values():
        data = bytearray(original)
        data[data.index(raw_bytes(pattern)) + 7] ^= 1
        path.write_bytes(data)
        assert not same_pt(repository, commit, path, None)


def test_every_flipped_bit_of_the_tensors(repo: ckstore.Repo, out: Path) -> None:
    repo.commit({"model": tied()})
    path = out / "x.safetensors"
    repo.export("HEAD", path, format="safetensors")
    repository, commit = resolved(repo)
    original = path.read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    chosen = random.Random(0)
    for place in [*range(8), *(chosen.randrange(header) for _ in range(100))]:
        data = bytearray(original)
        data[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        if same_safetensors(repository, commit, path, None):  # in the metadata, or one space for another
            assert_tensors(path, tied())
    for _ in range(FLIPS):
        data = bytearray(original)
        data[chosen.randrange(header, len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        assert not same_safetensors(repository, commit, path, None)


def test_other_files_are_not_the_same(repo: ckstore.Repo, out: Path) -> None:
    state = {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}
    repo.commit({"model": state})
    out.mkdir()
    repository, commit = resolved(repo)
    others: dict[str, dict[str, torch.Tensor]] = {
        "missing": {"a": state["a"]},
        "more": state | {"c": torch.ones(1)},
        "renamed": {"a": state["a"], "c": state["b"]},
        "dtype": state | {"a": state["a"].view(torch.int32)},
        "shape": state | {"b": state["b"].view(3, 2)},
        "swapped": {"a": state["b"], "b": state["a"]},
        "value": state | {"b": torch.tensor([[0.0, 0, 0], [0, 0, -0.0]])},
        "none": {},
    }
    path = out / "file"
    for name, other in others.items():
        safetensors.torch.save_file({key: value.clone() for key, value in other.items()}, path)
        assert not same_safetensors(repository, commit, path, None), name
        torch.save({"model": other}, path)
        assert not same_pt(repository, commit, path, None), name
    safetensors.torch.save_file(state, path)
    assert same_safetensors(repository, commit, path, None)
    for value, same in (({"model": state}, True), (state, False), ({"model": dict(reversed(state.items()))}, False)):
        torch.save(value, path)
        assert same_pt(repository, commit, path, None) is same
    for junk in (b"", b"junk" * 100, struct.pack("<Q", 1 << 60), b"PK\x03\x04"):
        path.write_bytes(junk)
        assert not same_safetensors(repository, commit, path, None)
        assert not same_pt(repository, commit, path, None)


def test_values_that_are_no_tensors_are_compared(repo: ckstore.Repo, out: Path) -> None:
    state: dict[str, Any] = {
        "x": {"f": 0.1, "n": 1, "s": "a", "l": [1], "t": (1,), "np": np.ones(2), "p": torch.ones(1)}
    }
    repo.commit(state)
    out.mkdir()
    repository, commit = resolved(repo)
    path = out / "x.pt"
    others = {"f": 0.1 + 1e-18, "n": 1}, {"f": 0.2}, {"n": 1.0}, {"n": True}, {"s": "b"}, {"l": (1,)}, {"t": (2,)}
    expected = [True, False, False, False, False, False, False]
    more: list[dict[str, Any]] = [
        {"np": np.ones(2, "f4")},
        {"np": np.zeros(2)},
        {"p": torch.nn.Parameter(torch.ones(1))},
        {"p": torch.ones(1).t()},
    ]
    for other, same in zip([*others, *more], [*expected, False, False, False, True], strict=True):
        torch.save({"x": state["x"] | other}, path)
        assert same_pt(repository, commit, path, None) is same, other


class Spoiler:
    """A progress that changes what has been written once all of it was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left = 0

    def start(self, what: str, total_bytes: int) -> None:
        self._left = total_bytes

    def advance(self, done_bytes: int) -> None:
        self._left -= done_bytes
        if self._left == 0:
            (part,) = self._folder.glob(".ckstore-*.part")
            with part.open("r+b") as file:
                file.seek(-3, os.SEEK_END)
                byte = file.read(1)
                file.seek(-3, os.SEEK_END)
                file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("format", ["safetensors", "huggingface"])
def test_what_does_not_come_back_gets_no_name(repo: ckstore.Repo, out: Path, format: str) -> None:
    repo.commit({"model": {"w": torch.ones(100)}})
    out.mkdir()
    target = out / "model.safetensors"
    target.write_text("old")
    given = out if format == "huggingface" else target
    refused(
        lambda: repo.export("HEAD", given, format=format, force=True, progress=Spoiler(out)),
        Integrity,
        match=r"model\.safetensors would not hold",
    )
    assert below(out) == ["model.safetensors"]
    assert target.read_text() == "old"
    repo.export("HEAD", given, format=format, force=True)
    assert_tensors(target, {"w": torch.ones(100)})
