"""GGUF files as trees: every byte of the file comes back, every tensor reads from its span."""

from __future__ import annotations

import collections
import math
import random
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import gguf as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.errors import Format
from ckstore.files import detect, gguf
from ckstore.files.bundle import bundle_files
from ckstore.files.source import HeldSource
from ckstore.objects.draft import DraftTensor
from ckstore.objects.tree import Dict
from tests.file_values import Restored, assert_same, assert_same_draft, check, mutated, outcome, reassembled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckstore.files.parsed import ParsedFile

MUTATIONS = 20_000
KINDS = reference.GGMLQuantizationType

TYPES = {
    torch.float32: KINDS.F32,
    torch.float16: KINDS.F16,
    torch.bfloat16: KINDS.BF16,
    torch.float64: KINDS.F64,
    torch.int8: KINDS.I8,
    torch.int16: KINDS.I16,
    torch.int32: KINDS.I32,
    torch.int64: KINDS.I64,
}
QUANTISED = sorted(set(reference.GGML_QUANT_SIZES) - set(TYPES.values()) - {KINDS.Q8_1})


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def written(
    path: Path,
    state: dict[str, torch.Tensor],
    *,
    quantised: dict[str, tuple[int, int, bytes]] | None = None,
    alignment: int | None = None,
    endian: reference.GGUFEndian = reference.GGUFEndian.LITTLE,
) -> memoryview:
    """A file by the format's own package, with metadata of every type."""
    writer = reference.GGUFWriter(path, "llama", endianess=endian)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_uint8("x.u8", 1)
    writer.add_int8("x.i8", -1)
    writer.add_uint16("x.u16", 2)
    writer.add_int16("x.i16", -2)
    writer.add_uint32("x.u32", 3)
    writer.add_int32("x.i32", -3)
    writer.add_float32("x.f32", 0.5)
    writer.add_uint64("x.u64", 4)
    writer.add_int64("x.i64", -4)
    writer.add_float64("x.f64", 0.25)
    writer.add_bool("x.bool", val=True)
    writer.add_string("x.text", "é")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "é" * 40])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_array("x.nested", [[1, 2], [3]])
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if tensor.dtype == torch.bfloat16:
            array = np.frombuffer(raw(tensor), np.uint8).reshape(*shape[:-1], shape[-1] * 2)
            writer.add_tensor(name, array, raw_dtype=KINDS.BF16)
        else:
            writer.add_tensor(name, tensor.numpy())
    for name, (kind, rows, content) in (quantised or {}).items():
        writer.add_tensor(name, np.frombuffer(content, np.uint8).reshape(rows, -1), raw_dtype=KINDS(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return memoryview(path.read_bytes())


def parsed_file(data: memoryview) -> ParsedFile:
    parsed = gguf.parse(HeldSource(data))
    assert parsed is not None
    assert reassembled(parsed, data) == data
    check(parsed, data)
    return parsed


def value(data: memoryview) -> Any:
    return Restored(parsed_file(data).components["model"]).value


def random_state() -> dict[str, torch.Tensor]:
    shapes = ((3, 4), (7,), (2, 1, 5), (1, 2, 3, 4))
    return {
        f"blk.{number}.{str(dtype)[6:]}": torch.randint(-9, 9, shapes[number % 4]).to(dtype)
        for number, dtype in enumerate(TYPES)
    }


def test_every_dtype_comes_back(tmp_path: Path) -> None:
    state = random_state()
    data = written(tmp_path / "x.gguf", state)
    assert_same(value(data), state)
    parsed = detect.parse("x.gguf", HeldSource(data))
    assert list(parsed.components) == ["model"]
    assert detect.parse("x.gguf", HeldSource(data), opaque=True).components == {}


def test_the_draft_is_that_of_an_in_memory_commit(tmp_path: Path) -> None:
    flatten = pytest.importorskip("ckstore.torch.flatten").flatten
    state = {**random_state(), "ünï.weight": torch.ones(3)}
    draft = parsed_file(written(tmp_path / "x.gguf", state)).components["model"]
    assert_same_draft(draft, flatten(state, "model"))


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_quantised_tensors_are_the_bytes_of_their_blocks(tmp_path: Path, kind: KINDS) -> None:
    _, size = reference.GGML_QUANT_SIZES[kind]
    content = random.Random(1).randbytes(3 * 2 * size)
    data = written(tmp_path / "x.gguf", {"w": torch.ones(2)}, quantised={"q": (kind, 3, content)})
    assert_same(value(data)["q"], torch.tensor(list(content), dtype=torch.uint8))
    entry = parsed_file(data).components["model"].entries[2][1]
    assert isinstance(entry, DraftTensor)
    assert (entry.dtype, entry.shape, entry.strides) == ("uint8", (len(content),), None)


def test_tensors_are_those_that_the_reference_reads(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(4 * 34)
    data = written(tmp_path / "x.gguf", random_state(), quantised={"q": (KINDS.Q8_0, 2, content)})
    tensors = reference.GGUFReader(tmp_path / "x.gguf").tensors
    draft = parsed_file(data).components["model"]
    assert [entry[0] for entry in draft.entries[1:]] == [tensor.name for tensor in tensors]
    for span, tensor in zip(draft.spans, tensors, strict=True):
        assert bytes(span.open(0, span.length)) == tensor.data.tobytes()


@pytest.mark.parametrize("alignment", [1, 2, 8, 64, 4096])
def test_other_alignments(tmp_path: Path, alignment: int) -> None:
    state = random_state()
    data = written(tmp_path / "x.gguf", state, alignment=alignment)
    assert_same(value(data), state)


def test_version_2_is_read_and_others_are_opaque(tmp_path: Path) -> None:
    state = random_state()
    data = bytearray(written(tmp_path / "x.gguf", state))
    for version, known in ((1, False), (2, True), (3, True), (4, False), (3 << 24, False)):
        data[4:8] = struct.pack("<I", version)
        assert (gguf.parse(HeldSource(memoryview(data))) is not None) == known
    data[4:8] = struct.pack("<I", 2)
    assert_same(value(memoryview(data)), state)


def test_big_endian_files_are_opaque(tmp_path: Path) -> None:
    data = written(tmp_path / "x.gguf", {"w": torch.ones(2)}, endian=reference.GGUFEndian.BIG)
    assert gguf.parse(HeldSource(data)) is None
    parsed = detect.parse("x.gguf", HeldSource(data))
    assert parsed.components == {}
    check(parsed, data)


def test_a_file_of_metadata_alone(tmp_path: Path) -> None:
    data = written(tmp_path / "x.gguf", {})
    assert value(data) == {}
    assert value(built([])) == {}


def test_shards_are_one_component(tmp_path: Path) -> None:
    sources = {
        f"m-0000{number}-of-00002.gguf": HeldSource(
            written(tmp_path / f"{number}.gguf", {f"blk.{number}": torch.full((4,), float(number))})
        )
        for number in (1, 2)
    }
    bundle = bundle_files(sources)
    assert list(bundle.components) == ["m"]
    assert list(Restored(bundle.components["m"]).value) == ["blk.1", "blk.2"]


def text(content: str | bytes) -> bytes:
    encoded = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(encoded)) + encoded


def described(name: str | bytes, shape: Sequence[int], kind: int, offset: int, *, dims: int | None = None) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *reversed(shape))
    return (
        text(name) + struct.pack("<I", len(shape) if dims is None else dims) + sizes + struct.pack("<IQ", kind, offset)
    )


def built(
    tensors: Sequence[bytes],
    body: bytes = b"",
    *,
    pairs: Sequence[bytes] = (),
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> memoryview:
    """A file of these parts."""
    counted = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", 3, *counted) + b"".join(pairs) + b"".join(tensors)
    if tensors:
        head += bytes(-len(head) % alignment)
    return memoryview(head + body)


def pair(key: str | bytes, kind: int, content: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + content


FLOATS = struct.pack("<8f", *range(8))


def test_tensors_may_lie_in_any_order_and_leave_holes() -> None:
    data = built(
        [
            described("late", [2], 0, 96),
            described("early", [1, 8], 0, 0),
            described("empty", [0, 3], 0, 96),
            described("scalar", [], 0, 64),
        ],
        FLOATS + bytes(32) + FLOATS[4:8] + bytes(28) + FLOATS[8:16] + b"rest",
    )
    floats = torch.arange(8.0)
    expected = {"late": floats[2:4], "early": floats[None], "empty": torch.zeros(0, 3), "scalar": floats[1]}
    assert_same(value(data), expected)
    assert list(value(data)) == list(expected)


def test_a_long_tail_need_not_be_padded() -> None:
    assert_same(value(built([described("w", [1], 0, 0)], FLOATS[:4])), {"w": torch.zeros(1)})


def test_spans_are_the_file_itself() -> None:
    raw_file = bytearray(built([described("w", [8], 0, 0)], FLOATS))
    parsed = gguf.parse(HeldSource(memoryview(raw_file)))
    assert parsed is not None
    view = parsed.components["model"].spans[0].open(0, 4)
    raw_file[-32:-28] = b"abcd"
    assert bytes(view) == b"abcd"


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SHAPES = st.lists(st.integers(0, 4), max_size=5)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(list(TYPES)), SHAPES), max_size=6), st.sampled_from([4, 8, 24, 32])
)
def test_any_state_comes_back(described_state: dict[str, tuple[torch.dtype, list[int]]], alignment: int) -> None:
    state = {name: torch.randint(0, 9, shape).to(dtype) for name, (dtype, shape) in described_state.items()}
    body, infos = b"", []
    for name, tensor in state.items():
        infos.append(described(name, tensor.shape, TYPES[tensor.dtype], len(body)))
        body += raw(tensor) + bytes(-tensor.nbytes % alignment)
    pairs = [pair("general.alignment", 4, struct.pack("<I", alignment))]
    assert_same(value(built(infos, body, pairs=pairs, alignment=alignment)), state)


NESTED = pair("k", 9, array(9, 1) * 15 + array(0, 1, b"x"))

OPAQUE = {
    "nothing": memoryview(b""),
    "half a magic": memoryview(b"GGU"),
    "an unknown value": built([], pairs=[pair("k", 13, b"")]),
    "an array of unknown values": built([], pairs=[pair("k", 9, array(13, 1))]),
    "arrays without end": built([], pairs=[pair("k", 9, array(9, 1) * 100_000)]),
    "an unknown tensor": built([described("w", [8], 42, 0)], FLOATS),
    "a removed type of tensors": built([described("w", [32], 4, 0)], FLOATS),
    "blocks of disputed size": built([described("w", [32], 9, 0)], bytes(64)),
}


@pytest.mark.parametrize("data", OPAQUE.values(), ids=OPAQUE.keys())
def test_what_is_not_known_is_opaque(data: memoryview) -> None:
    assert gguf.parse(HeldSource(data)) is None
    parsed = detect.parse("x.gguf", HeldSource(data))
    assert parsed.components == {}
    check(parsed, data)


def test_metadata_of_nested_arrays_is_passed_over() -> None:
    tensor = described("w", [8], 0, 0)
    for metadata in (NESTED, pair("k", 9, array(9, 2, array(8, 2, text("a") + text("")) + array(12, 0)))):
        assert_same(value(built([tensor], FLOATS, pairs=[metadata])), {"w": torch.arange(8.0)})


HUGE = (1 << 63) - 1
MOST = (1 << 64) - 1

DAMAGED = {
    "nothing but a magic": memoryview(b"GGUF"),
    "no counts": memoryview(b"GGUF\3\0\0\0"),
    "endless tensors": built([], counts=(MOST, 0)),
    "endless metadata": built([], counts=(0, MOST)),
    "a key twice": built([], pairs=[pair("k", 0, b"x")] * 2),
    "a long key": built([], pairs=[pair("k" * (1 << 16), 0, b"x")]),
    "an endless key": built([], pairs=[struct.pack("<Q", MOST) + b"k"]),
    "an endless text": built([], pairs=[pair("k", 8, struct.pack("<Q", MOST) + b"abc")]),
    "an endless array": built([], pairs=[pair("k", 9, array(10, MOST))]),
    "an array whose size wraps": built([], pairs=[pair("k", 9, array(10, 1 << 61))]),
    "endless texts": built([], pairs=[pair("k", 9, array(8, MOST, bytes(800)))]),
    "endless arrays": built([], pairs=[pair("k", 9, array(9, MOST, array(0, 0) * 50))]),
    "an array cut short": built([], pairs=[pair("k", 9, array(8, 3, text("a") * 2))]),
    "no alignment": built([], pairs=[pair("general.alignment", 4, bytes(4))]),
    "an alignment of 12": built([], pairs=[pair("general.alignment", 4, struct.pack("<I", 12))]),
    "an alignment of 33": built([], pairs=[pair("general.alignment", 4, struct.pack("<I", 33))]),
    "an alignment that is a text": built([], pairs=[pair("general.alignment", 8, text("32"))]),
    "an alignment beyond the end": built(
        [described("w", [8], 0, 0)], FLOATS, pairs=[pair("general.alignment", 4, struct.pack("<I", 1 << 31))]
    ),
    "two tensors of one name": built([described("w", [8], 0, 0), described("w", [0], 0, 0)], FLOATS),
    "a name that is not UTF-8": built([described(b"w\xff", [8], 0, 0)], FLOATS),
    "half a surrogate": built([described(b"\xed\xa0\x80", [8], 0, 0)], FLOATS),
    "a long name": built([described("w" * 5000, [8], 0, 0)], FLOATS),
    "an endless name": built([struct.pack("<Q", MOST) + b"w"], FLOATS),
    "65 sizes": built([described("w", [1] * 65, 0, 0)], FLOATS),
    "endless sizes": built([described("w", [8], 0, 0, dims=(1 << 32) - 1)], FLOATS),
    "a huge tensor": built([described("w", [HUGE], 0, 0)], FLOATS),
    "a negative size": built([described("w", [MOST], 0, 0)], FLOATS),
    "a negative size of an empty tensor": built([described("w", [0, MOST], 0, 0)], FLOATS),
    "sizes whose product wraps": built([described("w", [1 << 32, 1 << 32], 0, 0)], FLOATS),
    "half a block": built([described("w", [2, 16], 2, 0)], FLOATS),
    "a block of no size": built([described("w", [], 2, 0)], FLOATS),
    "blocks beyond the end": built([described("w", [64], 2, 0)], FLOATS),
    "beyond the end": built([described("w", [9], 0, 0)], FLOATS),
    "beyond the end by its offset": built([described("w", [8], 0, 32)], FLOATS),
    "an endless offset": built([described("w", [8], 0, MOST - 31)], FLOATS),
    "not aligned": built([described("w", [4], 0, 16)], FLOATS),
    "overlap": built([described("v", [8], 0, 0), described("w", [8], 0, 0)], FLOATS),
    "overlap of the second with the third": built(
        [described("u", [1], 0, 0), described("v", [16], 0, 32), described("w", [8], 0, 64)], FLOATS * 3
    ),
    "overlap over an empty tensor": built(
        [described("u", [16], 0, 0), described("v", [0], 0, 32), described("w", [8], 0, 32)], FLOATS * 2
    ),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_contradicts_itself_is_refused(data: memoryview) -> None:
    with pytest.raises(Format, match="--opaque"):
        detect.parse("x.gguf", HeldSource(data))


def test_nothing_is_allocated_for_what_is_only_claimed() -> None:
    tracemalloc.start()
    started = time.perf_counter()
    for data in DAMAGED.values():
        with pytest.raises(Format):
            gguf.parse(HeldSource(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert time.perf_counter() - started < 2


def test_only_so_many_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_VALUES", 12)
    fine = [pair("k", 9, array(8, 10, text("") * 10))]
    assert gguf.parse(HeldSource(built([described("w", [8], 0, 0)], FLOATS, pairs=fine))) is not None
    for pairs in ([pair("k", 9, array(8, 11, text("") * 11))], [pair(f"k{n}", 0, b"x") for n in range(12)]):
        with pytest.raises(Format, match="values"):
            gguf.parse(HeldSource(built([described("w", [8], 0, 0)], FLOATS, pairs=pairs)))


def small() -> bytes:
    """A file with some of everything, and little of it."""
    pairs = [
        pair("general.architecture", 8, text("llama")),
        pair("general.alignment", 4, struct.pack("<I", 8)),
        pair("x.tokens", 9, array(8, 3, text("a") + text("bc") + text(""))),
        pair("x.nested", 9, array(9, 1, array(5, 2, bytes(8)))),
        pair("x.rate", 12, struct.pack("<d", 0.5)),
    ]
    tensors = [described("a", [2, 3], 0, 0), described("b.weight", [32], 8, 24), described("c", [3], 30, 64)]
    return bytes(built(tensors, FLOATS[:24] + bytes(range(34)) + bytes(6) + b"\x80\x3f" * 3, pairs=pairs, alignment=8))


def test_a_file_cut_short_anywhere_is_refused() -> None:
    data = memoryview(small())
    for length in range(4, data.nbytes):
        with pytest.raises(Format, match="--opaque"):
            detect.parse("x.gguf", HeldSource(data[:length]))


def test_mutations_are_told_or_kept() -> None:
    rng = random.Random(9)
    original = small()
    assert gguf.parse(HeldSource(memoryview(original))) is not None
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(MUTATIONS):
        outcomes[outcome("x.gguf", memoryview(mutated(original, rng)))] += 1
    assert set(outcomes) == {"refused", "opaque", "read"}
    assert min(outcomes.values()) > MUTATIONS // 100


def test_ten_thousand_tensors_and_a_large_vocabulary() -> None:
    tokens = [pair("tokenizer.ggml.tokens", 9, array(8, 200_000, text("token") * 200_000))]
    infos = [described(f"blk.{number}.weight", [2, 4], 0, 32 * number) for number in range(10_000)]
    parsed = parsed_file(built(infos, FLOATS * 10_000, pairs=tokens))
    draft = parsed.components["model"]
    assert draft.entries[0] == (None, Dict("dict", 10_000))
    assert sum(segment.length for segment in parsed.segments) == math.prod((10_000, 2, 4, 4))
