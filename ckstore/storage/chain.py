"""Chains of deltas: which earlier version of a chunk a new one is kept against.

As skip-deltas (Subversion's FSFS) version n is kept against version n & (n - 1): it needs at most log2(n) others, and
the one it is kept against is always among those that the version before it needs. As a plain chain it is kept against
the version before it: shorter, and as deep as there are versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import NO_ID, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.codec.preset import Preset
    from ckstore.pack.format import Frame
    from ckstore.storage.location import Location

DEEPEST = 64
"""Deltas on the way to a chunk that has none, at most, whatever a pack says."""

_MOST_VERSIONS = 1 << 32


class Base(NamedTuple):
    """What a new version is kept against, and its own number."""

    location: Location
    version: int


def work(frame: Frame) -> int:
    """What decoding a frame costs, its base apart, in busy bytes (about 0.7 ns each).

    A busy byte is decompressed and put in its place; a stored one, which is only read, costs a quarter of that
    (`benchmarks/bench_store.py` measures both).
    """
    return frame.busy + frame.stored_length // 4


def suits(base: Frame, frame: Frame) -> bool:
    """Whether `frame` can be a delta against `base`. Versions fall from a delta to its base, so that a chain ends."""
    return base.kind is Kind.CHUNK and base.raw_length == frame.raw_length and base.version < frame.version


def base_for(
    before: Location, raw_length: int, preset: Preset, locate: Callable[[bytes], Location | None]
) -> Base | None:
    """The base of the version after `before`; None where it should be kept by itself.

    `locate` finds the frames that the chain of `before` leads through.
    """
    if not preset.deltas or before.frame.kind is not Kind.CHUNK or before.frame.raw_length != raw_length:
        return None
    version = before.frame.version + 1
    wanted = version & (version - 1) if preset.skip else before.frame.version
    found = before
    while found.frame.version > wanted and found.frame.base != NO_ID:
        base = locate(found.frame.base)
        if base is None or not suits(base.frame, found.frame):
            return None
        found = base
    if version >= _MOST_VERSIONS or found.depth >= min(preset.max_depth, DEEPEST):
        return None
    return Base(found, version) if found.work < preset.max_work * raw_length else None


def within(base: Base, frame: Frame, preset: Preset) -> bool:
    """Whether the chain that ends in the delta `frame` is short enough."""
    return base.location.work + work(frame) <= preset.max_work * frame.raw_length
