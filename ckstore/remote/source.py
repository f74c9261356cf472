"""What is sent to a remote: bytes of known length that can be read again for another try."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from ckstore.errors import Integrity, NotFound, SaveFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

_BLOCK_BYTES = 256 << 10


class Source(ABC):
    """The content of an object to be. Each `open` begins anew; it may be opened by several threads at once."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """How many bytes there are."""

    @abstractmethod
    def open(self) -> BinaryIO:
        """A reader of all bytes, to be closed by the caller; it can seek and tell."""

    @abstractmethod
    def sent(self, count: int) -> None:
        """Told by the remote when it hands `count` more bytes to the network or the disk, those of another try too.

        May sleep (a limit on the rate), and may raise to give the transfer up.
        """

    def blocks(self) -> Iterator[bytes]:
        """Yield all bytes in blocks, each told by `sent` before. Raises `Integrity` if there are not `size_bytes`."""
        left = self.size_bytes
        with self.open() as reader:
            while block := reader.read(min(_BLOCK_BYTES, left)):
                left -= len(block)
                self.sent(len(block))
                yield block
        if left:
            raise Integrity(f"what was to be sent ended {left} bytes early")


class Quiet(Source):
    """A source that nobody watches: wrap it in `Watched` for that."""

    def sent(self, count: int) -> None:
        pass


class Buffers(Quiet):
    """Bytes in memory, one buffer after another; they must not change before they are sent."""

    def __init__(self, *buffers: Buffer) -> None:
        self._views = tuple(memoryview(buffer).cast("B") for buffer in buffers)
        self._size = sum(view.nbytes for view in self._views)

    @property
    def size_bytes(self) -> int:
        return self._size

    def open(self) -> BinaryIO:
        return _reader(_ViewsReader(self._views, self._size))


class FileRange(Quiet):
    """Bytes `start` to `stop` of a file that does not change."""

    def __init__(self, path: Path, start: int, stop: int) -> None:
        self.path = path
        self.start = start
        self.stop = stop

    @property
    def size_bytes(self) -> int:
        return self.stop - self.start

    def open(self) -> BinaryIO:
        return _reader(_FileReader(self.path, self.start, self.stop))


class Watched(Source):
    """Another source, of whose bytes `tell` is told as they are sent, before that source is."""

    def __init__(self, source: Source, tell: Callable[[int], None]) -> None:
        self._source = source
        self._tell = tell

    @property
    def size_bytes(self) -> int:
        return self._source.size_bytes

    def open(self) -> BinaryIO:
        return self._source.open()

    def sent(self, count: int) -> None:
        self._tell(count)
        self._source.sent(count)


def _reader(raw: io.RawIOBase) -> BinaryIO:
    return cast("BinaryIO", raw)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"{path} is not there any more", hint="try again: it was replaced meanwhile") from None
    except OSError as error:
        raise SaveFailed(f"cannot read {path}: {error.strerror}", hint="check the disk (`dmesg`)") from error


class _Seeking(io.RawIOBase):
    """The place in a source of known length."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._take(self._at, wanted)
        self._at += len(data)
        return data

    def _take(self, at: int, count: int) -> bytes:
        raise NotImplementedError


class _ViewsReader(_Seeking):
    def __init__(self, views: Sequence[memoryview], size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._views = views

    def _take(self, at: int, count: int) -> bytes:
        pieces = []
        for view in self._views:
            if not count:
                break
            if at < view.nbytes:
                piece = view[at : at + count]
                pieces.append(piece)
                count -= piece.nbytes
            at = max(at - view.nbytes, 0)
        return b"".join(pieces)


class _FileReader(_Seeking):
    def __init__(self, path: Path, start: int, stop: int) -> None:
        super().__init__(stop - start)
        self._start = start
        self._path = path
        self._descriptor = -1
        with _readable(path):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _take(self, at: int, count: int) -> bytes:
        pieces = []
        while count:
            with _readable(self._path):
                piece = os.pread(self._descriptor, count, self._start + at)
            if not piece:
                break
            pieces.append(piece)
            at += len(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        super().close()
