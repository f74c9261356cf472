"""Reading a part of a commit reads only that part, and gives what the whole would."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ckstore
from ckstore.checkpoint.state import structure
from ckstore.objects.tree import CHUNK_SIZE
from ckstore.torch.lazy import LazyTensor, Section, lazy
from tests.equality import assert_same, raw_bytes
from tests.strategies import Point

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.digest import Kind
    from ckstore.objects.reader import ObjectReader

ROWS, WIDTH = 700, 1024
STATE = {
    "whole": torch.randn(ROWS, WIDTH),
    "small": torch.arange(60, dtype=torch.int16).view(3, 4, 5),
    "turned": torch.randn(30, 40).t(),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
}


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


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ckstore.Repo]:
    with ckstore.open(tmp_path_factory.mktemp("repo")) as repo:
        whole = STATE["whole"]
        repo.commit({"model": {**STATE, "view": whole[100:300], "bytes": whole.view(-1).view(torch.uint8)}})
        yield repo


def counted(repo: ckstore.Repo, name: str) -> tuple[LazyTensor, Counting]:
    """A tensor of the model, and the reader that counts what it reads."""
    _, commit = repo._repository.resolve("HEAD", 0)
    reader = Counting(repo._repository.store.objects)
    section = lazy(structure(repo._repository, commit, "model"), reader)
    assert isinstance(section, Section)
    tensor = section[name]
    assert isinstance(tensor, LazyTensor)
    return tensor, reader


def along(size: int) -> st.SearchStrategy[Any]:
    """An index for a dimension of that size: a number, a slice, a list of numbers."""
    bounds = st.none() | st.integers(-size - 2, size + 2)
    some = st.lists(st.integers(0, max(size - 1, 0)), max_size=3)
    return st.one_of(
        st.integers(-size - 1, size),
        st.builds(slice, bounds, bounds, st.none() | st.integers(1, 9)),
        some.map(lambda numbers: torch.tensor(numbers, dtype=torch.long)),
    )


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """What may stand between the brackets of a tensor of that shape, sometimes out of range."""
    parts = [draw(along(size)) for size in shape[: draw(st.integers(0, len(shape)))]]
    for extra in draw(st.lists(st.sampled_from([None, Ellipsis, True]), max_size=1)):
        parts.insert(draw(st.integers(0, len(parts))), extra)
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(STATE)), st.data())
def test_an_index_gives_what_it_gives_on_the_tensor(opened: ckstore.Repo, name: str, data: st.DataObject) -> None:
    tensor = STATE[name]
    index = data.draw(indices(tuple(tensor.shape)))
    stored = opened["HEAD"]["model"][name]
    assert (stored.shape, stored.dtype) == (tensor.shape, tensor.dtype)
    try:
        expected = tensor[index]
    except IndexError:
        with pytest.raises(IndexError):
            stored[index]
        return
    found = stored[index]
    assert found.shape == expected.shape
    assert raw_bytes(found) == raw_bytes(expected)


@pytest.mark.parametrize("name", ["view", "bytes"])
def test_views_are_indexed_like_their_tensors(opened: ckstore.Repo, name: str) -> None:
    expected = {"view": STATE["whole"][100:300], "bytes": STATE["whole"].view(-1).view(torch.uint8)}[name]
    stored = opened["HEAD"]["model"][name]
    for index in (0, -1, slice(3, 90), slice(None, None, 7), slice(150, 1 << 30)):
        assert torch.equal(stored[index], expected[index])
    assert torch.equal(stored.load(), expected)


def test_only_the_touched_chunks_are_read(opened: ckstore.Repo) -> None:
    rows_a_chunk = CHUNK_SIZE // (WIDTH * 4)
    cases: list[tuple[Any, int]] = [
        (0, 1),
        (slice(0, rows_a_chunk), 1),
        (slice(rows_a_chunk - 1, rows_a_chunk + 1), 2),
        ((slice(rows_a_chunk, 2 * rows_a_chunk), 5), 1),
        (slice(10, 10), 0),
        (slice(None), 3),
        ((Ellipsis, 0), 3),
    ]
    for index, touched in cases:
        tensor, reader = counted(opened, "whole")
        assert reader.chunks == []
        assert torch.equal(tensor[index], STATE["whole"][index])
        assert len(reader.chunks) == touched, index


def test_a_view_reads_its_owners_chunks(opened: ckstore.Repo) -> None:
    view, reader = counted(opened, "view")
    owner, whole = counted(opened, "whole")
    assert torch.equal(view[0], STATE["whole"][100])
    assert torch.equal(owner[100], STATE["whole"][100])
    assert reader.chunks == whole.chunks


def test_a_tensor_of_a_slab_reads_its_part_of_the_slab(repo: ckstore.Repo) -> None:
    repo.commit({"model": {f"{n:03}": torch.full((15_000,), n, dtype=torch.float32) for n in range(60)}})
    tensor, reader = counted(repo, "017")
    assert tensor[14_990:].eq(17).all()
    assert len(reader.chunks) == 1
    tensor, reader = counted(repo, "017")  # lies over the border of the first chunk
    assert tensor.load().eq(17).all()
    assert len(reader.chunks) == 2


def test_backwards_is_refused(opened: ckstore.Repo) -> None:
    with pytest.raises(ckstore.InvalidInput, match="backwards"):
        opened["HEAD"]["model"]["whole"][::-1]


KEYED: dict[object, int] = {
    "a": 1,
    1.5: 2,
    (1, "x"): 3,
    b"k": 4,
    None: 5,
    True: 6,
    2**70: 7,
    np.int64(9): 8,
    torch.int8: 9,
}


def test_sections_have_the_keys_that_were_committed(repo: ckstore.Repo) -> None:
    with_attributes = collections.OrderedDict(w=1)
    with_attributes._metadata = {"": 1}  # type: ignore[attr-defined]
    repo.commit({"keyed": KEYED, "ordered": with_attributes, "pair": Point([1, 2], 3), "rest": [(), {}, {4, 5}]})
    checkpoint = repo["HEAD"]
    assert checkpoint.keys() == ["keyed", "ordered", "pair", "rest"]
    keyed = checkpoint["keyed"]
    assert keyed.keys() == list(KEYED) == list(keyed)
    assert {key: keyed[key] for key in keyed} == KEYED
    assert len(keyed) == len(KEYED)
    assert ((1, "x") in keyed, (1, "y") in keyed) == (True, False)
    assert checkpoint["ordered"].keys() == ["w"]
    assert_same(with_attributes, checkpoint["ordered"].load())
    assert checkpoint["pair"].keys() == ["x", "y"]
    assert checkpoint["pair"]["x"][1] == 2
    assert [checkpoint["rest"][n] for n in range(3)] == [(), {}, {4, 5}]


def test_no_such_key(repo: ckstore.Repo) -> None:
    repo.commit({"model": {"layer": {"weight": torch.ones(2)}}})
    with pytest.raises(ckstore.InvalidInput, match=r"model\.layer has no entry 'wieght'") as caught:
        repo["HEAD"]["model"]["layer"]["wieght"]
    assert caught.value.hint == "did you mean weight?"


def test_what_they_say_of_themselves(repo: ckstore.Repo) -> None:
    repo.commit({"model": {"w": torch.ones(2, 3)}})
    assert repr(repo["HEAD"]["model"]) == "<Section model: 1 entries>"
    assert repr(repo["HEAD"]["model"]["w"]) == "<LazyTensor model.w: float32 (2, 3)>"
