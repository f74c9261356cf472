"""Commit: what a checkpoint was, when, after what, and which tree each of its components is."""

from __future__ import annotations

from msgspec import Struct

FILES = "@files"
"""The component that holds committed files; its name cannot be a state's."""

SERIES = "@series"
"""What the series of a commit is called where trees have names."""


def is_component_name(name: object) -> bool:
    """Whether a state's component may be called so."""
    return type(name) is str and bool(name) and not name.startswith("@") and name.isprintable()


class Component(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A top entry of a checkpoint and the id of its tree."""

    name: str
    tree: bytes


class Metric(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A number measured at this commit; finite or not, kept as its eight bytes big-endian."""

    name: str
    bits: bytes


class Commit(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=1):
    """One checkpoint.

    Components are in the order the state gave them; where `bare` is set the state was no dictionary and is
    the only component. `time_ns` counts from 1970 UTC, `offset_min` is the author's distance from UTC.
    `series` is the tree of the metrics logged since the parent.
    """

    components: tuple[Component, ...]
    parents: tuple[bytes, ...]
    time_ns: int
    offset_min: int
    author: str
    message: str
    metrics: tuple[Metric, ...]
    step: int | None = None
    epoch: int | None = None
    series: bytes | None = None
    bare: bool = False

    def named(self) -> tuple[Component, ...]:
        """Every tree it names: its components, and its series where it has one."""
        return self.components if self.series is None else (*self.components, Component(SERIES, self.series))
