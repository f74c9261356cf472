"""Components whose data is known not to be here: dropped by retention, lost to damage, or never fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.digest import Kind, object_id
from ckstore.errors import Absent
from ckstore.objects.encoding import encode
from ckstore.storage.record import NOT_FETCHED, REMOTES, SHALLOW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.objects.commit import Commit
    from ckstore.repository import Repository

LOST = "lost: damaged"
"""The reason of holes that repair makes."""


def absent(repository: Repository, commit: Commit) -> Mapping[str, str]:
    """The components of a commit that are not here, and why."""
    id = object_id(Kind.COMMIT, encode(commit))
    return repository.store.ask(lambda view: view.holes_of(id))


def check_present(repository: Repository, gone: Mapping[str, str], component: str) -> None:
    """Raise `Absent` for a component that is in `gone`, as `absent` gives it."""
    if component in gone:
        raise _absence(component, gone[component], _followed(repository))


def _followed(repository: Repository) -> str | None:
    """The remote that may have what is absent here: origin, or another one that has been fetched from or pushed to."""
    refs = repository.commits().named(REMOTES)
    names = sorted({name.partition("/")[0] for name in refs})
    return "origin" if "origin" in names else next(iter(names), None)


def _absence(component: str, reason: str, remote: str | None) -> Absent:
    """The error for a component that is not here; `remote` may have it."""
    what = "the commit's files are" if component.startswith("@") else f"the component {component!r} of the commit is"
    never = reason in (NOT_FETCHED, SHALLOW)
    hint = "`ckstore log` marks such commits; `ckstore undo` brings back what gc took while its grace lasts"
    if reason == LOST:
        hint = "committing the same data again stores it anew; then `ckstore repair` finds it for this commit too"
    if remote is not None:
        filling = f"`ckstore fetch {remote} --fill` brings it"
        hint = filling if never else f"{filling} if it is there; or {hint}"
    return Absent(f"{what} not here{'' if never else ' any more'}: {reason}", hint=hint)
