"""Commits and the refs that reach them: what retention decides on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.graph.history import ancestry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ckstore.objects.commit import Commit


@dataclass(frozen=True)
class Reached:
    """Commits, and refs by short names; `others` are remotes by their full names, and HEAD where it is detached.

    `commits` holds every commit that a ref reaches. `absent` names components that are known not to be here (holes),
    by commit: a commit of which nothing is here is no candidate for a rule.
    """

    commits: Mapping[bytes, Commit]
    branches: Mapping[str, bytes]
    tags: Mapping[str, bytes] = field(default_factory=dict)
    pins: Collection[bytes] = ()
    others: Mapping[str, bytes] = field(default_factory=dict)
    absent: Mapping[bytes, Collection[str]] = field(default_factory=dict)

    def components(self, id: bytes) -> tuple[str, ...]:
        """The components of a commit that are here."""
        gone = self.absent.get(id, ())
        return tuple(one.name for one in self.commits[id].components if one.name not in gone)

    def is_absent(self, id: bytes) -> bool:
        """Whether nothing of a commit is here but itself."""
        return bool(self.commits[id].components) and not self.components(id)


def reached(
    refs: Mapping[str, bytes],
    detached: bytes | None,
    read: Callable[[bytes], Commit],
    absent: Mapping[bytes, Collection[str]] | None = None,
) -> Reached:
    """Everything that refs, by full name, and a HEAD that is on no branch reach. `read` raises for what is lost."""
    others = {name: id for name, id in refs.items() if not name.startswith(("heads/", "tags/", "pins/"))}
    if detached is not None:
        others["HEAD"] = detached
    return Reached(
        dict(ancestry([*refs.values(), *others.values()], read)),
        _under(refs, "heads/"),
        _under(refs, "tags/"),
        frozenset(_under(refs, "pins/").values()),
        others,
        absent or {},
    )


def _under(refs: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    return {name.removeprefix(prefix): id for name, id in refs.items() if name.startswith(prefix)}
