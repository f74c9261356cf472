"""Values saved to files, drafts of files read back as values, and files damaged at random."""

from __future__ import annotations

import collections
import io
import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ckstore.errors import Format, InvalidInput
from ckstore.files import detect
from ckstore.files.source import HeldSource
from ckstore.objects.draft import Draft, DraftBlob, DraftTensor
from ckstore.objects.leaf import Device, Dtype, NumpyArray, NumpyScalar
from ckstore.objects.plain import from_plain
from ckstore.objects.tree import PARAMETER, REQUIRES_GRAD, Deque, Dict, List, Set, Tuple

if TYPE_CHECKING:
    import random

    from ckstore.files.parsed import ParsedFile
    from ckstore.objects.leaf import Blob


def saved(value: object, **options: Any) -> memoryview:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return memoryview(buffer.getvalue())


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


def inline(blob: Blob) -> bytes:
    assert isinstance(blob, bytes)
    return blob


class Restored:
    """The value a draft stands for; tensors that share a span share memory."""

    def __init__(self, draft: Draft) -> None:
        self._entries = iter(draft.entries)
        self._storages = [
            torch.frombuffer(bytearray(span.open(0, span.length)), dtype=torch.uint8).untyped_storage()
            if span.length
            else torch.empty(0, dtype=torch.uint8).untyped_storage()
            for span in draft.spans
        ]
        self.value = self._next()[1]
        assert next(self._entries, None) is None

    def _next(self) -> tuple[Any, Any]:
        key, value = next(self._entries)
        return self._value(key), self._value(value)

    def _value(self, value: Any) -> Any:
        if isinstance(value, DraftBlob):
            value = value.make(bytes(value.open(0, value.length)))
        match value:
            case DraftTensor():
                return self._tensor(value)
            case Dict():
                return self._dict(value)
            case List(count=count):
                return [self._next()[1] for _ in range(count)]
            case Deque(count=count, maxlen=maxlen):
                return collections.deque((self._next()[1] for _ in range(count)), maxlen)
            case Tuple(kind=kind, count=count):
                items = [self._next()[1] for _ in range(count)]
                return torch.Size(items) if kind == "torch.Size" else tuple(items)
            case Set(kind=kind, count=count):
                members = [self._next()[0] for _ in range(count)]
                return frozenset(members) if kind == "frozenset" else set(members)
            case Dtype(name=name):
                return getattr(torch, name)
            case Device(name=name):
                return torch.device(name)
            case NumpyScalar(dtype=dtype, data=bytes(data)):
                return np.frombuffer(data, dtype)[0]
            case NumpyArray(dtype=dtype, shape=shape, fortran=fortran, data=bytes(data)):
                return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        return from_plain(value, inline)

    def _dict(self, header: Dict) -> Any:
        made: Any = {}
        if header.kind == "OrderedDict":
            made = collections.OrderedDict()
        elif header.kind == "Counter":
            made = collections.Counter()
        elif header.kind == "defaultdict":
            made = collections.defaultdict({"": None, "list": list, "int": int}[header.factory or ""])
        for _ in range(header.count):
            key, value = self._next()
            made[key] = value
        if header.attributes:
            vars(made).update(self._next()[1])
        return made

    def _tensor(self, value: DraftTensor) -> torch.Tensor:
        dtype = getattr(torch, value.dtype)
        empty = torch.empty(0, dtype=dtype)
        strides = value.strides
        if strides is None:
            strides = torch.empty(value.shape, device="meta").stride()
        tensor = empty.set_(self._storages[value.span], value.offset // dtype.itemsize, value.shape, strides)
        if value.flags & PARAMETER:
            return torch.nn.Parameter(tensor, requires_grad=bool(value.flags & REQUIRES_GRAD))
        return tensor.requires_grad_(bool(value.flags & REQUIRES_GRAD))


def assert_same(left: Any, right: Any) -> None:
    """Same types, same order, same bits."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape, left.requires_grad) == (right.dtype, right.shape, right.requires_grad)
        assert left.is_contiguous() == right.is_contiguous()
        if not left.is_contiguous():
            assert left.stride() == right.stride()
        raw = [one.detach().contiguous().view(-1).view(torch.uint8) for one in (left, right)]
        assert torch.equal(*raw)
    elif isinstance(left, dict):
        assert [(type(key), key) for key in left] == [(type(key), key) for key in right]
        for key in left:
            assert_same(left[key], right[key])
        assert_same(getattr(left, "default_factory", 0), getattr(right, "default_factory", 0))
        if hasattr(left, "__dict__"):
            assert_same(vars(left), vars(right))
    elif isinstance(left, (list, tuple, collections.deque)):
        assert len(left) == len(right)
        assert getattr(left, "maxlen", 0) == getattr(right, "maxlen", 0)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape, left.flags.fnc) == (right.dtype, right.shape, right.flags.fnc)
        assert left.tobytes() == right.tobytes()
    elif isinstance(left, (float, complex)):
        assert struct.pack("<dd", left.real, left.imag) == struct.pack("<dd", right.real, right.imag)
    else:
        assert left == right


def assert_same_draft(left: Draft, right: Draft) -> None:
    """Same entries, and the same spans with the same bytes."""
    assert [plainly(entry) for entry in left.entries] == [plainly(entry) for entry in right.entries]
    for span, expected in zip(left.spans, right.spans, strict=True):
        assert (span.length, span.dtype, span.path) == (expected.length, expected.dtype, expected.path)
        assert bytes(span.open(0, span.length)) == bytes(expected.open(0, expected.length))


def plainly(entry: tuple[Any, Any]) -> tuple[Any, Any]:
    """An entry that compares: a blob by its bytes, the leaf it makes and its dtype."""
    key, value = entry
    if isinstance(value, DraftBlob):
        return key, (value.make(bytes(value.open(0, value.length))), value.dtype)
    return key, value


def check(parsed: ParsedFile, data: memoryview) -> None:
    """The file comes back byte for byte, and every tensor lies on its span."""
    own = b"".join(data[start:stop] for start, stop in parsed.gaps)
    position = 0
    for segment in parsed.segments:
        assert own[: segment.gap] == data[position : position + segment.gap]
        own = own[segment.gap :]
        position += segment.gap
        if segment.length:
            span = parsed.components[segment.component].spans[segment.span]
            assert 0 <= segment.start < segment.start + segment.length <= span.length
            view = span.open(segment.start, segment.start + segment.length)
            assert view == data[position : position + segment.length]
            position += segment.length
    assert position == data.nbytes
    assert own == b""
    for draft in parsed.components.values():
        assert all(span.open(0, span.length).nbytes == span.length for span in draft.spans)
        for _, value in draft.entries:
            if isinstance(value, DraftTensor):
                size = getattr(torch, value.dtype).itemsize
                assert value.offset % size == 0
                assert 0 <= value.offset <= max(draft.spans[value.span].length - size, 0)


def mutated(original: bytes, rng: random.Random) -> bytes:
    """`original` with some bytes XORed, or a piece cut off, out, doubled or moved."""
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        start = rng.randrange(len(data))
        stop = min(len(data), start + rng.choice((1, 2, 8, 64, 400)))
        kind = rng.randrange(8)
        if kind < 5:
            data[start] ^= rng.randrange(1, 256)
        elif kind == 5:
            data[start:start] = data[start:stop]
        elif kind == 6:
            del data[start : stop if rng.random() < 0.7 else len(data)]
        else:
            at = rng.randrange(len(data))
            data[at : at + stop - start] = data[start:stop]
        if not data:
            break
    return bytes(data)


def outcome(name: str, data: memoryview) -> str:
    """What became of a file; what was read is checked."""
    try:
        parsed = detect.parse(name, HeldSource(data))
    except (Format, InvalidInput) as error:
        return "refused" if error.hint else "refused without a hint"
    check(parsed, data)
    return "read" if parsed.components else "opaque"


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def trained() -> dict[str, Any]:
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 6)).sum().backward()
        optimizer.step()
        scheduler.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "step": 3,
        "rng": {"torch": torch.get_rng_state(), "numpy": np.random.get_state()},
    }


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
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
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
]


def filled(shape: list[int] | tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(0, 9, tuple(shape)).to(torch.float32).to(dtype)
