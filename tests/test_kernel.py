"""The compiled passes against numpy's: the same planes in the same way, and as hard on forged payloads."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.codec import compiled
from ckstore.codec.choice import Coder
from ckstore.codec.compiled import CompiledPasses, passes_of
from ckstore.codec.encoded import Codec
from ckstore.codec.numpy_passes import NumpyPasses
from ckstore.codec.payload import COUNTED, DIFFERENCE, HALVED, ROTATED, Coded, Mode, head, open_payload
from ckstore.codec.preset import ARCHIVE, BALANCED
from ckstore.errors import Integrity
from tests import coding

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.codec.passes import Passes
    from ckstore.codec.preset import Preset

pytestmark = pytest.mark.skipif(compiled.KERNEL is None, reason="nothing was compiled here")

DTYPES = {"float8_e5m2": 1, "bfloat16": 2, "int16": 2, "float32": 4, "int32": 4, "float64": 8, "int64": 8}


def both(width: int) -> tuple[Passes, Passes]:
    """Numpy's passes and the compiled ones."""
    assert compiled.KERNEL is not None
    return NumpyPasses(width), CompiledPasses(width, compiled.KERNEL)


def coders() -> tuple[Coder, Coder]:
    """A coder with numpy's passes and one with the compiled ones."""
    assert compiled.KERNEL is not None
    return Coder(NumpyPasses), Coder(partial(CompiledPasses, kernel=compiled.KERNEL))


BY_NUMPY, BY_KERNEL = coders() if compiled.KERNEL is not None else (Coder(), Coder())


def numbers(seed: int, length: int, spread: int) -> bytes:
    """Bytes with noise low in every element and few values high in it."""
    rng = np.random.default_rng(seed)
    return rng.integers(1000, 1000 + spread, -(-length // 4), dtype=np.uint32).tobytes()[:length]


def opened(codec: int, payload: bytes, width: int, length: int) -> object:
    """What a payload says, its frames decoded: numpy's passes cannot tell zstd not to look for repeats."""
    if codec not in (Codec.PLANES, Codec.DELTA):
        return payload
    flags, planes, tail = open_payload(memoryview(payload), width, length, difference=codec == Codec.DELTA)
    plain = [
        (one.mode, one.low, one.number, zstandard.decompress(one.frame), bytes(one.escapes))
        if isinstance(one, Coded) and one.mode != Mode.ZSTD
        else zstandard.decompress(one.frame)
        if isinstance(one, Coded)
        else one
        for one in planes
    ]
    return flags, plain, bytes(tail)


def same_both_ways(raw: bytes, dtype: str, base: bytes | None, preset: Preset) -> None:
    one, other = (coding.encode(coder, raw, dtype, base, preset) for coder in (BY_NUMPY, BY_KERNEL))
    if other[0].codec == one[0].codec:  # a chunk just at the edge of what is worth it may stay raw with one of them
        (codec, width, _, _, busy), payload = one
        assert (width, busy) == (other[0].width, other[0].busy)
        assert opened(codec, payload, width, len(raw)) == opened(codec, other[1], width, len(raw))
        assert other[1] == payload or len(other[1]) == pytest.approx(len(payload), rel=0.02, abs=20)
    for coder in (BY_NUMPY, BY_KERNEL):
        for encoded, payload in (one, other):
            assert coding.decode(coder, encoded.codec, encoded.width, payload, base or b"", len(raw)) == raw


def test_the_kernel_is_chosen_where_it_is() -> None:
    assert isinstance(passes_of(4), CompiledPasses)


@settings(max_examples=300, deadline=None)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    length=st.integers(0, 70_000),
    spread=st.sampled_from([1, 3, 100, 60_000, 1 << 20, 1 << 31]),
    seed=st.integers(0, 1 << 30),
    delta=st.sampled_from([None, 0, 1, 300, 1 << 24]),
    preset=st.sampled_from([BALANCED, ARCHIVE]),
)
def test_payloads_are_the_same(
    dtype: str, length: int, spread: int, seed: int, delta: int | None, preset: Preset
) -> None:
    raw = numbers(seed, length, spread)
    base = None
    if delta is not None:
        news = np.frombuffer(raw[: length // 4 * 4], np.uint32)
        olds = (news + np.random.default_rng(seed).integers(0, delta + 1, len(news))).astype(np.uint32)
        base = olds.tobytes() + raw[length // 4 * 4 :]
    same_both_ways(raw, dtype, base, preset)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=6),
    weights=st.lists(st.integers(1, 300), min_size=6, max_size=6),
    length=st.integers(1, 9000),
    seed=st.integers(0, 1 << 30),
    dtype=st.sampled_from(sorted(DTYPES)),
)
def test_planes_of_few_values(values: list[int], weights: list[int], length: int, seed: int, dtype: str) -> None:
    raw = bytes(random.Random(seed).choices(values, weights[: len(values)], k=length))
    same_both_ways(raw, dtype, None, ARCHIVE)
    same_both_ways(raw, dtype, bytes(length), ARCHIVE)


@settings(max_examples=300, deadline=None)
@given(
    width=st.sampled_from([1, 2, 4, 8]),
    count=st.integers(0, 5000),
    rotated=st.booleans(),
    halved=st.booleans(),
    difference=st.booleans(),
    off=st.sampled_from([0, 0, 0, 1, -1]),
    seed=st.integers(0, 1 << 30),
)
def test_any_planes_are_joined_to_the_same(
    width: int, count: int, rotated: bool, halved: bool, difference: bool, off: int, seed: int
) -> None:
    """Whatever a payload may hold, and packed planes whose escapes do not come out even."""
    halved = halved and width > 2
    rng = np.random.default_rng(seed)
    lengths = [count * (width // 2)] + [count] * (width // 2) if halved else [count] * width
    planes: list[tuple[Mode, bytes]] = []
    for length in lengths:
        mode = Mode(rng.choice(list(Mode))) if length else Mode.RAW
        low, number = int(rng.integers(256)), 0
        if mode == Mode.CONSTANT:
            planes.append((mode, bytes([low])))
            continue
        if mode in (Mode.RAW, Mode.ZSTD):
            content = rng.bytes(length)
        elif mode == Mode.SPARSE:
            gaps = rng.integers(0, 256, int(rng.integers(length // 300 + 5)), np.uint8)
            gaps[rng.random(len(gaps)) < 0.3] = 255
            number = max(0, min(length, int((gaps != 255).sum()) + off))
            content = gaps.tobytes() + rng.bytes(number)
        else:
            content = rng.bytes(-(-length // 4) * mode // 2)
            places = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little").reshape(-1, mode)[:length]
            number = max(0, min(length, int(places.all(axis=1).sum()) + off))
        if mode == Mode.RAW:
            planes.append((mode, content))
            continue
        frame = bytearray(zstandard.compress(content + b"x" * (rng.random() < 0.1)))
        if content and rng.random() < 0.1:
            frame[rng.integers(len(frame))] ^= 4
        if content and rng.random() < 0.1:
            frame += zstandard.compress(b"") if rng.random() < 0.5 else b"\0"
        escapes = rng.bytes(number) if mode in (Mode.PACKED2, Mode.PACKED4) else b""
        planes.append((mode, (b"" if mode == Mode.ZSTD else COUNTED.pack(low, number)) + bytes(frame) + escapes))
    flags = DIFFERENCE * difference | ROTATED * (rotated and not difference) | HALVED * halved
    tail = rng.bytes(int(rng.integers(width)))
    payload = head(flags, width, [(mode, len(body)) for mode, body in planes]) + b"".join(
        [body for _, body in planes] + [tail]
    )
    payload = b"x" + payload  # at an odd place in memory
    before = rng.bytes(count * width + len(tail))
    results: list[bytes | None] = []
    for passes in both(width):
        target = bytearray(before)
        try:
            passes.decode(memoryview(payload)[1:], memoryview(target), difference=difference)
            results.append(bytes(target))
        except Integrity:
            results.append(None)
    assert results[0] == results[1]


@pytest.mark.parametrize("delta", [False, True])
def test_forged_payloads_are_refused_alike(delta: bool) -> None:
    rng = random.Random(3)
    raw = (np.random.default_rng(0).normal(size=3_000).astype(np.float32)).tobytes()
    base = (np.frombuffer(raw, np.float32) * np.float32(1.0001)).tobytes()
    codec = Codec.DELTA if delta else Codec.PLANES
    _, good = coding.encode(BY_KERNEL, raw, "float32", base if delta else None, ARCHIVE)
    refused = 0
    for _ in range(5_000):
        forged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            forged[rng.randrange(len(forged)) if rng.random() < 0.5 else rng.randrange(24)] ^= rng.randint(1, 255)
        length = len(raw) + rng.choice([0, 0, 0, 1, -1, 4, -4000])
        results: list[bytes | None] = []
        for coder in (BY_NUMPY, BY_KERNEL):
            try:
                results.append(coding.decode(coder, codec, 4, bytes(forged), base[:length].ljust(length), length))
            except Integrity:
                results.append(None)
        assert results[0] == results[1]
        refused += results[0] is None
    assert 1_000 < refused < 5_000


@given(source=st.binary(max_size=200))
def test_copies_are_the_same(source: bytes) -> None:
    for passes in both(4):
        target = bytearray(len(source))
        passes.copy(memoryview(source), memoryview(target))
        assert target == source


def test_surveys_are_the_same() -> None:
    raw, base = numbers(0, 40_003, 1 << 31), numbers(1, 40_003, 1 << 31)
    for width in (1, 2, 4, 8):
        for old in (None, memoryview(base)):
            for rotate in (False, True):
                one, other = (passes.survey(memoryview(raw), old, 7, rotate=rotate) for passes in both(width))
                assert [look[1:] for look in one] == [look[1:] for look in other]
                assert [look.entropy for look in one] == pytest.approx([look.entropy for look in other], abs=1e-9)


def test_the_kernel_refuses_what_does_not_fit() -> None:
    """Its own checks, which nothing in ckstore runs into."""
    kernel = compiled.KERNEL
    assert kernel is not None
    context = kernel.context([(107, 1)], [])
    raw, room, payload = bytes(64), bytearray(64), bytearray(5000)
    ways = [[(Mode.RAW, 0, False)]] * 4

    def encode(**other: object) -> object:
        given = {"context": context, "raw": raw, "base": None, "width": 4, "rotate": False}
        given |= {"halved": False, "ways": ways, "worth": 0.9, "payload": payload}
        assert set(other) <= set(given)
        return kernel.encode(*(given | other).values())

    def decode(*planes: tuple[Mode, bytes], tail: bytes = b"", **other: object) -> object:
        """What is wrong with a payload of planes of sixteen elements."""
        payload = head(0, 4, [(mode, len(body)) for mode, body in planes]) + b"".join(body for _, body in planes)
        given = {"context": context, "payload": payload + tail, "target": room, "width": 4, "difference": False} | other
        return kernel.decode(*given.values())

    wrong: list[Callable[[], object]] = [
        lambda: kernel.library([1, 2]),
        lambda: kernel.library([0] * 10),
        lambda: kernel.context([(107, 1 << 20)], []),
        lambda: kernel.context([], [(107, 1 << 20)]),
        lambda: kernel.survey(raw, None, 3, 1, False),
        lambda: kernel.survey(raw, None, 4, 0, False),
        lambda: kernel.survey(raw, bytes(63), 4, 1, False),
        lambda: encode(base=bytes(60)),
        lambda: encode(width=3),
        lambda: encode(width=16),
        lambda: encode(ways=ways[1:]),
        lambda: encode(ways=[*ways, ways[0]]),
        lambda: encode(ways=[[], *ways[1:]]),
        lambda: encode(ways=[ways[0] * 5, *ways[1:]]),
        lambda: encode(ways=[(Mode.RAW, 0, False)] * 4),
        lambda: encode(ways=[[(3, 0, False)], *ways[1:]]),
        lambda: encode(ways=[[(4, 256, False)], *ways[1:]]),
        lambda: encode(ways=[[(4, -1, False)], *ways[1:]]),
        lambda: encode(halved=True),
        lambda: encode(halved=True, ways=[[(1, 0, False)], *ways[2:]]),
        lambda: encode(width=1, halved=True, ways=[ways[0]]),
        lambda: encode(worth=1.1),
        lambda: encode(payload=bytearray(1000)),
        lambda: decode(*[(Mode.CONSTANT, b"x")] * 4, width=3),
        lambda: decode(*[(Mode.CONSTANT, b"x")] * 4, width=16),
        lambda: kernel.copy(raw, bytearray(63)),
        lambda: kernel.copy(raw, bytearray(65)),
    ]
    for number, call in enumerate(wrong):
        with pytest.raises((ValueError, OverflowError)):
            pytest.fail(f"call {number} returned {call()}")
    mistaken: list[Callable[[], object]] = [
        lambda: decode(target=raw),
        lambda: decode(payload="text"),
        lambda: decode(context=raw),
        lambda: encode(payload=raw),
        lambda: encode(context=raw),
        lambda: encode(ways=[[1], [2], [3], [4]]),
        lambda: kernel.context([(107, "x")], []),
    ]
    for number, call in enumerate(mistaken):
        with pytest.raises((TypeError, BufferError, ValueError)):
            pytest.fail(f"call {number} returned {call()}")
    assert bytes(room) == bytes(64)
    plain, frame = [(Mode.CONSTANT, b"x")] * 3, zstandard.compress(bytes(8))
    short, sparse, packed = COUNTED.pack(0, 4)[:4], COUNTED.pack(0, 4) + frame, COUNTED.pack(0, 0) + frame
    found = [
        decode(payload=b"x"),
        decode(*plain, (Mode.RAW, b"x" * 16), payload=b"\0\4\0"),
        decode(*plain, (Mode.PACKED4, short)),
        decode(payload=b"\3\4" + bytes(22)),
        decode(payload=b"\x08\4" + bytes(22)),
        decode(payload=b"\0\2" + bytes(22)),
        decode(*plain, (Mode.RAW, b"x" * 15)),
        decode(*plain, (Mode.CONSTANT, b"xx")),
        decode(*plain, (Mode.PACKED4, COUNTED.pack(0, 17) + frame + bytes(17))),
        decode(*plain, (Mode.PACKED4, COUNTED.pack(0, 4) + bytes(3))),
        decode(*plain, (Mode.SPARSE, COUNTED.pack(0, 17) + frame)),
        decode(*plain, (Mode.CONSTANT, b"x"), tail=b"x"),
        decode(*plain, (Mode.CONSTANT, b"x"), difference=True),
        decode(*plain, (Mode.ZSTD, frame)),
        decode(*plain, (Mode.PACKED4, packed[:-1])),
        decode(*plain, (Mode.PACKED4, COUNTED.pack(0, 1) + frame + b"x")),
        decode(*plain, (Mode.SPARSE, COUNTED.pack(0, 3) + frame)),
        decode(*plain, (Mode.SPARSE, COUNTED.pack(0, 8) + frame)),
    ]
    assert found == [1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 6, 7, 7, 8, 8, 8]
    for good in ((Mode.PACKED4, packed), (Mode.SPARSE, sparse), (Mode.CONSTANT, b"\0"), (Mode.RAW, bytes(16))):
        assert decode(*plain, good) == 0
        assert bytes(room) == b"xxx\0" * 16
