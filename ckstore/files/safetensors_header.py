"""The header of a new safetensors file, and the order its tensors then come in."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

from ckstore.errors import InvalidInput
from ckstore.files.dtypes import ITEM_SIZE, PACKED_DTYPE, SAFETENSORS_DTYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODES = {dtype: code for code, dtype in SAFETENSORS_DTYPE.items()}
_ALIGN = 8
_METADATA = "__metadata__"


class Described(NamedTuple):
    """A tensor by its name, torch dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_SIZE[self.dtype]


def new_header(tensors: Sequence[Described]) -> tuple[bytes, list[int]]:
    """The bytes before the first tensor, and the positions of `tensors` in the order in which they follow.

    As the safetensors library orders them: the widest elements first, so that each begins at a multiple of its
    element's size. Raises `InvalidInput` for a dtype or name that the format has not, or a name given twice.
    """
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"two tensors would both be named {twice!r}", hint="use --format pt, or --only")
    if _METADATA in names:
        raise InvalidInput(f"no tensor in safetensors may be named {_METADATA}", hint="use --format pt, or --only")
    order = sorted(range(len(tensors)), key=lambda number: (-ITEM_SIZE[tensors[number].dtype], names[number]))
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    position = 0
    for number in order:
        tensor = tensors[number]
        code, shape = _code(tensor)
        header[tensor.name] = {"dtype": code, "shape": shape, "data_offsets": [position, position + tensor.size_bytes]}
        position += tensor.size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    return len(text).to_bytes(8, "little") + text, order


def _code(tensor: Described) -> tuple[str, tuple[int, ...]]:
    if tensor.dtype == PACKED_DTYPE and tensor.shape:
        return "F4", (*tensor.shape[:-1], tensor.shape[-1] * 2)
    if tensor.dtype not in _CODES:
        raise InvalidInput(
            f"safetensors has no {tensor.dtype}, which {tensor.name!r} is", hint="use --format pt, or --only"
        )
    return _CODES[tensor.dtype], tensor.shape
