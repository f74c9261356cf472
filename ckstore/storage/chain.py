"""Chains of deltas: which earlier version of a chunk a new one is kept against.

As skip-deltas (Subversion's FSFS) version n is kept against version n & (n - 1): it needs at most log2(n) others, and
the one it is kept against is always among those that the version before it needs. As a plain chain it is kept against
the version before it: shorter, and as deep as there are versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.codec.preset import Preset
    from ckstore.pack.format import Frame
    from ckstore.storage.location import Location

DEEPEST = 64
"""Deltas on the way to a chunk that has none, at most, whatever a pack says."""

_MOST_VERSIONS = 1 << 32


class Base(NamedTuple):
    """What a new version is kept against: a frame and those it needs in turn, and the new version's own number."""

    chain: Sequence[Location]
    version: int

    @property
    def location(self) -> Location:
        """The frame that the new version is a difference to."""
        return self.chain[0]


def work(frame: Frame) -> int:
    """What decoding a frame costs, its base apart, in busy bytes (about 0.7 ns each).

    A busy byte is decompressed and put in its place; a stored one, which is only read, costs a quarter of that
    (`benchmarks/bench_store.py` measures both).
    """
    return frame.busy + frame.stored_length // 4


def suits(base: Frame, frame: Frame) -> bool:
    """Whether `frame` can be a delta against `base`. Versions fall from a delta to its base, so that a chain ends."""
    return base.kind is Kind.CHUNK and base.raw_length == frame.raw_length and base.version < frame.version


def base_for(before: Sequence[Location], raw_length: int, preset: Preset) -> Base | None:
    """The base of the version after the first of `before`, which are a frame and those it needs in turn.

    None where it should be kept by itself.
    """
    newest = before[0].frame
    if not preset.deltas or newest.kind is not Kind.CHUNK or newest.raw_length != raw_length:
        return None
    version = newest.version + 1
    wanted = version & (version - 1) if preset.skip else newest.version
    chain = before
    while chain[0].frame.version > wanted and len(chain) > 1:
        chain = chain[1:]
    if version >= _MOST_VERSIONS or len(chain) > min(preset.max_depth, DEEPEST):
        return None
    return Base(chain, version) if work_of(chain) < preset.max_work * raw_length else None


def within(base: Base, frame: Frame, preset: Preset) -> bool:
    """Whether the chain that ends in the delta `frame` is short enough."""
    return work_of(base.chain) + work(frame) <= preset.max_work * frame.raw_length


def work_of(chain: Sequence[Location]) -> int:
    """What decoding a whole chain costs, in busy bytes."""
    return sum(work(place.frame) for place in chain)
