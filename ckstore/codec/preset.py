"""Presets: what a save spends for fewer bytes, and how much work it leaves to whoever reads them."""

from __future__ import annotations

from dataclasses import dataclass

from ckstore.errors import InvalidInput


@dataclass(frozen=True)
class Preset:
    """How chunks are stored.

    `deltas`: whether earlier versions are used at all. `skip`: version n is kept against version n & (n - 1), a chain
    of log2(n), instead of against the one before it. A chain has at most `max_depth` deltas, and its decode work is at
    most `max_work` times the chunk's length (`chain.work` says in what unit). A plane is compressed only where it comes
    to less than `plane_worth` of its length; 0 leaves numbers as they are.
    """

    name: str
    deltas: bool
    skip: bool
    max_depth: int
    max_work: float
    plane_worth: float


BALANCED = Preset("balanced", deltas=True, skip=True, max_depth=8, max_work=4.75, plane_worth=0.88)
ARCHIVE = Preset("archive", deltas=True, skip=False, max_depth=48, max_work=64.0, plane_worth=0.985)
FAST = Preset("fast", deltas=False, skip=True, max_depth=0, max_work=0.0, plane_worth=0.0)

PRESETS = {preset.name: preset for preset in (BALANCED, ARCHIVE, FAST)}


def preset_named(name: str) -> Preset:
    """The preset of that name. Raises `InvalidInput`."""
    try:
        return PRESETS[name]
    except (KeyError, TypeError):
        raise InvalidInput(f"{name!r} is no preset", hint=f"use one of {', '.join(PRESETS)}") from None
