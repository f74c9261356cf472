"""Snapshots of drafts in host memory that is used again: what an asynchronous commit stores while training goes on.

Most of a training state is changed by `optimizer.step` alone. Such memory can be copied while the next forward and
backward pass run, if the step then waits for the copy. That nobody else wrote to it meanwhile is not taken on
trust: a sample of its blocks is copied at once, and compared with what the copy holds in the end.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ckstore.errors import InvalidInput, SaveFailed
from ckstore.objects.draft import Draft, DraftBlob
from ckstore.torch.spans import Live

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckstore.objects.draft import Span

_ALIGN = 64
_PIECE_BYTES = 4 << 20
"""What is copied in one go: whoever waits for the rest helps from the next piece on."""

LEAST_LATER = 64 << 10
"""Shorter spans are always copied at once."""

_BLOCK = 4096
_SAMPLED = 64
"""One block of so many is sampled."""

Place = tuple[str, int | None, int]
"""Where a storage's memory lies: device type, device index, address."""


def place_of(tensor: torch.Tensor) -> Place:
    """Where a tensor's storage lies."""
    return tensor.device.type, tensor.device.index, tensor.untyped_storage().data_ptr()


class Staging:
    """Two buffers that snapshots are taken into by turns; both grow to the size of the state. For one thread.

    A snapshot's memory is written over by the second one after it.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor | None] = [None, None]
        self._turn = 0

    @property
    def size_bytes(self) -> int:
        """Host memory held."""
        return sum(buffer.nbytes for buffer in self._buffers if buffer is not None)

    def take(self, drafts: Mapping[str, Draft], later: Iterable[Place] = ()) -> Snapshot:
        """Copy what drafts refer to; storages at places in `later` by the snapshot's `finish`, all others at once.

        Raises `InvalidInput` where memory does not suffice.
        """
        self._turn += 1
        layout = _Layout(drafts)
        buffer = self._buffer(layout.size_bytes, pinned=layout.on_cuda)
        return Snapshot(layout, buffer, frozenset(later), self._turn)

    def _buffer(self, size_bytes: int, *, pinned: bool) -> torch.Tensor:
        slot = self._turn % 2
        found = self._buffers[slot]
        if found is None or found.nbytes < size_bytes or (pinned and not found.is_pinned()):
            self._buffers[slot] = found = None  # let go of the old one first
            try:
                found = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
            except RuntimeError as error:
                raise InvalidInput(
                    f"a snapshot needs {size_bytes:,} bytes of memory, which are not there",
                    hint="commit with block=True, which needs no copy",
                ) from error
            self._buffers[slot] = found
        return found


class Written(NamedTuple):
    """A tensor that was written to while it was being copied: its dotted path, and where its storage lies."""

    path: str
    place: Place


class _Item(NamedTuple):
    """Bytes to copy, and where to in the buffer."""

    path: str
    open: Callable[[int, int], memoryview]
    offset: int
    length: int


class _Layout:
    """Where in one buffer the bytes of drafts go."""

    def __init__(self, drafts: Mapping[str, Draft]) -> None:
        self.drafts = drafts
        self.items: list[_Item] = []
        self.size_bytes = 0
        self.on_cuda = False
        for name, draft in drafts.items():
            for span in draft.spans:
                self._add(f"{name}.{span.path}", span.open, span.length)
            for _, value in draft.entries:
                if isinstance(value, DraftBlob):
                    self._add("", value.open, value.length)

    def _add(self, path: str, open: Callable[[int, int], memoryview], length: int) -> None:
        self.items.append(_Item(path, open, self.size_bytes, length))
        self.size_bytes += -(-length // _ALIGN) * _ALIGN
        if isinstance(open, Live) and open.storage.device.type == "cuda":
            self.on_cuda = True

    def moved(self, view: memoryview) -> dict[str, Draft]:
        """The drafts, over their bytes in `view`."""
        items = iter(self.items)
        return {name: _moved(draft, items, view) for name, draft in self.drafts.items()}


def _moved(draft: Draft, items: Iterator[_Item], view: memoryview) -> Draft:
    spans: list[Span] = [replace(span, open=_Held(view, next(items))) for span in draft.spans]
    entries = [
        (key, replace(value, open=_Held(view, next(items))) if isinstance(value, DraftBlob) else value)
        for key, value in draft.entries
    ]
    return Draft(entries, spans)


class _Held:
    """Bytes of a snapshot."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview, item: _Item) -> None:
        self._view = view[item.offset : item.offset + item.length]

    def __call__(self, start: int, stop: int) -> memoryview:
        return self._view[start:stop]


class Snapshot:
    """One state in host memory. `drafts` may be read once `finish` has returned and `torn` found nothing."""

    def __init__(self, layout: _Layout, buffer: torch.Tensor, later: frozenset[Place], turn: int) -> None:
        self.drafts = layout.moved(memoryview(buffer.numpy()))  # type: ignore[arg-type]
        self.size_bytes = layout.size_bytes
        self._pieces: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._samples: list[_Sample] = []
        self._lock = threading.Lock()
        self._copied = threading.Event()
        self._next = self._finished = 0
        self._broken = False
        self._devices = _Devices() if layout.on_cuda else None
        view = memoryview(buffer.numpy())  # type: ignore[arg-type]
        rest = []
        for item in layout.items:
            live = item.open
            target = buffer[item.offset : item.offset + item.length]
            if not isinstance(live, Live):
                view[item.offset : item.offset + item.length] = live(0, item.length)
            elif item.length < LEAST_LATER or not _overlaps(live) or _place(live) not in later:
                self._copy_now(live, target)
            else:
                rest.append((live, target))
                self._samples.append(_Sample(Written(item.path, _place(live)), _flat(live), target, turn + len(rest)))
        if self._devices is not None:
            self._devices.hold_up()
        for live, target in rest:
            self._copy_later(live, target)
        if not self._pieces:
            self._copied.set()

    @property
    def whole(self) -> bool:
        """Whether everything has been copied."""
        return self._copied.is_set() and (self._devices is None or self._devices.done())

    def finish(self) -> None:
        """Copy what is left, together with whoever else calls this; returns when all of it is there.

        Raises `SaveFailed` where someone else who copied was stopped by an exception: nobody may wait for that piece.
        """
        try:
            self._copy_pieces()
        except BaseException:
            self._broken = True
            self._copied.set()
            raise
        self._copied.wait()
        if self._broken:
            raise SaveFailed("a snapshot was not copied to its end", hint="save again; the state is untouched")
        if self._devices is not None:
            self._devices.wait()

    def _copy_pieces(self) -> None:
        while not self._broken:
            with self._lock:
                number = self._next
                self._next += 1
            if number >= len(self._pieces):
                break
            source, target = self._pieces[number]
            np.copyto(target.numpy(), source.numpy())
            with self._lock:
                self._finished += 1
                if self._finished == len(self._pieces):
                    self._copied.set()

    def hold_up(self) -> None:
        """Return once what is left may be written to: on a device what comes next waits there."""
        if self._devices is not None:
            self._devices.hold_up()
        if not self._copied.is_set():
            with suppress(SaveFailed):  # the other one who copies tells of it
                self.finish()

    def torn(self) -> list[Written]:
        """The tensors that were written to while they were being copied. Call it after `finish`."""
        return [sample.of for sample in self._samples if not sample.holds()]

    def _copy_now(self, live: Live, target: torch.Tensor) -> None:
        if live.storage.device.type == "cuda" and self._devices is not None:
            self._devices.copy(live, target)
        else:
            target.copy_(_flat(live))

    def _copy_later(self, live: Live, target: torch.Tensor) -> None:
        if live.storage.device.type == "cuda":
            self._copy_now(live, target)
            return
        flat = _flat(live)
        for start in range(0, flat.numel(), _PIECE_BYTES):
            self._pieces.append((flat[start : start + _PIECE_BYTES], target[start : start + _PIECE_BYTES]))


class _Devices:
    """Copies from CUDA devices, each on a stream of its own that begins where the device's current stream stands."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._kept: list[torch.Tensor] = []

    def copy(self, live: Live, target: torch.Tensor) -> None:
        """Enqueue a copy to pinned memory."""
        device = live.storage.device
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
        flat = _flat(live)
        self._kept.append(flat)
        with torch.cuda.stream(stream):
            target.copy_(flat, non_blocking=True)

    def hold_up(self) -> None:
        """Let the current streams wait for what was enqueued; the host goes on."""
        for device, stream in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(stream)

    def wait(self) -> None:
        """Wait for all copies."""
        for stream in self._streams.values():
            stream.synchronize()
        self._kept.clear()

    def done(self) -> bool:
        """Whether all copies are there."""
        return all(stream.query() for stream in self._streams.values())


class _Sample:
    """Some blocks of a span as they are now, beside the copy that is still to be made of them."""

    def __init__(self, of: Written, flat: torch.Tensor, target: torch.Tensor, phase: int) -> None:
        self.of = of
        self._pairs = [
            (part.clone(), copy) for part, copy in zip(_blocks(flat, phase), _blocks(target, phase), strict=True)
        ]

    def holds(self) -> bool:
        """Whether the copy has those bytes."""
        return all(torch.equal(part.to(copy.device), copy) for part, copy in self._pairs)


def _blocks(flat: torch.Tensor, phase: int) -> list[torch.Tensor]:
    """One block of each stretch of `_SAMPLED`, and one of what is left at the end; `phase` says which."""
    stretch = _SAMPLED * _BLOCK
    count, left = divmod(flat.numel(), stretch)
    found = []
    if count:
        found.append(flat.as_strided((count, _BLOCK), (stretch, 1), flat.storage_offset() + phase % _SAMPLED * _BLOCK))
    if left:
        start = count * stretch + phase % -(-left // _BLOCK) * _BLOCK
        found.append(flat[start : start + _BLOCK])
    return found


def _flat(live: Live) -> torch.Tensor:
    flat = torch.empty(0, dtype=torch.uint8, device=live.storage.device)
    return flat.set_(live.storage, live.first, (live.last - live.first,), (1,))


def _overlaps(live: Live) -> bool:
    """Whether memory of that kind can be copied while something else runs."""
    return live.storage.device.type in ("cpu", "cuda")


def _place(live: Live) -> Place:
    device = live.storage.device
    return device.type, device.index, live.storage.data_ptr()
