"""What a remote is: a flat store of immutable named objects, and one root object that moves by compare-and-swap.

    root             the one mutable object: read by `read_root`, moved by `swap_root`
    packs/<name>     immutable, as is everything else: written once by `put`, never changed, deleted by gc alone

The interface knows no packs, segments or refs; the engine above gives names and bytes their meaning, checks every id
and trusts no answer. Nothing that `put` wrote counts before a root names it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NewType

from ckstore.errors import Conflict, Integrity, InvalidInput, RemoteFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from ckstore.remote.source import Source

ROOT = "root"
"""The name under which stores keep the root; no object may have it."""

MAX_ROOT_BYTES = 16 << 20
"""A root longer than this is refused before it is read."""

MAX_OBJECT_BYTES = 64 << 20
"""No object is longer: each is sent in one request."""

BLOCK_BYTES = 1 << 20
"""The longest block that `Remote.read` yields."""

_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*", re.ASCII)
_LONGEST_NAME = 200

Version = NewType("Version", str)
"""Which content an object has, as the store says it (an ETag, a generation). Only to be compared and handed back."""


@dataclass(frozen=True)
class Stat:
    """One object: its name, its length, its version, and when it was written by the store's clock (ns since 1970)."""

    name: str
    size_bytes: int
    version: Version
    modified_ns: int


class Root(NamedTuple):
    """The root's bytes, and the version to hand to `swap_root`."""

    data: bytes
    version: Version


class RootMoved(Conflict):
    """The root is not at the expected version: somebody else moved it. What `swap_root` was to write, is not there.

    With one exception that no store can rule out: a swap that was sent twice (by a proxy, by a client that retries)
    finds itself. So whoever gets this reads the root and looks for the write-id it wrote.
    """


class Transient(RemoteFailed):
    """A failure that may be over in a moment: 5xx, 429, a cut connection, a stall.

    Raised by `swap_root`, it promises that nothing was written. `retry_after_s` is what the server asked for.
    """

    def __init__(
        self, what: str, *, why: str | None = None, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(what, why=why, hint=hint)
        self.retry_after_s = retry_after_s


class Unclear(Transient):
    """No answer, or one that says nothing: the root may have been written, or yet be. Raised by `swap_root` alone.

    Whoever gets this reads the root back and looks for the write-id it wrote; if it is not there, the same swap,
    with the same expected version, may be sent again.
    """


class Remote(ABC):
    """A place that holds objects. Every method may be called by many threads at once.

    Every method raises `Auth` for credentials that are missing, expired or lack a right; `NotFound` where the place
    itself (bucket, folder) is not there; `Transient` for what may go on in a moment; `RemoteFailed` for what will not;
    `StoreFull` where the place is full; `InvalidInput` for a name that is none (`check_name`). No message holds a
    credential. None of them retries by itself: `retry.Retrying` does, around any remote.

    What the engine above relies on:

    - *All or nothing*: an object is there whole, or not at all; a reader never sees a part.
    - *At once*: what has been written, deleted or swapped is seen so by every later call of any client, `list` too.
    - *One winner*: of several `swap_root` with one expected version, `None` included, at most one succeeds.
    - *Durable*: what has been acknowledged outlives a power cut as well as the place promises for anything.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """What people call this place: a URL, without anything secret. The same place has the same one."""

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes `start` to `stop` (None: to the end) of an object in blocks of at most `BLOCK_BYTES`.

        Never fewer bytes, and never more: raises `NotFound` where the object is absent, and `Integrity` where it
        ends before `stop`, or before `start`; `Transient` when the transfer is cut, with what was yielded being right.
        The first request may be sent when the first block is asked for. An iterator that is dropped half way, or
        closed, lets go of its connection. 0 <= start <= stop, else `InvalidInput`.
        """

    @abstractmethod
    def put(self, name: str, source: Source) -> bool:
        """Write an object that is never to change. Whether it was written now: False where it was there already.

        One that is there already counts as this one: names are random, or made of what the bytes are. If its length
        is another, `Integrity` is raised and it is left alone. Stores that can, create it exclusively. Sending it again
        after any error is safe. What is sent is told by `source.sent`. At most `MAX_OBJECT_BYTES`, else `InvalidInput`.
        """

    @abstractmethod
    def stat(self, name: str) -> Stat | None:
        """The object of that name; None where there is none."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield the objects whose names begin with `prefix` (`packs/`; any text, the empty one for all) by name.

        The root is not among them, nor what others put there under what is no name. What is written or deleted
        while it runs may or may not be.
        """

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; fine for those that are gone. After an error, any of them may have been deleted."""

    @abstractmethod
    def read_root(self) -> Root | None:
        """The root as it is now; None where there is none yet. Raises `Integrity` beyond `MAX_ROOT_BYTES`."""

    @abstractmethod
    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        """Write `data` as the root if that is still at `expected` (None: if there is no root); its new version.

        Raises `RootMoved` if it is not, and `Unclear` where the answer leaves open what happened. Raises `RemoteFailed`
        where the store cannot do this: nothing is written then. Two roots of equal bytes may have one version, so
        that whoever writes a root makes it unlike all before (a generation and a write-id in it).
        """

    @abstractmethod
    def clock_ns(self) -> int:
        """The time now by the clock that `Stat.modified_ns` comes from, in ns since 1970; often in whole seconds."""

    @abstractmethod
    def remove_root(self) -> None:
        """Delete the root, wherever it is; fine if there is none. For places made by `inside`: ends all promises."""

    @abstractmethod
    def inside(self, name: str) -> Remote:
        """Another remote in a place of its own within this one, empty unless `name` was used before.

        Nothing in it is seen here. The probe works in one. It is usable while this one is open.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. Closing twice is fine; nothing else may be called afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes `start` to `stop` of an object, as `read` yields them, in one piece."""
        return b"".join(self.read(name, start, stop))

    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        """Fill `target` (writable, contiguous bytes) with an object's bytes from `start` on. Raises as `read` does."""
        filled = 0
        for block in self.read(name, start, start + target.nbytes):
            target[filled : filled + len(block)] = block
            filled += len(block)
        if filled != target.nbytes:
            raise Integrity(f"{self.url} sent {filled} bytes of {name} in place of {target.nbytes}")


def is_name(name: str) -> bool:
    """Whether an object may have that name.

    A name is parts of lower-case letters, digits, `.`, `_` and `-` separated by `/`; no part begins with a dot, and
    the whole is at most 200 characters long and does not begin with the part `root`. So it is a path below a folder on
    any file system; for the same reason no object may be called like the first parts of another.
    """
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None and name.partition("/")[0] != ROOT


def check_name(name: str) -> None:
    """Raise `InvalidInput` for a name that no object may have."""
    if not is_name(name):
        raise InvalidInput(f"{name[:_LONGEST_NAME]!r} is no name for an object of a remote")


def check_range(start: int, stop: int | None) -> None:
    """Raise `InvalidInput` unless 0 <= start <= stop."""
    if start < 0 or (stop is not None and stop < start):
        raise InvalidInput(f"there are no bytes from {start} to {stop}")


def check_size(name: str, size_bytes: int) -> None:
    """Raise `InvalidInput` for an object that is too long to be sent in one request."""
    if size_bytes > MAX_OBJECT_BYTES:
        raise InvalidInput(f"{name} has {size_bytes:,} bytes; an object of a remote has at most {MAX_OBJECT_BYTES:,}")


def too_short(url: str, name: str, stop: int, size_bytes: int | None = None) -> Integrity:
    """The error for an object that ends before the bytes that were asked for."""
    has = f"it has {size_bytes:,}" if size_bytes is not None else None
    return Integrity(f"{name} at {url} ends before byte {stop:,}", why=has, hint="`ckstore repair --remote` mends it")


def other_length(url: str, name: str, there: int, wanted: int) -> Integrity:
    """The error for an object that is there already and cannot be the one to be written."""
    return Integrity(
        f"{name} at {url} has {there:,} bytes in place of {wanted:,}", hint="`ckstore repair --remote` mends it"
    )
