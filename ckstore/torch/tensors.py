"""Tensors and their bytes: dtypes by name, host views of storages, tensors over a span."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ckstore.errors import Format, InvalidInput
from ckstore.objects.tree import REQUIRES_GRAD, row_major

if TYPE_CHECKING:
    from ckstore.objects.tree import Alias, Tensor

DTYPES: dict[str, torch.dtype] = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and str(value) == f"torch.{name}"
}
"""Every dtype of this torch by its own name."""

NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

_QUANTIZED = frozenset(dtype for name, dtype in DTYPES.items() if name.startswith("q"))
_MAX_DIMS = 64
_BEYOND = 1 << 63
"""No size, stride or number of bytes is as much."""


def dtype_named(name: str) -> torch.dtype:
    """The dtype of that name. Raises `Format`."""
    try:
        return DTYPES[name]
    except KeyError:
        raise Format(
            f"this torch has no dtype {name!r}", hint="use the torch version that wrote the checkpoint"
        ) from None


def host_view(storage: torch.UntypedStorage, start: int, stop: int) -> memoryview:
    """Bytes `start` to `stop` of a storage: the storage's own memory on the CPU, a copy from elsewhere."""
    flat = torch.empty(0, dtype=torch.uint8, device=storage.device)
    flat = flat.set_(storage, start, (stop - start,), (1,))
    return memoryview(flat.cpu().numpy())  # type: ignore[arg-type]


def row_major_bytes(tensor: torch.Tensor) -> memoryview:
    """The elements of a strided tensor in row-major order: its own memory where they lie so, else a copy of them.

    Raises `InvalidInput` where memory does not suffice.
    """
    try:
        whole = tensor.detach().contiguous()
    except RuntimeError as error:
        raise InvalidInput(f"a tensor of shape {tuple(tensor.shape)} cannot be copied: {error}") from error
    start = int(whole.storage_offset()) * whole.element_size()
    return host_view(whole.untyped_storage(), start, start + whole.numel() * whole.element_size())


def byte_range(tensor: torch.Tensor) -> tuple[int, int]:
    """First and one past the last byte of its storage that `tensor` covers; equal for an empty one."""
    size = tensor.element_size()
    first = int(tensor.storage_offset()) * size
    if tensor.numel() == 0:
        return 0, 0
    if tensor.is_contiguous():
        return first, first + int(tensor.numel()) * size
    reach = sum((int(n) - 1) * int(stride) for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + (reach + 1) * size


def check_place(value: Tensor | Alias, span_length: int) -> torch.dtype:
    """The dtype of a tensor entry. Raises `Format` where the entry reaches outside its span."""
    dtype = dtype_named(value.dtype)
    shape = value.shape
    if dtype in _QUANTIZED:
        raise Format(f"a tensor claims the quantized dtype {value.dtype}")
    if len(shape) > _MAX_DIMS:
        raise Format(f"a tensor claims {len(shape)} dimensions")
    steps = value.strides if value.strides is not None else row_major(shape)
    if len(steps) != len(shape):
        raise Format(f"a tensor claims {len(shape)} dimensions with {len(steps)} strides")
    count = math.prod(shape)
    if any(not 0 <= n < _BEYOND for n in (*shape, *steps)) or count * dtype.itemsize >= _BEYOND:
        raise Format(f"a tensor claims the impossible shape {shape} with strides {steps}")
    if value.flags & REQUIRES_GRAD and not (dtype.is_floating_point or dtype.is_complex):
        raise Format(f"a tensor of {value.dtype} claims a gradient")
    if value.offset < 0 or value.offset % dtype.itemsize:
        raise Format(f"a tensor of {value.dtype} begins at byte {value.offset} of its span")
    reach = sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) + 1 if count else 0
    if value.offset + reach * dtype.itemsize > span_length:
        raise Format("a tensor reaches beyond its span")
    return dtype


def tensor_over(value: Tensor | Alias, storage: torch.UntypedStorage) -> torch.Tensor:
    """A tensor on `storage`, which holds the bytes of the entry's span."""
    dtype = check_place(value, storage.nbytes())
    strides = value.strides if value.strides is not None else row_major(value.shape)
    try:
        tensor = torch.empty(0, dtype=dtype)
        tensor.set_(storage, value.offset // dtype.itemsize, value.shape, strides)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise Format(f"a tensor of {value.dtype} and shape {value.shape} cannot be made: {error}") from error
    return tensor
