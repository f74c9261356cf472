"""Commits written to the disk: their files as they were, their state as new files, nothing that was not asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ckstore.digest import Kind
from ckstore.errors import CkstoreError, Format, Integrity, InvalidInput, NotFound, StoreFull
from ckstore.files.dtypes import PACKED_DTYPE, SAFETENSORS_DTYPE
from ckstore.objects.commit import FILES, Commit, Component
from ckstore.objects.encoding import encode
from ckstore.objects.leaf import Chunks
from ckstore.objects.plain import to_key
from ckstore.objects.tree import CHUNK_SIZE, Alias, Dict, Entry, File, Folder, InSlab, Link, Segment, Slab, Tensor, Tree
from ckstore.objects.tree import List as ListOf
from ckstore.storage.piece import Piece
from ckstore.storage.record import HEADS, RefMove
from ckstore.storage.transaction import Transaction
from tests.equality import assert_same, raw_bytes
from tests.snapshots import snapshot
from tests.strategies import filled
from tests.test_memory import MIB, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import ckstore
    from ckstore.objects.tree import Value

DTYPES = [getattr(torch, name) for name in (*SAFETENSORS_DTYPE.values(), PACKED_DTYPE)]
"""All that safetensors has."""


def refused(act: Callable[[], object], *kinds: type[CkstoreError], match: str = ".") -> CkstoreError:
    """The error, which must say what to do."""
    with pytest.raises(kinds or InvalidInput, match=match) as caught:
        act()
    assert caught.value.hint
    return caught.value


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


def below(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*") if not one.is_dir() or one.is_symlink())


# Files


def test_one_file_under_a_new_name(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    path = folder / "model.safetensors"
    path.chmod(0o640)
    repo.commit_files(path)
    result = repo.checkout("HEAD", out / "deep/er/new")
    assert result.files == ((out / "deep/er/new", path.stat().st_size),)
    assert (result.id, result.converted, result.left_out) == (repo["HEAD"].id, False, 0)
    made = out / "deep/er/new"
    assert made.read_bytes() == path.read_bytes()
    assert (made.stat().st_mode, made.stat().st_mtime_ns) == (path.stat().st_mode, path.stat().st_mtime_ns)
    assert below(out) == ["deep/er/new"]


def test_one_file_into_a_folder(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder / "model.safetensors")
    out.mkdir()
    assert repo.checkout("HEAD", out).files[0][0] == out / "model.safetensors"
    assert below(out) == ["model.safetensors"]


def test_a_folder_into_one_that_is_there(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder)
    (out / "sub").mkdir(parents=True)
    (out / "mine").write_text("mine")
    for path in (out / "sub", out):
        path.chmod(0o711)
    result = repo.checkout("HEAD", out)
    assert [path.relative_to(out).as_posix() for path, _ in result.files] == [
        "config.json", "model.safetensors", "sub/a1.json", "sub/a[1].json", "sub/config.json", "sub/extra.pt",
    ]  # fmt: skip
    left, right = snapshot(folder), snapshot(out)
    assert right.pop(b"mine")[3] == b"mine"
    assert left.pop(b"") != right.pop(b"")
    assert left.pop(b"sub") != right.pop(b"sub")
    assert (out / "sub").stat().st_mode & 0o777 == 0o711
    assert left == right


def test_special_bits_of_a_mode_are_left_out(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "tool"
    path.write_text("x")
    path.chmod(0o6755)
    repo.commit_files(path)
    repo.checkout("HEAD", out)
    assert out.stat().st_mode & 0o7777 == 0o755


def occupied(out: Path, what: str) -> None:
    out.mkdir()
    (out / "zzz").write_text("mine")
    if what == "file":
        (out / "sub").mkdir()
        (out / "sub/extra.pt").write_text("mine")
    elif what == "link":
        (out / "model.safetensors").symlink_to("nowhere")
    elif what == "file for a link":
        (out / "sub").mkdir()
        (out / "sub/link").write_text("mine")
    elif what == "folder for a file":
        (out / "config.json").mkdir()
    elif what == "folder for a link":
        (out / "sub/link").mkdir(parents=True)
    elif what == "file for a folder":
        (out / "sub").write_text("mine")
    elif what == "file for an empty folder":
        (out / "sub").mkdir()
        (out / "sub/none").write_text("mine")
    elif what == "link out":
        (out.parent / "elsewhere").mkdir()
        (out / "sub").symlink_to("../elsewhere")


FORCED = ["file", "link", "file for a link"]
UNFORCED = ["folder for a file", "folder for a link", "file for a folder", "file for an empty folder", "link out"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", [*FORCED, *UNFORCED])
def test_what_is_there_stays(repo: ckstore.Repo, folder: Path, out: Path, what: str, force: bool) -> None:
    """Nothing at all is written where one thing cannot be."""
    repo.commit_files(folder)
    occupied(out, what)
    before = snapshot(out.parent, leave_out=(b".ckstore",))
    if force and what in FORCED:
        repo.checkout("HEAD", out, force=True)
        assert (out / "zzz").read_text() == "mine"
        assert (out / "sub/extra.pt").read_bytes() == (folder / "sub/extra.pt").read_bytes()
        assert os.readlink(out / "sub/link") == "../config.json"
        assert not (out / "model.safetensors").is_symlink()
        return
    refused(lambda: repo.checkout("HEAD", out, force=force), match="exists|is no folder|is a folder|is a link")
    assert snapshot(out.parent, leave_out=(b".ckstore",)) == before


@pytest.mark.parametrize("format", [None, "safetensors", "pt"])
def test_a_file_that_is_there_stays(repo: ckstore.Repo, folder: Path, out: Path, format: str | None) -> None:
    repo.commit_files(folder / "model.safetensors")
    out.mkdir()
    (out / "there").write_text("mine")
    (out / "dangling").symlink_to("nowhere")
    for name in ("there", "dangling", "there/below", "there/below/further", "dangling/below"):
        refused(lambda name=name: repo.checkout("HEAD", out / name, format=format), match="exists|is no folder")  # type: ignore[misc]
    refused(lambda: repo.checkout("HEAD", out / "there/below", format=format, force=True), match="is no folder")
    assert (out / "there").read_text() == "mine"
    assert below(out) == ["dangling", "there"]
    for name in ("there", "dangling"):
        repo.checkout("HEAD", out / name, format=format, force=True)
        assert (out / name).stat().st_size > 1_000_000
    assert below(out) == ["dangling", "there"]


def test_a_folder_cannot_go_where_a_file_is(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder)
    out.write_text("mine")
    for force in (False, True):
        refused(lambda force=force: repo.checkout("HEAD", out, force=force), match="is no folder")  # type: ignore[misc]
    assert out.read_text() == "mine"


# Only some files


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("*.json", ["config.json", "sub/a1.json", "sub/a[1].json", "sub/config.json"]),
        ("sub", ["sub/a1.json", "sub/a[1].json", "sub/config.json", "sub/extra.pt"]),
        ("sub/", ["sub/a1.json", "sub/a[1].json", "sub/config.json", "sub/extra.pt"]),
        ("s?b/*.pt", ["sub/extra.pt"]),
        ("extra.*", ["sub/extra.pt"]),
        (["*.pt", "model.safetensors"], ["model.safetensors", "sub/extra.pt"]),
        ("config.json", ["config.json", "sub/config.json"]),
        ("a[1].json", ["sub/a1.json", "sub/a[1].json"]),
        ("a1*", ["sub/a1.json"]),
    ],
)
def test_only_some_files(
    repo: ckstore.Repo, folder: Path, out: Path, only: str | list[str], expected: list[str]
) -> None:
    repo.commit_files(folder)
    repo.checkout("HEAD", out, only=only)
    assert below(out) == expected
    for name in expected:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
        assert (out / name).stat().st_mtime_ns == (folder / name).stat().st_mtime_ns


@pytest.mark.parametrize("name", ["sub/extra.pt", "model.safetensors", "sub/a1.json"])
def test_one_file_by_its_whole_name(repo: ckstore.Repo, folder: Path, out: Path, name: str) -> None:
    repo.commit_files(folder)
    repo.checkout("HEAD", out / "new", only=name)
    assert (out / "new").read_bytes() == (folder / name).read_bytes()
    repo.checkout("HEAD", out, only=[name])
    assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_the_only_file_of_a_folder_by_its_name(repo: ckstore.Repo, tmp_path: Path, out: Path) -> None:
    (tmp_path / "run/more").mkdir(parents=True)
    (tmp_path / "run/x.json").write_text("x")
    (tmp_path / "run/more/link").symlink_to("../x.json")
    repo.commit_files(tmp_path / "run")
    repo.checkout("HEAD", out, only="x.json")
    assert out.read_text() == "x"
    (tmp_path / "there").mkdir()
    repo.checkout("HEAD", tmp_path / "there", only="x.json")
    assert sorted(os.listdir(tmp_path / "there")) == ["x.json"]


def test_only_all_is_the_whole_folder(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder)
    repo.checkout("HEAD", out, only="*")
    assert snapshot(out) == snapshot(folder)


def test_only_what_is_not_there(repo: ckstore.Repo, folder: Path, out: Path) -> None:
    repo.commit_files(folder)
    assert "no files to write" in refused(lambda: repo.checkout("HEAD", out, only="modle.safetensors")).what
    error = refused(lambda: repo.checkout("HEAD", out / "x.pt", only="modle.w"))
    assert "model.w" in str(error.hint)
    error = refused(lambda: repo.checkout("HEAD", out / "x.safetensors", only="modle.w"))
    assert "model.w" in str(error.hint)
    assert not out.exists()


# New files


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


def flat(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a nested value by their dotted paths."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found: dict[str, torch.Tensor] = {}
    for key, item in items:
        found |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def assert_tensors(path: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """The file's tensors, as its own library reads them, are these to the last bit."""
    found = safetensors.torch.load_file(path)
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert raw_bytes(found[name]) == raw_bytes(tensor), name


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


# Commits made to harm


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
            (id,) = transaction.put(Kind.CHUNK, [Piece(lambda: memoryview(data), "x")])
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


# What goes wrong on the way


KILLED = """
import os, signal, sys
import ckstore

class Deadly:
    def start(self, what, total_bytes):
        self.left = total_bytes // 2

    def advance(self, done_bytes):
        self.left -= done_bytes
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

ckstore.open(sys.argv[1]).checkout("HEAD", sys.argv[2], force=True, progress=Deadly())
"""


@pytest.mark.parametrize("name", ["file", "folder", "x.safetensors"])
@pytest.mark.parametrize("there", [False, True])
def test_a_kill_leaves_no_half_file(repo: ckstore.Repo, tmp_path: Path, out: Path, name: str, there: bool) -> None:
    parts = {f"w{number}": torch.randn(1 << 20) for number in range(3)}
    source = tmp_path / "run"
    source.mkdir()
    for key, part in parts.items():
        safetensors.torch.save_file({key: part}, source / f"{key}.safetensors")
    repo.commit({"model": parts}) if name.endswith("s") else repo.commit_files(
        source if name == "folder" else source / "w0.safetensors"
    )
    target = out / name
    whole = [target / f"{key}.safetensors" for key in parts] if name == "folder" else [target]
    if there:
        for path in whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("old")
    ran = subprocess.run([sys.executable, "-c", KILLED, repo.path, target], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    known = {(source / f"{key}.safetensors").read_bytes() for key in parts} | {b"old"}
    found = [path.read_bytes() if path.exists() else None for path in whole]
    assert found[-1] == (b"old" if there else None)
    assert all(data is None or data in known for data in found)
    left = [path for path in out.rglob("*") if path.is_file() and path not in whole]
    assert all(path.name.startswith(".ckstore-") and path.name.endswith(".part") for path in left)
    repo.checkout("HEAD", target, force=True)
    assert all(path.stat().st_size > 4 << 20 for path in whole)


FULL = """
import json, resource, sys
import ckstore
repo = ckstore.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, resource.RLIM_INFINITY))
try:
    repo.checkout("HEAD", sys.argv[2], force=True)
except ckstore.CkstoreError as error:
    print(error.code, bool(error.hint))
"""


@pytest.mark.parametrize("name", ["file", "x.safetensors", "x.pt"])
@pytest.mark.parametrize("there", [False, True])
def test_no_room_on_the_disk(repo: ckstore.Repo, tmp_path: Path, out: Path, name: str, there: bool) -> None:
    part = torch.randn(2 << 20)
    safetensors.torch.save_file({"w": part}, tmp_path / "w.safetensors")
    repo.commit_files(tmp_path / "w.safetensors") if name == "file" else repo.commit({"model": {"w": part}})
    out.mkdir()
    if there:
        (out / name).write_text("old")
    ran = subprocess.run(
        [sys.executable, "-c", FULL, repo.path, out / name], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "store-full True"), ran.stderr
    assert below(out) == ([name] if there else [])
    assert not there or (out / name).read_text() == "old"


def test_files_that_fit_one_by_one_but_not_together(
    repo: ckstore.Repo, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free is looked at before the first file is written."""
    largest, extra = (folder / "model.safetensors").stat().st_size, (folder / "sub/extra.pt").stat().st_size
    repo.commit_files(folder)
    real = os.statvfs(folder)
    room = os.statvfs_result((1, 1, real.f_blocks, largest + extra - 1, largest + extra - 1, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    refused(lambda: repo.checkout("HEAD", out), StoreFull, match="do not fit")
    assert not out.exists()
    repo.checkout("HEAD", out, only="model.*")


@pytest.mark.parametrize("name", ["file", "x.safetensors", "x.pt"])
def test_damage_leaves_no_file(repo: ckstore.Repo, tmp_path: Path, out: Path, name: str) -> None:
    part = torch.randn(2 << 20)
    safetensors.torch.save_file({"w": part}, tmp_path / "w.safetensors")
    repo.commit_files(tmp_path / "w.safetensors") if name == "file" else repo.commit({"model": {"w": part}})
    largest = max((repo.path / ".ckstore/packs").iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as pack:
        pack.seek(largest.stat().st_size * 3 // 4)
        byte = pack.read(1)
        pack.seek(-1, os.SEEK_CUR)
        pack.write(bytes([byte[0] ^ 0x10]))
    out.mkdir()
    (out / name).write_text("old")
    with pytest.raises(Integrity):
        repo.checkout("HEAD", out / name, force=True)
    assert (out / name).read_text() == "old"
    assert below(out) == [name]
