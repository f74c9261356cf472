"""Puts frames into packs under `tmp/`: one stream a component, rolled at PACK_SIZE (**W1**, **W2**).

A stream opens a file of its own once it holds SMALL bytes; what is left of the small ones at the end shares a
pack, so that a commit of ten small components does not make ten files. Trees and commits are a stream apart
that is never mixed with data. Threads that meet at a stream of WIDE bytes do not wait for each other: it then has as
many packs open as threads that write at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.pack.format import NAME_SIZE
from ckstore.pack.writer import PackWriter, Ready, Sealed, ready

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckstore.pack.format import Frame
    from ckstore.storage.workers import Workers

PACK_SIZE = 256 << 20
SMALL = 1 << 20
WIDE = 16 << 20
META = ""
"""The stream of trees and commits; component names are never empty."""

Pieces = Sequence[bytes | memoryview]


class Packer:
    """The packs of one save, in `folder`. `add` may be called by many threads. `sealed`: those that are finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        self.sealed: list[Sealed] = []

    def add(self, stream: str, frame: Frame, payload: Pieces) -> None:
        """Append one object to a stream. What `payload` is pieces of may be overwritten afterwards."""
        with self._lock:
            target = self._streams.get(stream)
            if target is None:
                target = self._streams[stream] = _Stream(self._open)
        full = target.add(ready(frame, payload))
        if full is not None:
            self._seal(full)

    def finish(self, workers: Workers) -> list[Sealed]:
        """Seal and sync every pack (**W2**), on all threads; they still lie in the folder.

        More can be added afterwards.
        """
        left: list[Ready] = []
        full: list[_OpenPack] = []
        for name, stream in sorted(self._streams.items()):
            if name == META:
                stream.flush()
            left += stream.pending
            full += stream.packs
        self._streams.clear()
        try:
            if left:
                shared = self._open()
                full.append(shared)
                shared.writer.add(left)
            workers.map(self._seal, full)
        finally:
            for pack in full:
                pack.file.close()
        return self.sealed

    def part(self, name: bytes) -> Path:
        """Where pack `name` lies until it is published."""
        return self._folder / f"{name.hex()}.part"

    def discard(self) -> None:
        """Close what is open; the files stay for whoever removes the folder."""
        for stream in self._streams.values():
            for pack in stream.packs:
                pack.file.close()
        self._streams.clear()

    def _open(self) -> _OpenPack:
        name = os.urandom(NAME_SIZE)
        return _OpenPack(durable.create(self.part(name)), name)

    def _seal(self, pack: _OpenPack) -> None:
        """Finish, sync and close a pack (**W2**)."""
        try:
            sealed = pack.writer.finish()
            pack.file.sync()
        finally:
            pack.file.close()
        with self._lock:
            self.sealed.append(sealed)


class _OpenPack:
    def __init__(self, file: durable.DurableFile, name: bytes) -> None:
        self.file = file
        try:
            self.writer = PackWriter(file, name)
        except BaseException:
            file.close()
            raise


class _Stream:
    """One component's frames on their way into `packs`; `pending` until there are enough for one."""

    def __init__(self, open_pack: Callable[[], _OpenPack]) -> None:
        self.packs: list[_OpenPack] = []
        self.pending: list[Ready] = []
        self._idle: list[_OpenPack] = []
        self._size_bytes = 0
        self._open = open_pack
        self._lock = threading.Lock()

    def add(self, one: Ready) -> _OpenPack | None:
        """Take a frame in; a pack that is full now and no more the stream's: others go on while it is sealed."""
        with self._lock:
            self._size_bytes += one.frame.stored_length
            if not self.packs and self._size_bytes < SMALL:
                self.pending.append(_kept(one))
                return None
            self.flush()
            pack = self._idle.pop() if self._idle else self._opened()
            if self._size_bytes < WIDE:
                pack.writer.add([one])
                return self._written(pack)
        pack.writer.add([one])
        with self._lock:
            return self._written(pack)

    def flush(self) -> None:
        """Write what is pending into a pack of the stream's own."""
        if self.pending:
            pack = self._opened()
            self._idle.append(pack)
            pack.writer.add(self.pending)
            self.pending.clear()

    def _opened(self) -> _OpenPack:
        self.packs.append(self._open())
        return self.packs[-1]

    def _written(self, pack: _OpenPack) -> _OpenPack | None:
        if pack.writer.size_bytes < PACK_SIZE:
            self._idle.append(pack)
            return None
        self.packs.remove(pack)
        return pack


def _kept(one: Ready) -> Ready:
    """A frame whose payload may wait while its buffers are used for others."""
    return one._replace(buffers=(b"".join(one.buffers),))
