"""Files made to harm: nothing runs, nothing unfolds without end, and damage is either told or kept byte for byte."""

from __future__ import annotations

import collections
import io
import pickle
import random
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ckstore.errors import Format
from ckstore.files import detect, pickle_data, pickle_limits, pt
from ckstore.files.pickle_limits import Limits
from ckstore.files.pickle_values import Call, GlobalRef, NotUnderstoodError
from ckstore.files.source import HeldSource
from ckstore.objects.tree import MAX_DEPTH
from tests.file_values import Bomb, check, mutated, outcome

if TYPE_CHECKING:
    from pathlib import Path

MUTATIONS = 20_000


def archive(pickled: bytes, storages: dict[str, bytes] | None = None) -> memoryview:
    """An archive like torch.save's around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        for key, content in (storages or {}).items():
            file.writestr(f"archive/data/{key}", content)
    return memoryview(buffer.getvalue())


def interpreted(pickled: bytes) -> Any:
    return pickle_data.load(memoryview(pickled), Limits(len(pickled)))


def tensor_pickle(
    shape: bytes, strides: bytes, *, offset: bytes = b"K\x00", count: bytes = b"K\x04", key: bytes = b"0"
) -> bytes:
    """A pickle of one float32 tensor, its numbers given as opcodes."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX" + struct.pack("<I", len(key)) + key + b"X\x03\0\0\0cpu"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + count + b"tQ" + offset
    return b"\x80\x02" + rebuild + b"(" + shape + b"t(" + strides + b"t\x89N" + b"tR."


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_in_a_pickle_runs(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    bombs: list[Any] = [Bomb(f"touch {canary}"), {"model": {"w": torch.ones(2), "x": Bomb(f"touch {canary}")}}]
    for bomb in bombs:
        buffer = io.BytesIO()
        torch.save(bomb, buffer, pickle_protocol=protocol)
        data = memoryview(buffer.getvalue())
        assert pt.parse(HeldSource(data)) is None
        check(detect.parse("x.pt", HeldSource(data)), data)
    assert not canary.exists()
    pickle.loads(pickle.dumps(bombs[0], protocol))
    assert canary.exists()


def test_calls_are_symbols() -> None:
    value = interpreted(b"\x80\x02cposix\nsystem\nX\x04\0\0\0trueq\0\x85R}b.")
    assert isinstance(value, Call)
    assert (value.func, value.args, value.state) == (GlobalRef("posix", "system"), ("true",), {})
    made = interpreted(b"\x80\x02cbuiltins\neval\n)\x81(K\x01K\x02eK\x01K\x02s.")
    assert isinstance(made, Call)
    assert interpreted(b"\x80\x02K\x07Q.").func == GlobalRef("pickle", "persistent_load")


def laugh(n: int) -> bytes:
    """A list of ten times the list in memo slot `n`, put into the next."""
    return b"](" + (b"h" + bytes([n])) * 10 + b"eq" + bytes([n + 1])


def long_text(size: int) -> bytes:
    return b"X" + struct.pack("<I", size) + b"x" * size


LAUGHS = b"\x80\x02]q\0" + b"".join(laugh(n) for n in range(20))
TUPLES = b"\x80\x02)" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))

BOMBS = {
    "lists of the same lists": LAUGHS + b".",
    "tuples of the same tuples": TUPLES + b".",
    "tuples of the same tuples as a key": b"\x80\x02}" + TUPLES[2:] + b"Ns.",
    "a set of tuples of tuples": b"\x80\x04\x8f(" + TUPLES[2:] + b"\x90.",
    "a tuple of 100,000 levels as a key": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "100,000 levels of lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "100,000 levels of tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "a list in itself": b"\x80\x02]q\0h\0a.",
    "a dict in itself": b"\x80\x02}q\0K\x01h\0s.",
    "a dict in its attributes": b"\x80\x02ccollections\nOrderedDict\n)Rq\0}X\x01\0\0\0ah\0sb.",
    "a long text many times": b"\x80\x02](X"
    + struct.pack("<I", 1 << 20)
    + b"x" * (1 << 20)
    + b"q\0"
    + b"h\0" * 2000
    + b"e.",
    "long bytes encoded many times": b"\x80\x02"
    + (long_text(1 << 20) + long_text(6).replace(b"x" * 6, b"latin1") + b"\x86q\0](")
    + b"c_codecs\nencode\nh\0R" * 2000
    + b"e.",
    "a long number as key, many times": b"\x80\x02}(\x8b"
    + struct.pack("<i", 1 << 17)
    + b"\1" * (1 << 17)
    + b"q\0N"
    + b"h\0N" * 20_000
    + b"u.",
    "long arguments many times": b"\x80\x02(" + b"N" * 50_000 + b"tq\0](" + b"ctorch\nSize\nh\0R" * 50_000 + b"e.",
}


@pytest.mark.parametrize("pickled", BOMBS.values(), ids=BOMBS.keys())
def test_what_unfolds_without_end_is_refused(pickled: bytes) -> None:
    with pytest.raises(Format, match="--opaque"):
        pt.parse(HeldSource(archive(pickled)))


def test_keys_made_to_collide_are_not_tabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_limits, "MAX_ODD_KEYS", 500)
    # hash(-1) == hash(-2), so that all of these tuples have one hash.
    keys = [tuple(-1 - (n >> bit & 1) for bit in range(10)) for n in range(1 << 10)]
    assert len({hash(key) for key in keys}) == 1
    words = b"".join(b"(" + b"".join(b"J" + struct.pack("<i", n) for n in key) + b"tN" for key in keys)
    with pytest.raises(NotUnderstoodError):
        interpreted(b"\x80\x02}(" + words + b"u.")


def test_many_keys_of_text_are_fine() -> None:
    merges = {(f"a{n}", f"b{n}"): n for n in range(30_000)}
    assert interpreted(pickle.dumps(merges, 2)) == merges


def test_depth_up_to_the_limit() -> None:
    nested: Any = torch.ones(1)
    for _ in range(MAX_DEPTH):
        nested = [nested]
    buffer = io.BytesIO()
    torch.save(nested, buffer)
    data = memoryview(buffer.getvalue())
    parsed = pt.parse(HeldSource(data))
    assert parsed is not None
    check(parsed, data)
    assert parsed.components["model"].spans[0].path == ".".join("0" * MAX_DEPTH)


DAMAGED = {
    "empty": b"",
    "no stop": b"\x80\x02N",
    "nothing on the stack": b"\x80\x02.",
    "under the mark": b"\x80\x02N(a.",
    "no mark": b"\x80\x02Nt.",
    "an unknown memo slot": b"\x80\x02h\x09.",
    "no opcode": b"\x80\x02\xff.",
    "a text beyond the end": b"\x80\x02X\xff\xff\xff\xffabc.",
    "bytes beyond the end": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.",
    "a number of negative length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "a text that is not UTF-8": b"\x80\x02X\x01\0\0\0\xff.",
    "a list as key": b"\x80\x02}]Ns.",
    "an odd number of keys and values": b"\x80\x02}(Nu.",
    "items of a number": b"\x80\x02K\x01Na.",
    "state of a list": b"\x80\x02]}b.",
    "a global without a name": b"\x80\x02cabc",
    "a global whose name is a number": b"\x80\x04K\x01K\x02\x93.",
    "arguments that are a list": b"\x80\x02ccollections\nOrderedDict\n]R.",
}


@pytest.mark.parametrize("pickled", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_pickle_is_refused(pickled: bytes) -> None:
    with pytest.raises(Format, match="--opaque"):
        pt.parse(HeldSource(archive(pickled)))


@pytest.mark.parametrize("pickled", [b"I1\n.", b"\x80\x63N.", b"\x80\x02\x82\x01.", b"\x80\x05\x97."])
def test_opcodes_that_are_not_read_make_the_file_opaque(pickled: bytes) -> None:
    assert pt.parse(HeldSource(archive(pickled))) is None


ONE = b"K\x01"
IMPOSSIBLE = {
    "negative size": tensor_pickle(b"J\xff\xff\xff\xff", ONE),
    "negative stride": tensor_pickle(b"K\x02", b"J\xff\xff\xff\xff"),
    "negative offset": tensor_pickle(b"K\x02", ONE, offset=b"J\xff\xff\xff\xff"),
    "huge size": tensor_pickle(b"\x8a\x09" + b"\xff" * 8 + b"\0", ONE),
    "sizes whose product wraps": tensor_pickle(b"\x8a\x05\0\0\0\0\x01" * 2, b"K\x00" + ONE),
    "more sizes than strides": tensor_pickle(ONE + ONE, ONE),
    "beyond its storage": tensor_pickle(b"K\x05", ONE),
    "beyond its storage by its offset": tensor_pickle(b"K\x04", ONE, offset=ONE),
    "beyond its storage by its stride": tensor_pickle(b"K\x03", b"K\x02"),
    "a storage longer than its entry": tensor_pickle(ONE, ONE, count=b"K\x05"),
    "an endless storage": tensor_pickle(ONE, ONE, count=b"\x8a\x09" + b"\xff" * 8 + b"\0"),
    "a storage that is not there": tensor_pickle(ONE, ONE, key=b"../../etc/passwd"),
}


@pytest.mark.parametrize("pickled", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_tensors_that_do_not_fit_are_refused(pickled: bytes) -> None:
    with pytest.raises(Format, match="--opaque"):
        pt.parse(HeldSource(archive(pickled, {"0": bytes(16)})))
    fitting = archive(tensor_pickle(b"K\x02K\x02", b"K\x02K\x01"), {"0": bytes(16)})
    assert pt.parse(HeldSource(fitting)) is not None


def test_a_tensor_that_does_not_fit_is_named() -> None:
    bad = b"\x80\x02}X\x05\0\0\0layerK\x00" + tensor_pickle(b"K\x09", ONE)[2:-1]
    with pytest.raises(Format, match=r"model\.layer"):
        pt.parse(HeldSource(archive(bad.replace(b"K\x00ctorch", b"ctorch", 1) + b"s.", {"0": bytes(16)})))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_are_never_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    state = {"../../up": torch.ones(2), "/etc/passwd": torch.ones(3), "a\0b": torch.ones(1), "C:\\x": [1]}
    torch.save(state, buffer)
    data = memoryview(buffer.getvalue())
    parsed = pt.parse(HeldSource(data))
    assert parsed is not None
    check(parsed, data)
    assert list(parsed.components) == list(state)
    escaping = archive(tensor_pickle(ONE, ONE, key=b"../../up"), {"../../up": bytes(16)})
    parsed = pt.parse(HeldSource(escaping))
    assert parsed is not None
    check(parsed, escaping)
    data = memoryview(save({"../../up": torch.ones(2), "": torch.ones(1)}))
    check(detect.parse("x.safetensors", HeldSource(data)), data)
    assert list(tmp_path.iterdir()) == []


def test_entries_of_one_name_or_one_place_are_refused() -> None:
    data = bytearray(archive(tensor_pickle(ONE, ONE), {"0": bytes(16), "1": bytes(16)}))
    same_name = data.replace(b"archive/data/1", b"archive/data/0")
    with pytest.raises(Format, match="two entries"):
        pt.parse(HeldSource(memoryview(same_name)))
    directory = data.rindex(b"PK\x01\x02")
    before = data.rindex(b"PK\x01\x02", 0, directory)
    data[directory + 42 : directory + 46] = data[before + 42 : before + 46]
    with pytest.raises(Format, match="overlaps"):
        pt.parse(HeldSource(memoryview(data)))


@pytest.mark.parametrize("size", [0xFFFFFFF0, 1 << 30])
def test_sizes_in_the_directory_are_checked_before_they_are_used(size: int) -> None:
    data = bytearray(archive(tensor_pickle(ONE, ONE), {"0": bytes(16)}))
    end = data.rindex(b"PK\x05\x06")
    claimed = data.copy()
    claimed[end + 12 : end + 16] = struct.pack("<I", size)
    with pytest.raises(Format, match="directory"):
        pt.parse(HeldSource(memoryview(claimed)))
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", size, size)
    with pytest.raises(Format, match="cut short"):
        pt.parse(HeldSource(memoryview(data)))


def small_pt() -> bytes:
    """A file of torch.save with some of everything, and little of it."""
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    model = torch.nn.Linear(2, 1, bias=False).state_dict()
    value = {
        "model": collections.OrderedDict(model, tied=[weight, weight.detach()[1]]),
        "optimizer": {0: (torch.ones(2, dtype=torch.bfloat16), 1.5, None, True), "n": np.float32(2)},
        "rest": [{1, 2}, b"\xffab", 1 << 70, torch.float16, torch.Size([2]), np.arange(3), torch.device("cpu")],
    }
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def small_safetensors() -> bytes:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    return save({**state, "c": torch.tensor(True), "d": torch.zeros(0, 2)}, metadata={"step": "3"})


FORMATS = {"x.pt": small_pt, "x.safetensors": small_safetensors}


@pytest.mark.parametrize("name", FORMATS)
def test_mutations_are_told_or_kept(name: str) -> None:
    rng = random.Random(name)
    original = FORMATS[name]()
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(MUTATIONS):
        outcomes[outcome(name, memoryview(mutated(original, rng)))] += 1
    assert min(outcomes["refused"], outcomes["read"]) > MUTATIONS // 100


def test_flipped_bytes_in_the_pickle_of_an_archive_are_told_or_kept() -> None:
    rng = random.Random(11)
    original = small_pt()
    with zipfile.ZipFile(io.BytesIO(original)) as file:
        pickled = file.read("archive/data.pkl")
    start = original.index(pickled)
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(MUTATIONS // 2):
        data = bytearray(original)
        for _ in range(rng.choice((1, 2, 3))):
            data[start + rng.randrange(len(pickled))] ^= rng.randrange(1, 256)
        outcomes[outcome("x.pt", memoryview(data))] += 1
    assert set(outcomes) == {"refused", "opaque", "read"}
    assert min(outcomes.values()) > MUTATIONS // 100


def test_mutated_pickles_are_told_or_kept() -> None:
    rng = random.Random(7)
    with zipfile.ZipFile(io.BytesIO(small_pt())) as file:
        original = file.read("archive/data.pkl")
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(MUTATIONS):
        pickled = mutated(original, rng)
        try:
            interpreted(pickled)
            outcomes["read"] += 1
        except (Format, NotUnderstoodError) as error:
            outcomes[type(error).__name__] += 1
    assert min(outcomes.values()) > MUTATIONS // 1000
    assert len(outcomes) == 3


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files_are_refused(name: str) -> None:
    data = memoryview(FORMATS[name]())
    for length in range(4, data.nbytes, 97):
        with pytest.raises(Format, match="--opaque"):
            detect.parse(name, HeldSource(data[:length]))
