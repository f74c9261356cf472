"""A state as a file of torch.save, and as it comes back from one."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING

import torch

from ckstore import durable
from ckstore.errors import CkstoreError, Format, InvalidInput

if TYPE_CHECKING:
    from pathlib import Path


class _Sink(io.RawIOBase):
    """A durable file as torch.save wants one."""

    def __init__(self, out: durable.DurableFile) -> None:
        super().__init__()
        self._out = out
        self.failure: CkstoreError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        try:
            self._out.write(view)
        except CkstoreError as error:
            self.failure = error  # torch's own cleaning up fails then too, with an error that says less
            raise
        return view.nbytes


def save(state: object, path: Path) -> None:
    """Write `state` to the new file `path`, synced.

    Raises `StoreFull`, `SaveFailed`, and `InvalidInput` for what cannot be pickled.
    """
    with durable.create(path) as out:
        sink = _Sink(out)
        try:
            torch.save(state, sink)  # type: ignore[arg-type]
        except (pickle.PicklingError, TypeError, AttributeError, RuntimeError) as error:
            if sink.failure is not None:
                raise sink.failure from error
            raise InvalidInput(f"torch.save cannot take the state: {error}", hint="leave it out with --only") from error
        out.sync()


def read(path: Path) -> object:
    """What torch.load gives for a file that `save` has just written: it may hold any class that torch knows.

    Raises `Format` where it gives nothing.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a damaged pickle may raise anything
        raise Format(f"torch.load cannot read {path}: {error}") from error
