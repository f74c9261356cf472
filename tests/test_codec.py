"""Codecs: every dtype and the worst bytes come back, and forged payloads raise Integrity without harm."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckstore.codec.choice import WORTH, Coder
from ckstore.codec.element import element
from ckstore.codec.encoded import Codec
from ckstore.codec.planes import Planes
from ckstore.errors import Integrity
from ckstore.torch.tensors import DTYPES

CODER = Coder()


def round_trip(raw: bytes, dtype: str) -> Codec:
    encoded = CODER.encode(memoryview(raw), dtype)
    assert len(encoded.payload) <= max(WORTH * len(raw), 0) or encoded.codec is Codec.RAW
    target = bytearray(len(raw))
    CODER.decode(encoded.codec, memoryview(encoded.payload), memoryview(target))
    assert target == raw
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


@pytest.mark.parametrize("name", patterns())
def test_every_dtype_with_every_pattern(name: str) -> None:
    for dtype in sorted({*DTYPES, "<f4", "nonsense"}):
        round_trip(patterns()[name], dtype)


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=3000), dtype=st.sampled_from(sorted(DTYPES)))
def test_any_bytes_as_any_dtype(raw: bytes, dtype: str) -> None:
    round_trip(raw, dtype)


def test_what_is_chosen() -> None:
    torch.manual_seed(0)
    weights = torch.randn(1 << 18) * 0.02
    assert round_trip(weights.numpy().tobytes(), "float32") is Codec.PLANES
    assert round_trip(weights.bfloat16().view(torch.uint8).numpy().tobytes(), "bfloat16") is Codec.PLANES
    assert round_trip(random.Random(0).randbytes(1 << 18), "float32") is Codec.RAW
    assert round_trip(random.Random(0).randbytes(1 << 18), "uint8") is Codec.RAW
    assert round_trip(b"def main():\n    pass\n" * 5000, "uint8") is Codec.ZSTD
    saved = len(CODER.encode(memoryview(weights.numpy().tobytes()), "float32").payload) / weights.nbytes
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


def test_forged_payloads_of_planes() -> None:
    rng = random.Random(1)
    raw = np.random.default_rng(0).normal(size=5_000).astype(np.float32).tobytes()
    good = Planes().encode(memoryview(raw), 4, rotate=True)
    planes = Planes()
    seen = 0
    for _ in range(20_000):
        forged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            forged[rng.randrange(len(forged)) if rng.random() < 0.5 else rng.randrange(22)] ^= rng.randint(1, 255)
        if rng.random() < 0.3:
            del forged[rng.randrange(len(forged)) :]
        target = bytearray(len(raw) + rng.choice([0, 0, 0, 1, -1, 4, -4000]))
        try:
            planes.decode(memoryview(forged), memoryview(target))
        except Integrity:
            seen += 1
    assert seen > 5_000


def test_declared_sizes_allocate_nothing() -> None:
    bomb = bytearray(b"\x01\x04" + b"\x00\xff\xff\xff\xff" * 4)
    with pytest.raises(Integrity):
        Planes().decode(memoryview(bomb), memoryview(bytearray(64)))
    with pytest.raises(Integrity):
        CODER.decode(9, memoryview(b""), memoryview(bytearray(4)))
