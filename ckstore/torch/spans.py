"""The spans of one component: tensors grouped by the memory they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.objects.draft import DraftTensor, Span
from ckstore.objects.tree import PARAMETER, REQUIRES_GRAD
from ckstore.torch.tensors import NAMES, byte_range, contiguous_strides, host_view

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class _Use:
    """What a component covers of one storage; offsets in bytes from the storage's first byte."""

    number: int
    storage: torch.UntypedStorage
    first: int
    last: int
    align: int
    dtype: str
    path: str
    tensors: list[DraftTensor] = field(default_factory=list)


class Spans:
    """Collects a component's tensors; `finish` gives each its place on the smallest span that covers them all."""

    def __init__(self) -> None:
        self._uses: dict[tuple[str, int | None, int], _Use] = {}
        self._spans: list[Span | _Use] = []

    def add(self, tensor: torch.Tensor, path: str, *, parameter: bool) -> DraftTensor:
        """A strided tensor with its bits resolved. Tensors of one storage share a span."""
        dtype = NAMES[tensor.dtype]
        shape = tuple(tensor.shape)
        flags = PARAMETER * parameter | REQUIRES_GRAD * tensor.requires_grad
        strides = None if tensor.stride() == contiguous_strides(shape) else tuple(tensor.stride())
        if tensor.numel() == 0:
            self._spans.append(Span(0, dtype, path, _nothing))
            return DraftTensor(dtype, shape, strides, 0, flags, len(self._spans) - 1)
        storage = tensor.untyped_storage()
        first, last = byte_range(tensor)
        if last > storage.nbytes():
            raise InvalidInput(f"cannot keep the tensor {path}: its memory has been freed", hint="gather it first")
        device = tensor.device
        key = (device.type, device.index, storage.data_ptr())
        use = self._uses.get(key)
        if use is None:
            use = self._uses[key] = _Use(len(self._spans), storage, first, last, 1, dtype, path)
            self._spans.append(use)
        if storage.nbytes() > use.storage.nbytes():
            use.storage = storage  # one piece of memory that was wrapped twice
        use.first = min(use.first, first)
        use.last = max(use.last, last)
        use.align = max(use.align, tensor.element_size())
        draft = DraftTensor(dtype, shape, strides, first, flags, use.number)
        use.tensors.append(draft)
        return draft

    def finish(self) -> list[Span]:
        """The spans by number; every DraftTensor's offset now counts from its span's first byte."""
        return [span if isinstance(span, Span) else _placed(span) for span in self._spans]


def _placed(use: _Use) -> Span:
    first = use.first - use.first % use.align
    for draft in use.tensors:
        draft.offset -= first
    opened = (
        _OnHost(use.storage, first, use.last) if use.storage.device.type == "cpu" else _Elsewhere(use.storage, first)
    )
    return Span(use.last - first, use.dtype, use.path, opened)


class _OnHost:
    """Slices of one view of CPU memory, made at the first call."""

    __slots__ = ("_first", "_last", "_storage", "_view")

    def __init__(self, storage: torch.UntypedStorage, first: int, last: int) -> None:
        self._storage = storage
        self._first = first
        self._last = last
        self._view: memoryview | None = None

    def __call__(self, start: int, stop: int) -> memoryview:
        if self._view is None:
            self._view = host_view(self._storage, self._first, self._last)
        return self._view[start:stop]


class _Elsewhere:
    """Copies from a device, piece by piece."""

    __slots__ = ("_first", "_storage")

    def __init__(self, storage: torch.UntypedStorage, first: int) -> None:
        self._storage = storage
        self._first = first

    def __call__(self, start: int, stop: int) -> memoryview:
        return host_view(self._storage, self._first + start, self._first + stop)


def _nothing(start: int, stop: int) -> memoryview:
    return memoryview(b"")
