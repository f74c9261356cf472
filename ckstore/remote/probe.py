"""ProbeFinding out what a place does, by doing it: what `remote add` and `remote test` say of it.

All of it happens in a place of its own inside the remote, which is cleared afterwards. Concurrent writers can prove
that a store breaks its word, never that it keeps it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import Auth, CkstoreError, RemoteFailed
from ckstore.remote.interface import RootMoved, Unclear
from ckstore.remote.source import Buffers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.remote.interface import Remote, Version

WRITERS = 6
_ROUNDS = 3
_NAME = "packs/probe"
_DATA = bytes(range(256)) * 16
_SKEWED_NS = 300 * 10**9


@dataclass(frozen=True)
class ProbeFinding:
    """One thing that was tried: whether it did what it should, and what to say of it."""

    what: str
    good: bool
    text: str


@dataclass(frozen=True)
class Probe:
    """What was found out of a remote. `ahead_ns` is how far its clock is before ours, None where it has none."""

    url: str
    findings: tuple[ProbeFinding, ...]
    ahead_ns: int | None

    def good(self, *what: str) -> bool:
        """Whether all of these were tried, and did what they should."""
        return set(what) <= {finding.what for finding in self.findings if finding.good}

    @property
    def can_pull(self) -> bool:
        """Whether one can pull and clone from it."""
        return self.good("read", "list")

    @property
    def can_push(self) -> bool:
        """Whether several people can push to it: it keeps what it is given, and of two who move the root one wins."""
        return self.good("read", "list", "write", "range", "create", "replace")

    @property
    def can_gc(self) -> bool:
        """Whether what nothing needs any more can be deleted from it."""
        return self.can_push and self.good("delete", "clock")


def probe(remote: Remote, token: str, now_ns: Callable[[], int]) -> Probe:
    """Try everything that the engine relies on. `token` is a name that nobody else uses: letters and digits.

    Raises what `Remote` does where the place cannot be reached, is not there, or may not even be read.
    """
    findings: list[ProbeFinding] = []
    remote.read_root()
    for _ in remote.list("packs/"):
        break
    findings += [_good("read", "it can be read"), _good("list", "it can be listed")]
    ahead_ns = _clock(remote, now_ns, findings)
    scratch: list[Remote] = []
    try:
        if _write(remote, token, scratch, findings):
            _create(remote, token, scratch, findings)
            _replace(scratch[0], findings)
            _delete(scratch[0], findings)
    finally:
        _clear(scratch, findings)
    return Probe(remote.url, tuple(findings), ahead_ns)


def _good(what: str, text: str) -> ProbeFinding:
    return ProbeFinding(what, True, text)


def _bad(what: str, text: str, error: CkstoreError | None = None) -> ProbeFinding:
    why = f": {error.why or error.what}" if error is not None else ""
    return ProbeFinding(what, False, text + why)


def _clock(remote: Remote, now_ns: Callable[[], int], findings: list[ProbeFinding]) -> int | None:
    try:
        before_ns = now_ns()
        there_ns = remote.clock_ns()
        ahead_ns = there_ns - (before_ns + now_ns()) // 2
    except Auth as error:
        findings.append(_bad("clock", "its clock may not be read", error))
        return None
    except RemoteFailed as error:
        findings.append(_bad("clock", "it does not say what time it is, so that gc has no clock to go by", error))
        return None
    far = abs(ahead_ns) > _SKEWED_NS
    side = "ahead of" if ahead_ns > 0 else "behind"
    skew = f"its clock is {abs(ahead_ns) / 10**9:.0f} s {side} ours; gc goes by its clock" if far else "it has a clock"
    findings.append(_good("clock", skew))
    return ahead_ns


def _write(remote: Remote, token: str, scratch: list[Remote], findings: list[ProbeFinding]) -> bool:
    """Write, read, range and list of one object. Whether it was written."""
    try:
        scratch.append(remote.inside(f"probe-{token}"))
        place = scratch[0]
        place.put(_NAME, Buffers(_DATA))
    except Auth as error:
        findings.append(_bad("write", "it is read-only for us", error))
        return False
    except RemoteFailed as error:
        findings.append(_bad("write", "nothing can be written", error))
        return False
    findings.append(_good("write", "objects can be written"))
    try:
        if place.get(_NAME) != _DATA:
            findings.append(_bad("write", "an object came back with other bytes than were written"))
        if place.get(_NAME, 100, 300) == _DATA[100:300] and place.get(_NAME, 4000) == _DATA[4000:]:
            findings.append(_good("range", "parts of objects can be read"))
        else:
            findings.append(_bad("range", "parts of objects come back wrong"))
    except CkstoreError as error:
        findings.append(_bad("range", "parts of objects cannot be read", error))
    if [stat.name for stat in place.list("packs/")] != [_NAME]:
        findings.append(_bad("list", "what has been written is not listed at once"))
    return True


def _create(remote: Remote, token: str, scratch: list[Remote], findings: list[ProbeFinding]) -> None:
    """Several create the root at once: one of them must win."""
    unclear = 0
    try:
        for number in range(_ROUNDS):
            place = remote.inside(f"probe-{token}-{number}")
            scratch.append(place)
            won, odd = _race(place, None)
            unclear += odd
            if won != 1:
                what = f"of {WRITERS} who created one object at once, {won} were told that they had"
                findings.append(_bad("create", f"{what}: two pushes may both believe they won"))
                return
    except RemoteFailed as error:
        findings.append(_bad("create", "it cannot create an object on the condition that there is none", error))
        return
    text = f"of {WRITERS} who create the root at once, one wins"
    findings.append(_good("create", f"{text}; {unclear} got no clear answer and must look" if unclear else text))


def _replace(place: Remote, findings: list[ProbeFinding]) -> None:
    """The root moves from the version that is there, not from an older one, and for one of several."""
    try:
        first = place.swap_root(b"first", None)
        second = place.swap_root(b"second", first)
        try:
            place.swap_root(b"third", first)
            findings.append(_bad("replace", "it replaced an object that had changed meanwhile: pushes may get lost"))
            return
        except RootMoved:
            pass
        root = place.read_root()
        if root is None or root.data != b"second" or root.version != second:
            findings.append(_bad("replace", "what has been replaced is not seen at once"))
            return
        won, unclear = _race(place, root.version)
    except (RootMoved, RemoteFailed) as error:
        findings.append(_bad("replace", "it cannot replace an object on the condition that it is unchanged", error))
        return
    if won != 1:
        text = f"of {WRITERS} who replaced one object at once, {won} were told that they had"
        findings.append(_bad("replace", f"{text}: pushes may get lost"))
        return
    text = f"of {WRITERS} who move the root at once, one wins"
    findings.append(_good("replace", f"{text}; {unclear} got no clear answer and must look" if unclear else text))


def _race(place: Remote, expected: Version | None) -> tuple[int, int]:
    """How many of several writers of the root won, and how many got no clear answer."""
    begin = threading.Barrier(WRITERS)

    def swap(number: int) -> RootMoved | Unclear | None:
        begin.wait()
        try:
            place.swap_root(b"writer %d" % number, expected)
        except (RootMoved, Unclear) as error:
            return error
        return None

    with ThreadPoolExecutor(WRITERS) as pool:
        ends = list(pool.map(swap, range(WRITERS)))
    root = place.read_root()
    winner = None if root is None else root.data
    won = [number for number, end in enumerate(ends) if end is None]
    unclear = [number for number, end in enumerate(ends) if isinstance(end, Unclear)]
    looked = [number for number in unclear if winner == b"writer %d" % number]
    return len(won) + len(looked), len(unclear)


def _delete(place: Remote, findings: list[ProbeFinding]) -> None:
    try:
        place.delete([_NAME])
        gone = place.stat(_NAME) is None
    except CkstoreError as error:
        findings.append(_bad("delete", "nothing can be deleted: gc frees no space there", error))
        return
    findings.append(_good("delete", "objects can be deleted") if gone else _bad("delete", "what is deleted stays"))


def _clear(scratch: list[Remote], findings: list[ProbeFinding]) -> None:
    for place in scratch:
        try:
            place.delete([stat.name for stat in place.list("")])
            place.remove_root()
        except CkstoreError as error:
            if not any(finding.what == "delete" for finding in findings):
                findings.append(_bad("delete", f"what the probe wrote stays at {place.url}", error))
        finally:
            place.close()
