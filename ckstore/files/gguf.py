"""GGUF, versions 2 and 3: a header, metadata, a description of each tensor, and their bytes.

The component `model` is a dict of the tensors in the order of the file. Numbers that torch has are a tensor of those;
a quantised tensor is the bytes of its blocks. All the rest is the file's own bytes. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

from ckstore.files.dtypes import ITEM_SIZE
from ckstore.files.parsed import Claim, ParsedFile, assemble, damaged
from ckstore.files.pt import WHOLE
from ckstore.files.source import window
from ckstore.objects.draft import Draft, DraftTensor, Span
from ckstore.objects.plain import NOT_PLAIN, to_key
from ckstore.objects.tree import Dict, dotted

if TYPE_CHECKING:
    from ckstore.files.source import Source

MAGIC = b"GGUF"

MAX_VALUES = 10_000_000
"""Tensors, keys, texts and arrays that a file has at most."""

_VERSIONS = frozenset({2, 3})
_MAX_KEY = (1 << 16) - 1
_MAX_DIMS = 64
_MAX_SIZE = 1 << 63
_MAX_DEPTH = 16
_DEFAULT_ALIGNMENT = 32

_U4 = struct.Struct("<I")
_U8 = struct.Struct("<Q")

_UINT32, _STRING, _ARRAY = 4, 8, 9
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value, by the code of its type, where all of that type have as many."""


class _Block(NamedTuple):
    """So many elements of a quantised type are so many bytes."""

    name: str
    elements: int
    size_bytes: int


_DTYPES = {
    0: "float32",
    1: "float16",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    30: "bfloat16",
}
"""The dtype in torch, by the code of a tensor's type."""

_BLOCKS = {
    2: _Block("Q4_0", 32, 18),
    3: _Block("Q4_1", 32, 20),
    6: _Block("Q5_0", 32, 22),
    7: _Block("Q5_1", 32, 24),
    8: _Block("Q8_0", 32, 34),
    10: _Block("Q2_K", 256, 84),
    11: _Block("Q3_K", 256, 110),
    12: _Block("Q4_K", 256, 144),
    13: _Block("Q5_K", 256, 176),
    14: _Block("Q6_K", 256, 210),
    15: _Block("Q8_K", 256, 292),
    16: _Block("IQ2_XXS", 256, 66),
    17: _Block("IQ2_XS", 256, 74),
    18: _Block("IQ3_XXS", 256, 98),
    19: _Block("IQ1_S", 256, 50),
    20: _Block("IQ4_NL", 32, 18),
    21: _Block("IQ3_S", 256, 110),
    22: _Block("IQ2_S", 256, 82),
    23: _Block("IQ4_XS", 256, 136),
    29: _Block("IQ1_M", 256, 56),
    31: _Block("Q4_0_4_4", 32, 18),
    32: _Block("Q4_0_4_8", 32, 18),
    33: _Block("Q4_0_8_8", 32, 18),
    34: _Block("TQ1_0", 256, 54),
    35: _Block("TQ2_0", 256, 66),
    39: _Block("MXFP4", 32, 17),
    40: _Block("NVFP4", 64, 36),
    41: _Block("Q1_0", 128, 18),
}
"""The quantised types by their codes. Q8_1 is no type of files: ggml and its Python package disagree on its size."""


class _NotKnownError(Exception):
    """A version, or a type of value or tensor, that is not known: the file is plain bytes then."""


class _Tensor(NamedTuple):
    """One description; `offset` counts from where the tensors' bytes begin."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    length: int
    offset: int


def parse(source: Source) -> ParsedFile | None:
    """The tensors of a little-endian GGUF file of version 2 or 3.

    None where the file is in another format, version or byte order, or holds what is of an unknown type. Raises
    `Format` for a damaged file.
    """
    data = source.view()
    if data[: len(MAGIC)] != MAGIC:
        return None
    try:
        tensors, base = _described(data)
    except _NotKnownError:
        return None
    _check_places(tensors, base, data.nbytes)
    draft = Draft([(None, Dict("dict", len(tensors)))])
    claims = []
    for number, tensor in enumerate(tensors):
        start = base + tensor.offset
        draft.spans.append(
            Span(tensor.length, tensor.dtype, dotted((tensor.name,)), window(source, start, tensor.length))
        )
        draft.entries.append((tensor.name, DraftTensor(tensor.dtype, tensor.shape, None, 0, 0, number)))
        claims.append(Claim(start, start + tensor.length, WHOLE, number))
    return assemble(data.nbytes, {WHOLE: draft}, claims)


class _Reader:
    """Reads a file from its magic on. Raises `Format` where it ends too soon or holds more than MAX_VALUES."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._left = MAX_VALUES
        self.position = len(MAGIC)

    def take(self, values: int) -> None:
        """Count values that are about to be read."""
        self._left -= values
        if self._left < 0:
            raise damaged(f"the GGUF file claims more than {MAX_VALUES} values")

    def skip(self, length: int) -> int:
        """Pass over `length` bytes; the position before them."""
        start = self.position
        if length > self._data.nbytes - start:
            raise damaged("the GGUF file ends within its header", "it may be cut short")
        self.position = start + length
        return start

    def number4(self) -> int:
        number: int = _U4.unpack_from(self._data, self.skip(_U4.size))[0]
        return number

    def number8(self) -> int:
        number: int = _U8.unpack_from(self._data, self.skip(_U8.size))[0]
        return number

    def text(self, limit: int) -> bytes:
        """A text of at most `limit` bytes."""
        self.take(1)
        length = self.number8()
        if length > limit:
            raise damaged("a name in the GGUF file is too long", f"it has {length} bytes")
        start = self.skip(length)
        return bytes(self._data[start : self.position])

    def skip_texts(self, count: int) -> None:
        """Pass over `count` texts."""
        self.take(count)
        for _ in range(count):
            self.skip(self.number8())


def _described(data: memoryview) -> tuple[list[_Tensor], int]:
    """The tensors as the header describes them, and where their bytes begin. Raises `Format`, _NotKnownError."""
    reader = _Reader(data)
    if reader.number4() not in _VERSIONS:
        raise _NotKnownError
    tensor_count, pair_count = reader.number8(), reader.number8()
    alignment = _alignment(reader, pair_count)
    tensors: dict[str, _Tensor] = {}
    for _ in range(tensor_count):
        tensor = _tensor(reader)
        if tensor.name in tensors:
            raise damaged(f"the GGUF file holds two tensors named {tensor.name[:200]!a}")
        if tensor.offset % alignment:
            raise damaged(f"tensor {tensor.name[:200]!a} is not aligned", f"it starts at byte {tensor.offset}")
        tensors[tensor.name] = tensor
    return list(tensors.values()), reader.position + -reader.position % alignment


def _alignment(reader: _Reader, pair_count: int) -> int:
    """Passes over the metadata. What the tensors' offsets are multiples of."""
    alignment = _DEFAULT_ALIGNMENT
    keys: set[bytes] = set()
    for _ in range(pair_count):
        key = reader.text(_MAX_KEY)
        if key in keys:
            raise damaged("a key stands twice in the metadata of the GGUF file", ascii(key[:200]))
        keys.add(key)
        kind = reader.number4()
        if key != b"general.alignment":
            _skip_value(reader, kind, 0)
            continue
        alignment = reader.number4() if kind == _UINT32 else 0
        # The format asks for a multiple of 8, ggml for a power of two.
        if not alignment or (alignment % 8 and alignment & (alignment - 1)):
            raise damaged("the alignment of the GGUF file is neither a multiple of 8 nor a power of two")
    return alignment


def _skip_value(reader: _Reader, kind: int, depth: int) -> None:
    """Pass over a metadata value that lies in `depth` arrays."""
    if kind in _VALUE_BYTES:
        reader.skip(_VALUE_BYTES[kind])
    elif kind == _STRING:
        reader.skip_texts(1)
    elif kind == _ARRAY and depth < _MAX_DEPTH:
        inner, count = reader.number4(), reader.number8()
        if inner in _VALUE_BYTES:
            reader.skip(count * _VALUE_BYTES[inner])
        elif inner == _STRING:
            reader.skip_texts(count)
        else:
            reader.take(count)
            for _ in range(count):
                _skip_value(reader, inner, depth + 1)
    else:
        raise _NotKnownError


def _tensor(reader: _Reader) -> _Tensor:
    """The next description, its numbers checked against each other."""
    name = _name(reader)
    dims = reader.number4()
    if dims > _MAX_DIMS:
        raise damaged(f"tensor {name[:200]!a} has an impossible shape", f"of {dims} sizes")
    sizes = [reader.number8() for _ in range(dims)]
    if any(size >= _MAX_SIZE for size in sizes):
        raise damaged(f"tensor {name[:200]!a} has an impossible shape", "a size is out of range")
    kind, offset = reader.number4(), reader.number8()
    if kind in _DTYPES:
        dtype = _DTYPES[kind]
        return _Tensor(name, dtype, tuple(reversed(sizes)), math.prod(sizes) * ITEM_SIZE[dtype], offset)
    if kind not in _BLOCKS:
        raise _NotKnownError
    block = _BLOCKS[kind]
    if not sizes or sizes[0] % block.elements:
        raise damaged(f"the rows of tensor {name[:200]!a} are no whole blocks of {block.name}")
    length = math.prod(sizes) // block.elements * block.size_bytes
    return _Tensor(name, "uint8", (length,), length, offset)


def _name(reader: _Reader) -> str:
    encoded = reader.text(_MAX_KEY)
    try:
        name = encoded.decode()
    except UnicodeDecodeError as error:
        raise damaged(f"the name {encoded[:200]!a} in the GGUF file is no Unicode") from error
    if to_key(name) is NOT_PLAIN:
        raise damaged("a tensor's name is too long", f"it has {len(name)} characters")
    return name


def _check_places(tensors: list[_Tensor], base: int, size: int) -> None:
    """Every tensor lies within the file, and no two share a byte."""
    position = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.length)):
        if base + tensor.offset + tensor.length > size:
            raise damaged(f"tensor {tensor.name[:200]!a} reaches beyond the file", "it may be cut short")
        if tensor.length and tensor.offset < position:
            raise damaged(f"tensor {tensor.name[:200]!a} overlaps another", f"it starts at byte {tensor.offset}")
        position = max(position, tensor.offset + tensor.length)
