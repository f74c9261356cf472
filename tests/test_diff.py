"""What changed between two commits, every figure beside torch's own in double precision."""

from __future__ import annotations

import collections
import json
import math
import pathlib
import random
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import safetensors.torch
import torch

import ckstore
from ckstore.checkpoint.measure import _Measuring, pair_sums
from ckstore.checkpoint.value_text import side_by_side, value_text
from ckstore.digest import Kind
from ckstore.errors import Format, Integrity, InvalidInput, NoRevision
from ckstore.graph import numbers, placement
from ckstore.graph.file_portions import file_portions
from ckstore.graph.sums import change
from ckstore.graph.tree_diff import tree_diff
from ckstore.objects import leaf, tree
from ckstore.objects.encoding import encode
from ckstore.objects.reader import read_tree
from ckstore.objects.structure import Structure
from ckstore.objects.tree import Entry
from ckstore.porcelain.diff import DiffOptions, diff
from ckstore.porcelain.show import ShowOptions, show
from ckstore.progress import SILENT
from ckstore.storage.workers import Workers
from ckstore.torch.tensors import DTYPES, row_major_bytes
from tests.memory_reader import MemoryReader, everything
from tests.strategies import Point, filled
from tests.tree_maker import CHUNK, READER, Maker, changed, rich_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ckstore.graph.sums import Change
    from ckstore.objects.reader import ObjectReader
    from ckstore.porcelain.diff import ChangedTensor, ComponentDiff, DiffResult
    from ckstore.storage.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

MIB = 1 << 20
NUMERIC = sorted(name for name in DTYPES if numbers.is_numeric(name) and name == str(DTYPES[name])[6:])
PACKED = ["float4_e2m1fn_x2", "bits8", "uint4", "int3", "bits16"]


def compared(
    repo: ckstore.Repo, before: object, after: object, only: Sequence[str] | None = None, *, stat: bool = True
) -> DiffResult:
    """The diff of two states, committed one after the other."""
    repo.commit(before, preset="fast")
    repo.commit(after, preset="fast")
    return diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, only, stat))


def component(result: DiffResult, name: str = "m") -> ComponentDiff:
    return next(one for one in result.components if one.name == name)


def single(result: DiffResult) -> ChangedTensor:
    """The only tensor that changed."""
    (tensor,) = component(result).changed
    return tensor


def figures(result: DiffResult) -> Change:
    found = single(result).change
    assert found is not None
    return found


def bits(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of each element, row by row."""
    return np.asarray(row_major_bytes(tensor)).reshape(-1, tensor.element_size())


def doubles(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    return flat.to(torch.complex128 if tensor.dtype.is_complex else torch.float64)


def assert_figures(found: Change, before: torch.Tensor, after: torch.Tensor, scale: float = 1.0) -> None:
    """`found` are the figures of `before` and `after`; those are brought to `scale` first, where squares overflow."""
    x, y = doubles(before), doubles(after)
    kept = torch.isfinite(x) & torch.isfinite(y)
    differing = int((bits(before) != bits(after)).any(axis=1).sum())
    assert (found.elements, found.differing) == (before.numel(), differing)
    assert found.differing_share == pytest.approx(differing / before.numel())
    assert found.left_out == int((~kept).sum())
    assert (found.nans_before, found.nans_after) == (int(x.isnan().sum()), int(y.isnan().sum()))
    assert (found.infs_before, found.infs_after) == (infinite(x), infinite(y))
    x, y = x[kept] * scale, y[kept] * scale
    if not len(x):
        assert (found.relative_change, found.largest_change, found.cosine) == (None, None, None)
        return
    old, new, moved = (float(torch.linalg.vector_norm(one)) for one in (x, y, y - x))
    assert found.largest_change == pytest.approx(float((y - x).abs().max()) / scale, rel=1e-12)
    assert found.relative_change == (pytest.approx(moved / old, rel=1e-11) if old else None)
    product = float(torch.sum(x.conj() * y).real)
    assert found.cosine == (pytest.approx(product / old / new, rel=1e-9, abs=1e-12) if old and new else None)


def infinite(values: torch.Tensor) -> int:
    return int((torch.isinf(values) & ~torch.isnan(values)).sum())


def mixed(dtype: torch.dtype, count: int, seed: int, share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors of random bits (doubles: of sane size) with some of their elements in common."""
    made = [filled(dtype, count, seed + n) for n in range(2)]
    if dtype in (torch.float64, torch.complex128):
        generator = torch.Generator().manual_seed(seed)
        made = [torch.randn(count, dtype=dtype, generator=generator) for _ in range(2)]
        made[0][: count // 50] = math.nan
        made[1][: count // 80] = -math.inf
    rows = torch.from_numpy(np.random.default_rng(seed).random(count) < share)
    kept = torch.from_numpy(np.where(rows.numpy()[:, None], bits(made[1]), bits(made[0])))
    after = torch.empty(0, dtype=dtype).set_(kept.contiguous().untyped_storage(), 0, (count,), (1,))
    return made[0], after


# Figures


@pytest.mark.parametrize("name", NUMERIC)
def test_figures_of_every_dtype(repo: ckstore.Repo, name: str) -> None:
    """In a slab, in one chunk, in several with an end that fills no block."""
    counts = 1000, 70_000, 1_400_001 // DTYPES[name].itemsize
    tensors = [mixed(DTYPES[name], count, count % 97) for count in counts]
    result = compared(repo, {"m": [before for before, _ in tensors]}, {"m": [after for _, after in tensors]})
    for n, (found, (before, after)) in enumerate(zip(component(result).changed, tensors, strict=True)):
        assert (found.path, found.dtype, found.shape) == (f"m.{n}", name, tuple(before.shape))
        assert found.size_bytes == before.numel() * before.element_size()
        assert found.change is not None
        assert_figures(found.change, before, after)


@pytest.mark.parametrize("name", PACKED)
def test_bits_that_are_no_numbers(repo: ckstore.Repo, name: str) -> None:
    before, after = mixed(DTYPES[name], 3000, 5)
    found = figures(compared(repo, {"m": [before]}, {"m": [after]}))
    assert found.differing == int((bits(before) != bits(after)).any(axis=1).sum())
    assert (found.relative_change, found.largest_change, found.cosine, found.left_out) == (None, None, None, 3000)


def test_every_dtype_has_its_size() -> None:
    for name, dtype in DTYPES.items():
        if not name.startswith("q"):
            assert placement.item_size(str(dtype).removeprefix("torch.")) == dtype.itemsize
    with pytest.raises(Format, match="unknown dtype 'float33'"):
        placement.item_size("float33")


@pytest.mark.parametrize("name", [name for name in NUMERIC if name.startswith("float8")])
def test_all_values_of_the_small_floats(repo: ckstore.Repo, name: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    out = np.empty(256)
    numbers._KINDS[name].load(codes.numpy(), out)
    expected = codes.view(DTYPES[name]).double().numpy()
    np.testing.assert_array_equal(out, expected)
    assert (np.signbit(out) == np.signbit(expected))[~np.isnan(out)].all()


@pytest.mark.parametrize("exponent", [-1000, -600, -400, 400, 600, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_doubles_whose_squares_are_none(repo: ckstore.Repo, exponent: int, dtype: torch.dtype) -> None:
    before = torch.randn(200_000, dtype=dtype) * 2.0**exponent
    before[:140_000] = 0
    after = before + torch.randn(200_000, dtype=dtype) * 2.0 ** (exponent - 5)
    found = figures(compared(repo, {"m": [before]}, {"m": [after]}))
    assert_figures(found, before, after, 2.0**-exponent)


def test_doubles_of_all_sizes(repo: ckstore.Repo) -> None:
    """Parts of a tensor that need another scale add up with those that do not."""
    before = torch.cat([torch.randn(100_000, dtype=torch.float64) * 2.0**n for n in (-900, 0, 500, -500)])
    after = torch.cat([before[:200_000], before[200_000:] * 1.5])
    found = figures(compared(repo, {"m": [before]}, {"m": [after]}))
    assert_figures(found, before, after, 2.0**-500)


def test_whole_numbers_that_doubles_cannot_tell_apart(repo: ckstore.Repo) -> None:
    for dtype, start in ((torch.int64, -(1 << 62) - 5), (torch.int64, (1 << 62) + 1), (torch.int64, -(1 << 63))):
        before = torch.full((2000,), start, dtype=dtype)
        after = before.clone()
        after[7] += 3
        found = figures(compared(repo, {"m": [before]}, {"m": [after]}))
        assert (found.differing, found.largest_change) == (1, 3.0)
    far = figures(compared(repo, {"m": [torch.tensor([-(1 << 63)])]}, {"m": [torch.tensor([(1 << 63) - 1])]}))
    assert far.largest_change == 2.0**64


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([0.0, 0.0], [0.0, 2.0], (0.5, None, 2.0, None)),
        ([3.0, 4.0], [0.0, 0.0], (1.0, 1.0, 4.0, None)),
        ([0.0, 1.0], [-0.0, 1.0], (0.5, 0.0, 0.0, 1.0)),
        ([1.0, 2.0], [-1.0, -2.0], (1.0, 2.0, 4.0, -1.0)),
        ([math.nan, 1.0], [math.nan, 3.0], (0.5, 2.0, 2.0, 1.0)),
        ([math.nan, math.inf], [1.0, 1.0], (1.0, None, None, None)),
        ([math.inf, 1.0], [-math.inf, 1.0], (0.5, 0.0, 0.0, 1.0)),
    ],
)
def test_zeros_nans_and_infinities(
    repo: ckstore.Repo, before: list[float], after: list[float], expected: tuple[float | None, ...]
) -> None:
    found = figures(compared(repo, {"m": [torch.tensor(before)]}, {"m": [torch.tensor(after)]}))
    assert (found.differing_share, found.relative_change, found.largest_change) == expected[:3]
    assert found.cosine == (None if expected[3] is None else pytest.approx(expected[3]))


def test_chunks_that_lie_elsewhere_now(repo: ckstore.Repo) -> None:
    """The chunk that one side needs is the one that the other had before."""
    before = torch.randn(6 << 18, generator=torch.Generator().manual_seed(0))
    for shift in (1 << 18, -1 << 18, 1 << 17):
        after = before.roll(shift)
        assert_figures(figures(compared(repo, {"m": [before]}, {"m": [after]})), before, after)


def test_parts_are_added_up_in_their_order(repo: ckstore.Repo) -> None:
    work = _Measuring[Any](repo._repository.store, SILENT, 1, lambda *_: None, list)
    for order in (3, 1, 2, -1):
        work.add(0, order, order)
    assert work.total(0) == [-1, 1, 2, 3]


def test_the_sums_do_not_depend_on_threads(tmp_path: Path) -> None:
    before, after = mixed(torch.float32, 4_500_000, 3)
    found = []
    for threads in (1, 4):
        with ckstore.open(tmp_path / str(threads), threads=threads) as repo:
            found.append(figures(compared(repo, {"m": [before]}, {"m": [after]})))
    assert found[0] == found[1]


# Places: how the elements lie


def big(seed: int = 0, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (700, 600), generator=torch.Generator().manual_seed(seed))


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "as it is": lambda x: x.clone(),
    "turned": lambda x: x.t().contiguous().t(),
    "with gaps": lambda x: torch.cat([x, x[:, :20]], 1)[:, : x.shape[1]],
    "every second": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "from the middle": lambda x: torch.cat([x[:3], x])[3:],
    "in the second half": lambda x: torch.cat([x, x]).as_strided(tuple(x.shape), (x.shape[1], 1), x.numel()),
}


@pytest.mark.parametrize(
    ("shape", "layouts"),
    [((20, 30), list(LAYOUTS)), ((500, 530), ["as it is", "turned", "every second"])],
    ids=["in slabs", "in chunks"],
)
def test_any_layout_against_any(repo: ckstore.Repo, shape: tuple[int, int], layouts: list[str]) -> None:
    old = big(1, *shape)
    new = old.clone()
    new[3:5] += 0.25
    pairs = [(first, second) for first in layouts for second in layouts]
    before = {f"{n}": [LAYOUTS[first](old), LAYOUTS[first](old)] for n, (first, _) in enumerate(pairs)}
    after = {f"{n}": [LAYOUTS[second](new), LAYOUTS[second](old)] for n, (_, second) in enumerate(pairs)}
    result = compared(repo, {"m": before}, {"m": after})
    changes = {tensor.path: tensor.change for tensor in component(result).changed}
    assert sorted(changes) == sorted(f"m.{n}.0" for n in range(len(pairs)))
    for n in range(len(pairs)):
        found = changes[f"m.{n}.0"]
        assert found is not None
        assert_figures(found, before[f"{n}"][0], after[f"{n}"][0])
    assert component(result).unchanged == len(pairs)
    quick = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0))
    assert [(tensor.path, tensor.change) for tensor in component(quick).changed] == [(path, None) for path in changes]
    assert component(quick).unchanged == len(pairs)
    assert (quick.compared_bytes, quick.differing_bytes) == (result.compared_bytes, result.differing_bytes)


@pytest.mark.parametrize("size", [100, 400_000])
def test_a_view_that_moved_over_the_same_bytes(repo: ckstore.Repo, size: int) -> None:
    whole = torch.randn(size)
    for shift in (1, 3):
        before, after = whole[10 : size - 10], whole[10 + shift : size - 10 + shift]
        for stat in (True, False):
            result = compared(repo, {"m": [whole, before]}, {"m": [whole, after]}, stat=stat)
            assert single(result).path == "m.1"
            assert component(result).unchanged == 1
            if stat:
                assert_figures(figures(result), before, after)


@pytest.mark.parametrize("size", [50, 700])
def test_the_same_bytes_in_another_order(repo: ckstore.Repo, size: int) -> None:
    weight = torch.randn(size, size)
    for stat in (True, False):
        result = compared(repo, {"m": [weight]}, {"m": [weight.t()]}, stat=stat)
        assert single(result).path == "m.0"
    assert_figures(figures(compared(repo, {"m": [weight]}, {"m": [weight.t()]})), weight, weight.t())


def test_what_lies_in_gaps_does_not_count(repo: ckstore.Repo) -> None:
    whole = torch.randn(700, 600)
    other = whole.clone()
    other[:, 550] += 1
    for stat in (True, False):
        result = compared(repo, {"m": [whole[:, :540]]}, {"m": [other[:, :540]]}, stat=stat)
        assert (component(result).unchanged, result.differing_bytes) == (1, 0)


def test_a_turned_tensor_is_the_same(repo: ckstore.Repo) -> None:
    weight = big()
    for stat in (False, True):
        part = component(compared(repo, {"m": [weight]}, {"m": [weight.t().contiguous().t()]}, stat=stat))
        assert (part.unchanged, part.rearranged, part.changed, part.is_same_tree) == (1, 1, (), False)
        assert not part.differs


@pytest.mark.parametrize("stat", [True, False])
def test_nothing_in_a_tensor(repo: ckstore.Repo, stat: bool) -> None:
    before = {"empty": torch.empty(0, 3), "turned": torch.empty(3, 0).t(), "scalar": torch.tensor(2.5)}
    after = {**before, "turned": torch.empty(0, 3), "scalar": torch.tensor(3.5)}
    result = compared(repo, {"m": before}, {"m": after}, stat=stat)
    assert single(result).path == "m.scalar"
    assert (single(result).shape, component(result).unchanged) == ((), 2)
    if stat:
        assert (figures(result).relative_change, figures(result).elements) == (0.4, 1)


def test_expanded_tensors(repo: ckstore.Repo) -> None:
    row = torch.randn(400)
    before = row.expand(1000, 400)
    after = (row + 1).expand(1000, 400)
    assert_figures(figures(compared(repo, {"m": [before]}, {"m": [after]})), before, after)
    assert_figures(figures(compared(repo, {"m": [before]}, {"m": [after.clone()]})), before, after)
    huge = figures(
        compared(repo, {"m": [torch.ones(2).expand(1 << 40, 2)]}, {"m": [torch.full((2,), 3.0).expand(1 << 40, 2)]})
    )
    assert (huge.elements, huge.differing, huge.relative_change) == (2 << 40, 2 << 40, 2.0)


@pytest.mark.parametrize("stat", [True, False])
def test_tensors_that_overlap_themselves(repo: ckstore.Repo, stat: bool) -> None:
    def windows(source: torch.Tensor) -> torch.Tensor:
        return source.as_strided((500, 300), (1, 1))

    one = torch.randn(1000)
    other = one.clone()
    other[50] = 9
    state = {"m": {"same": windows(one.clone()), "w": windows(one), "small": torch.zeros(3)}}
    later = {"m": {"same": windows(one.clone()), "w": windows(other), "small": torch.ones(3)}}
    found = component(compared(repo, state, later, stat=stat))
    assert [tensor.path for tensor in found.changed] == ["m.w", "m.small"]
    assert found.changed[0].change is None
    assert found.unchanged == 1


def test_elements_cut_in_two(repo: ckstore.Repo) -> None:
    """Views of bytes put numbers anywhere in a slab: chunks end inside them."""

    def state(shift: float) -> dict[str, Any]:
        whole = [torch.randint(0, 9, (60_001,), dtype=torch.uint8) for _ in range(24)]
        made: dict[str, Any] = {}
        for n, data in enumerate(whole):
            view = data[:60_000].view(torch.float64)
            view.copy_(torch.arange(7500) + shift * (n % 2))
            made[f"{n:02}"] = [data, view]
        return {"m": made}

    torch.manual_seed(0)
    before = state(0.0)
    torch.manual_seed(0)
    after = state(0.5)
    found = component(compared(repo, before, after))
    assert len(found.changed) == 24
    assert found.unchanged == 24
    for tensor in found.changed:
        _, name, place = tensor.path.split(".")
        assert tensor.change is not None
        assert_figures(tensor.change, before["m"][name][int(place)], after["m"][name][int(place)])


def test_tied_tensors_are_read_once_and_told_twice(repo: ckstore.Repo) -> None:
    weight = big()
    moved = weight * 1.5
    before = {"m": {"embed": weight, "head": weight, "part": weight[5:9], "loose": weight.clone()}}
    after = {"m": {"embed": moved, "head": moved, "part": moved[5:9], "loose": weight.clone()}}
    with counting(repo) as reader:
        result = compared(repo, before, after)
    found = component(result)
    assert [tensor.path for tensor in found.changed] == ["m.embed", "m.head", "m.part"]
    for tensor in found.changed:
        assert tensor.change is not None
        assert_figures(tensor.change, before["m"][tensor.path[2:]], after["m"][tensor.path[2:]])
    nbytes = weight.numel() * 4
    assert result.compared_bytes == 2 * nbytes + 4 * 600 * 4
    assert result.differing_bytes == nbytes + 4 * 600 * 4
    assert len(reader.chunks) <= 2 * -(-nbytes // MIB) + 2


def test_tensors_that_are_no_longer_tied(repo: ckstore.Repo) -> None:
    weight = big()
    found = component(compared(repo, {"m": [weight, weight]}, {"m": [weight, weight.clone()]}))
    assert (found.unchanged, found.rearranged, found.differs) == (2, 1, False)


def test_flags_are_no_change_of_numbers(repo: ckstore.Repo) -> None:
    weight = big()
    found = component(compared(repo, {"m": [weight]}, {"m": [torch.nn.Parameter(weight)]}))
    assert (found.unchanged, found.rearranged, found.differs) == (1, 1, False)


# What is read


class Counting:
    """An ObjectReader that remembers which chunks were asked for."""

    def __init__(self, inner: ObjectReader) -> None:
        self._inner = inner
        self.chunks: list[bytes] = []

    def read(self, kind: Kind, id: bytes) -> bytes:
        return self._inner.read(kind, id)

    def read_into(self, id: bytes, target: memoryview) -> None:
        self.chunks.append(id)
        self._inner.read_into(id, target)

    def fill(self, requests: Sequence[tuple[bytes, memoryview]]) -> None:
        self.chunks += [id for id, _ in requests]
        self._inner.fill(requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class counting:  # noqa: N801
    """The repository reads through a Counting meanwhile."""

    def __init__(self, repo: ckstore.Repo) -> None:
        self._store = repo._repository.store

    def __enter__(self) -> Counting:
        self._inner = self._store.objects
        reader = Counting(self._inner)
        self._store.objects = cast("Any", reader)
        return reader

    def __exit__(self, *_: object) -> None:
        self._store.objects = self._inner


def test_only_what_ids_leave_open_is_read(repo: ckstore.Repo) -> None:
    weight = big(2, 4, 1 << 20)
    other = weight.clone()
    other[2, 5] += 1
    small = {f"b{n}": torch.randn(1000) for n in range(600)}
    repo.commit({"m": {"w": weight, "kept": big()}, "s": small})
    repo.commit({"m": {"w": other, "kept": big()}, "s": small})
    with counting(repo) as reader:
        quick = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0))
    assert reader.chunks == []
    assert [tensor.path for tensor in component(quick).changed] == ["m.w"]
    assert quick.differing_bytes == MIB
    assert quick.differing_share == MIB / quick.compared_bytes
    with counting(repo) as reader:
        full = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, stat=True))
    assert len(reader.chunks) == len(set(reader.chunks)) == 17  # 15 that both have, and two that are not the same
    assert figures(full).differing == 1
    assert full.differing_bytes == MIB


class Told:
    """What a Progress is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.total_bytes = self.done_bytes = 0

    def start(self, what: str, total_bytes: int) -> None:
        self.phases.append(what)
        self.total_bytes += total_bytes

    def advance(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes


@pytest.mark.parametrize("stat", [True, False])
def test_progress_ends_where_it_said(tmp_path: Path, stat: bool) -> None:
    with ckstore.open(tmp_path / "alone", threads=1) as alone:
        alone.commit({"m": [big(1), big(2, 3, 400_000), torch.ones(4), big(3, 20, 30).t().contiguous().t()]})
        alone.commit({"m": [big(4), big(2, 3, 400_000) * 2, torch.ones(4) * 2, big(5, 20, 30)]})
        told = Told()
        diff(alone._repository, "HEAD~1", "HEAD", DiffOptions(0, stat=stat), told)
        assert told.phases == ["comparing"]
        assert told.done_bytes == told.total_bytes > 0
        told = Told()
        show(alone._repository, "HEAD", ShowOptions(0, stat=True), told)
        assert told.phases == ["reading"]
        assert told.done_bytes == told.total_bytes > 0


def test_slabs_that_moved(repo: ckstore.Repo) -> None:
    """A small tensor more shifts all others in their slab; only what changed is told."""
    torch.manual_seed(1)
    before = {f"layer{n}.bias": torch.randn(900) for n in range(1500)}
    after = {"a": torch.randn(77), **before, "layer7.bias": before["layer7.bias"] + 1}
    for stat in (False, True):
        with counting(repo) as reader:
            result = compared(repo, {"m": before}, {"m": after}, stat=stat)
        found = component(result)
        assert [tensor.path for tensor in found.changed] == ["m.layer7.bias"]
        assert [tensor.path for tensor in found.added] == ["m.a"]
        assert (found.unchanged, found.removed) == (1499, ())
        assert result.differing_bytes == 3600 + 77 * 4
        assert len(reader.chunks) < 30  # six in either slab, a few of them on two threads
    assert_figures(figures(result), before["layer7.bias"], after["layer7.bias"])


def test_damage_is_told(repo: ckstore.Repo, tmp_path: Path) -> None:
    weight = big(3, 300_000)
    repo.commit({"m": {"w": weight}}, preset="fast")
    repo.commit({"m": {"w": weight + 1}}, preset="fast")
    for pack in (repo.path / ".ckstore" / "packs").iterdir():
        data = bytearray(pack.read_bytes())
        if len(data) > MIB:
            data[len(data) // 2] ^= 64
            pack.chmod(0o600)
            pack.write_bytes(data)
    assert len(component(diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0))).changed) == 1
    with pytest.raises(Integrity, match="damaged"):
        diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, stat=True))


# Structures


def test_unequal_structures(repo: ckstore.Repo) -> None:
    before = {
        "model": {"w": big(), "half": torch.ones(4), "long": torch.ones(4), "gone": torch.zeros(9), "turn": 5},
        "old": {"x": torch.ones(2), "y": {}},
    }
    after = {
        "new": {"x": torch.ones(3)},
        "model": {"w": big(), "half": torch.ones(4).half(), "long": torch.ones(5), "turn": torch.ones(1), "more": [1]},
    }
    result = compared(repo, before, after)
    assert [one.name for one in result.components] == ["new", "model", "old"]
    model, new, old = (component(result, name) for name in ("model", "new", "old"))
    assert [(one.path, one.dtype, one.shape, one.size_bytes) for one in model.added] == [
        ("model.turn", "float32", (1,), 4)
    ]
    assert [one.path for one in model.removed] == ["model.gone"]
    assert [(one.path, one.before.dtype, one.after.dtype) for one in model.retyped] == [
        ("model.half", "float32", "float16"),
        ("model.long", "float32", "float32"),
    ]
    assert (model.retyped[1].before.shape, model.retyped[1].after.shape) == ((4,), (5,))
    assert [(one.path, one.before, one.after) for one in model.values] == [
        ("model.turn", "5", None),
        ("model.more.0", None, "1"),
    ]
    assert (new.in_before, new.in_after, old.in_before, old.in_after) == (False, True, True, False)
    assert [one.path for one in old.removed] == ["old.x"]
    assert [(one.path, one.before, one.after) for one in old.values] == [("old.y", "dict (empty)", None)]
    assert result.compared_bytes == 700 * 600 * 4 + 16 + 20 + 4 + 36 + 8 + 12
    assert result.differing_bytes == 16 + 20 + 4 + 36 + 8 + 12
    assert result.differs


def test_the_same_commit(repo: ckstore.Repo) -> None:
    repo.commit(rich_state(), metrics={"loss": 0.5})
    result = diff(repo._repository, "HEAD", "HEAD", DiffOptions(0, stat=True))
    assert not result.differs
    assert result.differing_share == 0.0
    assert all(one.is_same_tree and not one.rearranged for one in result.components)
    assert result.metrics[0].difference == 0.0


def test_another_order_is_no_difference(repo: ckstore.Repo) -> None:
    found = component(compared(repo, {"m": {"a": 1, "b": 2}}, {"m": {"b": 2, "a": 1}}))
    assert (found.is_same_tree, found.differs) == (False, False)


@pytest.mark.parametrize(
    ("before", "after", "texts"),
    [
        (1, 2, ("1", "2")),
        (1, True, ("1", "True")),
        (1, 1.0, ("1", "1.0")),
        (0.0, -0.0, ("0.0", "-0.0")),
        (None, "a\x1b[2J", ("None", "'a\\x1b[2J'")),
        (1j, 2j, ("1j", "2j")),
        (b"x", bytearray(b"x"), ("b'x'", "bytearray(b'x')")),
        (2**100, 2**2000, (str(2**100), "an integer of 251 bytes")),
        ("a" * 300 + "b", "a" * 300 + "c", ("…" + "a" * 20 + "b'", "…" + "a" * 20 + "c'")),
        (torch.float32, torch.device("cpu"), ("torch.float32", "device('cpu')")),
        (torch.strided, pathlib.PurePosixPath("a"), ("torch.strided", "PurePosixPath('a')")),
        (np.float32(1.5), np.float64(1.5), ("float32(1.5)", "float64(1.5)")),
        (np.arange(3), np.ones(9), ("int64 array (3,): 0, 1, 2", f"float64 array (9,): {'1.0, ' * 6}…")),
        (np.eye(2), np.eye(3)[2], ("float64 array (2, 2): 1.0, 0.0, 0.0, 1.0", "float64 array (3,): 0.0, 0.0, 1.0")),
        ({1, 2}, {1, 3}, ("set {1, 2}", "set {1, 3}")),
        ({1, 2}, frozenset({1, 2}), ("set {1, 2}", "frozenset {1, 2}")),
        ([], (), ("list (empty)", "tuple (empty)")),
        ([1], (1,), ("list", "tuple")),
        ({"a": 1}, collections.OrderedDict(a=1), ("dict", "OrderedDict")),
        (collections.deque([1], 2), collections.deque([1], 3), ("deque(maxlen=2)", "deque(maxlen=3)")),
        (Point(1, 2), {"x": 1, "y": 2}, ("tests.strategies.Point(x, y)", "dict")),
    ],
)  # fmt: skip
def test_values_as_text(repo: ckstore.Repo, before: object, after: object, texts: tuple[str, str]) -> None:
    (value,) = component(compared(repo, {"m": {"v": before, "w": 1}}, {"m": {"v": after, "w": 1}})).values
    assert (value.path, value.before, value.after) == ("m.v", *texts)


def test_values_too_long_to_show(repo: ckstore.Repo) -> None:
    long = "the end is far away " * 100_000
    array = np.zeros(100_000)
    before = {"text": long, "bytes": long.encode(), "array": array, "near": np.zeros(9), "big": 3**40_000}
    after = {
        "text": long + "!", "bytes": long.encode()[:-1] + b"!", "array": array + 1,
        "near": np.array([0] * 8 + [1.0]), "big": 3 ** 40_001,
    }  # fmt: skip
    with counting(repo) as reader:
        values = {one.path: one for one in component(compared(repo, {"m": before}, {"m": after})).values}
    assert len(values) == 5
    for one in values.values():
        assert one.before is not None
        assert one.after is not None
        assert one.before != one.after
        assert max(len(one.before), len(one.after)) <= 130
    assert "'the end is far away the end" in str(values["m.text"].before)
    assert "2,000,001 bytes" in str(values["m.text"].after)
    assert "float64" in str(values["m.array"].after) or "<f8" in str(values["m.array"].after)
    assert str(values["m.near"].after).endswith("(other bytes)")
    assert len(reader.chunks) == 4


def test_configuration_and_metrics_come_first(repo: ckstore.Repo) -> None:
    repo.commit(
        {"model": {"w": torch.ones(2)}, "environment": {"torch": "2.12"}, "config": {"lr": 0.1, "seed": 1}},
        metrics={"loss": 0.5, "old": 1.0}, step=10, epoch=1, message="before",
    )  # fmt: skip
    repo.commit(
        {"model": {"w": torch.ones(2)}, "environment": {"torch": "2.13"}, "config": {"lr": 0.2, "seed": 1}},
        metrics={"loss": 0.25, "new": 2.0}, step=20, epoch=2, message="after",
    )  # fmt: skip
    result = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0))
    assert [one.name for one in result.components] == ["environment", "config", "model"]
    assert [(one.path, one.before, one.after) for one in component(result, "config").values] == [
        ("config.lr", "0.1", "0.2")
    ]
    assert [(one.name, one.before, one.after, one.difference) for one in result.metrics] == [
        ("loss", 0.5, 0.25, -0.25),
        ("new", None, 2.0, None),
        ("old", 1.0, None, None),
    ]
    assert (result.before.step, result.after.step, result.before.epoch, result.after.message) == (10, 20, 1, "after")
    assert (result.after.branches, result.after.is_head, result.before.branches) == (("main",), True, ())


def test_sparse_tensors_and_generators_by_their_parts(repo: ckstore.Repo) -> None:
    eye = torch.eye(5)
    generator = torch.Generator().manual_seed(1)
    before = {"sparse": eye.to_sparse(), "csr": eye.to_sparse_csr(), "rng": generator, "py": random.Random(1)}
    later = torch.Generator().manual_seed(2)
    after = {"sparse": (eye * 3).to_sparse(), "csr": eye.to_sparse_csr(), "rng": later, "py": random.Random(2)}
    found = component(compared(repo, {"m": before}, {"m": after}))
    assert {tensor.path for tensor in found.changed} == {"m.sparse.1", "m.rng.state.state"}
    by_path = {tensor.path: tensor.change for tensor in found.changed}
    values = by_path["m.sparse.1"]
    assert values is not None
    assert (values.relative_change, values.largest_change) == (2.0, 2.0)
    assert found.unchanged == 4
    assert found.values[0].path.startswith("m.py.state.1.")


def test_pages_of_a_long_tree(repo: ckstore.Repo) -> None:
    before = {f"key number {n:07}": n for n in range(45_000)}
    after = {**before, "key number 0031234": -1}
    (value,) = component(compared(repo, {"m": before}, {"m": after})).values
    assert (value.path, value.before, value.after) == ("m.key number 0031234", "31234", "-1")


def test_paths_that_look_alike(repo: ckstore.Repo) -> None:
    """Dots in keys, numbers beside their digits, keys that are no text."""
    before = {"a.b": 1, "a": {"b": 2}, 1: 3, "1": 4, (1, 2): 5, "(1, 2)": 6, None: 7, "None": 8, 1.5: 9}
    after = {**before, "a.b": 10, "1": 40, (1, 2): 50}
    found = component(compared(repo, {"m": before}, {"m": after}))
    assert [(one.path, one.before, one.after) for one in found.values] == [
        ("m.a.b", "1", "10"), ("m.1", "4", "40"), ("m.(1, 2)", "5", "50"),
    ]  # fmt: skip


# Patterns


def test_a_part_by_patterns(repo: ckstore.Repo) -> None:
    before = {"model": {"a": big(1), "b": {"w": big(2)}}, "optimizer": {"lr": 0.1, "m": big(3)}}
    after = {"model": {"a": big(4), "b": {"w": big(5)}}, "optimizer": {"lr": 0.2, "m": big(6)}}
    result = compared(repo, before, after, ["model.b*", "*.lr"])
    assert [one.name for one in result.components] == ["model", "optimizer"]
    assert [tensor.path for one in result.components for tensor in one.changed] == ["model.b.w"]
    assert [value.path for one in result.components for value in one.values] == ["optimizer.lr"]
    assert result.compared_bytes == result.differing_bytes == 700 * 600 * 4
    only_new = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, ["optimizer.m"], stat=True))
    assert [one.name for one in only_new.components] == ["optimizer"]


def test_patterns_that_match_one_side_or_none(repo: ckstore.Repo) -> None:
    before, after = {"model": {"gone": torch.ones(1)}}, {"model": {"weight": torch.ones(1)}}
    assert [tensor.path for tensor in component(compared(repo, before, after, ["model.gone"]), "model").removed] == [
        "model.gone"
    ]
    with pytest.raises(InvalidInput, match=r"nothing matches model\.wieght") as caught:
        diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, ["model.wieght"]))
    assert caught.value.hint == "did you mean model.weight, model.gone, model?"
    with pytest.raises(InvalidInput, match="leave only out"):
        diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, []))
    with pytest.raises(NoRevision):
        diff(repo._repository, "HEAD~9", "HEAD", DiffOptions(0))


# Files


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def test_files_beside_states_in_memory(repo: ckstore.Repo, tmp_path: Path) -> None:
    """The same tensors have the same ids wherever they come from."""
    state = {"model": {"w": big(1), "b": big(2, 30)}, "optimizer": {"m": big(3), "lr": 0.5}}
    later = {**state, "optimizer": {"m": big(4), "lr": 0.25}}
    repo.commit(state)
    repo.commit_files(saved(tmp_path / "a.pt", later))
    with counting(repo) as reader:
        result = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0))
    assert reader.chunks == []
    assert component(result, "model").unchanged == 2
    assert [tensor.path for one in result.components for tensor in one.changed] == ["optimizer.m"]
    assert [(file.name, file.kind, file.before_bytes) for file in result.files] == [("a.pt", "file", None)]
    assert result.files[0].after_bytes == (tmp_path / "a.pt").stat().st_size


def test_files_added_removed_and_changed(repo: ckstore.Repo, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    names = ("same.pt", "small.pt", "big.pt")
    for name, size in zip(names, (50, 60, 400_000), strict=True):
        saved(folder / name, {"w": big(1, size), "v": torch.zeros(5)})
    (folder / "note.txt").write_text("one")
    (folder / "gone.txt").write_text("gone")
    (folder / "blob.bin").write_bytes(random.Random(1).randbytes(3 * MIB))
    (folder / "link").symlink_to("note.txt")
    repo.commit_files(folder)
    for name, size in zip(names[1:], (60, 400_000), strict=True):
        saved(folder / name, {"w": big(2, size), "v": torch.zeros(5)})
    (folder / "note.txt").write_text("two")
    (folder / "gone.txt").unlink()
    (folder / "new.txt").write_text("longer")
    (folder / "same.pt").touch()
    (folder / "link").unlink()
    (folder / "link").symlink_to("new.txt")
    repo.commit_files(folder)
    found = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0)).files
    big_size = (folder / "big.pt").stat().st_size
    small_size = (folder / "small.pt").stat().st_size
    assert [(file.name, file.kind, file.before_bytes, file.after_bytes) for file in found] == [
        ("big.pt", "file", big_size, big_size),
        ("gone.txt", "file", 4, None),
        ("link", "link", 8, 7),
        ("new.txt", "file", None, 6),
        ("note.txt", "file", 3, 3),
        ("small.pt", "file", small_size, small_size),
    ]
    some = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, ["*.txt"])).files
    assert [file.name for file in some] == ["gone.txt", "new.txt", "note.txt"]


@pytest.mark.parametrize("size", [60, 400_000])
def test_files_that_differ_in_their_tensors_alone(repo: ckstore.Repo, tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    for seed in (1, 2, 2):
        safetensors.torch.save_file({"w": big(seed, size), "v": torch.zeros(5)}, path)
        repo.commit_files(path)
    found = [diff(repo._repository, f"HEAD~{n + 1}", f"HEAD~{n}", DiffOptions(0)).files for n in (1, 0)]
    assert [file.name for file in found[0]] == ["a.safetensors"]
    assert found[1] == ()


def test_a_file_stored_in_another_way_is_the_same(repo: ckstore.Repo, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"model": {"w": big(1), "b": torch.ones(3)}, "optimizer": {"m": big(2)}})
    repo.commit_files(path)
    repo.commit_files(path, opaque=True)
    assert diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0)).files == ()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    repo.commit_files(path, opaque=True)
    assert [file.name for file in diff(repo._repository, "HEAD~2", "HEAD", DiffOptions(0)).files] == ["a.pt"]


def tensor_entry(length: int) -> Entry:
    return Entry(None, tree.Tensor("uint8", (length,), None, 0, tree.Whole(length, CHUNK), 0))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1029},
        {"gaps": b"12345"},
        {"gaps": leaf.Chunks(4, b"")},
        {"segments": (tree.Segment(-4, 0, 1, 0, 1024), tree.Segment(8, 0, 0, 0, 0))},
        {"segments": (tree.Segment(4, 1, 1, 0, 1024),)},
        {"segments": (tree.Segment(4, -1, 1, 0, 1024),)},
        {"segments": (tree.Segment(4, 0, 0, 0, 1024),)},
        {"segments": (tree.Segment(4, 0, 2, 0, 1024),)},
        {"segments": (tree.Segment(4, 0, -1, 0, 1024),)},
        {"segments": (tree.Segment(4, 0, 1, 1, 1024),)},
        {"segments": (tree.Segment(4, 0, 1, -1, 1024),)},
        {"components": ("other",)},
    ],
)
def test_files_that_contradict_themselves(changes: dict[str, Any]) -> None:
    structure = Structure("c", tree.Tree(MIB, (), (Entry(None, tree.List(1)), tensor_entry(1024))))
    said = {
        "size": 1028, "mode": 0, "mtime_ns": 0, "gaps": b"1234", "components": ("c",),
        "segments": (tree.Segment(4, 0, 1, 0, 1024),),
    }  # fmt: skip
    good = list(file_portions(tree.File(**cast("Any", said)), structure.tree, {"c": structure}))
    assert [(portion.id, portion.length) for portion in good] == [(b"", 4), (CHUNK, 1024)]
    with pytest.raises(Format):
        list(file_portions(tree.File(**cast("Any", said | changes)), structure.tree, {"c": structure}))


# Trees made to harm


def both(old: tree.Tree, new: tree.Tree, reader: MemoryReader) -> bool:
    """Whether two trees can be compared, tried in every way. Raises what comes of it, if that is not a refusal."""
    store = cast("Store", SimpleNamespace(objects=reader, workers=Workers(1)))
    try:
        sides = [
            Structure("c", read_tree(MemoryReader({(Kind.TREE, CHUNK): encode(one)}), CHUNK)) for one in (old, new)
        ]
        found = tree_diff(sides[0], sides[1])
    except (Format, Integrity, OverflowError):  # integers past 64 bits have no bytes
        return False
    for stat in (False, True):
        try:
            sums = pair_sums(store, [(pair.before, pair.after) for pair in found.pairs], SILENT, stat=stat)
            assert all(change(one, 1) for one in sums if one is not None)
        except (Format, Integrity, InvalidInput):
            continue
    for pair in found.values:
        try:
            texts = [
                None if ordinal is None else value_text(side, ordinal, reader)
                for side, ordinal in zip(sides, pair[1:], strict=True)
            ]
            assert all(len(text) < 200 for text in side_by_side(*texts) if text is not None)
        except (Format, Integrity):
            continue
    return True


def test_any_two_trees_are_compared_or_refused() -> None:
    maker, changing = Maker(77), random.Random(78)
    done = 0
    for _ in range(2500):
        one = maker.tree()
        done += both(one, maker.tree(), READER) + both(one, changed(one, changing), READER)
    assert 500 < done < 5000


def test_any_change_to_a_tree_is_compared_or_refused(repo: ckstore.Repo) -> None:
    repo.commit(rich_state())
    objects = everything(repo)
    reader, changing = MemoryReader(objects), random.Random(11)
    found = {entry.name: entry.tree for entry in repo._repository.resolve("HEAD", 0)[1].components}
    trees = [made for made in (read_tree(reader, id) for id in found.values()) if len(made.entries) < 100]
    assert len(trees) > 5
    done = 0
    for _ in range(2000):
        one = changing.choice(trees)
        hostile = changed(one, changing)
        done += both(one, hostile, reader) + both(hostile, changed(hostile, changing), reader)
    assert 1000 < done < 4000


# Memory

_MAKE = """
import sys
import torch
import ckstore

with ckstore.open(sys.argv[1], preset="fast") as repo:
    state = {f"layer{n}": torch.randn(4, 1 << 20) for n in range(12)}
    small = {n: {"step": torch.tensor(float(n)), "m": torch.randn(1024)} for n in range(1000)}
    repo.commit({"model": state, "optimizer": small})
    for value in state.values():
        value.mul_(1.001)
    for one in small.values():
        one["step"] += 1
    repo.commit({"model": state, "optimizer": small})
"""

_PEAK = """
import json, sys
import ckstore
from ckstore.porcelain.diff import DiffOptions, diff

def status(name):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

repo = ckstore.open(sys.argv[1])
with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
    file.write("5")
before = status("VmRSS")
result = diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, stat=True))
assert [len(one.changed) for one in result.components] == [12, 1000]
assert "torch" not in sys.modules
print(json.dumps({"extra": status("VmHWM") - before, "differing": result.differing_bytes}))
"""


def ran(code: str, folder: Path) -> str:
    """What the code prints, run in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_the_memory_that_a_diff_takes(tmp_path: Path) -> None:
    """Of two states of 200 MB, numpy's own memory included; torch is not even loaded."""
    ran(_MAKE, tmp_path)
    found = json.loads(ran(_PEAK, tmp_path))
    assert found["extra"] < 128 * MIB
    assert found["differing"] == 12 * 16 * MIB + 4000
