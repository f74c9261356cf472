"""safetensors files as trees: every byte of the file comes back, every tensor reads from its span."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from ckstore.errors import Format
from ckstore.files import detect, safetensors
from ckstore.files.source import HeldSource
from ckstore.objects.draft import DraftTensor
from ckstore.objects.tree import Dict

if TYPE_CHECKING:
    from ckstore.files.parsed import ParsedFile

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
    torch.complex64,
]


def reassembled(parsed: ParsedFile, data: memoryview) -> bytes:
    """The file from its gaps and spans alone."""
    own = b"".join(data[start:stop] for start, stop in parsed.gaps)
    parts: list[bytes | memoryview] = []
    for segment in parsed.segments:
        parts.append(own[: segment.gap])
        own = own[segment.gap :]
        if segment.length:
            span = parsed.components[segment.component].spans[segment.span]
            assert segment.start + segment.length <= span.length
            parts.append(span.open(segment.start, segment.start + segment.length))
    assert own == b""
    return b"".join(parts)


def tensors(parsed: ParsedFile) -> dict[Any, torch.Tensor]:
    """The tensors of the component `model`, read from their spans."""
    draft = parsed.components["model"]
    root = draft.entries[0][1]
    assert isinstance(root, Dict)
    assert root == Dict("dict", len(draft.entries) - 1)
    found = {}
    for key, value in draft.entries[1:]:
        assert isinstance(value, DraftTensor)
        assert (value.offset, value.flags, value.strides) == (0, 0, None)
        span = draft.spans[value.span]
        assert (span.dtype, span.path) == (value.dtype, key)
        raw = torch.tensor(list(span.open(0, span.length)), dtype=torch.uint8)
        found[key] = raw.view(getattr(torch, value.dtype)).reshape(value.shape)
    return found


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))


def written(header: object, body: bytes = b"") -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(len(text).to_bytes(8, "little") + text + body)


def entry(dtype: str, shape: list[Any], start: Any, stop: Any) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_every_dtype_comes_back() -> None:
    state = {str(dtype): torch.randint(0, 2, (3, 4)).to(torch.float32).to(dtype) for dtype in DTYPES}
    data = memoryview(save(state, metadata={"step": "12", "note": "é"}))
    parsed = safetensors.parse(HeldSource(data))
    found = tensors(parsed)
    assert set(found) == set(state)
    assert all(same(found[name], state[name]) for name in state)
    assert reassembled(parsed, data) == data


def test_components_keep_the_order_of_the_header() -> None:
    data = memoryview(save({"b": torch.ones(2), "a": torch.ones(3, dtype=torch.float64), "c": torch.ones(1)}))
    header = json.loads(bytes(data[8 : 8 + int.from_bytes(data[:8], "little")]))
    assert list(tensors(safetensors.parse(HeldSource(data)))) == list(header)


def test_scalars_and_empty_tensors() -> None:
    state = {"zero": torch.tensor(2.5), "empty": torch.zeros(0, 3), "also": torch.zeros(4, 0, dtype=torch.int8)}
    data = memoryview(save(state))
    parsed = safetensors.parse(HeldSource(data))
    assert all(same(tensors(parsed)[name], state[name]) for name in state)
    assert reassembled(parsed, data) == data


def test_a_file_without_tensors() -> None:
    data = written({})
    parsed = safetensors.parse(HeldSource(data))
    assert tensors(parsed) == {}
    assert reassembled(parsed, data) == data


def test_spans_are_the_file_itself() -> None:
    raw = bytearray(save({"w": torch.ones(4)}))
    span = safetensors.parse(HeldSource(memoryview(raw))).components["model"].spans[0]
    view = span.open(0, 4)
    raw[-16:-12] = b"abcd"
    assert bytes(view) == b"abcd"


def test_packed_f4_has_the_shape_torch_gives_it() -> None:
    packed = torch.arange(6, dtype=torch.uint8).reshape(2, 3).view(torch.float4_e2m1fn_x2)
    data = memoryview(save({"w": packed}))
    found = tensors(safetensors.parse(HeldSource(data)))["w"]
    assert (found.dtype, found.shape) == (torch.float4_e2m1fn_x2, (2, 3))
    assert torch.equal(found.view(torch.uint8), packed.view(torch.uint8))


def test_a_dtype_torch_has_not_stays_in_the_gaps() -> None:
    data = written(
        {"f6": entry("F6_E2M3", [4], 0, 3), "odd": entry("F4", [2, 3], 3, 6), "w": entry("U8", [1], 6, 7)}, b"abcdefg"
    )
    parsed = safetensors.parse(HeldSource(data))
    assert list(tensors(parsed)) == ["w"]
    assert reassembled(parsed, data) == data


def test_a_real_file_through_detect(tmp_path: Any) -> None:
    path = tmp_path / "Model.SafeTensors"
    save_file({"layer.weight": torch.randn(8, 8)}, path)
    data = memoryview(path.read_bytes())
    assert list(detect.parse(path.name, HeldSource(data)).components) == ["model"]
    assert detect.parse(path.name, HeldSource(data), opaque=True).components == {}
    assert reassembled(detect.parse(path.name, HeldSource(data), opaque=True), data) == data
    assert detect.parse("model.bin", HeldSource(data)).components == {}


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=6))
def test_any_state_comes_back(described: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    state = {name: torch.randint(0, 9, shape).to(torch.float32).to(dtype) for name, (dtype, shape) in described.items()}
    data = memoryview(save(state))
    parsed = safetensors.parse(HeldSource(data))
    found = tensors(parsed)
    assert set(found) == set(state)
    assert all(same(found[name], state[name]) for name in state)
    assert reassembled(parsed, data) == data


BAD = {
    "no list as shape": {"weight": entry("U8", "1", 0, 1)},  # type: ignore[arg-type]
    "negative size": {"weight": entry("U8", [-1], 0, 1)},
    "huge size": {"weight": entry("U8", [1 << 63], 0, 1)},
    "sizes whose product wraps": {"weight": entry("U8", [1 << 32, 1 << 32], 0, 0)},
    "many sizes": {"weight": entry("U8", [1 << 40] * 1000, 0, 1)},
    "float size": {"weight": entry("U8", [1.0], 0, 1)},
    "bool size": {"weight": entry("U8", [True], 0, 1)},
    "shape and bytes disagree": {"weight": entry("F32", [2], 0, 4)},
    "bits that fill no byte": {"weight": entry("F4", [1], 0, 1)},
    "unknown dtype": {"weight": entry("Q7", [1], 0, 1)},
    "no dtype": {"weight": {"shape": [1], "data_offsets": [0, 1]}},
    "end before start": {"weight": entry("U8", [0], 1, 0)},
    "three offsets": {"weight": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}},
    "out of range": {"weight": entry("U8", [9], 0, 9)},
    "huge offsets": {"weight": entry("U8", [0], 1 << 80, 1 << 80)},
    "hole": {"weight": entry("U8", [1], 1, 2)},
    "overlap": {"w": entry("U8", [2], 0, 2), "weight": entry("U8", [1], 1, 2)},
    "no dict": {"weight": [1, 2]},
}


@pytest.mark.parametrize("header", BAD.values(), ids=BAD.keys())
def test_what_contradicts_itself_is_refused_by_name(header: dict[str, object]) -> None:
    with pytest.raises(Format, match="weight") as caught:
        safetensors.parse(HeldSource(written(header, b"xy")))
    assert "--opaque" in str(caught.value)


BROKEN = {
    "empty": b"",
    "short": b"\x00" * 7,
    "header of 10^9": (10**9).to_bytes(8, "little") + b"{}",
    "header of 2^64 - 1": b"\xff" * 8 + b"{}",
    "nesting": bytes(written(b'{"a":' * 200_000)),
    "list nesting": bytes(written(b"[" * 200_000)),
    "no JSON": bytes(written(b"{]")),
    "list": bytes(written([])),
    "not UTF-8": bytes(written(b'{"\xff": 1}')),
    "number of 100,000 digits": bytes(written(b'{"a": ' + b"9" * 100_000 + b"}")),
    "NaN": bytes(written(b'{"a": NaN}')),
    "zeros after the JSON": bytes(written(b"{}\0\0")),
    "a name twice": bytes(written(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 2 + b'"b":1}')),
    "half a surrogate": bytes(written({"\ud800": entry("U8", [0], 0, 0)})),
    "a long name": bytes(written({"n" * 5000: entry("U8", [0], 0, 0)})),
    "bytes after the last tensor": bytes(written({}, b"x")),
    "metadata of numbers": bytes(written({"__metadata__": {"a": 1}})),
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN.keys())
def test_broken_headers_are_refused(raw: bytes) -> None:
    with pytest.raises(Format, match="--opaque"):
        detect.parse("x.safetensors", HeldSource(memoryview(raw)))
