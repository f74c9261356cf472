"""Files of torch.save as trees: every byte of the file comes back, and the drafts hold the values that were saved."""

from __future__ import annotations

import collections
import io
import pathlib
import struct
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.files import detect, pt
from ckstore.files.parsed import Claim, assemble
from ckstore.files.source import HeldSource
from ckstore.objects.draft import Draft, DraftBlob, DraftTensor
from ckstore.objects.tree import PARAMETER, REQUIRES_GRAD, Dict
from tests.file_values import (
    DTYPES,
    Restored,
    assert_same,
    assert_same_draft,
    filled,
    reassembled,
    saved,
    trained,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.files.parsed import ParsedFile


def parsed_file(data: memoryview) -> ParsedFile:
    parsed = pt.parse(HeldSource(data))
    assert parsed is not None
    assert reassembled(parsed, data) == data
    return parsed


def assert_comes_back(value: object, **options: Any) -> Draft:
    """`value` saved and parsed as the only component; its draft."""
    parsed = parsed_file(saved(value, **options))
    draft = parsed.components["model"]
    assert_same(Restored(draft).value, value)
    return draft


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_checkpoint_is_its_components(protocol: int) -> None:
    state = trained()
    parsed = parsed_file(saved(state, pickle_protocol=protocol))
    assert list(parsed.components) == list(state)
    for name, draft in parsed.components.items():
        assert_same(Restored(draft).value, state[name])
    root = parsed.components["model"].entries[0][1]
    assert root == Dict("OrderedDict", len(state["model"]), None, attributes=True)
    paths = [draft.spans[0].path for draft in parsed.components.values() if draft.spans]
    assert paths == ["0.weight", "state.0.step", "torch"]


@pytest.mark.parametrize("value", [{}, {"w": torch.ones(2)}, {"step": 1}, {1: [2]}, [1, 2], torch.ones(3), 7, None])
def test_what_is_no_dict_of_parts_is_one_component(value: object) -> None:
    assert list(parsed_file(saved(value)).components) == ["model"]
    assert_comes_back(value)


def test_a_state_dict_keeps_its_metadata() -> None:
    state = torch.nn.Linear(2, 2).state_dict()
    state["extra"] = torch.ones(1)
    assert hasattr(state, "_metadata")
    assert_comes_back(state)


def test_tied_weights_are_two_tensors_on_one_span() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 4))
    value = [weight, weight, weight.detach()[1:3], torch.zeros(4, 4)]
    draft = assert_comes_back(value)
    assert [tensor.span for _, tensor in draft.entries[1:] if isinstance(tensor, DraftTensor)] == [0, 0, 0, 1]
    restored = Restored(draft).value
    assert restored[0].data_ptr() == restored[1].data_ptr() == restored[2].data_ptr() - 16


def test_a_span_is_the_smallest_range_that_covers() -> None:
    base = torch.arange(100, dtype=torch.int64)
    draft = assert_comes_back([base[10:20], base[15:40:5], base[12:14]])
    assert [(span.length, span.dtype, span.path) for span in draft.spans] == [(26 * 8, "int64", "0")]
    offsets = [value.offset for _, value in draft.entries[1:] if isinstance(value, DraftTensor)]
    assert offsets == [0, 40, 16]


def test_a_span_starts_where_its_widest_dtype_can() -> None:
    base = torch.arange(64, dtype=torch.uint8)
    value = [base[:0], base[5:9], base.view(torch.float32)[4:5].view(torch.uint8)]
    assert_comes_back(value)
    wide = torch.zeros(8, dtype=torch.float8_e4m3fn)
    draft = assert_comes_back([wide[5:7], wide.view(torch.uint16)[3:4], torch.zeros(2, dtype=torch.bool)])
    assert [span.length for span in draft.spans] == [4, 2]
    assert [value.offset for _, value in draft.entries[1:] if isinstance(value, DraftTensor)] == [1, 2, 0]


def test_every_dtype_and_every_shape() -> None:
    for dtype in DTYPES:
        assert_comes_back([filled((3, 2), dtype), filled((), dtype), filled((0, 4), dtype), dtype])


def test_strides_come_back() -> None:
    assert_comes_back(
        [
            torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            torch.randn(3, 4).t(),
            torch.randn(3, 1).expand(3, 7),
            torch.randn(1, 3, 1).transpose(0, 2),
            torch.empty_strided((2, 2), (7, 3)).fill_(1.0),
            torch.randn(6)[1::2],
        ]
    )


def test_empty_tensors_have_spans_of_their_own() -> None:
    empty = torch.empty(0, 3)
    draft = assert_comes_back([empty, empty, torch.randn(4)[2:2], torch.randn(2)])
    assert [span.length for span in draft.spans] == [0, 0, 0, 8]
    assert [value.span for _, value in draft.entries[1:] if isinstance(value, DraftTensor)] == [0, 1, 2, 3]


def test_flags_of_parameters() -> None:
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    noted = torch.nn.Parameter(torch.ones(2))
    noted.note = "kept by nobody"  # type: ignore[attr-defined]
    value = [frozen, noted, torch.ones(1, requires_grad=True), torch.nn.Buffer(torch.ones(1))]
    draft = parsed_file(saved(value)).components["model"]
    flags = [tensor.flags for _, tensor in draft.entries[1:] if isinstance(tensor, DraftTensor)]
    assert flags == [PARAMETER, PARAMETER | REQUIRES_GRAD, REQUIRES_GRAD, 0]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_leaves_and_containers(protocol: int) -> None:
    value = [
        None,
        True,
        [0, -1, 255, 256, 65536, -(1 << 31), 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 127), 1 << 40_000],
        [0.0, -0.0, float("inf"), struct.unpack("<d", b"\1\2\3\4\5\6\xf8\x7f")[0], 2 - 3j],
        ["", "é", "\ud800", "x" * 5000, "\0"],
        [b"", b"\xff\0abc", b"y" * 9000, bytearray(b""), bytearray(b"\x80z")],
        {1: "a", "1": "b", 2.5: None, None: 1, (1, ("x", None)): 2, b"k": 3, torch.float16: 4},
        collections.OrderedDict([("b", 1), ("a", [2])]),
        collections.defaultdict(list, {"x": [1]}),
        collections.defaultdict(int, {1: 2}),
        collections.defaultdict(None),
        collections.Counter("hello"),
        collections.deque([1, (2,)], maxlen=4),
        collections.deque(),
        {"c", "a", "b", 3, (1, 2)},
        set(),
        frozenset({1.5, None}),
        torch.Size([3, 4]),
        torch.Size([]),
        torch.bfloat16,
        torch.device("cuda:1"),
        torch.device("cpu"),
        pathlib.Path("/a/b/../c"),
        pathlib.PurePosixPath("d/e"),
        pathlib.PureWindowsPath("C:/x"),
        (),
        ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    ]
    assert_comes_back(value, pickle_protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numpy_values(protocol: int) -> None:
    value = [
        np.float32(1.5),
        np.int64(-3),
        np.bool_(True),
        np.complex128(1 - 2j),
        np.str_("é"),
        np.bytes_(b"ab"),
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6.0).reshape(2, 3)[:, 1],
        np.zeros((0, 2), dtype=">u2"),
        np.array(["a", "bcd"]),
        np.array(7),
        np.arange(5000, dtype=np.int16),
        np.random.default_rng(0).bit_generator.state,
    ]
    draft = assert_comes_back(value, pickle_protocol=protocol)
    assert [value.dtype for _, value in draft.entries if isinstance(value, DraftBlob)] == ["int16"]


def test_a_shared_list_comes_twice() -> None:
    shared = [1, torch.ones(2)]
    assert_comes_back([shared, shared, {"again": shared}])


def test_a_storage_in_two_components_is_mapped_once() -> None:
    base = torch.arange(10.0)
    state = {"a": {"w": base[2:6]}, "b": {"w": base[:8]}, "c": [base]}
    parsed = parsed_file(saved(state))
    for name, draft in parsed.components.items():
        assert_same(Restored(draft).value, state[name])
    assert sum(segment.length for segment in parsed.segments) == 40


def test_claims_that_overlap_are_taken_once() -> None:
    claims = [Claim(4, 8, "a", 0), Claim(2, 6, "b", 0), Claim(2, 4, "c", 0), Claim(8, 8, "a", 1)]
    parsed = assemble(10, {}, claims)
    assert [(s.gap, s.component, s.start, s.length) for s in parsed.segments] == [
        (2, "b", 0, 4),
        (0, "a", 2, 2),
        (2, "", 0, 0),
    ]
    assert parsed.gaps == [(0, 2), (8, 10)]


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    "value",
    [
        Point(1, 2),
        {"model": {"w": torch.ones(2)}, "args": range(3)},
        torch.eye(2).to_sparse(),
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.ones(2, device="meta"),
        torch.ones(2).untyped_storage(),
        np.dtype("f4"),
        np.zeros(2, dtype=[("a", "i4")]),
        {frozenset([1]): 2},
        collections.defaultdict(torch.get_rng_state),
        torch.nn.Linear(1, 1),
        print,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_known_as_data_makes_the_file_opaque(value: object) -> None:
    data = saved(value)
    assert pt.parse(HeldSource(data)) is None
    parsed = detect.parse("x.pt", HeldSource(data))
    assert parsed.components == {}
    assert reassembled(parsed, data) == data


def test_legacy_files_and_other_zips_are_left_to_others() -> None:
    legacy = saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert pt.parse(HeldSource(legacy)) is None
    assert pt.parse(HeldSource(memoryview(b""))) is None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as other:
        other.writestr("word/document.xml", "<x/>")
    assert pt.parse(HeldSource(memoryview(buffer.getvalue()))) is None


def rewritten(data: memoryview, change: Callable[[str, bytes], bytes | None], **options: Any) -> memoryview:
    """The archive with its entries changed, written anew by another zip writer."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", **options) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return memoryview(buffer.getvalue())


def test_other_byte_orders_and_compression_are_opaque() -> None:
    data = saved({"w": torch.ones(2)})
    assert (
        pt.parse(HeldSource(rewritten(data, lambda name, old: b"big" if name.endswith("byteorder") else old))) is None
    )
    assert pt.parse(HeldSource(rewritten(data, lambda _, old: old, compression=zipfile.ZIP_DEFLATED))) is None


def test_archives_one_after_another_are_opaque() -> None:
    first, last = saved({"w": torch.ones(2)}), saved({"w": torch.zeros(3)})
    plain = rewritten(last, lambda _, old: old)
    assert plain.nbytes != last.nbytes
    for one in (last, plain):
        assert pt.parse(HeldSource(one)) is not None
        assert pt.parse(HeldSource(memoryview(bytes(first) + bytes(one)))) is None


def test_archives_without_a_byte_order_and_by_other_writers_are_read() -> None:
    value = {"w": torch.randn(3), "b": torch.ones(2, dtype=torch.bfloat16)}
    data = rewritten(saved(value), lambda name, old: None if name.endswith("byteorder") else old)
    assert_same(Restored(parsed_file(data).components["model"]).value, value)


def test_nothing_is_copied_out_of_the_file() -> None:
    raw = bytearray(saved([torch.full((4,), 1.5)]))
    parsed = pt.parse(HeldSource(memoryview(raw)))
    assert parsed is not None
    view = parsed.components["model"].spans[0].open(0, 4)
    at = raw.index(struct.pack("<f", 1.5) * 4)
    raw[at : at + 4] = b"abcd"
    assert bytes(view) == b"abcd"


def test_ten_thousand_tensors() -> None:
    state = {f"layers.{i}.weight": torch.full((2,), float(i)) for i in range(10_000)}
    draft = parsed_file(saved(state)).components["model"]
    assert len(draft.spans) == 10_000
    assert_same(Restored(draft).value, state)


def test_the_draft_is_that_of_an_in_memory_commit() -> None:
    flatten = pytest.importorskip("ckstore.torch.flatten").flatten
    state = trained()
    state["more"] = [
        torch.arange(100)[10:20],
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.nn.Parameter(torch.ones(2)),
        {"c", "a", (1, 2)},
        {1.5: torch.ones(1), (1, "a"): torch.ones(2), torch.int8: torch.empty(0)},
        collections.defaultdict(list, {"x": [b"1" * 5000]}),
        np.arange(5000),
        np.float32(2),
        pathlib.Path("/x"),
        torch.Size([1]),
        collections.deque([1], 2),
    ]
    parsed = parsed_file(saved(state))
    for name, draft in parsed.components.items():
        assert_same_draft(draft, flatten(state[name], name))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.complex_numbers(allow_nan=False),
    st.sampled_from([torch.float32, torch.Size([2, 3]), torch.device("cpu"), pathlib.PurePosixPath("a/b")]),
)
KEYS = st.one_of(st.integers(), st.text(max_size=8), st.none(), st.tuples(st.integers(), st.text(max_size=3)))
TENSORS = st.builds(filled, st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES))
VALUES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(collections.OrderedDict),
        st.frozensets(KEYS, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(VALUES, st.sampled_from([2, 4, 5]))
def test_any_value_comes_back(value: object, protocol: int) -> None:
    assert_comes_back([value], pickle_protocol=protocol)
