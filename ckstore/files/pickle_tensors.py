"""The calls by which torch rebuilds strided tensors and parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckstore.files.dtypes import ITEM_SIZE
from ckstore.files.parsed import damaged
from ckstore.files.pickle_values import GlobalRef, StorageRef, TensorRef
from ckstore.objects.tree import PARAMETER, REQUIRES_GRAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.files.pickle_limits import Limits

    Args = tuple[object, ...]

MAX_DIMS = 64
_MAX_NUMBER = 1 << 63


def _tensor_v1(args: Args, limits: Limits) -> object:
    match args:
        case (StorageRef() as storage, offset, shape, strides):
            return _tensor(storage, (offset, shape, strides), storage.dtype, requires_grad=False)
    return None


def _tensor_v2(args: Args, limits: Limits) -> object:
    match args:
        case (StorageRef() as storage, offset, shape, strides, requires_grad, _, *metadata) if _plain(metadata):
            return _tensor(storage, (offset, shape, strides), storage.dtype, requires_grad=requires_grad)
    return None


def _tensor_v3(args: Args, limits: Limits) -> object:
    match args:
        case (
            StorageRef() as storage,
            offset,
            shape,
            strides,
            requires_grad,
            _,
            GlobalRef(module="torch", name=dtype),
            *metadata,
        ) if dtype in ITEM_SIZE and _plain(metadata):
            return _tensor(storage, (offset, shape, strides), dtype, requires_grad=requires_grad)
    return None


def _plain(metadata: list[object]) -> bool:
    """Whether neither the conjugate nor the negative bit is set: where one is, the bytes are not the values."""
    return not metadata or (len(metadata) == 1 and (metadata[0] is None or metadata[0] == {}))


def _tensor(
    storage: StorageRef, place: tuple[object, object, object], dtype: str, *, requires_grad: object
) -> TensorRef | None:
    offset, shape, strides = place
    if type(offset) is not int or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        return None
    if len(shape) > MAX_DIMS or len(strides) > MAX_DIMS:
        return None
    for number in (offset, *shape, *strides):
        if type(number) is not int:
            return None
        if not 0 <= number < _MAX_NUMBER:
            raise damaged("a tensor in the file has an impossible shape", "a size or stride is out of range")
    if len(shape) != len(strides):
        raise damaged("a tensor in the file has an impossible shape", f"{len(shape)} sizes and {len(strides)} strides")
    flags = REQUIRES_GRAD if requires_grad is True else 0
    return TensorRef(storage, dtype, offset, tuple(shape), tuple(strides), flags)


def _parameter(args: Args, limits: Limits) -> object:
    match args:
        case (TensorRef() as tensor, bool(requires_grad), _, *rest) if len(rest) <= 1:
            return replace(tensor, flags=PARAMETER | REQUIRES_GRAD * requires_grad)
    return None


def _from_type(args: Args, limits: Limits) -> object:
    """A plain tensor that has attributes, such as an `nn.Buffer`: the attributes are not kept."""
    match args:
        case (GlobalRef(module="torch._utils", name=name), GlobalRef("torch", "Tensor"), tuple(inner), _):
            rebuild = TENSOR_CALLS.get(("torch._utils", name))
            return None if rebuild is None else rebuild(inner, limits)
    return None


TENSOR_CALLS: dict[tuple[str, str], Callable[[Args, Limits], object]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor_v1,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
}
