"""A parsed checkpoint file: its components, and how their spans and the file's own bytes make it up again."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from ckstore.errors import Format

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckstore.objects.draft import Draft

OPAQUE_HINT = "commit the file as plain bytes with --opaque"


@dataclass(frozen=True, slots=True)
class DraftSegment:
    """`gap` bytes of the file's own, then `length` bytes at `start` of span number `span` of `component`.

    Where `length` is 0 the segment only carries the gap at the end of the file: `component` is empty, `span` 0.
    """

    gap: int
    component: str
    span: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """A file as trees and gaps.

    Its bytes are those of `segments` one after another; gap bytes are taken in order from `gaps`, the ranges
    (start, stop) of the file that no span covers. `split` says that the components are the entries of a dict.
    """

    components: dict[str, Draft]
    segments: list[DraftSegment]
    gaps: list[tuple[int, int]]
    split: bool = False


class Claim(NamedTuple):
    """Bytes `start` to `stop` of the file are span number `span` of `component`, from its first byte."""

    start: int
    stop: int
    component: str
    span: int


def assemble(size: int, components: dict[str, Draft], claims: Iterable[Claim]) -> ParsedFile:
    """The file of `size` bytes whose spans lie where `claims` say, each within the file.

    Where claims overlap a byte is taken once: from the one that starts first, and of those that start
    together from the one given first.
    """
    segments: list[DraftSegment] = []
    gaps: list[tuple[int, int]] = []
    position = 0
    for claim in sorted(claims, key=attrgetter("start")):
        start = max(claim.start, position)
        if start >= claim.stop:
            continue
        if start > position:
            gaps.append((position, start))
        length = claim.stop - start
        segments.append(DraftSegment(start - position, claim.component, claim.span, start - claim.start, length))
        position = claim.stop
    if position < size:
        gaps.append((position, size))
        segments.append(DraftSegment(size - position, "", 0, 0, 0))
    return ParsedFile(components, segments, gaps)


def damaged(what: str, why: str | None = None) -> Format:
    """The error for a file that is not what it claims to be."""
    return Format(what, why=why, hint=OPAQUE_HINT)
