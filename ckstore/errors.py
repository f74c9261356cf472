"""Every error ckstore raises on purpose.

    CkstoreError
    +-- InvalidInput        the call or its data cannot be used; nothing was written
    +-- NotFound            a name leads nowhere
    |   +-- NoRepository
    |   +-- NoRevision
    |   +-- Absent          the commit is known, its data is not here: dropped, lost, or never fetched
    +-- Conflict            someone else moved the ref first; what was written stays usable for a retry
    +-- Locked              another live process holds the repository lock
    +-- Integrity           stored bytes are not what they must be; no wrong byte is ever returned
    +-- Format              bytes that are not in a format this version reads
    +-- StoreFull           no space, inodes or quota left
    +-- Auth                credentials or keys
    +-- RemoteFailed        a remote did not do what it was asked
    +-- SaveFailed          a write or sync failed; older commits are untouched

The tree is grouped by what a handler would do. `code` is stable and append-only: a code is never
reused or renamed. `hint` says the way out, `retryable` whether the same call may succeed later.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class CkstoreWarning(UserWarning):
    """Something was wrong and has been dealt with; nothing was lost."""


class CkstoreError(Exception):
    """Base of all errors raised on purpose.

    `str(error)` says what happened; `why` the cause, where there is more to say; `hint` the way out.
    """

    code = "error"
    retryable = False

    def __init__(self, what: str, *, why: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.what]
        if self.why:
            parts.append(self.why)
        if self.hint:
            parts.append(f"Fix: {self.hint}")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.why, self.hint)


def _rebuild(cls: type[CkstoreError], what: str, why: str | None, hint: str | None) -> CkstoreError:
    return cls(what, why=why, hint=hint)


class InvalidInput(CkstoreError):
    """The call or its data cannot be used; nothing was written."""

    code = "invalid-input"


class NotFound(CkstoreError):
    """A name leads nowhere."""

    code = "not-found"


class NoRepository(NotFound):
    """There is no repository where one was looked for."""

    code = "no-repository"


class NoRevision(NotFound):
    """No commit answers to the revision."""

    code = "no-revision"


class Absent(NotFound):
    """The data of a commit is known not to be here: dropped, lost, or never fetched. The commit itself is."""

    code = "absent"


class Conflict(CkstoreError):
    """Someone else moved the ref first; what was written stays usable for a retry."""

    code = "conflict"
    retryable = True


class Locked(CkstoreError):
    """Another live process holds the repository lock."""

    code = "locked"
    retryable = True


class Integrity(CkstoreError):
    """Stored bytes are not what they must be; no wrong byte is ever returned."""

    code = "integrity"


class Format(CkstoreError):
    """Bytes that are not in a format this version reads."""

    code = "format"


class StoreFull(CkstoreError):
    """No space, inodes or quota left; older commits are untouched."""

    code = "store-full"
    retryable = True


class Auth(CkstoreError):
    """Credentials or keys are missing or refused."""

    code = "auth"


class RemoteFailed(CkstoreError):
    """A remote did not do what it was asked."""

    code = "remote-failed"
    retryable = True


class SaveFailed(CkstoreError):
    """A write or sync failed; older commits are untouched."""

    code = "save-failed"


def nearest(wanted: str, known: Sequence[str]) -> str | None:
    """A hint that names the closest of `known`, or None."""
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else None
