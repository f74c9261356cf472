"""Skip-delta chains, as in Subversion's FSFS: version n of a chunk is kept against version n & (n - 1).

A version thus needs at most log2(n) others, and the one it is kept against is always among those that the version
before it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.storage.index import Location

MAX_DEPTH = 8
"""Deltas on the way to a chunk that has none, at most; a version that would need more is kept by itself."""


class Base(NamedTuple):
    """What a new version is kept against, and its own number."""

    location: Location
    version: int


def base_for(before: Location, raw_length: int, locate: Callable[[bytes], Location | None]) -> Base | None:
    """The base of the version after `before`; None where it should be kept by itself.

    `locate` finds the frames that the chain of `before` leads through.
    """
    if before.frame.kind is not Kind.CHUNK or before.frame.raw_length != raw_length:
        return None
    version = before.frame.version + 1
    if version.bit_count() > MAX_DEPTH or version >= 1 << 32:
        return None
    wanted = version & (version - 1)
    found: Location | None = before
    while found is not None and found.frame.version > wanted:
        found = locate(found.frame.base)
    if found is None or found.frame.version != wanted:
        return None
    return Base(found, version)
