"""The state of commits as new files: safetensors and torch.save."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ckstore.errors import NotFound
from ckstore.files.dtypes import PACKED_DTYPE, SAFETENSORS_DTYPE
from tests.equality import assert_same
from tests.strategies import filled
from tests.test_memory import MIB, measured
from tests.written import assert_tensors, below, flat, refused

if TYPE_CHECKING:
    import ckstore

DTYPES = [getattr(torch, name) for name in (*SAFETENSORS_DTYPE.values(), PACKED_DTYPE)]
"""All that safetensors has."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as Hugging Face has them, and a checkpoint beside it."""
    made = tmp_path / "run"
    (made / "sub/none").mkdir(parents=True)
    torch.manual_seed(0)
    safetensors.torch.save_file({"w": torch.randn(600, 600), "b": torch.randn(3)}, made / "model.safetensors")
    torch.save({"m": torch.randn(5), "n": [1, 2]}, made / "sub/extra.pt")
    for name in ("config.json", "sub/config.json", "sub/a[1].json", "sub/a1.json"):
        (made / name).write_text(name)
    (made / "sub/link").symlink_to("../config.json")
    for path in (made / "sub", made):
        os.utime(path, ns=(10**18, 10**18))
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    weight = torch.randn(40, 30)
    image = torch.randn(2, 3, 4, 5)
    return {
        "model": {
            "weight": weight,
            "tied": weight,
            "rows": weight[3:7],
            "row": torch.randn(6, 10)[2:3, :5],
            "one_row": weight[5:6, 3:9],
            "turned": weight.t(),
            "last": image.to(memory_format=torch.channels_last),
            "every_second": weight[::2, ::3],
            "spread": torch.randn(1).expand(7),
            "none": torch.empty(0, 5),
            "scalar": torch.tensor(2.5),
            "parameter": torch.nn.Parameter(torch.randn(5)),
            "big": torch.arange(300_000).view(3, -1),
            "deep": [{"a": torch.ones(3, dtype=torch.bool)}, (torch.tensor(-0.0), torch.tensor(float("nan")))],
        },
    }


def test_safetensors_from_memory(repo: ckstore.Repo, out: Path) -> None:
    repo.commit(state())
    result = repo.checkout("HEAD", out / "new.safetensors")
    assert result.converted
    assert result.files == ((out / "new.safetensors", (out / "new.safetensors").stat().st_size),)
    assert (result.left_out, result.left_out_paths) == (0, ())
    assert_tensors(out / "new.safetensors", flat(state()["model"]))
    assert below(out) == ["new.safetensors"]


def test_it_is_the_file_that_safetensors_writes(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    mixed = {
        "z": torch.randn(3), "a": torch.arange(5, dtype=torch.int8), "half": torch.randn(7).half(),
        "wide": torch.randn(2, 2).double(), "b": torch.randn(4), "caf\u00e9": torch.randn(1),
    }  # fmt: skip
    repo.commit({"model": mixed})
    repo.checkout("HEAD", out / "ours.safetensors")
    safetensors.torch.save_file(mixed, tmp_path / "theirs.safetensors", {"format": "pt"})
    texts = []
    for path in (out / "ours.safetensors", tmp_path / "theirs.safetensors"):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        assert size % 8 == 0
        texts.append((json.loads(data[8 : 8 + size]), data[8 + size :]))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(repo: ckstore.Repo, out: Path, dtype: torch.dtype) -> None:
    flat_tensor = filled(dtype, 48, 7)
    tensors = {
        "a": flat_tensor.view(6, 8),
        "b": flat_tensor.view(6, 8).t(),
        "c": filled(dtype, 6, 8),
        "e": flat_tensor[:0],
    }
    repo.commit({"m": tensors})
    repo.checkout("HEAD", out / "x.safetensors")
    assert_tensors(out / "x.safetensors", tensors)
    repo.commit_files(out / "x.safetensors")
    repo.checkout("HEAD", out / "y.safetensors", format="safetensors")
    assert (out / "y.safetensors").read_bytes() == (out / "x.safetensors").read_bytes()
    repo.checkout("HEAD~1", out / "x.pt")
    assert_same(torch.load(out / "x.pt"), {"m": tensors})


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex32], ids=str)
def test_dtypes_it_has_not(repo: ckstore.Repo, out: Path, dtype: torch.dtype) -> None:
    tensors = {"model": {"odd": filled(dtype, 4, 0), "even": torch.ones(3)}}
    repo.commit(tensors)
    error = refused(lambda: repo.checkout("HEAD", out / "x.safetensors"), match="odd")
    assert "--format pt" in str(error.hint)
    assert not out.exists()
    repo.checkout("HEAD", out / "x.safetensors", only="model.even")
    assert_tensors(out / "x.safetensors", {"even": torch.ones(3)})
    repo.checkout("HEAD", out / "x.pt")
    assert_same(torch.load(out / "x.pt"), tensors)


def test_a_packed_tensor_without_dimensions(repo: ckstore.Repo, out: Path) -> None:
    repo.commit({"model": {"p": filled(torch.float4_e2m1fn_x2, 1, 0).view(())}})
    refused(lambda: repo.checkout("HEAD", out / "x.safetensors"), match="float4")


def test_what_is_no_tensor_is_left_out_and_told(repo: ckstore.Repo, out: Path) -> None:
    layer = torch.nn.Linear(3, 4)
    generator = torch.Generator().manual_seed(1)
    repo.commit(
        {
            "model": layer.state_dict(),
            "step": 7,
            "rng": {"torch": generator, "numpy": np.random.default_rng(1), "plain": torch.get_rng_state()},
            "sparse": [torch.eye(3).to_sparse(), torch.eye(4).to_sparse_csr(), torch.ones(2)],
            "args": {"lr": 0.1, "names": ["a", None], "empty": {}, "kinds": {1, 2}},
            "array": np.ones(3),
        }
    )
    result = repo.checkout("HEAD", out / "x.safetensors")
    expected = {"model.weight": layer.weight, "model.bias": layer.bias, "rng.plain": torch.get_rng_state()}
    assert_tensors(out / "x.safetensors", expected | {"sparse.2": torch.ones(2)})
    told = ["step", "rng.torch", "rng.numpy", "sparse.0", "sparse.1", "args.lr", "args.names.0", "args.names.1"]
    assert result.left_out == len(told) + 3  # two members of a set, and the array
    assert result.left_out_paths[: len(told)] == tuple(told)
    assert len(result.left_out_paths) == 10
    inner = repo.checkout("HEAD", out / "y.safetensors", only=["sparse.0.0", "sparse.2"])
    assert inner.left_out_paths == ("sparse.0",)
    assert_tensors(out / "y.safetensors", {"2": torch.ones(2)})
    only = repo.checkout("HEAD", out / "z.safetensors", only=["model.*"])
    assert only.left_out == 0


@pytest.mark.parametrize(
    "clashing", [{1: torch.ones(1), "1": torch.ones(1)}, {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}]
)
def test_names_that_clash(repo: ckstore.Repo, out: Path, clashing: dict[Any, Any]) -> None:
    repo.commit({"model": clashing})
    assert "twice" not in refused(lambda: repo.checkout("HEAD", out / "x.safetensors"), match="two tensors would").what
    repo.commit({"model": {"__metadata__": torch.ones(1)}})
    refused(lambda: repo.checkout("HEAD", out / "x.safetensors"), match="__metadata__")
    assert not out.exists()


def test_tensors_of_several_components_and_of_one(repo: ckstore.Repo, out: Path) -> None:
    a, b = torch.randn(3), torch.randn(4)
    repo.commit({"model": {"w": a}, "ema": {"w": b}, "mean": a})
    repo.checkout("HEAD", out / "all.safetensors")
    assert_tensors(out / "all.safetensors", {"model.w": a, "ema.w": b, "mean": a})
    repo.checkout("HEAD", out / "one.safetensors", only="ema.*")
    assert_tensors(out / "one.safetensors", {"w": b})
    repo.checkout("HEAD", out / "bare.safetensors", only="mean")
    assert_tensors(out / "bare.safetensors", {"mean": a})


@pytest.mark.parametrize("bare", [torch.arange(5.0), {1: torch.ones(3)}, [torch.ones(2), torch.zeros(3)]])
def test_bare_states(repo: ckstore.Repo, out: Path, bare: Any) -> None:
    repo.commit(bare)
    repo.checkout("HEAD", out / "x.safetensors")
    assert_tensors(out / "x.safetensors", flat(bare) if not isinstance(bare, torch.Tensor) else {"state": bare})
    repo.checkout("HEAD", out / "x.pt")
    assert_same(torch.load(out / "x.pt"), bare)


def test_pt_holds_everything(repo: ckstore.Repo, out: Path) -> None:
    whole = state() | {
        "step": 3,
        "rng": torch.get_rng_state(),
        "sparse": torch.eye(3).to_sparse_csr(),
        "np": np.ones(2),
    }
    repo.commit(whole)
    result = repo.checkout("HEAD", out / "x.pt")
    assert (result.converted, result.left_out) == (True, 0)
    assert_same(torch.load(out / "x.pt", weights_only=False), repo["HEAD"].load())
    repo.checkout("HEAD", out / "part.pt", only="model.row*")
    assert_same(torch.load(out / "part.pt"), {key: repo["HEAD"].load()["model"][key] for key in ("rows", "row")})
    for name in ("x.pt", "part.pt"):
        repo.commit_files(out / name)
        repo.checkout("HEAD", out / f"back-{name}")
        assert (out / f"back-{name}").read_bytes() == (out / name).read_bytes()


def test_what_torch_cannot_save_is_told(repo: ckstore.Repo, out: Path) -> None:
    """A named tuple whose class is gone comes back as one of a class that no pickle can name."""
    gone: Any = __import__("collections").namedtuple("gone", "a b")
    gone.__module__ = "no.such.module"
    repo.commit({"x": gone(1, 2), "y": torch.ones(2)})
    error = refused(lambda: repo.checkout("HEAD", out / "x.pt"), match=r"torch\.save cannot take")
    assert "--only" in str(error.hint)
    assert below(out) == []


def test_formats_from_files(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    extra = torch.load(folder / "sub/extra.pt")
    repo.commit_files(folder / "model.safetensors")
    repo.checkout("HEAD", out / "m.pt", format="pt")
    assert_same(dict(sorted(torch.load(out / "m.pt").items())), dict(sorted(weights.items())))
    repo.commit_files(folder)
    repo.checkout("HEAD", out / "all.pt", format="pt")
    loaded = torch.load(out / "all.pt")
    assert list(loaded) == ["model", "sub/extra"]
    assert_same(loaded["sub/extra"], extra)
    repo.checkout("HEAD", out / "all.safetensors", format="safetensors")
    expected = {f"model.{key}": value for key, value in weights.items()} | {"sub/extra.m": extra["m"]}
    assert_tensors(out / "all.safetensors", expected)
    repo.checkout("HEAD", out / "part.safetensors", only="sub/extra.m")
    assert_tensors(out / "part.safetensors", {"m": extra["m"]})


@pytest.mark.parametrize(
    ("given", "only", "name", "raw"),
    [
        ("model.safetensors", None, "x.safetensors", "model.safetensors"),
        ("model.safetensors", None, "x.bin", "model.safetensors"),
        ("model.safetensors", None, "x", "model.safetensors"),
        ("model.safetensors", None, "x.pt", None),
        ("model.safetensors", "model.*", "x.pt", None),
        ("model.safetensors", "model.*", "x.safetensors", "model.safetensors"),
        ("sub/extra.pt", None, "x.pt", "sub/extra.pt"),
        ("sub/extra.pt", None, "x.ckpt", "sub/extra.pt"),
        ("sub/extra.pt", None, "x.safetensors", None),
        ("sub/extra.pt", "extra.*", "x.safetensors", "refused"),
        (".", "model.*", "x.safetensors", "model.safetensors"),
        (".", "model.safetensors", "x.bin", "model.safetensors"),
        (".", "model.*", "x.pt", None),
        (".", "sub/extra.*", "x.safetensors", None),
        (".", "*.pt", "x.pt", "sub/extra.pt"),
        (".", "*.json", "x.pt", "refused"),
        (".", None, "x.pt", None),
        (".", None, "x.safetensors", None),
    ],
)
def test_the_end_of_the_output_says_the_format(
    repo: ckstore.Repo, folder: Path, out: Path, given: str, only: str | None, name: str, raw: str | None
) -> None:
    """A new file is what its name says; a single committed file of that kind is given back as it is."""
    repo.commit_files(folder / given)
    if raw == "refused":
        refused(lambda: repo.checkout("HEAD", out / name, only=only))
        assert not out.exists()
        return
    result = repo.checkout("HEAD", out / name, only=only)
    assert [path for path, _ in result.files] == [out / name]
    assert result.converted is (raw is None)
    if raw is not None:
        assert (out / name).read_bytes() == (folder / raw).read_bytes()
    elif name.endswith(".pt"):
        assert flat(torch.load(out / name))
    else:
        assert safetensors.torch.load_file(out / name)


def test_a_folder_whose_name_ends_like_a_file(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    (out / "x.pt").mkdir(parents=True)
    repo.commit_files(folder)
    assert not repo.checkout("HEAD", out / "x.pt").converted
    assert below(out / "x.pt") == below(folder)


def test_a_new_file_in_a_folder_is_named_by_its_commit(repo: ckstore.Repo, out: Path) -> None:
    repo.commit({"model": {"w": torch.ones(3)}})
    out.mkdir()
    name = f"{repo['HEAD'].id[:12]}.safetensors"
    assert repo.checkout("HEAD", out, format="safetensors").files[0][0] == out / name
    refused(lambda: repo.checkout("HEAD", out, format="safetensors"), match="exists")


def test_formats_that_are_none(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit({"model": {"w": torch.ones(3)}, "step": 1})
    for act in (
        lambda: repo.checkout("HEAD", out / "x.onnx"),
        lambda: repo.checkout("HEAD", out / "x.pt", format="onnx"),
        lambda: repo.checkout("HEAD", out),
        lambda: repo.checkout("HEAD", out / "x.safetensors", only="step"),
        lambda: repo.checkout("HEAD", out / "x.safetensors", only=[]),
    ):
        refused(act)
    repo.commit_files(folder / "config.json")
    for format in ("pt", "safetensors"):
        refused(lambda format=format: repo.checkout("HEAD", out / "x", format=format))  # type: ignore[misc]
    assert not out.exists()
    with pytest.raises(NotFound):
        repo.checkout("nope", out)


MEMORY = """
import pathlib
state = make()["model"]
wide = torch.randn(8 * MIB)
from ckstore.files.dtypes import ITEM_SIZE
repo.commit({"model": {**state, "wide": wide}})
del wide, state
out = pathlib.Path(sys.argv[1]) / "out"
found = {"checkout": extra(lambda: repo.checkout("HEAD", out / "x.safetensors"))}
found["export"] = extra(lambda: repo.export("HEAD", out / "y.safetensors", format="safetensors"))
found["size"] = (out / "x.safetensors").stat().st_size
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_converting_takes_little_memory(tmp_path: Path) -> None:
    found = measured(tmp_path, MEMORY)
    assert found["size"] > 320 * MIB
    assert found["checkout"] < 64 * MIB
    assert found["export"] < found["size"] + 64 * MIB  # the new file is mapped, and read a tensor at a time
