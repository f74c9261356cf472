"""Where a file's bytes are read from: memory, or the disk through a mapping that is made when it is needed.

A folder of checkpoints may hold more files than a process may have open, so that only some are mapped at a time.
"""

from __future__ import annotations

import mmap
import os
import stat
import threading
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ckstore.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from pathlib import Path
    from typing import Self

_MOST_OPEN = 64


class Source(Protocol):
    """The bytes of one file."""

    @property
    def size_bytes(self) -> int:
        """How many there are."""

    def view(self) -> memoryview:
        """All of them, without a copy. Raises `Conflict` where the file is not what it was."""


class HeldSource:
    """Bytes in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.size_bytes = self._data.nbytes

    def view(self) -> memoryview:
        return self._data


class PartSource:
    """`size_bytes` bytes at `start` of another source, which holds them."""

    def __init__(self, whole: Source, start: int, size_bytes: int) -> None:
        self._whole = whole
        self._start = start
        self.size_bytes = size_bytes

    def view(self) -> memoryview:
        return self._whole.view()[self._start : self._start + self.size_bytes]


class _Mapping(NamedTuple):
    file: BufferedReader
    view: memoryview


class Files:
    """Files on the disk that are read together; a context manager. Safe to use from many threads.

    At most `_MOST_OPEN` are open at a time, besides those that somebody holds a view of.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[MappedSource, _Mapping] = OrderedDict()
        self._all: list[MappedSource] = []

    def add(self, path: Path) -> MappedSource:
        """The file at `path` as it is now. Raises `NotFound`, `InvalidInput` for what is no regular file."""
        file, about = _open(path)
        source = MappedSource(self, path, about)
        with self._lock:
            self._all.append(source)
            self._keep(source, _map(file, about))
        return source

    def mapped(self, source: MappedSource) -> memoryview:
        """The mapping of a source, made anew where it has been let go."""
        with self._lock:
            found = self._open.get(source)
            if found is None:
                file, about = _open(source.path)
                if _identity(about) != _identity(source.about):
                    file.close()
                    raise _changed(source.path)
                found = _map(file, about)
            self._keep(source, found)
            return found.view

    def check_unchanged(self) -> None:
        """Raise `Conflict` where a file was written to, or replaced after it was let go, since it was added."""
        with self._lock:
            for source in self._all:
                mapping = self._open.get(source)
                try:
                    about = os.stat(source.path if mapping is None else mapping.file.fileno())
                except OSError:
                    raise _changed(source.path) from None
                if _identity(about) != _identity(source.about):
                    raise _changed(source.path)

    def close(self) -> None:
        """Let go of all files; what is still viewed is unmapped with its last view."""
        with self._lock:
            for mapping in self._open.values():
                mapping.file.close()
            self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, source: MappedSource, mapping: _Mapping) -> None:
        self._open[source] = mapping
        self._open.move_to_end(source)
        if len(self._open) > _MOST_OPEN:
            _, oldest = self._open.popitem(last=False)
            oldest.file.close()


class MappedSource:
    """A regular file; `about` is what `os.stat` said when it was added."""

    def __init__(self, files: Files, path: Path, about: os.stat_result) -> None:
        self._files = files
        self.path = path
        self.about = about
        self.size_bytes = about.st_size

    def view(self) -> memoryview:
        return self._files.mapped(self)


def window(source: Source, start: int, length: int) -> Callable[[int, int], memoryview]:
    """What a Span's `open` is for `length` bytes at `start` of a file: slices of its mapping, no copies."""
    return partial(_slice, source, start, start + length)


def _slice(source: Source, begin: int, end: int, start: int, stop: int) -> memoryview:
    return source.view()[begin:end][start:stop]


def regular(path: Path) -> os.stat_result:
    """What `os.stat` says of the file at `path`. Raises `NotFound`, `InvalidInput` for what is no regular file."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise InvalidInput(f"the link {path} leads nowhere", hint="remove it, or bring back its target") from None
        raise NotFound(f"no file {path}", hint="check the path") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(about.st_mode):
        raise InvalidInput(f"{path} is no regular file", hint="write it to a file first")
    return about


def unreadable(path: object, error: OSError | ValueError) -> InvalidInput:
    """The error for a path that the system does not let us read, or that cannot be one (`ValueError`)."""
    why = error.strerror if isinstance(error, OSError) else str(error)
    return InvalidInput(f"cannot read {path}: {why}", hint="check the path and its permissions")


def _open(path: Path) -> tuple[BufferedReader, os.stat_result]:
    regular(path)  # before it is opened: opening a pipe waits for a writer
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"no file {path}", hint="check the path") from None
    except OSError as error:
        raise unreadable(path, error) from error
    return file, os.fstat(file.fileno())


def _map(file: BufferedReader, about: os.stat_result) -> _Mapping:
    """The mapping of an open file, which is closed where it cannot be mapped."""
    if not about.st_size:
        return _Mapping(file, memoryview(b""))
    try:
        mapped = mmap.mmap(file.fileno(), about.st_size, access=mmap.ACCESS_READ)
    except ValueError:
        file.close()
        raise _changed(file.name) from None
    except OSError as error:
        file.close()
        raise unreadable(file.name, error) from error
    return _Mapping(file, memoryview(mapped))


def _identity(about: os.stat_result) -> tuple[int, ...]:
    return about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size


def _changed(path: object) -> Conflict:
    return Conflict(f"{path} changed while it was read", hint="commit it again once it is complete")
