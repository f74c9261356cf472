"""The spans of one component: tensors grouped by the memory they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.objects.draft import DraftTensor, Span
from ckstore.objects.extent import Extents
from ckstore.objects.tree import PARAMETER, REQUIRES_GRAD, row_major
from ckstore.torch.tensors import NAMES, byte_range, host_view

if TYPE_CHECKING:
    import torch


class Spans:
    """Collects a component's tensors; `finish` gives each its place on the smallest span that covers them all."""

    def __init__(self) -> None:
        self._extents = Extents()
        self._storages: list[torch.UntypedStorage] = []

    def add(self, tensor: torch.Tensor, path: str, *, parameter: bool) -> DraftTensor:
        """A strided tensor with its bits resolved. Tensors of one storage share a span."""
        shape, strides = tuple(tensor.shape), tuple(tensor.stride())
        flags = PARAMETER * parameter | REQUIRES_GRAD * tensor.requires_grad
        first, last = byte_range(tensor)
        storage = tensor.untyped_storage()
        if last > storage.nbytes():
            raise InvalidInput(f"cannot keep the tensor {path}: its memory has been freed", hint="gather it first")
        draft = DraftTensor(
            NAMES[tensor.dtype], shape, None if strides == row_major(shape) else strides, first, flags, 0
        )
        device = tensor.device
        # Memory, not the storage object, tells storages apart: an array can be wrapped twice.
        key = (device.type, device.index, storage.data_ptr()) if last > first else None
        extent = self._extents.add(key, draft, last, tensor.element_size(), path)
        if len(extent.tensors) == 1:
            self._storages.append(storage)
        elif storage.nbytes() > self._storages[extent.number].nbytes():
            self._storages[extent.number] = storage
        return draft

    def finish(self) -> list[Span]:
        """The spans by number; every DraftTensor's offset now counts from its span's first byte."""
        return [
            Span(extent.last - extent.first, extent.dtype, extent.path, Live(storage, extent.first, extent.last))
            for extent, storage in zip(self._extents.finish(), self._storages, strict=True)
        ]


class Live:
    """The bytes `first` to `last` of a storage as they are when they are asked for: what `Span.open` is of a tensor.

    Of CPU memory one view, made at the first call; from a device copies, piece by piece.
    """

    __slots__ = ("_view", "first", "last", "storage")

    def __init__(self, storage: torch.UntypedStorage, first: int, last: int) -> None:
        self.storage = storage
        self.first = first
        self.last = last
        self._view: memoryview | None = None

    def __call__(self, start: int, stop: int) -> memoryview:
        if self._view is None:
            if self.storage.device.type != "cpu":
                return host_view(self.storage, self.first + start, self.first + stop)
            self._view = host_view(self.storage, self.first, self.last)
        return self._view[start:stop]
