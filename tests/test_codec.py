"""Codecs: every dtype and the worst bytes come back, and forged payloads raise Integrity without harm."""

from __future__ import annotations

import random
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.codec.choice import WORTH, Coder
from ckstore.codec.compiled import passes_of
from ckstore.codec.element import element
from ckstore.codec.encoded import Codec
from ckstore.codec.numpy_passes import NumpyPasses
from ckstore.codec.payload import Mode
from ckstore.codec.preset import ARCHIVE, BALANCED, FAST, PRESETS, preset_named
from ckstore.errors import Integrity, InvalidInput
from ckstore.torch.tensors import DTYPES
from tests import coding

if TYPE_CHECKING:
    from ckstore.codec.preset import Preset

CODER = Coder()


@pytest.fixture(scope="module", autouse=True, params=[NumpyPasses, passes_of], ids=["numpy", "best"])
def passes(request: pytest.FixtureRequest) -> None:
    """All of this with numpy's passes, and with the compiled ones where there are any."""
    global CODER  # noqa: PLW0603
    CODER = Coder(request.param)


def coded(raw: bytes, dtype: str, base: bytes | None = None, preset: Preset = BALANCED) -> Codec:
    """How `raw` was encoded, once it has come back."""
    encoded = coding.round_trip(CODER, raw, dtype, base, preset)
    assert encoded.length <= max(WORTH * len(raw), 0) or encoded.codec is Codec.RAW
    return encoded.codec


def patterns() -> dict[str, bytes]:
    """Data that breaks codecs: constant, noise, alternating, NaN payloads, denormals, zeros of both signs, ramps."""
    noise = random.Random(0).randbytes(70_000)
    return {
        "empty": b"",
        "one": b"\x80",
        "odd": noise[:4097],
        "zeros": bytes(70_000),
        "ones": b"\xff" * 70_001,
        "noise": noise,
        "alternating": b"\x00\xff" * 35_000,
        "nan payloads": np.arange(0x7FC00000, 0x7FC00000 + 17_000, dtype=np.uint32).tobytes(),
        "signalling nans": np.arange(0xFF800001, 0xFF800001 + 17_000, dtype=np.uint32).tobytes(),
        "denormals": np.arange(1, 17_000, dtype=np.uint32).tobytes(),
        "signed zeros": np.array([0.0, -0.0] * 9_000, dtype=np.float32).tobytes(),
        "ramp": np.linspace(-1, 1, 17_000, dtype=np.float32).tobytes(),
        "one odd element": b"\x01" * 50_000 + b"\x02" + b"\x01" * 20_000,
        "past a block": np.random.default_rng(0).normal(size=200_000).astype(np.float32).tobytes()[:-3],
    }


def older(raw: bytes) -> bytes:
    """Bytes that are near to `raw`: every seventh a little off, carries included."""
    changed = bytearray(raw)
    for place in range(0, len(changed), 7):
        changed[place] = (changed[place] + (place % 3) - 1) % 256
    return bytes(changed)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("name", patterns())
def test_every_dtype_with_every_pattern(name: str, preset: Preset) -> None:
    raw = patterns()[name]
    near, far = older(raw), random.Random(2).randbytes(len(raw))
    for dtype in sorted({*DTYPES, "<f4", "nonsense"}):
        for base in (None, raw, near, far):
            coded(raw, dtype, base, preset)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=3000), dtype=st.sampled_from(sorted(DTYPES)), seed=st.none() | st.integers(0, 9))
def test_any_bytes_as_any_dtype(raw: bytes, dtype: str, seed: int | None) -> None:
    base = None if seed is None else bytes(byte ^ seed for byte in raw)
    for preset in PRESETS.values():
        coded(raw, dtype, base, preset)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=6),
    weights=st.lists(st.integers(1, 300), min_size=6, max_size=6),
    length=st.integers(1, 5000),
    seed=st.integers(0, 1 << 30),
)
def test_planes_of_few_values(values: list[int], weights: list[int], length: int, seed: int) -> None:
    """What the packed modes are for: few values near each other, with escapes."""
    rng = random.Random(seed)
    plane = bytes(rng.choices(values, weights[: len(values)], k=length))
    for dtype in ("float8_e5m2", "int16", "float32"):
        for preset in (BALANCED, ARCHIVE):
            coded(plane, dtype, None, preset)
            coded(plane, dtype, bytes(length), preset)


def test_low_halves_that_are_noise_stay_together() -> None:
    weights = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    _, noisy = coding.encode(CODER, weights.tobytes(), "float32")
    _, short = coding.encode(CODER, weights.astype(np.float16).astype(np.float32).tobytes(), "float32")
    halved = 4
    assert noisy[0] & halved
    assert not short[0] & halved
    coded(weights.astype(np.float64).tobytes(), "float64")
    coded((weights.astype(np.float64) ** 3).tobytes(), "float64")


def test_differences_cost_little_work_where_planes_are_constant() -> None:
    raw = np.arange(50_000, dtype=np.uint32)
    near = (raw + np.random.default_rng(0).integers(-100, 100, 50_000).astype(np.uint32)).astype(np.uint32)
    encoded = coding.round_trip(CODER, raw.tobytes(), "int32", near.tobytes())
    assert encoded.codec is Codec.DELTA
    assert encoded.busy == 50_000
    same = coding.round_trip(CODER, raw.tobytes(), "int32", raw.tobytes())
    assert same.busy == 0
    assert same.length < 64


def test_whether_a_difference_gains() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=1 << 18) * 0.02).astype(np.float32)
    near = (weights + rng.normal(size=1 << 18) * 1e-5).astype(np.float32)
    far = (rng.normal(size=1 << 18) * 0.02).astype(np.float32)

    def gains(dtype: str, old: np.ndarray[Any, Any]) -> bool:
        return CODER.gains(memoryview(weights.tobytes()), dtype, BALANCED, memoryview(old.tobytes()))

    assert gains("float32", near)
    assert not gains("float32", far)
    assert not gains("uint8", near)


def test_the_fast_preset_leaves_numbers_alone() -> None:
    weights = np.random.default_rng(0).normal(size=5_000).astype(np.float32).tobytes()
    assert coded(weights, "float32", None, FAST) is Codec.RAW
    assert coded(b"import os\n" * 500, "uint8", None, FAST) is Codec.ZSTD


def test_presets_have_names() -> None:
    assert preset_named("archive") is ARCHIVE
    for name in ("", "Balanced", "x"):
        with pytest.raises(InvalidInput, match="no preset"):
            preset_named(name)


def test_what_is_chosen() -> None:
    torch.manual_seed(0)
    weights = torch.randn(1 << 18) * 0.02
    assert coded(weights.numpy().tobytes(), "float32") is Codec.PLANES
    assert coded(weights.bfloat16().view(torch.uint8).numpy().tobytes(), "bfloat16") is Codec.PLANES
    assert coded(random.Random(0).randbytes(1 << 18), "float32") is Codec.RAW
    assert coded(random.Random(0).randbytes(1 << 18), "uint8") is Codec.RAW
    assert coded(b"def main():\n    pass\n" * 5000, "uint8") is Codec.ZSTD
    saved = coding.encode(CODER, weights.numpy().tobytes(), "float32")[0].length / weights.nbytes
    assert 0.75 < saved < 0.85


def test_widths() -> None:
    assert element("float32") == (4, True)
    assert element("complex64") == (4, True)
    assert element("float8_e5m2") == (1, True)
    assert element("int64") == (8, False)
    assert element("uint8") is None
    assert element("bool") is None
    for dtype in DTYPES.values():
        found = element(str(dtype).removeprefix("torch."))
        if found is not None:
            assert dtype.itemsize % found[0] == 0


@pytest.mark.parametrize("delta", [False, True])
def test_forged_payloads_of_planes(delta: bool) -> None:
    rng = random.Random(1)
    numbers = np.random.default_rng(0).normal(size=5_000).astype(np.float32)
    raw = numbers.tobytes()
    base = (numbers * np.float32(1.0001)).tobytes()
    codec = Codec.DELTA if delta else Codec.PLANES
    _, good = coding.encode(CODER, raw, "float32", base if delta else None, ARCHIVE)
    seen = 0
    for _ in range(20_000):
        forged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            forged[rng.randrange(len(forged)) if rng.random() < 0.5 else rng.randrange(24)] ^= rng.randint(1, 255)
        if rng.random() < 0.3:
            del forged[rng.randrange(len(forged)) :]
        length = len(raw) + rng.choice([0, 0, 0, 1, -1, 4, -4000])
        try:
            coding.decode(CODER, codec, 4, bytes(forged), base[:length].ljust(length), length)
        except Integrity:
            seen += 1
    assert seen > 5_000


def test_declared_sizes_allocate_nothing() -> None:
    bombs = [b"\x01\x04" + b"\x00\xff\xff\xff\xff" * 4 + b"\0\0"]
    big = zstandard.ZstdCompressor(level=19).compress(bytes(256 << 20))
    for mode in (Mode.ZSTD, Mode.PACKED2, Mode.PACKED4):
        body = big if mode is Mode.ZSTD else b"\0\0\0\0\0" + big
        plane = struct.pack("<BI", mode, len(body))
        bombs.append(b"\x00\x04" + plane * 4 + b"\0\0" + body * 4)
        bombs.append(b"\x00\x04" + struct.pack("<BI", mode, 5) * 4 + b"\0\0" + b"\0\xff\xff\xff\xff" * 4)
    CODER.decode(Codec.PLANES, 4, memoryview(coding.encode(CODER, bytes(64), "float32")[1]), memoryview(bytearray(64)))
    tracemalloc.start()
    try:
        for bomb in bombs:
            with pytest.raises(Integrity):
                CODER.decode(Codec.PLANES, 4, memoryview(bomb), memoryview(bytearray(64)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(Integrity):
        CODER.decode(9, 1, memoryview(b""), memoryview(bytearray(4)))
