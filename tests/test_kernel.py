"""The compiled passes against numpy's: byte for byte the same, and as hard on forged payloads."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.codec import compiled
from ckstore.codec.choice import Coder
from ckstore.codec.compiled import CompiledPasses, passes_of
from ckstore.codec.encoded import Codec
from ckstore.codec.numpy_passes import NumpyPasses
from ckstore.codec.passes import Packed
from ckstore.codec.preset import ARCHIVE, BALANCED
from ckstore.errors import Integrity
from tests import coding

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.codec.passes import Passes, Plane
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


def same_both_ways(raw: bytes, dtype: str, base: bytes | None, preset: Preset, lengths: list[int]) -> None:
    old = None if base is None else memoryview(base)
    payloads = []
    for coder in (BY_NUMPY, BY_KERNEL):
        encoded = coder.encode(memoryview(raw), lengths, dtype, preset, old)
        payloads.append([(one.codec, one.width, one.busy, b"".join(one.pieces)) for one in encoded])
    assert payloads[0] == payloads[1]
    start = 0
    for (codec, width, _, payload), length in zip(payloads[0], lengths, strict=True):
        part = (base or b"")[start : start + length]
        for coder in (BY_NUMPY, BY_KERNEL):
            assert coding.decode(coder, codec, width, payload, part, length) == raw[start : start + length]
        start += length


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
    whole=st.booleans(),
)
def test_payloads_are_the_same(
    dtype: str, length: int, spread: int, seed: int, delta: int | None, preset: Preset, whole: bool
) -> None:
    raw = numbers(seed, length, spread)
    base = None
    if delta is not None:
        news = np.frombuffer(raw[: length // 4 * 4], np.uint32)
        olds = (news + np.random.default_rng(seed).integers(0, delta + 1, len(news))).astype(np.uint32)
        base = olds.tobytes() + raw[length // 4 * 4 :]
    first = 0 if whole else min(length, length // 3 // 32 * 32)
    same_both_ways(raw, dtype, base, preset, [first, length - first] if first else [length])


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
    same_both_ways(raw, dtype, None, ARCHIVE, [length])
    same_both_ways(raw, dtype, bytes(length), ARCHIVE, [length])


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
    planes: list[Plane] = []
    for length in lengths:
        kind = rng.integers(4)
        if kind == 0:
            planes.append(int(rng.integers(256)))
        elif kind == 1:
            planes.append(memoryview(b"x" + rng.bytes(length))[1:])  # at an odd place in memory
        else:
            bits = int(rng.choice([2, 4]))
            packed = rng.bytes(-(-length // 4) * bits // 2)
            places = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little").reshape(-1, bits)[:length]
            escapes = max(0, int(places.all(axis=1).sum()) + off)
            planes.append(Packed(bits, int(rng.integers(256)), packed, memoryview(rng.bytes(escapes))))
    before = rng.bytes(count * width + int(rng.integers(width)))
    results: list[bytes | str] = []
    for passes in both(width):
        target = bytearray(before)
        try:
            passes.join(
                planes, memoryview(target), rotated=rotated and not difference, halved=halved, difference=difference
            )
            results.append(bytes(target))
        except Integrity as error:
            results.append(str(error))
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


@given(sources=st.lists(st.binary(max_size=40), max_size=6))
def test_copies_are_the_same(sources: list[bytes]) -> None:
    for passes in both(4):
        target = bytearray(sum(map(len, sources)))
        passes.copy([memoryview(source) for source in sources], memoryview(target))
        assert target == b"".join(sources)


def test_samples_are_the_same() -> None:
    raw, base = numbers(0, 40_003, 1 << 31), numbers(1, 40_003, 1 << 31)
    for width in (1, 2, 4, 8):
        for old in (None, memoryview(base)):
            for rotate in (False, True):
                one, other = (passes.sample(memoryview(raw), old, 7, rotate=rotate) for passes in both(width))
                assert np.array_equal(one, other)


def test_the_kernel_refuses_what_does_not_fit() -> None:
    """Its own checks, which nothing in ckstore runs into."""
    kernel = compiled.KERNEL
    assert kernel is not None
    raw, room = bytes(64), bytearray(64)
    wrong: list[Callable[[], object]] = [
        lambda: kernel.sample(raw, None, 3, 1, False),
        lambda: kernel.sample(raw, None, 4, 0, False),
        lambda: kernel.sample(raw, bytes(63), 4, 1, False),
        lambda: kernel.split(raw, None, 4, False, False, bytearray(63)),
        lambda: kernel.split(raw, None, 4, False, False, bytearray(65)),
        lambda: kernel.split(raw, bytes(60), 4, False, False, room),
        lambda: kernel.split(raw, None, 1, False, True, room),
        lambda: kernel.split(raw, None, 16, False, False, room),
        lambda: kernel.join([0, 0, 0], room, 4, False, False, False),
        lambda: kernel.join([0] * 5, room, 4, False, False, False),
        lambda: kernel.join([0, 0, 0, 256], room, 4, False, False, False),
        lambda: kernel.join([0, 0, 0, -1], room, 4, False, False, False),
        lambda: kernel.join([0, 0, 0, 1 << 80], room, 4, False, False, False),
        lambda: kernel.join([0, 0, 0, bytes(15)], room, 4, False, False, False),
        lambda: kernel.join([0, 0, 0, bytes(17)], room, 4, False, False, False),
        lambda: kernel.join([bytes(16), 0, 0], room, 4, False, True, False),
        lambda: kernel.join([0, 0, 0, (4, 0, bytes(7), b"")], room, 4, False, False, False),
        lambda: kernel.join([0, 0, 0, (3, 0, bytes(8), b"")], room, 4, False, False, False),
        lambda: kernel.join([0, 0, 0, (4, 256, bytes(8), b"")], room, 4, False, False, False),
        lambda: kernel.join([0] * 16, room, 16, False, False, False),
        lambda: kernel.copy([raw], bytearray(63)),
        lambda: kernel.copy([raw], bytearray(65)),
        lambda: kernel.copy([raw, raw], room),
        lambda: kernel.pack(raw, [63], 4, 0, bytearray(64), bytearray(64)),
        lambda: kernel.pack(raw, [65], 4, 0, bytearray(64), bytearray(65)),
        lambda: kernel.pack(raw, [30, 64], 4, 0, bytearray(64), bytearray(64)),
        lambda: kernel.pack(raw, [32, 16, 64], 4, 0, bytearray(64), bytearray(64)),
        lambda: kernel.pack(raw, [-4, 64], 4, 0, bytearray(64), bytearray(64)),
        lambda: kernel.pack(raw, [], 4, 0, bytearray(64), bytearray(64)),
        lambda: kernel.pack(raw, [64], 8, 0, bytearray(64), bytearray(64)),
        lambda: kernel.pack(raw, [64], 4, 300, bytearray(64), bytearray(64)),
        lambda: kernel.pack(raw, [64], 4, 0, bytearray(31), bytearray(64)),
        lambda: kernel.pack(raw, [64], 4, 0, bytearray(64), bytearray(63)),
    ]
    for number, call in enumerate(wrong):
        with pytest.raises((ValueError, OverflowError)):
            pytest.fail(f"call {number} returned {call()}")
    mistaken: list[Callable[[], object]] = [
        lambda: kernel.join([0, 0, 0, "text"], room, 4, False, False, False),
        lambda: kernel.join([0, 0, 0, (4, 0, "x", b"")], room, 4, False, False, False),
        lambda: kernel.join((0, 0, 0, 0), room, 4, False, False, False),
        lambda: kernel.split(raw, None, 4, False, False, raw),
    ]
    for call in mistaken:
        with pytest.raises((TypeError, BufferError)):
            call()
    assert bytes(room) == bytes(64)
