"""`assert_same` notices every difference that a round trip could make."""

from __future__ import annotations

import collections
import copy
import math
import random
import struct
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.equality import assert_same, assert_same_components, raw_bytes
from tests.strategies import Point, values

pytestmark = pytest.mark.filterwarnings(
    "ignore:ComplexHalf support:UserWarning", "ignore:Sparse .* beta state:UserWarning"
)

Other = collections.namedtuple("Other", ["x", "y"])  # noqa: PYI024


def with_attribute(value: object) -> collections.OrderedDict[str, int]:
    made = collections.OrderedDict(a=1)
    made._metadata = value  # type: ignore[attr-defined]
    return made


def tied() -> list[torch.Tensor]:
    base = torch.zeros(6)
    return [base, base[2:]]


BASE = torch.arange(6.0)
NAN, OTHER_NAN = (struct.unpack(">d", struct.pack(">Q", 0x7FF8 << 48 | payload))[0] for payload in (1, 2))
INDICES = torch.tensor([[0, 0]])

DIFFERENT: list[tuple[str, Any, Any]] = [
    ("int and bool", 1, True),
    ("int and float", 1, 1.0),
    ("signed zero", 0.0, -0.0),
    ("NaN payload", NAN, OTHER_NAN),
    ("complex zero", complex(0.0, -0.0), complex(0.0, 0.0)),
    ("bytes and bytearray", b"a", bytearray(b"a")),
    ("path class", Path("a"), PurePosixPath("a")),
    ("list and tuple", [1], (1,)),
    ("torch.Size and tuple", torch.Size([1]), (1,)),
    ("length", [1], [1, 2]),
    ("deep item", {"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}),
    ("key order", {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ("key type", {1: 0}, {True: 0}),
    ("key bits", {0.0: 0}, {-0.0: 0}),
    ("dict class", {}, collections.OrderedDict()),
    ("attributes", with_attribute({"v": 1}), with_attribute({"v": 2})),
    ("no attributes", with_attribute(1), collections.OrderedDict(a=1)),
    ("factory", collections.defaultdict(int), collections.defaultdict(list)),
    ("maxlen", collections.deque([1], 2), collections.deque([1], 3)),
    ("set and frozenset", {1}, frozenset({1})),
    ("members", {1, 2}, {1, 3}),
    ("member type", {1}, {True}),
    ("named tuple class", Point(1, 2), Other(1, 2)),
    ("named tuple value", Point(1, 2), Point(1, 3)),
    ("numpy dtype", np.zeros(2, "<f4"), np.zeros(2, "<f8")),
    ("numpy byte order", np.zeros(2, "<f4"), np.zeros(2, ">f4")),
    ("numpy memory order", np.zeros((2, 3)), np.asfortranarray(np.zeros((2, 3)))),
    ("numpy shape", np.zeros((2, 3)), np.zeros((3, 2))),
    ("numpy value", np.array([0.0]), np.array([-0.0])),
    ("numpy scalar dtype", np.float32(1), np.float64(1)),
    ("numpy scalar zeros", np.str_("a"), np.str_("a\0")),
    ("python generator", random.Random(1), random.Random(2)),
    ("numpy generator", np.random.default_rng(1), np.random.default_rng(2)),
    ("numpy state", np.random.RandomState(1), np.random.RandomState(2)),
    ("torch generator", torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
    ("dtype", torch.zeros(2, dtype=torch.float16), torch.zeros(2, dtype=torch.bfloat16)),
    ("shape", torch.zeros(2, 3), torch.zeros(3, 2)),
    ("value", torch.zeros(2), -torch.zeros(2)),
    ("strides", torch.zeros(3, 3), torch.zeros(3, 3).t()),
    ("strides along size 1", torch.zeros(4, 1), torch.zeros(1, 4).t()),
    ("channels_last", torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3).to(memory_format=torch.channels_last)),
    ("expanded", torch.zeros(1).expand(3), torch.zeros(3)),
    ("requires_grad", torch.zeros(2), torch.zeros(2, requires_grad=True)),
    ("parameter", torch.zeros(2), torch.nn.Parameter(torch.zeros(2), requires_grad=False)),
    ("layout", torch.eye(2), torch.eye(2).to_sparse()),
    ("sparse layout", torch.eye(2).to_sparse_csr(), torch.eye(2).to_sparse_csc()),
    ("sparse value", torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()),
    (
        "coalesced",
        torch.eye(2).to_sparse(),
        torch.sparse_coo_tensor(torch.arange(2).expand(2, 2), torch.ones(2), (2, 2)),
    ),
    ("sparse parameter", torch.eye(2).to_sparse(), torch.nn.Parameter(torch.eye(2).to_sparse(), requires_grad=False)),
    ("tied and equal", [BASE, BASE], [BASE, BASE.clone()]),
    ("equal and tied", [BASE, BASE.clone()], [BASE, BASE]),
    ("other owner", [BASE, BASE + 0, BASE[:0]], [BASE, BASE, BASE[:0]]),
    ("view and copy", tied(), [torch.zeros(6), torch.zeros(4)]),
]


@pytest.mark.parametrize(("left", "right"), [case[1:] for case in DIFFERENT], ids=[case[0] for case in DIFFERENT])
def test_notices(left: object, right: object) -> None:
    with pytest.raises(AssertionError, match="state"):
        assert_same(left, right)
    with pytest.raises(AssertionError, match="state"):
        assert_same(right, left)


def test_notices_another_place_on_one_storage() -> None:
    left, right = torch.zeros(8), torch.zeros(8)
    with pytest.raises(AssertionError, match="begins elsewhere"):
        assert_same([left[:2], left[2:4]], [right[:2], right[4:6]])


def test_names_the_path_of_the_first_difference() -> None:
    with pytest.raises(AssertionError, match=r"model\['a'\]\[1\]\[2\]: int and str"):
        assert_same({"a": [0, [1, 2, 3]]}, {"a": [0, [1, 2, "3"]]}, "model")


def test_where_the_span_begins_is_free() -> None:
    base = torch.arange(10.0)
    moved = base[4:7].clone()
    assert_same([base[4:6], base[5:7]], [moved[:2], moved[1:]])


def test_components_share_nothing() -> None:
    weight = torch.arange(3.0)
    assert_same_components({"a": weight, "b": weight}, {"a": weight.clone(), "b": weight.clone()})
    with pytest.raises(AssertionError):
        assert_same_components({"a": weight, "b": weight}, {"b": weight, "a": weight})


def test_raw_bytes_follow_the_shape() -> None:
    assert raw_bytes(torch.arange(6, dtype=torch.uint8).view(2, 3).t()) == bytes([0, 3, 1, 4, 2, 5])
    assert raw_bytes(torch.tensor(1.5)) == struct.pack("<f", 1.5)
    assert raw_bytes(torch.tensor([1 + 2j]).conj()) == struct.pack("<ff", 1, -2)
    assert raw_bytes(torch.empty(0, 3)) == b""
    assert raw_bytes(torch.full((2,), math.nan)[:1].expand(2)) == struct.pack("<ff", math.nan, math.nan)


@settings(max_examples=200, deadline=None)
@given(values)
def test_a_value_is_the_same_as_itself(value: object) -> None:
    assert_same(value, value)


def test_a_copy_that_keeps_ties_is_the_same() -> None:
    weight = torch.nn.Parameter(torch.arange(4.0))
    state = {"a": weight, "b": [weight, torch.zeros(2), torch.zeros(2)]}
    assert_same(state, copy.deepcopy(state))
