"""Files of torch.save before its zip format: the trees of the zip format, byte for byte, and nothing runs."""

from __future__ import annotations

import collections
import io
import pathlib
import pickle
import random
import re
import struct
import tarfile
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.errors import Format
from ckstore.files import detect, legacy, pickle_data, pt
from ckstore.files.pickle_limits import Limits
from ckstore.files.pickle_values import NotUnderstoodError
from ckstore.files.source import HeldSource
from ckstore.objects.draft import DraftTensor
from ckstore.objects.tree import PARAMETER, REQUIRES_GRAD, Dict
from tests.file_values import (
    DTYPES,
    Bomb,
    Restored,
    assert_same,
    assert_same_draft,
    check,
    filled,
    mutated,
    outcome,
    reassembled,
    saved,
    trained,
)

if TYPE_CHECKING:
    from ckstore.files.parsed import ParsedFile
    from ckstore.objects.draft import Draft

MUTATIONS = 20_000
PROTOCOLS = [2, 3, 4, 5]
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def old(value: object, **options: Any) -> memoryview:
    return saved(value, _use_new_zipfile_serialization=False, **options)


def parsed_file(data: memoryview) -> ParsedFile:
    parsed = legacy.parse(HeldSource(data))
    assert parsed is not None
    assert reassembled(parsed, data) == data
    check(parsed, data)
    return parsed


def assert_as_zip(value: object, **options: Any) -> dict[str, Draft]:
    """`value` in the old format gives the drafts that it gives in the zip format; those."""
    parsed = parsed_file(old(value, **options))
    zipped = pt.parse(HeldSource(saved(value, **options)))
    assert zipped is not None
    assert list(parsed.components) == list(zipped.components)
    for name, draft in parsed.components.items():
        assert_same_draft(draft, zipped.components[name])
    return parsed.components


def assert_comes_back(value: object, **options: Any) -> Draft:
    draft = assert_as_zip(value, **options)["model"]
    assert_same(Restored(draft).value, value)
    return draft


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_checkpoint_is_its_components(protocol: int) -> None:
    flatten = pytest.importorskip("ckstore.torch.flatten").flatten
    state = trained()
    state["more"] = [torch.arange(100)[10:20], torch.nn.Parameter(torch.ones(2)), {"c", "a"}, np.arange(5000)]
    components = assert_as_zip(state, pickle_protocol=protocol)
    assert list(components) == list(state)
    for name, draft in components.items():
        assert_same(Restored(draft).value, state[name])
        assert_same_draft(draft, flatten(state[name], name))
    root = components["model"].entries[0][1]
    assert root == Dict("OrderedDict", len(state["model"]), None, attributes=True)


@pytest.mark.parametrize("value", [{}, {"w": torch.ones(2)}, {"step": 1}, [1, 2], torch.ones(3), 7, None])
def test_what_is_no_dict_of_parts_is_one_component(value: object) -> None:
    assert_comes_back(value)


def test_a_state_dict_keeps_its_metadata() -> None:
    state = torch.nn.Linear(2, 2).state_dict()
    state["extra"] = torch.ones(1)
    assert hasattr(state, "_metadata")
    assert_comes_back(state)


def test_tied_weights_are_two_tensors_on_one_span() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 4))
    draft = assert_comes_back([weight, weight, weight.detach()[1:3], torch.zeros(4, 4)])
    assert [tensor.span for _, tensor in draft.entries[1:] if isinstance(tensor, DraftTensor)] == [0, 0, 0, 1]
    restored = Restored(draft).value
    assert restored[0].data_ptr() == restored[1].data_ptr() == restored[2].data_ptr() - 16


def test_a_span_is_the_smallest_range_that_covers() -> None:
    base = torch.arange(100, dtype=torch.int64)
    draft = assert_comes_back([base[10:20], base[15:40:5], base[12:14]])
    assert [(span.length, span.dtype, span.path) for span in draft.spans] == [(26 * 8, "int64", "0")]


def test_a_storage_in_two_components_is_mapped_once() -> None:
    base = torch.arange(10.0)
    parsed = parsed_file(old({"a": {"w": base[2:6]}, "b": {"w": base[:8]}, "c": [base]}))
    assert sum(segment.length for segment in parsed.segments) == 40


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_dtype_and_every_shape(protocol: int) -> None:
    tensors = [[filled((3, 2), dtype), filled((), dtype), filled((0, 4), dtype)] for dtype in DTYPES]
    assert_comes_back(tensors, pickle_protocol=protocol)


def test_strides_come_back() -> None:
    assert_comes_back(
        [
            torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            torch.randn(3, 4).t(),
            torch.randn(3, 1).expand(3, 7),
            torch.empty_strided((2, 2), (7, 3)).fill_(1.0),
            torch.randn(6)[1::2],
        ]
    )


def test_empty_tensors_have_spans_of_their_own() -> None:
    empty = torch.empty(0, 3)
    draft = assert_comes_back([empty, empty, empty.view(torch.int32), torch.randn(4)[2:2], torch.randn(2)])
    assert [span.length for span in draft.spans] == [0, 0, 0, 0, 8]


def test_flags_of_parameters() -> None:
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    value = [frozen, torch.nn.Parameter(torch.ones(2)), torch.ones(1, requires_grad=True), torch.ones(1)]
    draft = assert_comes_back(value)
    flags = [tensor.flags for _, tensor in draft.entries[1:] if isinstance(tensor, DraftTensor)]
    assert flags == [PARAMETER, PARAMETER | REQUIRES_GRAD, REQUIRES_GRAD, 0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_leaves_and_containers(protocol: int) -> None:
    value = [
        [None, True, 0, -1, 65536, 1 << 64, 0.5, 2 - 3j],
        ["", "é", "x" * 5000, b"\xff\0abc", b"y" * 9000, bytearray(b"z")],
        {1: "a", 2.5: None, (1, ("x", None)): 2, torch.float16: 4},
        collections.OrderedDict([("b", 1), ("a", [2])]),
        collections.defaultdict(list, {"x": [1]}),
        collections.Counter("hello"),
        collections.deque([1, (2,)], maxlen=4),
        [{"c", 3, (1, 2)}, frozenset({1.5, None})],
        [torch.Size([3, 4]), torch.bfloat16, torch.device("cuda:1"), pathlib.Path("/a/b")],
        [np.float32(1.5), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(5000, dtype=np.int16)],
    ]
    assert_comes_back(value, pickle_protocol=protocol)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
TENSORS = st.builds(filled, st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES))
VALUES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(VALUES, st.sampled_from(PROTOCOLS))
def test_any_value_comes_back(value: object, protocol: int) -> None:
    assert_comes_back([value], pickle_protocol=protocol)


@pytest.mark.parametrize("value", [{"w": torch.ones(2), "n": [1, "a"]}, [{"x": np.arange(9)}, b"." * 300]])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_where_a_pickle_stops(value: object, protocol: int) -> None:
    pickled = pickle.dumps(value, protocol)
    assert pickle_data.stop_of(memoryview(b"..." + pickled + b".."), 3) == 3 + len(pickled)


def test_a_mutated_pickle_stops_where_it_is_read_to() -> None:
    rng = random.Random(3)
    original = pickle.dumps([trained_numbers(), {"a": b"bc", 1: "." * 20}, [None, True, 1 << 70, 0.5, ("x",)]], 4)
    stopped = 0
    for _ in range(MUTATIONS // 4):
        data = memoryview(mutated(original, rng))
        try:
            pickle_data.load(data, Limits(data.nbytes))
        except (Format, NotUnderstoodError):
            continue
        stop = pickle_data.stop_of(data, 0)
        pickle_data.load(data[:stop], Limits(stop))
        with pytest.raises(Format):
            pickle_data.load(data[: stop - 1], Limits(stop))
        stopped += 1
    assert stopped > MUTATIONS // 100


def trained_numbers() -> dict[str, object]:
    return {f"layer.{number}": (number, float(number), [number] * 3) for number in range(8)}


def stream(
    value: bytes,
    storages: dict[str, bytes] | None = None,
    *,
    size: int = 4,
    version: bytes = pickle.dumps(1001, 2),
    system: bytes = pickle.dumps(SYSTEM, 2),
    keys: bytes | None = None,
) -> memoryview:
    """A file around the pickle `value`, its storages of elements of `size` bytes, any part of it forged."""
    storages = storages or {}
    listed = pickle.dumps(list(storages), 2) if keys is None else keys
    body = b"".join(struct.pack("<q", len(data) // size) + data for data in storages.values())
    return memoryview(MAGIC + version + system + value + listed + body)


def tensor_pickle(
    *,
    count: bytes = b"K\x04",
    shape: bytes = b"K\x04",
    view: bytes = b"N",
    key: bytes = b"0",
    kind: bytes = b"FloatStorage",
) -> bytes:
    """A pickle of one tensor, its numbers given as opcodes."""
    storage = b"(X\x07\0\0\0storagectorch\n" + kind + b"\nX" + struct.pack("<I", len(key)) + key + b"X\x03\0\0\0cpu"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + count + view + b"tQK\x00"
    return b"\x80\x02" + rebuild + b"(" + shape + b"t(K\x01t\x89N" + b"tR."


def both(first: bytes, second: bytes) -> bytes:
    """A pickle of the list of what two pickles hold."""
    return b"\x80\x02](" + first[2:-1] + second[2:-1] + b"e."


FLOATS = struct.pack("<4f", 1, 2, 3, 4)


def loaded(data: memoryview) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def test_a_forged_stream_is_one_that_torch_reads() -> None:
    data = stream(tensor_pickle(), {"0": FLOATS})
    draft = parsed_file(data).components["model"]
    assert_same(Restored(draft).value, loaded(data))


def test_storages_come_in_the_order_of_their_keys() -> None:
    data = stream(both(tensor_pickle(key=b"b"), tensor_pickle(key=b"a")), {"a": FLOATS[::-1], "b": FLOATS})
    swapped = stream(both(tensor_pickle(key=b"b"), tensor_pickle(key=b"a")), {"b": FLOATS, "a": FLOATS[::-1]})
    for one in (data, swapped):
        assert_same(Restored(parsed_file(one).components["model"]).value, loaded(one))


def test_what_follows_is_kept() -> None:
    first = old({"w": torch.ones(2)})
    for rest in (b"x", bytes(old([torch.zeros(3)]))):
        data = memoryview(bytes(first) + rest)
        assert_same(Restored(parsed_file(data).components["model"]).value, {"w": torch.ones(2)})


def tar() -> memoryview:
    """What the format before this one looks like."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(name)
            info.size = len(MAGIC)
            file.addfile(info, io.BytesIO(MAGIC))
    return memoryview(buffer.getvalue())


VIEW = b"(X\x01\0\0\x001K\x01K\x02t"
LITTLE = re.escape(b"little_endian") + rb"[q\x94][\x02]?\x88"

OPAQUE = {
    "empty": lambda: memoryview(b""),
    "half a magic number": lambda: memoryview(MAGIC[:-1]),
    "another number": lambda: memoryview(pickle.dumps(1 << 78, 2) + bytes(stream(b"N.", {}))),
    "protocol 0": lambda: old({"w": torch.ones(2)}, pickle_protocol=0),
    "protocol 1": lambda: old({"w": torch.ones(2)}, pickle_protocol=1),
    "tar": tar,
    "zip": lambda: saved({"w": torch.ones(2)}),
    "another version": lambda: stream(tensor_pickle(), {"0": FLOATS}, version=pickle.dumps(1002, 2)),
    "a version that is no number": lambda: stream(tensor_pickle(), {"0": FLOATS}, version=pickle.dumps(None, 2)),
    "no byte order": lambda: stream(tensor_pickle(), {"0": FLOATS}, system=pickle.dumps({}, 2)),
    "no note of the machine": lambda: stream(tensor_pickle(), {"0": FLOATS}, system=pickle.dumps([1], 2)),
    "a view of a storage": lambda: stream(tensor_pickle(view=VIEW, shape=b"K\x02"), {"0": FLOATS}),
    "a quantized storage": lambda: stream(tensor_pickle(kind=b"QInt32Storage"), {"0": FLOATS}),
    "an id of the zip format": lambda: stream(tensor_pickle(view=b""), {"0": FLOATS}),
    "one storage as two dtypes": lambda: stream(
        both(tensor_pickle(), tensor_pickle(kind=b"IntStorage")), {"0": FLOATS}
    ),
    "one storage of two lengths": lambda: stream(
        both(tensor_pickle(), tensor_pickle(count=b"K\x03", shape=b"K\x03")), {"0": FLOATS}
    ),
    "a module": lambda: old(torch.nn.Linear(1, 1)),
    "a storage": lambda: old([torch.ones(2).untyped_storage()]),
    "a sparse tensor": lambda: old(torch.eye(2).to_sparse()),
    "a tensor without memory": lambda: old(torch.ones(2, device="meta")),
    "a class": lambda: old({"model": {"w": torch.ones(2)}, "args": range(3)}),
}


@pytest.mark.parametrize("make", OPAQUE.values(), ids=OPAQUE.keys())
def test_what_is_not_understood_is_opaque(make: Any) -> None:
    data = make()
    assert legacy.parse(HeldSource(data)) is None
    if data[:2] != b"PK":
        parsed = detect.parse("x.pt", HeldSource(data))
        assert parsed.components == {}
        check(parsed, data)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_big_endian_files_are_opaque(protocol: int) -> None:
    data = bytes(old({"w": torch.ones(2)}, pickle_protocol=protocol))
    big = re.sub(LITTLE, lambda match: match[0][:-1] + b"\x89", data)
    assert big != data
    assert legacy.parse(HeldSource(memoryview(big))) is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_short_anywhere_is_refused(protocol: int) -> None:
    data = old({"w": torch.arange(6.0), "e": torch.empty(0), "b": torch.ones(3).half()}, pickle_protocol=protocol)
    magic = len(pickle.dumps(0x1950A86A20F9469CFC6C, protocol))
    for length in range(data.nbytes):
        if length < magic:
            assert detect.parse("x.pt", HeldSource(data[:length])).components == {}
        else:
            with pytest.raises(Format, match="--opaque"):
                detect.parse("x.pt", HeldSource(data[:length]))


LONG = b"\x8a\x08" + b"\xff" * 7 + b"\x3f"
"""2**62 - 1."""

DAMAGED = {
    "an endless storage": stream(tensor_pickle(count=LONG), {"0": FLOATS}),
    "an endless tensor": stream(tensor_pickle(shape=LONG), {"0": FLOATS}),
    "a tensor beyond its storage": stream(tensor_pickle(shape=b"K\x05"), {"0": FLOATS}),
    "a negative size": stream(tensor_pickle(shape=b"J\xff\xff\xff\xff"), {"0": FLOATS}),
    "a storage longer than its bytes": stream(tensor_pickle(count=b"K\x05"), {"0": FLOATS}),
    "a storage shorter than its bytes": stream(tensor_pickle(count=b"K\x03", shape=b"K\x03"), {"0": FLOATS}),
    "no bytes": stream(tensor_pickle(), {}, keys=pickle.dumps(["0"], 2)),
    "an unknown key": stream(tensor_pickle(), {"1": FLOATS}),
    "a key that is no text": stream(tensor_pickle(), {"0": FLOATS}, keys=pickle.dumps([[1]], 2)),
    "a key twice": stream(
        both(tensor_pickle(), tensor_pickle(key=b"1")), {"0": FLOATS}, keys=pickle.dumps(["0", "0"], 2)
    ),
    "a key too few": stream(both(tensor_pickle(), tensor_pickle(key=b"1")), {"0": FLOATS}),
    "a key too many": stream(tensor_pickle(), {"0": FLOATS, "1": FLOATS}),
    "keys that are no list": stream(tensor_pickle(), {"0": FLOATS}, keys=pickle.dumps({"0": 1}, 2)),
    "a text beyond the end": stream(b"\x80\x02X\xff\xff\xff\xffabc.", {}),
    "bytes beyond the end": stream(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.", {}),
    "no opcode": stream(b"\x80\x02\xff.", {}),
    "a global without a name": stream(b"\x80\x02cabc", {}),
    "nothing on the stack": stream(b"\x80\x02.", {}),
    "a list in itself": stream(b"\x80\x02]q\0h\0a.", {}),
    "100,000 levels of lists": stream(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", {}),
    "100,000 levels as the machine": stream(b"N.", system=b"\x80\x02)" + b"\x85" * 100_000 + b"."),
}


@pytest.mark.parametrize("name", [name for name in DAMAGED if name != "100,000 levels as the machine"])
def test_what_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(Format, match="--opaque"):
        detect.parse("x.pt", HeldSource(DAMAGED[name]))


def test_headers_that_nest_deep_are_opaque() -> None:
    assert legacy.parse(HeldSource(DAMAGED["100,000 levels as the machine"])) is None


@pytest.mark.parametrize("forged", [b"\x01" * 8, b"\xff" * 8, b"\0" * 7 + b"\x80", b"\xff" * 7 + b"\x7f", b"\0" * 8])
def test_counts_of_storages_are_checked(forged: bytes) -> None:
    data = bytearray(stream(both(tensor_pickle(), tensor_pickle(key=b"1")), {"0": FLOATS, "1": FLOATS}))
    for place in (len(data) - 24, len(data) - 48):
        changed = data.copy()
        changed[place : place + 8] = forged
        with pytest.raises(Format, match="another length"):
            legacy.parse(HeldSource(memoryview(changed)))


def test_nothing_is_allocated_for_what_is_only_claimed() -> None:
    claims = [data for name, data in DAMAGED.items() if "100,000" not in name]
    legacy.parse(HeldSource(stream(tensor_pickle(), {"0": FLOATS})))
    tracemalloc.start()
    for data in claims:
        with pytest.raises(Format):
            legacy.parse(HeldSource(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_long_storage_gives_a_pickle_no_more_room() -> None:
    lists = b"]q\0" + b"".join(b"](" + (b"h" + bytes([n])) * 10 + b"eq" + bytes([n + 1]) for n in range(6))
    value = b"\x80\x02(" + lists + tensor_pickle(count=b"J\0\0\x10\0")[2:-1] + b"t."
    with pytest.raises(Format, match="unfolds"):
        legacy.parse(HeldSource(stream(value, {"0": bytes(1 << 22)})))
    fewer = value.replace(b"h\x05" * 10, b"h\x05").replace(b"h\x04" * 10, b"h\x04")
    assert legacy.parse(HeldSource(stream(fewer, {"0": bytes(1 << 22)}))) is not None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_in_any_pickle_runs(tmp_path: pathlib.Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(f"touch {canary}"), protocol)
    among = pickle.dumps({"w": [1], "little_endian": Bomb(f"touch {canary}")}, protocol)
    rest = bytes(stream(tensor_pickle(), {"0": FLOATS}))
    hostile = [
        memoryview(bomb + rest),
        memoryview(MAGIC[:-1] + bomb + rest),
        stream(tensor_pickle(), {"0": FLOATS}, version=bomb),
        stream(tensor_pickle(), {"0": FLOATS}, system=bomb),
        stream(tensor_pickle(), {"0": FLOATS}, system=among),
        stream(bomb, {"0": FLOATS}),
        stream(among, {"0": FLOATS}),
        stream(tensor_pickle(), {"0": FLOATS}, keys=bomb),
        memoryview(rest + bomb),
        old({"model": {"w": torch.ones(2), "x": Bomb(f"touch {canary}")}}, pickle_protocol=protocol),
    ]
    outcomes = [outcome("x.pt", data) for data in hostile]
    assert outcomes == ["opaque"] * 5 + ["refused"] * 3 + ["read", "opaque"]
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists()


def small() -> bytes:
    """A file with some of everything, and little of it."""
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    value = {
        "model": collections.OrderedDict(w=weight, tied=weight.detach()[1]),
        "rest": [{1, 2}, b"\xffab", 1 << 70, torch.float16, np.float32(2), torch.ones(2, dtype=torch.uint16)],
    }
    return bytes(old(value))


def test_mutations_are_told_or_kept() -> None:
    rng = random.Random(5)
    original = small()
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(MUTATIONS):
        outcomes[outcome("x.pt", memoryview(mutated(original, rng)))] += 1
    assert set(outcomes) == {"refused", "opaque", "read"}
    assert min(outcomes.values()) > MUTATIONS // 100


def test_flipped_bytes_in_the_pickles_are_told_or_kept() -> None:
    rng = random.Random(6)
    original = small()
    limit = original.rindex(b".", 0, original.index(struct.pack("<q", 6)))
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(MUTATIONS // 2):
        data = bytearray(original)
        for _ in range(rng.choice((1, 2, 3))):
            data[len(MAGIC) + rng.randrange(limit - len(MAGIC))] ^= rng.randrange(1, 256)
        outcomes[outcome("x.pt", memoryview(data))] += 1
    assert set(outcomes) == {"refused", "opaque", "read"}
    assert min(outcomes.values()) > MUTATIONS // 100


def test_what_is_read_of_a_mutated_file_is_what_torch_reads() -> None:
    rng = random.Random(8)
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    state = collections.OrderedDict(w=weight, tied=weight.detach()[1], empty=torch.empty(0, 2))
    original = bytes(old([state, torch.zeros(3).half(), 1.5, (None, True), 300]))
    compared = 0
    for _ in range(MUTATIONS // 4):
        data = memoryview(mutated(original, rng))
        try:
            parsed = legacy.parse(HeldSource(data))
        except Format:
            continue
        if parsed is None or list(parsed.components) != ["model"]:
            continue
        try:
            value = loaded(data)
        except Exception:  # torch raises whatever it comes upon
            continue
        assert_same(Restored(parsed.components["model"]).value, value)
        compared += 1
    assert compared > MUTATIONS // 100
