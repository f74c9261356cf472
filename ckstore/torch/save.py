"""A state as a file of torch.save, and as it comes back from one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

from ckstore import durable

if TYPE_CHECKING:
    from pathlib import Path


class _Sink(io.RawIOBase):
    """A durable file as torch.save wants one."""

    def __init__(self, out: durable.DurableFile) -> None:
        super().__init__()
        self._out = out

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        self._out.write(view)
        return view.nbytes


def save(state: object, path: Path) -> None:
    """Write `state` to the new file `path`, synced. Raises `StoreFull`, `SaveFailed`."""
    with durable.create(path) as out:
        torch.save(state, _Sink(out))  # type: ignore[arg-type]
        out.sync()


def read(path: Path) -> object:
    """What torch.load gives for a file that `save` has just written: it may hold any class that torch knows."""
    return torch.load(path, map_location="cpu", weights_only=False)
