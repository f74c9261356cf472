"""Puts frames into packs under `tmp/`: one stream a component, rolled at PACK_SIZE (**W1**, **W2**).

A stream opens a file of its own once it holds SMALL bytes; what is left of the small ones at the end shares a
pack, so that a commit of ten small components does not make ten files. Trees and commits are a stream apart
that is never mixed with data.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.pack.format import NAME_SIZE, Frame
from ckstore.pack.writer import PackWriter, Sealed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PACK_SIZE = 256 << 20
SMALL = 1 << 20
META = ""
"""The stream of trees and commits; component names are never empty."""

Pieces = Sequence[bytes | memoryview]
_Pending = tuple[Frame, Pieces]


class Packer:
    """The packs of one save, in `folder`. `add` may be called by many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        self._sealed: list[Sealed] = []

    def add(self, stream: str, frame: Frame, payload: Pieces) -> None:
        """Append one object to a stream. What `payload` is pieces of may be overwritten afterwards."""
        with self._lock:
            target = self._streams.get(stream)
            if target is None:
                target = self._streams[stream] = _Stream(self._open)
        full = target.add(frame, payload)
        if full is not None:
            self._seal(full)

    def finish(self) -> list[Sealed]:
        """Seal and sync every pack (**W2**); they still lie in the folder. More can be added afterwards."""
        left: list[_Pending] = []
        full: list[_OpenPack] = []
        for name, stream in sorted(self._streams.items()):
            if name == META or stream.pack is not None:
                if stream.pending:
                    stream.flush()
                if stream.pack is not None:
                    full.append(stream.pack)
            else:
                left += stream.pending
        self._streams.clear()
        try:
            if left:
                shared = self._open()
                full.append(shared)
                for frame, payload in left:
                    shared.writer.add(frame, *payload)
            while full:
                self._seal(full.pop())
        finally:
            for pack in full:
                pack.file.close()
        return self._sealed

    def part(self, name: bytes) -> Path:
        """Where pack `name` lies until it is published."""
        return self._folder / f"{name.hex()}.part"

    def discard(self) -> None:
        """Close what is open; the files stay for whoever removes the folder."""
        for stream in self._streams.values():
            if stream.pack is not None:
                stream.pack.file.close()
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
            self._sealed.append(sealed)


class _OpenPack:
    def __init__(self, file: durable.DurableFile, name: bytes) -> None:
        self.file = file
        try:
            self.writer = PackWriter(file, name)
        except BaseException:
            file.close()
            raise


class _Stream:
    """One component's frames on their way into packs."""

    def __init__(self, open_pack: Callable[[], _OpenPack]) -> None:
        self.pack: _OpenPack | None = None
        self.pending: list[_Pending] = []
        self._pending_bytes = 0
        self._open = open_pack
        self._lock = threading.Lock()

    def add(self, frame: Frame, payload: Pieces) -> _OpenPack | None:
        """Take one in; a pack that is full now and no more the stream's: others go on while it is sealed."""
        with self._lock:
            if self.pack is None and self._pending_bytes + frame.stored_length < SMALL:
                payload = (b"".join(payload),)  # it waits here while its buffers are used for others
            self.pending.append((frame, payload))
            self._pending_bytes += frame.stored_length
            if self.pack is not None or self._pending_bytes >= SMALL:
                pack = self.flush()
                if pack.writer.size_bytes >= PACK_SIZE:
                    self.pack = None
                    return pack
        return None

    def flush(self) -> _OpenPack:
        """Write what is pending into the stream's own pack."""
        if self.pack is None:
            self.pack = self._open()
        for frame, payload in self.pending:
            self.pack.writer.add(frame, *payload)
        self.pending.clear()
        self._pending_bytes = 0
        return self.pack
