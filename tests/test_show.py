"""What a commit holds, every figure beside torch's own in double precision."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ckstore.digest import Kind
from ckstore.errors import Format, Integrity, InvalidInput, NoRevision
from ckstore.graph.numbers import is_numeric
from ckstore.objects import leaf, tree
from ckstore.objects.commit import Commit, Component
from ckstore.objects.encoding import encode
from ckstore.objects.tree import CHUNK_SIZE, Entry, InSlab, Slab, Tensor, Tree, Whole
from ckstore.porcelain.show import ShowOptions, show
from ckstore.storage.record import HEADS, RefMove
from ckstore.storage.transaction import Transaction
from ckstore.torch.tensors import DTYPES
from tests.strategies import filled
from tests.tree_maker import rich_state

if TYPE_CHECKING:
    from pathlib import Path

    import ckstore
    from ckstore.graph.sums import Statistics
    from ckstore.porcelain.show import ShownComponent, ShownTensor, ShowResult

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental", "ignore:Sparse .* beta state")

MIB = 1 << 20
NUMERIC = sorted(name for name in DTYPES if is_numeric(name) and name == str(DTYPES[name])[6:])


def shown(repo: ckstore.Repo, state: object, **options: Any) -> ShowResult:
    repo.commit(state, preset="fast")
    return show(repo._repository, "HEAD", ShowOptions(0, **options))


def component(result: ShowResult, name: str = "m") -> ShownComponent:
    return next(one for one in result.components if one.name == name)


def tensor(result: ShowResult, path: str) -> ShownTensor:
    return next(one for one in result.tensors if one.path == path)


def figures(result: ShowResult, path: str) -> Statistics:
    found = tensor(result, path).statistics
    assert found is not None
    return found


def assert_figures(found: Statistics, of: torch.Tensor, scale: float = 1.0) -> None:
    flat = of.detach().reshape(-1)
    values = flat.to(torch.complex128).abs() if of.dtype.is_complex else flat.double()
    odd = flat.to(torch.complex128) if of.dtype.is_complex else values
    nans, infs = odd.isnan(), odd.isinf() & ~odd.isnan()
    assert (found.elements, found.nans, found.infs) == (of.numel(), int(nans.sum()), int(infs.sum()))
    assert found.zero_share == pytest.approx(int((odd == 0).sum()) / of.numel() if of.numel() else 0.0, rel=1e-15)
    values = values[~(nans | infs)] * scale
    if not len(values):
        assert (found.minimum, found.maximum, found.mean, found.std) == (None, None, None, None)
        return
    assert found.minimum == pytest.approx(float(values.min()) / scale, rel=1e-15)
    assert found.maximum == pytest.approx(float(values.max()) / scale, rel=1e-15)
    spread = float(values.abs().max())
    assert found.mean == pytest.approx(float(values.mean()) / scale, rel=1e-11, abs=1e-13 * spread / scale)
    assert found.std == pytest.approx(float(values.std(unbiased=False)) / scale, rel=1e-11, abs=1e-13 * spread / scale)


# Figures


@pytest.mark.parametrize("name", NUMERIC)
def test_figures_of_every_dtype(repo: ckstore.Repo, name: str) -> None:
    """In a slab, in one chunk, in several; of random bits, doubles of sane sizes."""
    counts = 1000, 70_000, 1_400_001 // DTYPES[name].itemsize
    made = [filled(DTYPES[name], count, count % 89) for count in counts]
    if name in ("float64", "complex128"):
        made = [torch.randn(len(one), dtype=one.dtype, generator=torch.Generator().manual_seed(1)) for one in made]
        made[0][5], made[1][77], made[2][9] = math.nan, math.inf, 0.0
    result = shown(repo, {"m": made}, stat=True)
    for n, one in enumerate(made):
        assert (tensor(result, f"m.{n}").dtype, tensor(result, f"m.{n}").shape) == (name, (len(one),))
        assert tensor(result, f"m.{n}").size_bytes == len(one) * one.element_size()
        assert_figures(figures(result, f"m.{n}"), one)


def test_whole_numbers_are_exact(repo: ckstore.Repo) -> None:
    low, high = -(1 << 63), (1 << 63) - 1
    result = shown(repo, {"m": {"i": torch.tensor([low, high, 0]), "b": torch.tensor([True, False])}}, stat=True)
    assert (figures(result, "m.i").minimum, figures(result, "m.i").maximum) == (low, high)
    assert isinstance(figures(result, "m.i").minimum, int)
    assert (figures(result, "m.b").mean, figures(result, "m.b").std) == (0.5, 0.5)


def test_a_small_spread_around_a_large_mean(repo: ckstore.Repo) -> None:
    """Sums of squares alone would lose it."""
    values = 1e9 + torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = figures(shown(repo, {"m": [values]}, stat=True), "m.0")
    assert found.std == pytest.approx(float(values.std(unbiased=False)), rel=1e-7)
    assert found.mean == pytest.approx(float(values.mean()), rel=1e-14)


@pytest.mark.parametrize("exponent", [-1000, -400, 400, 1015])
def test_doubles_whose_squares_are_none(repo: ckstore.Repo, exponent: int) -> None:
    values = torch.randn(300_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2.0**exponent
    values[:140_000] = 0
    found = figures(shown(repo, {"m": [values]}, stat=True), "m.0")
    assert_figures(found, values, 2.0**-exponent)


@pytest.mark.parametrize(
    "values", [[math.nan], [math.inf, -math.inf], [math.nan, math.inf, 2.0, 0.0], [0.0, -0.0], [5.0], []]
)
def test_odd_values(repo: ckstore.Repo, values: list[float]) -> None:
    given = torch.tensor(values)
    assert_figures(figures(shown(repo, {"m": [given]}, stat=True), "m.0"), given)


def test_complex_numbers_are_nan_where_a_part_is(repo: ckstore.Repo) -> None:
    given = torch.tensor([complex(math.nan, 1), complex(1, math.inf), complex(math.nan, math.inf), 3 + 4j, 0])
    found = figures(shown(repo, {"m": [given]}, stat=True), "m.0")
    assert (found.nans, found.infs, found.minimum, found.maximum, found.zero_share) == (2, 1, 0.0, 5.0, 0.2)


# Places


def test_tensors_wherever_their_elements_lie(repo: ckstore.Repo) -> None:
    whole = torch.randn(800, 700)
    state = {
        "whole": whole,
        "view": whole[3:7],
        "turned": whole.clone().t(),
        "gaps": whole.clone()[:, 5:50],
        "second": whole.clone()[:, ::2],
        "last": torch.randn(2, 8, 30, 30).to(memory_format=torch.channels_last),
        "wide": torch.randn(3, 1).expand(3, 5000),
        "huge": torch.tensor([1.0, 3.0]).expand(1 << 40, 2),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "bytes": torch.arange(200, dtype=torch.uint8)[3:131],
        "overlap": torch.randn(100).as_strided((50, 50), (1, 1)),
        "packed": filled(torch.float4_e2m1fn_x2, 10, 0),
    }
    result = shown(repo, {"m": state}, stat=True)
    assert [one.path for one in result.tensors] == [f"m.{name}" for name in state]
    for name, given in state.items():
        found = tensor(result, f"m.{name}")
        assert (found.shape, found.size_bytes) == (tuple(given.shape), given.numel() * given.element_size())
        if name in ("overlap", "packed"):
            assert found.statistics is None
        elif name == "huge":
            assert (figures(result, "m.huge").elements, figures(result, "m.huge").mean) == (2 << 40, 2.0)
        else:
            assert_figures(figures(result, f"m.{name}"), given)
    assert {one.path: one.shared_with for one in result.tensors if one.shared_with} == {"m.view": "m.whole"}
    assert tensor(show(repo._repository, "HEAD", ShowOptions(0, tensors=True)), "m.whole").statistics is None


# Components and what they take


def test_components_and_their_bytes(repo: ckstore.Repo) -> None:
    weight, long = torch.randn(900, 600), random.Random(0).randbytes(3 * MIB)
    state = {
        "model": {"w": weight, "tied": weight, "half": weight[:3], "b": torch.ones(7), "e": torch.empty(0)},
        "optimizer": {"m": weight.clone(), "lr": 0.1, "betas": (0.9, 0.999), "groups": [], "kinds": {1, 2}},
        "extra": {"long": long, "same": weight.clone(), "array": np.arange(10_000)},
    }
    made = repo.commit(state, message="first\nof all", step=3, metrics={"loss": 0.5}, tag="v1")
    result = show(repo._repository, "v1", ShowOptions(0))
    assert (result.commit.message, result.commit.step, result.commit.metrics) == ("first\nof all", 3, {"loss": 0.5})
    assert (result.commit.branches, result.commit.tags, result.commit.is_head) == (("main",), ("v1",), True)
    assert (result.files, result.tensors) == ((), ())
    model, optimizer, extra = result.components
    assert [one.name for one in result.components] == ["model", "optimizer", "extra"]
    nbytes = weight.numel() * 4
    chunks = -(-nbytes // MIB)
    assert (model.tensors, model.values, model.tensor_bytes, model.chunks) == (5, 0, nbytes + 28, chunks + 1)
    assert (optimizer.tensors, optimizer.values, optimizer.tensor_bytes) == (1, 5, nbytes)
    assert (extra.tensors, extra.values, extra.raw_bytes - extra.tensor_bytes) == (1, 2, 3 * MIB + 80_000)
    assert result.raw_bytes == made.raw_bytes
    assert {one.missing_chunks for one in result.components} == {0}
    with repo._repository.store.index.reading() as view:
        frames = [one.frame for one in view.locations() if one.frame.kind is Kind.CHUNK]
    assert result.stored_bytes == sum(frame.stored_length for frame in frames)
    assert sum(one.stored_bytes for one in result.components) == result.stored_bytes + 2 * (optimizer.stored_bytes)
    assert 3 * MIB < extra.stored_bytes < result.stored_bytes


def test_sparse_tensors_and_generators_count_by_their_parts(repo: ckstore.Repo) -> None:
    state = {"sparse": torch.eye(3).to_sparse(), "csr": torch.eye(4).to_sparse_csr(), "rng": torch.Generator()}
    result = shown(repo, {"m": state}, tensors=True)
    assert (component(result).tensors, component(result).values) == (6, 1)
    assert [one.path for one in result.tensors] == [
        "m.sparse.0", "m.sparse.1", "m.csr.0", "m.csr.1", "m.csr.2", "m.rng.state.state",
    ]  # fmt: skip


def test_a_state_of_everything(repo: ckstore.Repo) -> None:
    made = repo.commit(rich_state())
    result = show(repo._repository, "HEAD", ShowOptions(0, stat=True))
    assert result.raw_bytes == made.raw_bytes
    assert len(result.tensors) == sum(one.tensors for one in result.components) > 20


def test_committed_files(repo: ckstore.Repo, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"model": {"w": torch.randn(500, 500)}, "optimizer": {"m": torch.randn(500, 500)}}, folder / "a.pt")
    (folder / "log.txt").write_text("hello")
    made = repo.commit_files(folder)
    result = show(repo._repository, "HEAD", ShowOptions(0, stat=True, only=["a/model"]))
    assert [(file.name, file.size_bytes) for file in result.files] == [
        ("a.pt", (folder / "a.pt").stat().st_size),
        ("log.txt", 5),
    ]
    files = component(result, "@files")
    assert (files.tensors, files.values, files.tensor_bytes) == (0, 0, 0)
    assert result.raw_bytes == made.raw_bytes == sum(file.size_bytes for file in result.files)
    assert [one.path for one in result.tensors] == ["a/model.w"]


def test_bare_states(repo: ckstore.Repo) -> None:
    result = shown(repo, torch.ones(3), stat=True)
    assert (result.tensors[0].path, figures(result, "state").mean) == ("state", 1.0)
    assert component(shown(repo, 5), "state").values == 1


def test_chunks_that_are_gone_are_counted(repo: ckstore.Repo) -> None:
    weight = torch.randn(700_000)
    write(repo, Tree(CHUNK_SIZE, (), (Entry(None, tensor_of(Whole(1024, b"\x07" * 32))),)))
    found = show(repo._repository, "HEAD", ShowOptions(0, tensors=True)).components[0]
    assert (found.chunks, found.missing_chunks, found.stored_bytes) == (1, 1, 0)
    with pytest.raises(Integrity, match="missing"):
        show(repo._repository, "HEAD", ShowOptions(0, stat=True))
    assert component(shown(repo, {"m": weight})).missing_chunks == 0


# What was asked for


def test_patterns(repo: ckstore.Repo) -> None:
    repo.commit({"model": {"a": torch.ones(1), "b": {"w": torch.ones(2)}}, "optimizer": {"m": torch.ones(3)}})
    repository = repo._repository
    found = show(repository, "HEAD", ShowOptions(0, tensors=True, only=["model.b", "opt*.m"]))
    assert [one.path for one in found.tensors] == ["model.b.w", "optimizer.m"]
    assert [one.tensors for one in found.components] == [2, 1]
    with pytest.raises(InvalidInput, match=r"nothing matches model\.c\.w") as caught:
        show(repository, "HEAD", ShowOptions(0, only=["model.c.w"]))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean model.b.w")
    with pytest.raises(InvalidInput, match="leave only out"):
        show(repository, "HEAD", ShowOptions(0, only=[]))
    with pytest.raises(NoRevision):
        show(repository, "mian", ShowOptions(0))


# Trees made to harm


def tensor_of(data: Whole | InSlab, **changes: Any) -> Tensor:
    said: dict[str, Any] = {"dtype": "float32", "shape": (4,), "strides": None, "offset": 0, "flags": 0} | changes
    return Tensor(data=data, **said)


def write(repo: ckstore.Repo, hostile: Tree) -> None:
    """Commit a tree as it is."""
    with Transaction(repo._repository.store) as transaction:
        id = transaction.put_meta(Kind.TREE, encode(hostile))
        commit = Commit((Component("c", id),), (), 0, 0, "", "", ())
        made = transaction.put_meta(Kind.COMMIT, encode(commit))
        transaction.publish("commit", 0, [RefMove(HEADS + "main", repo._repository.commits().head, made)])


SLAB = Slab("float32", 64, b"\x07" * 32)
BAD: dict[str, tuple[Any, ...]] = {
    "an unknown dtype": (tensor_of(InSlab(0, 0, 64), dtype="float33"),),
    "beyond its span": (tensor_of(InSlab(0, 0, 64), shape=(17,)),),
    "a huge shape": (tensor_of(InSlab(0, 0, 64), shape=(1 << 62, 1 << 62)),),
    "a negative shape": (tensor_of(InSlab(0, 0, 64), shape=(-4,)),),
    "a shape past 64 bits": (tensor_of(InSlab(0, 0, 64), shape=(0, 1 << 63)),),
    "many dimensions": (tensor_of(InSlab(0, 0, 64), shape=(1,) * 65),),
    "negative strides": (tensor_of(InSlab(0, 0, 64), strides=(-1,)),),
    "too few strides": (tensor_of(InSlab(0, 0, 64), shape=(2, 2), strides=(1,)),),
    "a crooked offset": (tensor_of(InSlab(0, 0, 64), offset=2),),
    "a negative offset": (tensor_of(InSlab(0, 0, 64), offset=-4),),
    "beyond its slab": (tensor_of(InSlab(0, 8, 64)),),
    "before its slab": (tensor_of(InSlab(0, -8, 64)),),
    "no slab": (tensor_of(InSlab(3, 0, 64)),),
    "too few chunks": (tensor_of(Whole(1 << 40, b"\x07" * 32)),),
    "a negative span": (tensor_of(Whole(-1, b""), shape=(0,)),),
    "half an id": (leaf.Bytes(leaf.Chunks(5, b"\x07" * 16), False),),
    "an alias of nothing": (tree.Alias("float32", (1,), None, 0, 5, 0),),
    "an alias of a list": (tree.List(1), tree.Alias("float32", (1,), None, 0, 0, 0)),
    "too few entries": (tree.List(2), 1),
}


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_it_is_refused(repo: ckstore.Repo, values: tuple[Any, ...]) -> None:
    write(repo, Tree(CHUNK_SIZE, (SLAB,), tuple(Entry(None, value) for value in values)))
    with pytest.raises(Format):
        show(repo._repository, "HEAD", ShowOptions(0, stat=True))
