"""safetensors: a length, a JSON header, and the tensors' bytes one after another.

The component `model` is a dict of the tensors in the order of the header; header, metadata and tensors of a
dtype torch has not are the file's own bytes. Sizes are checked before anything is made from them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from ckstore.files.dtypes import PACKED_DTYPE, SAFETENSORS_BITS, SAFETENSORS_DTYPE
from ckstore.files.parsed import Claim, ParsedFile, assemble, damaged
from ckstore.files.source import window
from ckstore.objects.draft import Draft, DraftTensor, Span
from ckstore.objects.plain import NOT_PLAIN, to_key
from ckstore.objects.tree import Dict, dotted

if TYPE_CHECKING:
    from ckstore.files.source import Source

COMPONENT = "model"

MAX_HEADER = 100_000_000
"""Bytes a header has at most; the format's own limit."""

MAX_SIZE = 1 << 63
"""Lengths and offsets are below this."""

_PREFIX = 8


class _Tensor(NamedTuple):
    """One entry of the header, its offsets counted from the start of the file."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int


def parse(source: Source) -> ParsedFile:
    """The tensors of a safetensors file. Raises `Format`."""
    data = source.view()
    header, base = _header(data)
    tensors = [_tensor(name, fields, base) for name, fields in header.items() if name != "__metadata__"]
    _check_metadata(header.get("__metadata__"))
    _check_cover(tensors, base, data.nbytes)
    known = [(tensor, kind) for tensor in tensors if (kind := _torch_kind(tensor)) is not None]
    draft = Draft([(None, Dict("dict", len(known)))])
    claims = []
    for number, (tensor, (dtype, shape)) in enumerate(known):
        length = tensor.stop - tensor.start
        path = dotted((tensor.name,))
        draft.spans.append(Span(length, dtype, path, window(source, tensor.start, length)))
        draft.entries.append((_key(tensor.name), DraftTensor(dtype, shape, None, 0, 0, number)))
        claims.append(Claim(tensor.start, tensor.stop, COMPONENT, number))
    return assemble(data.nbytes, {COMPONENT: draft}, claims)


def _header(data: memoryview) -> tuple[dict[str, object], int]:
    """The header as JSON gives it, and where the tensors' bytes begin."""
    if data.nbytes < _PREFIX:
        raise damaged("this is no safetensors file", f"it has {data.nbytes} bytes")
    length = int.from_bytes(data[:_PREFIX], "little")
    if length > min(MAX_HEADER, data.nbytes - _PREFIX):
        raise damaged("the safetensors header does not fit in the file", f"it claims {length} bytes")
    base = _PREFIX + length
    try:
        header = json.loads(str(data[_PREFIX:base], "utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise damaged("the safetensors header nests too deep") from error
    except ValueError as error:
        raise damaged("the safetensors header is damaged", str(error)[:200]) from error
    if not isinstance(header, dict):
        raise damaged("the safetensors header is no map of names to tensors")
    return header, base


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON")


def _check_metadata(metadata: object) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged("the metadata of the safetensors file is no map of text to text")


def _tensor(name: str, fields: object, base: int) -> _Tensor:
    """The entry `name`, each of its numbers checked against the others."""
    shown = ascii(name[:200])
    if not isinstance(fields, dict):
        raise damaged(f"the safetensors header describes no tensor for {shown}")
    code, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(code, str) or code not in SAFETENSORS_BITS:
        raise damaged(f"tensor {shown} has an unknown dtype", ascii(code)[:200])
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise damaged(f"tensor {shown} has no usable shape or offsets")
    start, stop = offsets
    if start > stop:
        raise damaged(f"tensor {shown} ends before it starts", f"its bytes are {start} to {stop}")
    if _bits(shape, SAFETENSORS_BITS[code], (stop - start) * 8) != (stop - start) * 8:
        raise damaged(f"the shape of tensor {shown} does not fit its bytes", f"it has {stop - start} bytes as {code}")
    return _Tensor(name, code, tuple(shape), base + start, base + stop)


def _sizes(numbers: object) -> TypeGuard[list[int]]:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < MAX_SIZE for number in numbers)


def _bits(shape: list[int], bits: int, limit: int) -> int:
    """Bits a tensor takes; past `limit` any number that is past it."""
    if 0 in shape:
        return 0
    for size in shape:
        bits *= size
        if bits > limit:
            break
    return bits


def _check_cover(tensors: list[_Tensor], base: int, size: int) -> None:
    """The format asks that the tensors cover the file's rest exactly: in any order, no overlap, no hole."""
    position = base
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.stop)):
        if tensor.stop > size:
            raise damaged(f"tensor {tensor.name[:200]!a} reaches beyond the file", "it may be cut short")
        if tensor.start != position:
            problem = "overlaps another" if tensor.start < position else "leaves a hole before it"
            raise damaged(f"tensor {tensor.name[:200]!a} {problem}", f"it starts at byte {tensor.start}")
        position = tensor.stop
    if position != size:
        raise damaged("the safetensors file goes on after its last tensor", f"by {size - position} bytes")


def _torch_kind(tensor: _Tensor) -> tuple[str, tuple[int, ...]] | None:
    """Dtype and shape as torch has them, or None where it has no such dtype."""
    if tensor.code in SAFETENSORS_DTYPE:
        return SAFETENSORS_DTYPE[tensor.code], tensor.shape
    if tensor.code == "F4" and tensor.shape and tensor.shape[-1] % 2 == 0:
        return PACKED_DTYPE, (*tensor.shape[:-1], tensor.shape[-1] // 2)
    return None


def _key(name: str) -> str:
    try:
        key = to_key(name)
        name.encode()
    except UnicodeEncodeError as error:
        raise damaged(f"the name {name[:200]!a} is no Unicode") from error
    if key is NOT_PLAIN:
        raise damaged("a tensor's name is too long", f"it has {len(name)} characters")
    return name
