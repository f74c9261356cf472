"""Puts frames into packs under `tmp/`: one stream a component, rolled at PACK_SIZE (**W1**, **W2**).

A stream opens a file of its own once it holds SMALL bytes. Until then they are kept in memory; what is left of the
small ones at the end shares a pack, so that a commit of ten small components does not make ten files, and so does
what is kept once it comes to KEPT bytes. Trees and commits are a stream apart that is never mixed with data. Threads
that meet at a stream of WIDE bytes do not wait for each other: it then has as many packs open as threads that write at
once.
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
KEPT = 8 << 20
META = ""
"""The stream of trees and commits; component names are never empty."""

Pieces = Sequence[bytes | memoryview]


class Packer:
    """The packs of one save, in `folder`. `add` may be called by many threads. `sealed`: those that are finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        self._meta = _Stream(self._open)
        self._shared = _Stream(self._open)
        self._kept_bytes = 0
        self.sealed: list[Sealed] = []

    def add(self, stream: str, frame: Frame, payload: Pieces) -> None:
        """Append one object to a stream. What `payload` is pieces of may be overwritten afterwards."""
        full = self._stream(stream).add(ready(frame, payload))
        if full is not None:
            self._seal(full)
        if self._kept_bytes > KEPT:
            self._share()

    def finish(self, workers: Workers) -> list[Sealed]:
        """Seal and sync every pack (**W2**), on all threads; they still lie in the folder.

        More can be added afterwards.
        """
        self._share()
        self._write(self._meta, self._meta.take())
        left = self._open_packs()
        self._streams.clear()
        self._meta, self._shared = _Stream(self._open), _Stream(self._open)
        try:
            workers.map(self._seal, left)
        finally:
            for pack in left:
                pack.file.close()
        return self.sealed

    def part(self, name: bytes) -> Path:
        """Where pack `name` lies until it is published."""
        return self._folder / f"{name.hex()}.part"

    def discard(self) -> None:
        """Close what is open; the files stay for whoever removes the folder."""
        for pack in self._open_packs():
            pack.file.close()
        self._streams.clear()

    def _open_packs(self) -> list[_OpenPack]:
        return [pack for stream in (*self._streams.values(), self._shared, self._meta) for pack in stream.packs]

    def _stream(self, name: str) -> _Stream:
        if name == META:
            return self._meta
        with self._lock:
            found = self._streams.get(name)
            if found is None:
                found = self._streams[name] = _Stream(self._open, self._keep)
            return found

    def _keep(self, size_bytes: int) -> None:
        """So many bytes more are kept in memory, or less."""
        with self._lock:
            self._kept_bytes += size_bytes

    def _share(self) -> None:
        """Write what is kept of all components into a pack that they share."""
        with self._lock:
            streams = sorted(self._streams.items())
        self._write(self._shared, [one for _, stream in streams for one in stream.take()])

    def _write(self, stream: _Stream, ones: list[Ready]) -> None:
        full = stream.write(ones) if ones else None
        if full is not None:
            self._seal(full)

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
    """Frames on their way into `packs`: of one component, or what several share.

    Those of a component wait until there are enough for a pack; `keep` is told how many bytes more or less do.
    """

    def __init__(self, open_pack: Callable[[], _OpenPack], keep: Callable[[int], None] | None = None) -> None:
        self.packs: list[_OpenPack] = []
        self._waiting: list[Ready] = []
        self._idle: list[_OpenPack] = []
        self._size_bytes = 0
        self._open = open_pack
        self._keep = keep or (lambda _size_bytes: None)
        self._lock = threading.Lock()

    def add(self, one: Ready) -> _OpenPack | None:
        """Take a frame in; a pack that is full now and no more the stream's: others go on while it is sealed."""
        with self._lock:
            self._size_bytes += one.frame.stored_length
            if not self.packs and self._size_bytes < SMALL:
                self._waiting.append(_kept(one))
                self._keep(one.frame.stored_length)
                return None
            ones = [*self._taken(), one]
            if self._size_bytes < WIDE:
                pack = self._next()
                pack.writer.add(ones)
                return self._written(pack)
        return self.write(ones)

    def take(self) -> list[Ready]:
        """The frames that wait, which are the caller's now."""
        with self._lock:
            if not self.packs:
                self._size_bytes = 0
            return self._taken()

    def write(self, ones: list[Ready]) -> _OpenPack | None:
        """Write frames into one pack, at once; that pack, if it is full, as `add`."""
        with self._lock:
            pack = self._next()
        pack.writer.add(ones)
        with self._lock:
            return self._written(pack)

    def _taken(self) -> list[Ready]:
        ones, self._waiting = self._waiting, []
        if ones:
            self._keep(-sum(one.frame.stored_length for one in ones))
        return ones

    def _next(self) -> _OpenPack:
        """A pack that nobody writes into."""
        if self._idle:
            return self._idle.pop()
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
