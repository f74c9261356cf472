"""Plug-ins: what other installed packages add, by entry points of one group. None is imported before it is asked for.

A package names what it adds as `KIND.NAME` in its pyproject.toml:

    [project.entry-points."ckstore.plugins"]
    "validator.layernorm" = "my_package.checks:layernorm"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "ckstore.plugins"
"""The group of entry points that plug-ins stand in."""


@dataclass(frozen=True)
class Plugin:
    """One plug-in, not imported yet; `entry.value` says where it is."""

    kind: str
    name: str
    entry: EntryPoint

    def load(self) -> object:
        """Import it. Raises `InvalidInput`, whatever its package raises."""
        try:
            return self.entry.load()
        except (Exception, SystemExit) as error:
            raise InvalidInput(
                f"the plug-in {self.kind}.{self.name} cannot be imported from {self.entry.value}",
                why=f"{type(error).__name__}: {error}",
                hint="mend or uninstall the package it came with",
            ) from error


def plugins(kind: str) -> tuple[Plugin, ...]:
    """The installed plug-ins of a kind by name; of two with one name the first on sys.path."""
    from importlib import metadata  # opening a repository needs none of it, and it takes its time

    found: dict[str, Plugin] = {}
    for entry in metadata.entry_points(group=GROUP):
        said, dot, name = entry.name.partition(".")
        if said == kind and dot and name:
            found.setdefault(name, Plugin(kind, name, entry))
    return tuple(found[name] for name in sorted(found))
